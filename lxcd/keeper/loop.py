"""The keeper's one loop: lxcd's messages, children's hand-overs, terminals and pipes, exits,
orphans.

Nothing in it waits for lxcd: answers that its socket cannot take are queued, rings are poked by an
eventfd that cannot block, and an exit is journaled before it is told.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING

from lxcd.keeper import protocol, spawn
from lxcd.keeper.child import Child, Stream
from lxcd.keeper.protocol import ProtocolError
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc, process

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.keeper.journal import Journal

# How long a keeper without lxcd, children and unacknowledged exits stays.
IDLE_SECONDS = 10.0
_READ = select.EPOLLIN
# At the end of a child so many reads are made of what it wrote; others wait meanwhile.
_DRAIN_TURNS = 64


class Keeper:
    """All state of the process. `run` returns when there is nothing left to keep."""

    def __init__(self, listener: socket.socket, journal: Journal, build: str) -> None:
        self._listener = listener
        self._journal = journal
        self._build = build
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._children: dict[str, Child] = {}
        self._lxcd: socket.socket | None = None
        self._poke = -1
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._leaving = False
        self._grown = False
        self._stale: set[int] = set()  # descriptors let go of in this turn
        signals = [signal.SIGCHLD]
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        self._signals = process.signalfd([int(number) for number in signals])
        self._watch(listener.fileno(), self._accept)
        self._watch(self._signals, self._reap_orphans)

    def run(self) -> None:
        """Serve until nothing is left."""
        idle_since = time.monotonic()
        while True:
            busy = self._lxcd is not None or self._children_alive() or bool(self._journal.pending)
            if busy:
                idle_since = time.monotonic()
            patience = IDLE_SECONDS - (time.monotonic() - idle_since)
            if (self._leaving and not self._children_alive()) or patience <= 0:
                return
            self._stale.clear()
            for number, _ in self._epoll.poll(-1 if busy else patience + 0.05):
                self._handle(number)
            if self._grown and self._poke >= 0:
                self._grown = False
                try:
                    os.eventfd_write(self._poke, 1)
                except BlockingIOError:
                    # The counter is full: lxcd has been told often enough.
                    continue
                except OSError as error:
                    print(f"keeper: not an eventfd: {error}", file=sys.stderr)
                    self._hang_up()

    def _handle(self, number: int) -> None:
        handler = self._handlers.get(number)
        # What was closed since poll returned may be another's number by now.
        if handler is None or number in self._stale:
            return
        try:
            handler()
        except Exception:  # noqa: BLE001 - a mistake about one child must not take the others with it
            traceback.print_exc()
            if self._lxcd is not None and number == self._lxcd.fileno():
                self._hang_up()
            elif number not in (self._listener.fileno(), self._signals):
                self._unwatch(number)

    def _children_alive(self) -> bool:
        return any(not child.ended for child in self._children.values())

    def _watch(self, number: int, handler: Callable[[], None], events: int = _READ) -> None:
        self._handlers[number] = handler
        self._epoll.register(number, events)

    def _unwatch(self, number: int) -> None:
        if self._handlers.pop(number, None) is not None:
            self._epoll.unregister(number)
            self._stale.add(number)

    # ---- lxcd

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = int.from_bytes(credentials[4:8], sys.byteorder)
        # One lxcd at a time: the directory's lock sees to it; a second one gets nothing here
        # either.
        if uid != os.geteuid() or self._lxcd is not None:
            connection.close()
            return
        connection.setblocking(False)
        self._lxcd = connection
        self._watch(connection.fileno(), self._serve)

    def _serve(self) -> None:
        if self._lxcd is None:
            return
        if self._unsent:
            self._flush()
        fds: list[int] = []
        try:
            data, fds = kernel_fd.receive(self._lxcd, protocol.MESSAGE_LIMIT)
            if not data:
                self._hang_up()
                return
            self._obey(protocol.decode_request(data), fds)
        except BlockingIOError:
            return
        except (ProtocolError, OSError) as error:
            print(f"keeper: connection ended: {error}", file=sys.stderr)
            kernel_fd.close_all(fds)
            self._hang_up()

    def _hang_up(self) -> None:
        if self._lxcd is not None:
            self._unwatch(self._lxcd.fileno())
            self._lxcd.close()
            self._lxcd = None
        for _, fds in self._unsent:
            kernel_fd.close_all(fds)
        self._unsent.clear()
        if self._poke >= 0:
            os.close(self._poke)
            self._poke = -1
        # Nobody reads any more: a container does not wait for that. An exec does, by design.
        for child in self._children.values():
            for stream in child.streams.values():
                if child.kind != "init":
                    continue
                stream.held = False
                if stream.ring is not None and stream.ring.hold:
                    stream.ring.set_hold(hold=False)
                    self._resume(protocol.Drained(child.id, stream.name))

    def _obey(self, request: protocol.Request, fds: list[int]) -> None:
        if fds and not isinstance(request, protocol.Hello | protocol.Prepare):
            raise ProtocolError(f"{type(request).__name__} brings no descriptors")
        match request:
            case protocol.Hello():
                self._hello(fds)
            case protocol.Prepare():
                self._prepare(request, fds)
            case protocol.Drained():
                self._resume(request)
            case protocol.Acknowledge():
                self._journal.acknowledge(request.id)
            case protocol.Forget():
                self._journal.acknowledge(request.id)
                self._forget(request.id)
            case protocol.Leave():
                self._leaving = True

    def _hello(self, fds: list[int]) -> None:
        if len(fds) != 1 or self._poke >= 0:
            raise ProtocolError("HELLO wants one eventfd, once")
        self._leaving = False
        self._poke = fds[0]
        os.set_blocking(self._poke, False)
        self._tell(protocol.Welcome(protocol.VERSION, self._build, os.getpid()))
        for child in self._children.values():
            self._tell_all_of(child)
        for exited in self._journal.pending.values():
            # Of an earlier keeper's children only this is left.
            if exited.id not in self._children:
                self._tell(exited)
        self._tell(protocol.Synced())
        self._grown = True

    def _tell_all_of(self, child: Child) -> None:
        """To an lxcd that has just come."""
        self._tell(
            protocol.Child(child.id, child.kind, child.pid),
            [child.pidfd] if child.pidfd >= 0 else [],
        )
        if child.joined and child.pidfd >= 0:
            self._tell(protocol.Joined(child.id, child.pid), [child.pidfd])
        for stream in child.streams.values():
            if stream.fd >= 0:
                self._tell(protocol.Streams(child.id, (stream.name,)), [stream.fd])
            if stream.ring is not None:
                self._tell(protocol.RingMade(child.id, stream.name), [stream.ring.memfd])
            if stream.fd < 0:
                self._tell(protocol.Closed(child.id, stream.name))
        if child.exited is not None:
            self._tell(child.exited)

    def _tell(self, answer: protocol.Answer, fds: list[int] | None = None) -> None:
        """Send, or queue with copies of the descriptors, so that they may be closed here
        meanwhile.
        """
        if self._lxcd is None or self._poke < 0:
            # Who has not said HELLO yet is told all then.
            return
        data = protocol.encode(answer)
        if not self._unsent:
            try:
                kernel_fd.send(self._lxcd, data, fds or [])
            except BlockingIOError:
                self._epoll.modify(self._lxcd.fileno(), _READ | select.EPOLLOUT)
            except (BrokenPipeError, ConnectionResetError):
                # It has gone; the loop reads EOF next.
                return
            except OSError as error:
                # No memory right now: later.
                print(f"keeper: {error}", file=sys.stderr)
                self._epoll.modify(self._lxcd.fileno(), _READ | select.EPOLLOUT)
            else:
                return
        self._unsent.append((data, [os.dup(number) for number in fds or []]))

    def _flush(self) -> None:
        while self._unsent and self._lxcd is not None:
            data, fds = self._unsent[0]
            try:
                kernel_fd.send(self._lxcd, data, fds)
            except BlockingIOError:
                return
            except OSError:
                return
            kernel_fd.close_all(fds)
            self._unsent.popleft()
        if self._lxcd is not None:
            self._epoll.modify(self._lxcd.fileno(), _READ)

    # ---- children

    def _prepare(self, request: protocol.Prepare, fds: list[int]) -> None:
        if len(fds) != 1 + request.into_cgroup + request.cgroups or request.id in self._children:
            raise ProtocolError("PREPARE does not fit its descriptors, or the id is taken")
        channel = fds[0]
        cgroup = fds[1] if request.into_cgroup else -1
        procs = fds[1 + request.into_cgroup :]
        try:
            pid, pidfd, control = spawn.prepare(request.flags, channel, cgroup, procs)
        except OSError as error:
            self._tell(
                protocol.Refused(request.id, libc.syscall_of(error), error.errno or errno.EIO)
            )
            return
        finally:
            kernel_fd.close_all(fds)
        child = Child(request.id, request.kind, pid, pidfd, control)
        self._children[child.id] = child
        self._watch(pidfd, lambda: self._ended(child))
        self._watch(control.fileno(), lambda: self._hear(child))
        self._tell(protocol.Child(child.id, child.kind, pid), [pidfd])

    def _hear(self, child: Child) -> None:
        """A child hands over streams, or the process that joined a container in its stead; EOF when
        it has exec'ed.
        """
        if child.control is None:
            return
        try:
            data, fds = kernel_fd.receive(child.control, protocol.MESSAGE_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._unwatch(child.control.fileno())
            child.control.close()
            child.control = None
            return
        kind, value = json.loads(data)
        if kind == "STREAMS":
            self._add_streams(child, value, fds)
        elif kind == "JOINED":
            self._unwatch(child.pidfd)
            os.close(child.pidfd)
            # The first half ends by itself; as it is known no more, it is reaped with the orphans.
            child.pid, child.pidfd, child.joined = self._pid_of(fds[0], value), fds[0], True
            self._watch(child.pidfd, lambda: self._ended(child))
            self._tell(protocol.Joined(child.id, child.pid), [child.pidfd])
            self._reap_orphans()

    @staticmethod
    def _pid_of(pidfd: int, told: int) -> int:
        try:
            return process.pidfd_pid(pidfd)
        except OSError:
            return told  # it has ended already; the number is for people only

    def _add_streams(self, child: Child, names: list[str], fds: list[int]) -> None:
        for name, number in zip(names, fds, strict=True):
            is_tty = os.isatty(number)
            # What an application writes waits for whoever started it, if somebody is there.
            held = child.kind == "exec" or (not is_tty and self._lxcd is not None)
            stream = Stream(child, name, number, is_tty=is_tty, held=held)
            os.set_blocking(number, False)
            if stream.is_tty:
                stream.open_peer()
            child.streams[name] = stream
            self._watch(number, lambda stream=stream: self._drain(stream))  # type: ignore[misc]
        self._tell(protocol.Streams(child.id, tuple(names)), fds)

    def _drain(self, stream: Stream, *, to_the_end: bool = False) -> None:
        had_ring = stream.ring is not None
        more = stream.drain()
        for _ in range(_DRAIN_TURNS if to_the_end else 0):
            if not more:
                break
            more = stream.drain()
        if stream.ring is not None and not had_ring:
            self._tell(protocol.RingMade(stream.child.id, stream.name), [stream.ring.memfd])
        self._grown = True
        if stream.at_end:
            self._end(stream)
        elif stream.paused:
            self._unwatch(stream.fd)

    def _end(self, stream: Stream) -> None:
        self._unwatch(stream.fd)
        stream.end()
        self._tell(protocol.Closed(stream.child.id, stream.name))

    def _resume(self, request: protocol.Drained) -> None:
        child = self._children.get(request.id)
        stream = child.streams.get(request.stream) if child is not None else None
        if child is None or stream is None or not stream.paused or stream.fd < 0:
            return
        stream.paused = False
        self._watch(stream.fd, lambda: self._drain(stream))
        if child.ended:
            self._finish(stream)

    def _ended(self, child: Child) -> None:
        """The pidfd polls readable: the process is a zombie. Reap it, drain what it wrote, keep the
        record.
        """
        now, pidfd = time.time_ns(), child.pidfd
        if child.control is not None:
            # What it handed over just before its end must not be lost.
            self._hear(child)
        if child.pidfd != pidfd:
            # It was the first half of an exec, which goes on as another process.
            return
        try:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            # Reaped by somebody else, which nobody should; how it ended is not known.
            result = None
        else:
            if result is None:
                # It lives.
                return
        if self._was_half(child, pidfd):
            return
        status = _wait_status(result)
        self._unwatch(child.pidfd)
        os.close(child.pidfd)
        child.pidfd = -1
        child.exited = exited = protocol.Exited(child.id, child.pid, status, now)
        for stream in list(child.streams.values()):
            if stream.fd >= 0 and not stream.paused:
                self._finish(stream)
        self._journal.add(exited)
        if self._journal.broken:
            print(f"keeper: journal: {self._journal.broken}", file=sys.stderr)
        self._tell(exited)
        self._reap_orphans()

    def _was_half(self, child: Child, pidfd: int) -> bool:
        """Whether what has ended was only the first half of an exec: then the child goes on as
        another process. JOINED has been read already, or was sent before that end.
        """
        if child.kind == "exec" and not child.joined and child.control is not None:
            self._hear(child)
        return child.pidfd != pidfd

    def _finish(self, stream: Stream) -> None:
        """All that was written before the end goes into the ring; what a background child writes
        later does not.
        """
        self._drain(stream, to_the_end=True)
        if stream.fd >= 0 and not stream.paused:
            self._end(stream)

    def _forget(self, id_: str) -> None:
        child = self._children.get(id_)
        if child is None or not child.ended:
            return
        for stream in child.streams.values():
            if stream.fd >= 0:
                self._unwatch(stream.fd)
        if child.control is not None:
            self._unwatch(child.control.fileno())
        child.forget()
        del self._children[id_]

    def _reap_orphans(self) -> None:
        """SIGCHLD: reap what has no pidfd here. The keeper is a subreaper, so orphans of execs come
        to it.
        """
        with contextlib.suppress(BlockingIOError):
            os.read(self._signals, 128 * 16)
        known = {child.pid for child in self._children.values() if not child.ended}
        joining = any(
            child.kind == "exec" and not child.joined and not child.ended
            for child in self._children.values()
        )
        while True:
            try:
                zombie = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            # A known one is reaped through its pidfd; an unknown one may be the half of an exec
            # that is being announced right now, so it waits until no exec is on its way in.
            if zombie is None or zombie.si_pid in known or joining:
                return
            os.waitid(os.P_PID, zombie.si_pid, os.WEXITED | os.WNOHANG)


def _wait_status(result: os.waitid_result | None) -> int:
    """The wait status that waitpid(2) would have given."""
    if result is None:
        return 0
    if result.si_code == os.CLD_EXITED:
        return result.si_status << 8
    return result.si_status | (0x80 if result.si_code == os.CLD_DUMPED else 0)
