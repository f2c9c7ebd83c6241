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

from lxcd.keeper import ending, protocol, spawn
from lxcd.keeper.child import Child
from lxcd.keeper.protocol import ProtocolError
from lxcd.keeper.store import Kept
from lxcd.keeper.streams import Streams
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc, process

if TYPE_CHECKING:
    from lxcd.keeper.epoll import Epoll
    from lxcd.keeper.journal import Journal
    from lxcd.keeper.link import Link
    from lxcd.keeper.store import Store

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
        self._streams = Streams(epoll, link, store)
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
        | protocol.TakeInput
        | protocol.Feed
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
            case protocol.Drained() | protocol.TakeInput() | protocol.Feed():
                self._serve(request, fds)
            case protocol.Forget():
                self.forget(request.id)

    def _serve(
        self, request: protocol.Drained | protocol.TakeInput | protocol.Feed, fds: list[int]
    ) -> None:
        """What lxcd wants of a stream, which may be gone by now."""
        if len(fds) != isinstance(request, protocol.TakeInput):
            raise ProtocolError("TAKE_INPUT brings a ring")
        child = self.by_id.get(request.id)
        stream = child.streams.get(request.stream) if child is not None else None
        if stream is None:
            kernel_fd.close_all(fds)
            return
        match request:
            case protocol.Drained():
                self._streams.resume(stream)
            case protocol.TakeInput():
                self._streams.take_input(stream, fds[0])
            case protocol.Feed():
                self._streams.feed(stream)

    def tell_all(self) -> None:
        """To an lxcd that has just come."""
        for child in self.by_id.values():
            self._tell_all_of(child)
            for stream in list(child.streams.values()):
                # The last one may have died before it could say that there is room.
                self._streams.resume(stream)
        for exited in self._journal.pending.values():
            # Of an earlier keeper's children only this may be left.
            if exited.id not in self.by_id:
                self._link.tell(exited)

    def _tell_all_of(self, child: Child) -> None:
        pidfds = [child.pidfd] if child.pidfd >= 0 else []
        self._link.tell(protocol.Child(child.id, child.kind, child.pid), pidfds)
        if child.forked and pidfds:
            self._link.tell(protocol.Forked(child.id, child.pid), pidfds)
        for answer, fds in self._streams.all_of(child):
            self._link.tell(answer, fds)
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
                if child.kind == "init":
                    self._streams.release(stream)
        for child in list(self.by_id.values()):
            # It has ended with lxcd, and we have heard of that first.
            if _became_nothing(child):
                self.forget(child.id)

    # ---- how they come

    def prepare(self, request: protocol.Prepare, fds: list[int]) -> None:
        """Fork one."""
        if len(fds) != 1 + request.cgroups or request.id in self.by_id:
            raise ProtocolError("PREPARE does not fit its descriptors, or the id is taken")
        _require_names(request.id, request.kind)
        try:
            pid, pidfd, control = spawn.prepare(request.flags, fds[0], fds[1:])
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
        if child.pidfd >= 0 and child.id not in self._awaited:
            self._epoll.watch(child.pidfd, lambda: self._ended(child))
        if child.control is not None:
            self._epoll.watch(child.control.fileno(), lambda: self._hear(child))
        for stream in child.streams.values():
            self._streams.take(stream)
        self._keep(child)

    def keep_all(self) -> None:
        """Store all that is stored again, as nobody holds a copy of it any more."""
        for child in self.by_id.values():
            self._keep(child)

    def _keep(self, child: Child) -> None:
        """Not what has not forked yet: it goes with lxcd, and how it ended is of no use."""
        if child.pidfd >= 0 and (child.forked or child.control is None):
            self._store.keep(child.id, child.kind, "pidfd", str(child.pid), child.pidfd)
        for stream in child.streams.values():
            self._streams.keep(stream)

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
        if len(fds) != request.open + request.has_ring + request.has_input:
            raise ProtocolError("ADOPT_STREAM does not fit its descriptors")
        _require_names(request.id, request.name)
        child = self.by_id.get(request.id)
        if child is None or request.name in child.streams:
            kernel_fd.close_all(fds)
        else:
            if request.open and not self._epoll.takes(fds[0]):
                raise ProtocolError("what cannot be waited for is no stream")
            rings = iter(fds[request.open :])
            self._streams.restore(
                child,
                request.name,
                fds[0] if request.open else -1,
                next(rings) if request.has_ring else -1,
                next(rings) if request.has_input else -1,
            )
            stream = child.streams[request.name]
            if child.ended and stream.fd >= 0 and not stream.paused:
                self._streams.finish(stream)
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
            if kept.what in ("open", "ring", "input"):
                streams.setdefault((kept.id, kept.kind, kept.detail), {})[kept.what] = number
                continue
            try:
                self._restore_child(kept, number)
            except (ProtocolError, OSError, ValueError) as error:
                self._reject(kept, number, error)
        for (id_, kind, name), numbers in streams.items():
            self._restore_stream(id_, kind, name, numbers)

    def _restore_stream(self, id_: str, kind: str, name: str, numbers: dict[str, int]) -> None:
        is_open, ring, typed = (numbers.get(what, -1) for what in ("open", "ring", "input"))
        try:
            _require_names(id_, kind, name)
            if is_open >= 0 and not self._epoll.takes(is_open):
                raise ProtocolError("what cannot be waited for is no stream")  # noqa: TRY301
        except (ProtocolError, OSError) as error:
            for what, number in numbers.items():
                self._reject(Kept(id_, kind, what, name), number, error)
            return
        if id_ not in self.by_id:
            # Only its output is left of it: lxcd has been told how it ended.
            self.take(self._ended_before(id_, kind, 0))
        child = self.by_id[id_]
        try:
            self._streams.restore(child, name, is_open, ring, typed)
        except (ProtocolError, OSError) as error:
            for what in numbers:
                # It has closed them.
                self._reject(Kept(id_, kind, what, name), -1, error)
            return
        stream = child.streams[name]
        if child.ended and stream.fd >= 0 and not stream.paused:
            self._streams.finish(stream)

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
        if number >= 0:
            os.close(number)

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
            self._keep(child)
            return False
        kind, value = json.loads(data)
        if kind == "STREAMS":
            self._streams.add(child, fds, **value)
        elif kind == "FORKED":
            # The first half ends once the other one has exec'ed. Reaped with the orphans.
            self._epoll.unwatch(child.pidfd)
            os.close(child.pidfd)
            child.pid, child.pidfd, child.forked = self._pid_of(fds[0], child.pid), fds[0], True
            self._store.drop(child.id, "pidfd")
            self._store.keep(child.id, child.kind, "pidfd", str(child.pid), child.pidfd)
            self._epoll.watch(child.pidfd, lambda: self._ended(child))
            self._link.tell(protocol.Forked(child.id, child.pid), [child.pidfd])
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

    # ---- how they end

    def _ended(self, child: Child, times: int = _ASK_TIMES) -> None:
        """The pidfd polls readable: the process is a zombie, or reaped by others. Learn how, drain
        what it wrote, keep the record.
        """
        pidfd = child.pidfd
        if child.ended or pidfd < 0:
            return
        while self._hear(child):
            # What it handed over just before its end must not be lost.
            continue
        if child.pidfd != pidfd:
            # It was the first half, which goes on as another process.
            return
        # How one ended that never forked is of no use to anybody, and nobody has kept it.
        how = ending.of(child, self._store, last=times == 0 or not child.forked)
        if how is None:
            if not child.ours:
                self._epoll.unwatch(pidfd)
                self._epoll.later(_ASK_AGAIN_SECONDS, lambda: self._ended(child, times - 1))
            return
        self._epoll.unwatch(pidfd)
        child.pidfd = -1
        self._part(child)
        child.exited = exited = protocol.Exited(
            child.id, child.pid, how.status, how.time_ns, how.known
        )
        for stream in list(child.streams.values()):
            if stream.fd >= 0 and not stream.paused:
                self._streams.finish(stream)
        if self._link.peer is None and _became_nothing(child):
            self.forget(child.id)
        else:
            self._journal.add(exited)
            if self._journal.broken:
                print(f"keeper: journal: {self._journal.broken}", file=sys.stderr)
            self._link.tell(exited)
        # Only now, or one that is lost in between would take its end with it.
        ending.reap(child, pidfd)
        self._store.drop(child.id, "pidfd")
        os.close(pidfd)
        self._reap_orphans()

    def forget(self, id_: str) -> None:
        """Let go of one that has ended."""
        self._journal.acknowledge(id_)
        child = self.by_id.get(id_)
        if child is None or not child.ended:
            return
        for stream in child.streams.values():
            self._streams.let_go(stream)
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


def _became_nothing(child: Child) -> bool:
    """It was prepared for an lxcd, has ended, and never was more: no other lxcd asks for it."""
    return child.ended and not child.forked and not child.streams


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
