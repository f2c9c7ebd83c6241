"""The endpoint for Prometheus: a small HTTP server on a loopback address or a Unix socket.

It answers one request for each connection, and only GET and HEAD of /metrics. Whoever is slow, or
sends what is no such request, loses the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder

from lxcd import __version__, errors
from lxcd.config.daemon import endpoint
from lxcd.rpc import stats
from lxcd.rpc.metrics import Facts, Snapshot
from lxcd.rpc.server import GROUP, refuse_served
from lxcd.supervisor.state import State
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from lxcd.supervisor.events import Events
    from lxcd.supervisor.registry import Registry
    from lxcd.supervisor.statistics import Statistics
    from lxcd.v1.stats_pb2 import ContainerStats

_log = logging.getLogger(__name__)
PATH = "/metrics"
DEADLINE_SECONDS = 30.0  # for all of a request and its answer
_HEAD_BYTES = 16 << 10
_MOST_CONNECTIONS = 32
_METHODS = ("GET", "HEAD")


class _RefusedError(Exception):
    """What came is no request that is answered."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


class Scraping:
    """Serves metrics. `sample` and `facts` say what there is to tell."""

    def __init__(
        self,
        sample: Callable[[], Awaitable[Sequence[ContainerStats]]],
        facts: Callable[[], Awaitable[Facts]],
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._sample = sample
        self._facts = facts
        self._deadline_seconds = deadline_seconds
        self._server: asyncio.Server | None = None
        self._path = ""
        self._connections: set[asyncio.Task[None]] = set()
        # Two at once would take twice the time, and the processor from everything else.
        self._one = asyncio.Lock()

    async def listen(self, address: str) -> int:
        """Serve at `unix:PATH` (0660, root and group lxcd) or HOST:PORT.

        Returns:
            The port; 0 of a socket.
        """
        place = endpoint(address)
        try:
            if place.path:
                await self._listen_unix(place.path)
                return 0
            self._server = await asyncio.start_server(
                self._accept, place.host, place.port, limit=_HEAD_BYTES
            )
        except OSError as error:
            raise errors.from_oserror(error, f"listening for metrics at {address}") from None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _listen_unix(self, path: str) -> None:
        refuse_served((f"unix:{path}",))
        # Nobody may connect before the socket is what it is to be.
        old = os.umask(0o117)
        try:
            self._server = await asyncio.start_unix_server(self._accept, path, limit=_HEAD_BYTES)
        finally:
            os.umask(old)
        self._path = path
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, 0, grp.getgrnam(GROUP).gr_gid)

    async def close(self) -> None:
        """Nobody is answered any more."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= _MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(self._deadline_seconds):
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            # It has gone, it is slow, or we leave.
            writer.transport.abort()
        finally:
            self._connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b""
        try:
            head = await _head(reader)
            kind, body = await self._body(head)
            status = HTTPStatus.OK
        except asyncio.IncompleteReadError:
            # It said nothing, or not all.
            writer.transport.abort()
            return
        except _RefusedError as refused:
            status = refused.status
            kind, body = _words(status)
        except errors.LxcdError as error:
            _log.warning("metrics: %s", error.text)
            status = HTTPStatus.SERVICE_UNAVAILABLE
            kind, body = _words(status)
        writer.write(_response_head(status, kind, len(body)))
        if not head.startswith(b"HEAD "):
            writer.write(body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def _body(self, head: bytes) -> tuple[str, bytes]:
        headers = parse(head)
        async with self._one:
            snapshot = Snapshot(await self._sample(), await self._facts())
            encode, kind = choose_encoder(headers.get("accept", ""))
            # Not in the loop: of 500 containers it takes a while.
            return kind, await in_thread(encode, snapshot)


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None


def parse(head: bytes) -> Mapping[str, str]:
    """The headers of a request for metrics, by their names in small letters. Of any other it raises
    the status to answer with.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004 - RFC 9112, 3
        raise _RefusedError(HTTPStatus.BAD_REQUEST)
    method, target, _ = words
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise _RefusedError(HTTPStatus.BAD_REQUEST)
        headers[name.lower()] = value.strip()
    if target.partition("?")[0] != PATH:
        raise _RefusedError(HTTPStatus.NOT_FOUND)
    if method not in _METHODS:
        raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED)
    return headers


def of_all(registry: Registry, statistics: Statistics, events: Events) -> Scraping:
    """Of every container of this lxcd, and of those that are defined where it looks by itself."""

    async def sample() -> list[ContainerStats]:
        found = await statistics.sample(registry.running())
        return [stats.message(one) for one in found]

    async def facts() -> Facts:
        counts = dict.fromkeys((state.name.lower() for state in State), 0)
        for actor in {*await registry.containers(""), *registry.running()}:
            counts[actor.state.name.lower()] += 1
        return Facts(__version__, events.last, counts)

    return Scraping(sample, facts)


def _words(status: HTTPStatus) -> tuple[str, bytes]:
    return "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n".encode()


def _response_head(status: HTTPStatus, kind: str, length: int) -> bytes:
    allow = f"Allow: {', '.join(_METHODS)}\r\n" if status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n"
        f"{allow}"
        "Connection: close\r\n\r\n"
    ).encode()
