"""The keeper's children: made, heard, drained, reaped, told about."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from lxcd.keeper import protocol, spawn
from lxcd.keeper.child import Child, Stream
from lxcd.keeper.protocol import ProtocolError
from lxcd.keeper.ring import Ring
from lxcd.keeper.store import Kept
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc, process

if TYPE_CHECKING:
    from lxcd.keeper.epoll import Epoll
    from lxcd.keeper.journal import Journal
    from lxcd.keeper.link import Link
    from lxcd.keeper.store import Store

# At the end of a child so many reads are made of what it wrote; others wait meanwhile.
_DRAIN_TURNS = 64
# How an adopted child ended is known once whoever inherited it has reaped it.
_ASK_AGAIN_SECONDS = 0.01
_ASK_TIMES = 500


class Children:
    """All of them, by id."""

    def __init__(self, epoll: Epoll, link: Link, journal: Journal, store: Store) -> None:
        self._epoll = epoll
        self._link = link
        self._journal = journal
        self._store = store
        self.by_id: dict[str, Child] = {}
        self._awaited: dict[str, int] = {}  # adopted, and so many streams of it have yet to come
        signals = [signal.SIGCHLD]
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        self._signals = process.signalfd([int(number) for number in signals])
        epoll.watch(self._signals, self._reap_orphans, failed=lambda: None)

    @property
    def alive(self) -> bool:
        """One of them is."""
        return any(not child.ended for child in self.by_id.values())

    def obey(
        self,
        request: protocol.Prepare
        | protocol.Adopt
        | protocol.AdoptStream
        | protocol.Drained
        | protocol.Forget,
        fds: list[int],
    ) -> None:
        """What lxcd wants of one of them. Raises ProtocolError."""
        match request:
            case protocol.Prepare():
                self.prepare(request, fds)
            case protocol.Adopt():
                self.adopt(request, fds)
            case protocol.AdoptStream():
                self.adopt_stream(request, fds)
            case protocol.Drained():
                self.resume(request)
            case protocol.Forget():
                self.forget(request.id)

    def tell_all(self) -> None:
        """To an lxcd that has just come."""
        for child in self.by_id.values():
            self._tell_all_of(child)
        for exited in self._journal.pending.values():
            # Of an earlier keeper's children only this may be left.
            if exited.id not in self.by_id:
                self._link.tell(exited)

    def _tell_all_of(self, child: Child) -> None:
        pidfds = [child.pidfd] if child.pidfd >= 0 else []
        self._link.tell(protocol.Child(child.id, child.kind, child.pid), pidfds)
        if child.forked and pidfds:
            self._link.tell(protocol.Forked(child.id, child.pid), pidfds)
        for stream in child.streams.values():
            if stream.fd >= 0:
                self._link.tell(protocol.Streams(child.id, (stream.name,)), [stream.fd])
            if stream.ring is not None:
                self._link.tell(protocol.RingMade(child.id, stream.name), [stream.ring.memfd])
            if stream.fd < 0:
                self._link.tell(protocol.Closed(child.id, stream.name))
        if child.exited is not None:
            self._link.tell(child.exited)

    def release(self) -> None:
        """Lxcd has gone. Nobody reads any more: a container does not wait for that. An exec does,
        by design.
        """
        for id_ in list(self._awaited):
            self._look_at(id_)
        for child in self.by_id.values():
            for stream in child.streams.values():
                if child.kind != "init":
                    continue
                stream.held = False
                if stream.ring is not None and stream.ring.hold:
                    stream.ring.set_hold(hold=False)
                    self.resume(protocol.Drained(child.id, stream.name))

    # ---- how they come

    def prepare(self, request: protocol.Prepare, fds: list[int]) -> None:
        """Fork one."""
        if len(fds) != 1 + request.into_cgroup + request.cgroups or request.id in self.by_id:
            raise ProtocolError("PREPARE does not fit its descriptors, or the id is taken")
        _require_names(request.id, request.kind)
        channel = fds[0]
        cgroup = fds[1] if request.into_cgroup else -1
        procs = fds[1 + request.into_cgroup :]
        try:
            pid, pidfd, control = spawn.prepare(request.flags, channel, cgroup, procs)
        except OSError as error:
            self._link.tell(
                protocol.Refused(request.id, libc.syscall_of(error), error.errno or errno.EIO)
            )
            return
        finally:
            kernel_fd.close_all(fds)
        child = Child(request.id, request.kind, pid, pidfd, control)
        self.take(child)
        self._link.tell(protocol.Child(child.id, child.kind, pid), [pidfd])

    def take(self, child: Child) -> None:
        """Begin to look after one: new, or handed over by an earlier image of the keeper."""
        self.by_id[child.id] = child
        if child.pidfd >= 0:
            if child.id not in self._awaited:
                self._epoll.watch(child.pidfd, lambda: self._ended(child))
            self._store.keep(child.id, child.kind, "pidfd", str(child.pid), child.pidfd)
        if child.control is not None:
            self._epoll.watch(child.control.fileno(), lambda: self._hear(child))
        for stream in child.streams.values():
            self._take_stream(stream)

    def _take_stream(self, stream: Stream) -> None:
        child = stream.child
        if stream.fd >= 0:
            self._store.keep(child.id, child.kind, "open", stream.name, stream.fd)
            # Those that wait for their reader are looked at again, too: once is enough.
            stream.paused = False
            self._epoll.watch(stream.fd, lambda: self._drain(stream))
        if stream.ring is not None:
            self._store.keep(child.id, child.kind, "ring", stream.name, stream.ring.memfd)

    def adopt(self, request: protocol.Adopt, fds: list[int]) -> None:
        """Take what lxcd has of a child that an earlier keeper has forked."""
        if len(fds) != (not request.ended):
            raise ProtocolError("ADOPT brings the pidfd of a child that has not ended")
        _require_names(request.id, request.kind)
        for number in fds:
            _require_pidfd(number)
        if request.id in self.by_id:
            kernel_fd.close_all(fds)
            return
        child = Child(request.id, request.kind, request.pid, fds[0] if fds else -1, None)
        child.forked, child.ours = request.forked, False
        earlier = self._journal.pending.get(child.id)
        if request.ended or earlier is not None:
            told = protocol.Exited(
                child.id, child.pid, request.status, request.time_ns, request.known
            )
            child.exited = earlier or told
            kernel_fd.close_all(fds)
            child.pidfd = -1
        elif request.streams > 0:
            self._awaited[child.id] = request.streams
        self.take(child)

    def adopt_stream(self, request: protocol.AdoptStream, fds: list[int]) -> None:
        """The same for a stream of it."""
        if len(fds) != request.open + request.has_ring:
            raise ProtocolError("ADOPT_STREAM does not fit its descriptors")
        _require_names(request.id, request.name)
        child = self.by_id.get(request.id)
        if child is None or request.name in child.streams:
            kernel_fd.close_all(fds)
        else:
            if request.open and not self._epoll.takes(fds[0]):
                raise ProtocolError("what cannot be waited for is no stream")
            self.restore_stream(
                child,
                request.name,
                fds[0] if request.open else -1,
                fds[-1] if request.has_ring else -1,
            )
            stream = child.streams[request.name]
            if child.ended and stream.fd >= 0 and not stream.paused:
                self._finish(stream)
        if request.id in self._awaited:
            self._awaited[request.id] -= 1
            if not self._awaited[request.id]:
                self._look_at(request.id)

    def _look_at(self, id_: str) -> None:
        """All that lxcd has of it is here now; or nothing more comes."""
        del self._awaited[id_]
        child = self.by_id[id_]
        self._epoll.watch(child.pidfd, lambda: self._ended(child))

    def restore(self, stored: dict[Kept, int]) -> None:
        """Take what a service manager has kept while there was no keeper. What makes no sense, as
        another version of us may have written it, costs itself only.
        """
        streams: dict[tuple[str, str, str], dict[str, int]] = {}
        for kept, number in stored.items():
            if kept.what in ("open", "ring"):
                streams.setdefault((kept.id, kept.kind, kept.detail), {})[kept.what] = number
                continue
            try:
                self._restore_child(kept, number)
            except (ProtocolError, OSError, ValueError) as error:
                self._reject(kept, number, error)
        for (id_, kind, name), numbers in streams.items():
            is_open, ring = numbers.get("open", -1), numbers.get("ring", -1)
            try:
                _require_names(id_, kind, name)
                if is_open >= 0 and not self._epoll.takes(is_open):
                    raise ProtocolError("what cannot be waited for is no stream")  # noqa: TRY301
                if id_ not in self.by_id:
                    # Only its output is left of it: lxcd has been told how it ended.
                    self.take(self._ended_before(id_, kind, 0))
                self.restore_stream(self.by_id[id_], name, is_open, ring)
            except (ProtocolError, OSError) as error:
                for what, number in numbers.items():
                    self._reject(Kept(id_, kind, what, name), number, error)
                continue
            stream = self.by_id[id_].streams[name]
            if stream.child.ended and stream.fd >= 0 and not stream.paused:
                self._finish(stream)

    def _restore_child(self, kept: Kept, number: int) -> None:
        _require_names(kept.id, kept.kind)
        _require_pidfd(number)
        pid = int(kept.detail)
        if kept.what != "pidfd":
            raise ProtocolError(f"nothing is called {kept.what}")
        if kept.id in self._journal.pending:
            # Its end is known, only the service manager has not been told in time.
            self._store.drop(kept.id, "pidfd")
            os.close(number)
            self.take(self._ended_before(kept.id, kept.kind, pid))
            return
        child = Child(kept.id, kept.kind, pid, number, None, forked=True, ours=False)
        self.take(child)

    def _ended_before(self, id_: str, kind: str, pid: int) -> Child:
        child = Child(id_, kind, pid, -1, None, forked=True, ours=False)
        unknown = protocol.Exited(id_, pid, 0, time.time_ns(), False)
        child.exited = self._journal.pending.get(id_, unknown)
        return child

    def _reject(self, kept: Kept, number: int, error: Exception) -> None:
        print(f"keeper: fd store: {kept.id} {kept.what} {kept.detail}: {error}", file=sys.stderr)
        self._store.drop(kept.id, kept.what, "" if kept.what == "pidfd" else kept.detail)
        kernel_fd.close_all([number])

    def restore_stream(self, child: Child, name: str, number: int, ring: int) -> None:
        """A stream from its descriptors, which are ours from here on; -1 for what there is not."""
        stream = Stream(child, name, number)
        if ring >= 0:
            try:
                stream.ring = Ring(ring)
            except ValueError as error:
                kernel_fd.close_all([number] if number >= 0 else [])
                raise ProtocolError(str(error)) from None
        if number >= 0:
            self._open_stream(stream)
        child.streams[name] = stream
        self._take_stream(stream)

    def _open_stream(self, stream: Stream) -> None:
        stream.is_tty = os.isatty(stream.fd)
        # What an application writes waits for whoever started it, if somebody is there.
        waits = not stream.is_tty and self._link.peer is not None
        stream.held = stream.child.kind == "exec" or waits
        os.set_blocking(stream.fd, False)
        if stream.is_tty:
            stream.open_peer()

    def _hear(self, child: Child) -> bool:
        """A child hands over streams, or the process that it has forked in its place; EOF when it
        has exec'ed. True: it said something.
        """
        if child.control is None:
            return False
        try:
            data, fds = kernel_fd.receive(child.control, protocol.MESSAGE_LIMIT)
        except BlockingIOError:
            return False
        except OSError:
            data, fds = b"", []
        if not data:
            self._part(child)
            return False
        kind, value = json.loads(data)
        if kind == "STREAMS":
            self._add_streams(child, value, fds)
        elif kind == "FORKED":
            self._epoll.unwatch(child.pidfd)
            # Else the first half sleeps until the other one has exec'ed. Reaped with the orphans.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            os.close(child.pidfd)
            child.pid, child.pidfd, child.forked = self._pid_of(fds[0], child.pid), fds[0], True
            self._store.drop(child.id, "pidfd")
            self._store.keep(child.id, child.kind, "pidfd", str(child.pid), child.pidfd)
            self._epoll.watch(child.pidfd, lambda: self._ended(child))
            self._link.tell(protocol.Forked(child.id, child.pid), [child.pidfd])
            self._reap_orphans()
        return True

    def _part(self, child: Child) -> None:
        if child.control is not None:
            self._epoll.unwatch(child.control.fileno())
            child.control.close()
            child.control = None

    @staticmethod
    def _pid_of(pidfd: int, before: int) -> int:
        try:
            return process.pidfd_pid(pidfd)
        except OSError:
            return before  # it was reaped already; the number is for people only

    def _add_streams(self, child: Child, names: list[str], fds: list[int]) -> None:
        for name, number in zip(names, fds, strict=True):
            stream = Stream(child, name, number)
            self._open_stream(stream)
            child.streams[name] = stream
            self._take_stream(stream)
        self._link.tell(protocol.Streams(child.id, tuple(names)), fds)

    # ---- what they write

    def _drain(self, stream: Stream, *, to_the_end: bool = False) -> None:
        had_ring = stream.ring is not None
        more = stream.drain()
        for _ in range(_DRAIN_TURNS if to_the_end else 0):
            if not more:
                break
            more = stream.drain()
        if stream.ring is not None and not had_ring:
            child = stream.child
            self._store.keep(child.id, child.kind, "ring", stream.name, stream.ring.memfd)
            self._link.tell(protocol.RingMade(child.id, stream.name), [stream.ring.memfd])
        self._link.grown = True
        if stream.at_end:
            self._end(stream)
        elif stream.paused:
            self._epoll.unwatch(stream.fd)

    def _end(self, stream: Stream) -> None:
        self._epoll.unwatch(stream.fd)
        self._store.drop(stream.child.id, "open", stream.name)
        stream.end()
        self._link.tell(protocol.Closed(stream.child.id, stream.name))

    def resume(self, request: protocol.Drained) -> None:
        """A held ring has room again."""
        child = self.by_id.get(request.id)
        stream = child.streams.get(request.stream) if child is not None else None
        if child is None or stream is None or not stream.paused or stream.fd < 0:
            return
        stream.paused = False
        self._epoll.watch(stream.fd, lambda: self._drain(stream))
        if child.ended:
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """All that was written before the end goes into the ring; what a background child writes
        later does not.
        """
        self._drain(stream, to_the_end=True)
        if stream.fd >= 0 and not stream.paused:
            self._end(stream)

    # ---- how they end

    def _ended(self, child: Child, times: int = _ASK_TIMES) -> None:
        """The pidfd polls readable: the process is a zombie, or reaped by others. Learn how, drain
        what it wrote, keep the record.
        """
        now, pidfd = time.time_ns(), child.pidfd
        if child.ended or pidfd < 0:
            return
        while self._hear(child):
            # What it handed over just before its end must not be lost.
            continue
        if child.pidfd != pidfd:
            # It was the first half, which goes on as another process.
            return
        known, status = self._status_of(child)
        if not known and child.ours:
            # It lives.
            return
        if not known and times > 0:
            self._epoll.unwatch(pidfd)
            self._epoll.later(_ASK_AGAIN_SECONDS, lambda: self._ended(child, times - 1))
            return
        self._epoll.unwatch(pidfd)
        self._store.drop(child.id, "pidfd")
        os.close(pidfd)
        child.pidfd = -1
        self._part(child)
        child.exited = exited = protocol.Exited(child.id, child.pid, status, now, known)
        for stream in list(child.streams.values()):
            if stream.fd >= 0 and not stream.paused:
                self._finish(stream)
        if self._link.peer is None and not child.forked and not child.streams:
            # It was prepared for an lxcd that is gone, and never became anything.
            self.forget(child.id)
        else:
            self._journal.add(exited)
            if self._journal.broken:
                print(f"keeper: journal: {self._journal.broken}", file=sys.stderr)
            self._link.tell(exited)
        self._reap_orphans()

    def _status_of(self, child: Child) -> tuple[bool, int]:
        """Whether it is known how it ended, and its wait status."""
        if child.ours:
            try:
                result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                # Reaped by somebody else, which nobody should: the kernel may still tell.
                child.ours = False
            else:
                return (False, 0) if result is None else (True, _wait_status(result))
        status = process.ended_status(child.pidfd, child.pid)
        return status is not None, status or 0

    def forget(self, id_: str) -> None:
        """Let go of one that has ended."""
        self._journal.acknowledge(id_)
        child = self.by_id.get(id_)
        if child is None or not child.ended:
            return
        for stream in child.streams.values():
            if stream.fd >= 0:
                self._epoll.unwatch(stream.fd)
        self._part(child)
        child.forget()
        self._store.forget(id_)
        del self.by_id[id_]

    def _reap_orphans(self) -> None:
        """SIGCHLD: reap what has no pidfd here. The keeper is a subreaper, so orphans of execs come
        to it.
        """
        with contextlib.suppress(BlockingIOError):
            os.read(self._signals, 128 * 16)
        known = {child.pid for child in self.by_id.values() if not child.ended}
        while True:
            try:
                zombie = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            # A known one is reaped through its pidfd.
            if zombie is None or zombie.si_pid in known:
                return
            os.waitid(os.P_PID, zombie.si_pid, os.WEXITED | os.WNOHANG)


def _require_pidfd(number: int) -> None:
    try:
        signal.pidfd_send_signal(number, 0)
    except ProcessLookupError:
        return
    except OSError as error:
        raise ProtocolError(f"not a pidfd: {error.strerror}") from None


def _require_names(*names: str) -> None:
    """They become names of descriptors: see `Store`."""
    for name in names:
        if not protocol.CHILD_ID.fullmatch(name):
            raise ProtocolError(f"not a name: {name!r}")


def _wait_status(result: os.waitid_result) -> int:
    """The wait status that waitpid(2) would have given."""
    if result.si_code == os.CLD_EXITED:
        return result.si_status << 8
    return result.si_status | (0x80 if result.si_code == os.CLD_DUMPED else 0)
