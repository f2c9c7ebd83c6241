"""The side socket: what gRPC cannot carry. It proves who a caller is (SO_PEERCRED), takes
descriptors, and gives a token for them that a call may name within a short time.

A SOCK_SEQPACKET unix socket that everybody may connect to; who may not use the API is let go
unheard. A message each way:

    client → lxcd    {"streams": ["stdin", "stdout", "stderr"]}, and as many descriptors
    lxcd → client    {"token": "…"}, or {"reason": "…", "message": "…"}

Only pipes, sockets and /dev/null are taken. A file or a terminal of the host never enters a
container: it could be opened again there with other rights, or typed into (TIOCSTI).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import json
import logging
import os
import secrets
import socket
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.kernel import fd as kernel_fd
from lxcd.rpc.server import GROUP

if TYPE_CHECKING:
    from collections.abc import Generator

_log = logging.getLogger(__name__)
NAMES = ("stdin", "stdout", "stderr")
_MESSAGE_BYTES = 4096
_LIFE_SECONDS = 30.0
_AGAIN_SECONDS = 1.0
_SO_PEERGROUPS = 59
_GROUPS_BYTES = 4096
_CLIENTS = 256
_HELD_BY_ONE = 64
_NULL = os.makedev(1, 3)
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class _Handed:
    uid: int
    numbers: dict[str, int]
    timer: asyncio.TimerHandle


class Side:
    """The socket, and what was handed over and not asked for yet."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener: socket.socket | None = None
        self._clients: dict[socket.socket, asyncio.TimerHandle] = {}
        self._handed: dict[str, _Handed] = {}

    def listen(self) -> None:
        """Serve. Raises Unavailable."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        new = f"{self._path}.{os.getpid()}"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            listener.bind(new)
            os.chmod(new, 0o666)  # noqa: S103 - everybody may say who he is
            os.rename(new, self._path)
        except OSError as error:
            listener.close()
            text = f"cannot listen on {self._path}: {error.strerror}"
            raise errors.Unavailable(text) from None
        listener.setblocking(False)
        listener.listen(64)
        self._listener = listener
        self._watch()

    def _watch(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Let go of everything."""
        loop = asyncio.get_running_loop()
        if self._listener is not None:
            loop.remove_reader(self._listener.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            self._listener.close()
            self._listener = None
        for client in list(self._clients):
            self._hang_up(client)
        for token in list(self._handed):
            self._expire(token)

    @contextlib.contextmanager
    def redeem(self, token: str) -> Generator[dict[str, int]]:
        """What was handed over for a token, by stream; nothing without a token. It is used up, and
        closed behind the block. Raises NotFound.
        """
        if not token:
            yield {}
            return
        handed = self._handed.pop(token, None)
        if handed is None:
            raise errors.NotFound(
                "no descriptors were handed over for this token, or too long ago", "NO_DESCRIPTORS"
            )
        handed.timer.cancel()
        try:
            yield handed.numbers
        finally:
            kernel_fd.close_all(list(handed.numbers.values()))

    # ---- one client

    def _accept(self) -> None:
        if self._listener is None:
            return
        loop = asyncio.get_running_loop()
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            # No descriptors: whoever waits is still there later.
            _log.warning("the side socket: %s", error)
            loop.remove_reader(self._listener.fileno())
            loop.call_later(_AGAIN_SECONDS, self._watch)
            return
        if len(self._clients) >= _CLIENTS or not _may_call(client):
            # Its descriptors are never received: to look at one, or only to close it, may wait for
            # a file system of its owner's.
            client.close()
            return
        client.setblocking(False)
        self._clients[client] = loop.call_later(_LIFE_SECONDS, self._hang_up, client)
        loop.add_reader(client.fileno(), self._hear, client)

    def _hang_up(self, client: socket.socket) -> None:
        self._clients.pop(client).cancel()
        asyncio.get_running_loop().remove_reader(client.fileno())
        client.close()

    def _hear(self, client: socket.socket) -> None:
        fds: list[int] = []
        try:
            data, fds = kernel_fd.receive(client, _MESSAGE_BYTES)
            if not data:
                # An empty message may bring descriptors, too.
                kernel_fd.close_all(fds)
                self._hang_up(client)
                return
            answer = {"token": self._take(client, data, fds)}
        except BlockingIOError:
            return
        except errors.LxcdError as error:
            kernel_fd.close_all(fds)
            answer = {"reason": error.reason, "message": error.text}
        except OSError as error:
            kernel_fd.close_all(fds)
            if error.errno != errno.EMSGSIZE:
                self._hang_up(client)
                return
            answer = {"reason": "BAD_MESSAGE", "message": "too much at once"}
        with contextlib.suppress(OSError):
            client.send(json.dumps(answer).encode(), socket.MSG_NOSIGNAL)

    def _take(self, client: socket.socket, data: bytes, fds: list[int]) -> str:
        names = _names(data)
        if len(names) != len(fds) or len(set(names)) != len(names):
            raise errors.InvalidArgument(
                f"{len(names)} streams and {len(fds)} descriptors", "INVALID_DESCRIPTORS"
            )
        for name, number in zip(names, fds, strict=True):
            require_harmless(name, number)
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if sum(handed.uid == uid for handed in self._handed.values()) >= _HELD_BY_ONE:
            raise errors.ResourceExhausted(
                "too many descriptors of this user wait for a call", "TOO_MANY_DESCRIPTORS"
            )
        token = secrets.token_urlsafe(24)
        timer = asyncio.get_running_loop().call_later(_LIFE_SECONDS, self._expire, token)
        self._handed[token] = _Handed(uid, dict(zip(names, fds, strict=True)), timer)
        return token

    def _expire(self, token: str) -> None:
        handed = self._handed.pop(token)
        handed.timer.cancel()
        kernel_fd.close_all(list(handed.numbers.values()))


def _may_call(client: socket.socket) -> bool:
    """Whether its user may use the API, as its socket's permissions say: SO_PEERCRED, SO_PEERGROUPS
    (unix(7)).
    """
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, gid = _CREDENTIALS.unpack(credentials)
    if uid == os.geteuid():
        return True
    try:
        wanted = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return False
    try:
        data = client.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        data = b""
    return wanted in (gid, *memoryview(data).cast("I"))


def _names(data: bytes) -> list[str]:
    try:
        names = list(json.loads(data)["streams"])
    except (ValueError, TypeError, KeyError, RecursionError):
        names = [""]
    if not all(name in NAMES for name in names):
        raise errors.InvalidArgument("not a message of the side socket", "BAD_MESSAGE")
    return names


def require_harmless(name: str, number: int) -> None:
    """Raise InvalidArgument for a descriptor that a container must not get."""
    status = os.fstat(number)
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        return
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL:
        return
    raise errors.InvalidArgument(
        f"{name} is no pipe, no socket and not /dev/null: only such may enter a container",
        "UNSAFE_DESCRIPTOR",
        stream=name,
    )
