"""The asyncio side of the keeper's protocol; finds the keeper or starts one.

Holds a copy of every pidfd, terminal and ring that the keeper holds. Every child's pidfd is watched
here too: while the keeper is there its word counts (it has reaped the child and knows the time);
when it is not, PIDFD_GET_INFO tells the status where the kernel has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.console.stream import Stream
from lxcd.keeper import protocol
from lxcd.keeper.ring import Ring
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc, process
from lxcd.kernel.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.paths import Paths

_log = logging.getLogger(__name__)
_CONNECT_SECONDS = 30.0
_ASK_AGAIN_SECONDS = 0.01
_STATUS_TRIES = 200


@dataclass(slots=True)
class Held:
    """A child of the keeper, seen from here."""

    id: str
    kind: str
    pid: int
    pidfd: Fd
    joined: bool = False
    exited: protocol.Exited | None = None
    known: bool = True  # False: its status is not known, the keeper was lost
    streams: dict[str, Stream] = field(default_factory=dict[str, Stream])
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    on_exit: Callable[[Held], None] | None = None

    def stream(self, name: str) -> Stream:
        """The stream of that name, which may not have written yet."""
        return self.streams.setdefault(name, Stream(name, closed=self.exited is not None))


class Keeper:
    """One connection. `lost` is set when the keeper is gone."""

    def __init__(self, paths: Paths, build: str) -> None:
        self._paths = paths
        self._build = build
        self._socket: socket.socket | None = None
        self._poke = Fd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._prepared: dict[str, asyncio.Future[Held]] = {}
        self._synced: asyncio.Future[None] | None = None
        self._launcher = 0
        self._orphans: set[str] = set()
        self._unsent: deque[tuple[bytes, list[Fd]]] = deque()
        self.children: dict[str, Held] = {}
        self.pid = 0
        self.lost = asyncio.Event()
        # Children that were there when this lxcd came, and that nobody of it has asked for.
        self.found: list[Held] = []

    async def connect(self) -> None:
        """Find the keeper of this runtime directory or start one, and learn what it holds."""
        loop = asyncio.get_running_loop()
        connection = self._try_connect()
        if connection is None:
            self._launch()
            end = loop.time() + _CONNECT_SECONDS
            while (connection := self._try_connect()) is None:
                if loop.time() > end or self._launcher_failed():
                    raise errors.Unavailable(f"no keeper: see {self._paths.private}/keeper.log")
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
        connection.setblocking(False)
        self._socket = connection
        self._synced = loop.create_future()
        loop.add_reader(connection.fileno(), self._read)
        loop.add_reader(self._poke.fileno(), self._poked)
        self._send(protocol.Hello(protocol.VERSION, self._build), [self._poke.fileno()])
        await self._synced
        self.found = list(self.children.values())

    def _try_connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            # By descriptor: sockaddr_un has room for 108 bytes only.
            private = os.open(self._paths.private, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            with Fd(private):
                connection.connect(f"/proc/self/fd/{private}/{protocol.SOCKET_NAME}")
        except OSError as error:
            connection.close()
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                return None
            raise
        return connection

    def _launch(self) -> None:
        """The one process that not the keeper forks: the keeper itself, detached from us."""
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        code = (
            f"import sys; sys.path.append({package!r}); "
            "from lxcd.keeper.launcher import main; main(sys.argv[1:])"
        )
        # The interpreter behind a virtual environment: the keeper needs nothing but the library.
        interpreter = os.path.realpath(sys.executable)
        options = ["--runtime-dir", self._paths.runtime_dir, "--build", self._build]
        self._launcher = os.posix_spawn(
            interpreter,
            [interpreter, "-I", "-S", "-B", "-c", code, *options],
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            setsid=True,
        )

    def _launcher_failed(self) -> bool:
        try:
            pid, _ = os.waitpid(self._launcher, os.WNOHANG)
        except ChildProcessError:
            return True
        return pid != 0

    # ---- asking

    async def prepare(
        self, id_: str, kind: str, flags: int, channel: int, cgroup: int, procs: list[int]
    ) -> Held:
        """Have a child forked that waits for its Spec on `channel`; see protocol.Prepare."""
        future: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        self._prepared[id_] = future
        fds = [channel, *([cgroup] if cgroup >= 0 else []), *procs]
        try:
            self._send(protocol.Prepare(id_, kind, flags, cgroup >= 0, len(procs)), fds)
            return await future
        finally:
            self._prepared.pop(id_, None)

    def drained(self, child: Held, stream: Stream) -> None:
        """A held ring has room again."""
        self._send(protocol.Drained(child.id, stream.name))

    def acknowledge(self, child: Held) -> None:
        """Its exit has been taken note of, durably."""
        self._send(protocol.Acknowledge(child.id))

    def forget(self, child: Held) -> None:
        """Nobody asks for its output any more; for a child that has ended."""
        self._drop(child)
        self._send(protocol.Forget(child.id))

    def leave(self) -> None:
        """Ask the keeper to end with its last child."""
        self._send(protocol.Leave())

    def _send(self, request: protocol.Request, fds: list[int] | None = None) -> None:
        """Send, or queue with copies of the descriptors while the socket is full."""
        if self._socket is None:
            raise errors.Unavailable("the keeper is gone")
        data = protocol.encode(request)
        if not self._unsent:
            try:
                kernel_fd.send(self._socket, data, fds or [])
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self._socket.fileno(), self._flush)
            except OSError as error:
                self._lose(str(error))
                raise errors.Unavailable("the keeper is gone") from None
            else:
                return
        self._unsent.append((data, [Fd(os.dup(number)) for number in fds or []]))

    def _flush(self) -> None:
        while self._socket is not None and self._unsent:
            data, fds = self._unsent[0]
            try:
                kernel_fd.send(self._socket, data, [fd.fileno() for fd in fds])
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(str(error))
                return
            self._unsent.popleft()
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket.fileno())

    # ---- listening

    def _read(self) -> None:
        while self._socket is not None:
            try:
                data, fds = kernel_fd.receive(self._socket, protocol.MESSAGE_LIMIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(str(error))
                return
            if not data:
                self._lose("it has closed the connection")
                return
            try:
                self._take(protocol.decode_answer(data), [Fd(number) for number in fds])
            except (protocol.ProtocolError, IndexError) as error:
                self._lose(str(error))
                return

    def _take(self, answer: protocol.Answer, fds: list[Fd]) -> None:
        """One answer; its descriptors are closed unless somebody keeps them."""
        match answer:
            case protocol.Welcome():
                self.pid = answer.pid
                if answer.version != protocol.VERSION:
                    raise protocol.ProtocolError(f"the keeper speaks version {answer.version}")
            case protocol.Synced():
                if self._synced is not None and not self._synced.done():
                    self._synced.set_result(None)
            case protocol.Child():
                self._add(answer, fds)
            case protocol.Refused():
                self._refuse(answer)
            case protocol.Exited():
                self._exited(answer)
            case _:
                child = self.children.get(answer.id)
                if child is not None:
                    self._take_of(child, answer, fds)

    def _take_of(
        self,
        child: Held,
        answer: protocol.Joined | protocol.Streams | protocol.RingMade | protocol.Closed,
        fds: list[Fd],
    ) -> None:
        match answer:
            case protocol.Joined():
                self._unwatch(child)
                child.pid, child.pidfd, child.joined = answer.pid, fds[0], True
                self._watch(child)
            case protocol.Streams():
                for name, number in zip(answer.names, fds, strict=True):
                    child.stream(name).fd = number
            case protocol.RingMade():
                stream = child.stream(answer.stream)
                stream.ring = Ring(fds[0].take())
                stream.wake()
            case protocol.Closed():
                stream = child.stream(answer.stream)
                stream.closed = True
                stream.wake()

    def _exited(self, answer: protocol.Exited) -> None:
        child = self.children.get(answer.id)
        if child is None:
            # Only its exit is left of it, from before a new keeper.
            child = Held(answer.id, "init", answer.pid, Fd(-1))
            self.children[answer.id] = child
        child.exited = answer
        self._end(child)

    def _add(self, answer: protocol.Child, fds: list[Fd]) -> None:
        child = Held(answer.id, answer.kind, answer.pid, fds[0] if fds else Fd(-1))
        self.children[answer.id] = child
        self._watch(child)
        future = self._prepared.get(answer.id)
        if future is not None and not future.done():
            future.set_result(child)
        elif self._synced is not None and self._synced.done():
            # Whoever asked for it has given up: its channel is closed, so it ends by itself.
            child.on_exit = self.forget

    def _refuse(self, answer: protocol.Refused) -> None:
        future = self._prepared.get(answer.id)
        if future is not None and not future.done():
            future.set_exception(libc.oserror(answer.errno, answer.syscall))

    def _watch(self, child: Held) -> None:
        if not child.pidfd.closed:
            loop = asyncio.get_running_loop()
            loop.add_reader(child.pidfd.fileno(), self._pidfd_readable, child)

    def _unwatch(self, child: Held) -> None:
        if not child.pidfd.closed:
            asyncio.get_running_loop().remove_reader(child.pidfd.fileno())
            child.pidfd.close()

    def _pidfd_readable(self, child: Held, tries: int = _STATUS_TRIES) -> None:
        """It ended. The keeper will say how; without a keeper the kernel may."""
        if child.pidfd.closed:
            return
        if self._socket is not None and child.id not in self._orphans:
            asyncio.get_running_loop().remove_reader(child.pidfd.fileno())
            return
        status = None
        with contextlib.suppress(OSError):
            status = process.pidfd_get_info(child.pidfd.fileno()).status
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.pidfd.fileno())
        if status is None and tries > 0:
            # The kernel knows it once somebody has reaped: whoever inherited the child will.
            loop.call_later(_ASK_AGAIN_SECONDS, self._pidfd_readable, child, tries - 1)
            return
        child.known = status is not None
        child.exited = protocol.Exited(child.id, child.pid, status or 0, time.time_ns())
        self._end(child)

    def _end(self, child: Held) -> None:
        self._unwatch(child)
        for stream in child.streams.values():
            # One that the child never came to open will not write either.
            stream.closed = stream.closed or (stream.fd is None and stream.ring is None)
            stream.wake()
        child.ended.set()
        if child.on_exit is not None:
            child.on_exit(child)

    def watch_orphan(self, child: Held) -> None:
        """Follow an init that the keeper does not know: its pidfd is all there is."""
        self.children[child.id] = child
        self._orphans.add(child.id)
        self._watch(child)

    @staticmethod
    def lost_child(child: Held) -> Held:
        """Mark it as ended in a way that nobody saw."""
        child.known = False
        child.exited = protocol.Exited(child.id, child.pid, 0, time.time_ns())
        child.ended.set()
        return child

    def _poked(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._poke.fileno())
        for child in self.children.values():
            for stream in child.streams.values():
                if stream.awaited:
                    stream.wake()

    def _drop(self, child: Held) -> None:
        self._unwatch(child)
        self.children.pop(child.id, None)
        for stream in child.streams.values():
            stream.close()
        child.streams.clear()

    def _lose(self, why: str) -> None:
        if self._socket is None:
            return
        _log.error("the keeper is gone: %s", why)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._unsent.clear()
        self._socket.close()
        self._socket = None
        gone = errors.Unavailable("the keeper is gone")
        for future in self._prepared.values():
            if not future.done():
                future.set_exception(gone)
        if self._synced is not None and not self._synced.done():
            self._synced.set_exception(gone)
        for child in list(self.children.values()):
            if child.exited is None and not child.pidfd.closed:
                # Readable at once if it has ended meanwhile.
                loop.remove_reader(child.pidfd.fileno())
                self._watch(child)
        self.lost.set()

    def close(self) -> None:
        """Leave the keeper alone; it goes on."""
        loop = asyncio.get_running_loop()
        if self._socket is not None:
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._flush()
            self._socket.close()
            self._socket = None
        loop.remove_reader(self._poke.fileno())
        for child in list(self.children.values()):
            self._drop(child)
        self._poke.close()
