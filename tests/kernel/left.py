"""What a killed keeper leaves: children that others inherit, and copies of its descriptors in lxcd's hands."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from lxcd.keeper import protocol
from lxcd.kernel import process, procfs
from tests.kernel.keeper import Connection, RunningKeeper, wait_readable


@contextmanager
def inheriting() -> Iterator[None]:
    """This process is the nearest subreaper: what a killed keeper leaves comes to it, and is reaped when a test says so."""
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    before = _children()
    try:
        yield
        # Orphans of those that end here come next.
        while left := _children() - before:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    finally:
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 0)


def _children() -> set[int]:
    tasks = os.listdir("/proc/self/task")
    return {
        int(word) for task in tasks for word in procfs.read("self", f"task/{task}/children").split()
    }


def kernel_tells() -> bool:
    """Whether a pidfd still tells how a process ended that somebody else has reaped: Linux 6.15."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    pidfd = os.pidfd_open(pid)
    try:
        wait_readable(pidfd)
        os.waitpid(pid, 0)
        return process.pidfd_get_info(pidfd).status == 0
    except OSError:
        return False
    finally:
        os.close(pidfd)


Start = Callable[[], RunningKeeper]


def kill(keeper: RunningKeeper) -> None:
    """Its children come to this process."""
    keeper.process.kill()
    keeper.process.wait()


def replaced(keeper: RunningKeeper, start: Start) -> tuple[RunningKeeper, Connection]:
    """Kill it; the next one, which knows of nothing but exits."""
    kill(keeper)
    after = start()
    connection = after.greeted()
    for told in connection.told[1:-1]:
        assert isinstance(told.answer, protocol.Exited), told
    return after, connection


@dataclass(slots=True)
class LeftStream:
    """Copies of what the keeper had of a stream."""

    fd: int = -1
    ring: int = -1
    closed: bool = False


@dataclass(slots=True)
class Left:
    """The same of a child. The descriptors are the connection's."""

    id: str
    kind: str
    pid: int
    pidfd: int
    forked: bool = False
    exited: protocol.Exited | None = None
    streams: dict[str, LeftStream] = field(default_factory=dict)

    @property
    def request(self) -> protocol.Adopt:
        """What hands it to the next keeper."""
        how = self.exited
        return protocol.Adopt(
            self.id,
            self.kind,
            self.pid,
            self.forked,
            how is not None,
            how.status if how is not None else 0,
            how.time_ns if how is not None else 0,
            how is not None and how.known,
        )

    def stream_request(self, name: str) -> tuple[protocol.AdoptStream, list[int]]:
        """The same for a stream, and what goes with it."""
        stream = self.streams[name]
        is_open = stream.fd >= 0 and not stream.closed
        fds = [stream.fd] * is_open + [stream.ring] * (stream.ring >= 0)
        return protocol.AdoptStream(self.id, name, is_open, stream.ring >= 0), fds


def left_by(connection: Connection) -> dict[str, Left]:
    """All that was told on a connection, as lxcd would remember it."""
    found: dict[str, Left] = {}
    for told in connection.told:
        match told.answer:
            case protocol.Child(id_, kind, pid):
                found[id_] = Left(id_, kind, pid, told.fds[0] if told.fds else -1)
            case protocol.Forked(id_, pid):
                found[id_].pid, found[id_].pidfd, found[id_].forked = pid, told.fds[0], True
            case protocol.Streams(id_, names):
                for name, number in zip(names, told.fds, strict=True):
                    found[id_].streams.setdefault(name, LeftStream()).fd = number
            case protocol.RingMade(id_, name):
                found[id_].streams.setdefault(name, LeftStream()).ring = told.fds[0]
            case protocol.Closed(id_, name):
                found[id_].streams.setdefault(name, LeftStream()).closed = True
            case protocol.Exited(id_) if id_ in found:
                found[id_].exited = told.answer
            case _:
                continue
    return found


def adopt(connection: Connection, child: Left) -> None:
    """Hand a child and its streams to a keeper."""
    streams = [child.stream_request(name) for name in child.streams]
    following = [(request, fds) for request, fds in streams if fds]
    # The keeper looks at its end behind so many.
    request = replace(child.request, streams=len(following))
    connection.send(request, [] if child.exited is not None else [child.pidfd])
    for adopted, fds in following:
        connection.send(adopted, fds)


def hand_over(connection: Connection, left: dict[str, Left]) -> None:
    """Hand all of them to a keeper, and wait until it has taken them."""
    for child in left.values():
        adopt(connection, child)
    connection.ping()


def answers(connection: Connection, id_: str) -> list[protocol.Answer]:
    """All that was told of a child."""
    return [told.answer for told in connection.told if getattr(told.answer, "id", "") == id_]
