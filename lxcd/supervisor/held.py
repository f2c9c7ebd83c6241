"""A child of the keeper, as lxcd holds it: a copy of its pidfd, of its terminals, of its rings."""

from __future__ import annotations

import contextlib
import select
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd.console.port import Port
from lxcd.console.stream import Stream
from lxcd.keeper import protocol
from lxcd.kernel.fd import Fd
from lxcd.supervisor.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Held:
    """One child. `pid` and `pidfd` are those of the process that it goes on as (`forked`)."""

    id: str
    kind: str
    pid: int
    pidfd: Fd
    forked: bool = False
    exited: protocol.Exited | None = None
    acknowledged: bool = False  # its exit has been taken note of, durably
    under: int = 0  # which keeper has forked it, by the number of those lost before
    streams: dict[str, Stream] = field(default_factory=dict[str, Stream])
    on_exit: Callable[[Held], None] | None = None
    awaited: set[Stream] = field(default_factory=set[Stream])  # of all children
    ports: dict[str, Port] = field(default_factory=dict[str, Port])
    _changes: Changes = field(default_factory=Changes)

    def stream(self, name: str) -> Stream:
        """The stream of that name, which may not have written yet."""
        stream = self.streams.get(name)
        if stream is None:
            stream = Stream(name, self.awaited, closed=self.exited is not None)
            self.streams[name] = stream
        return stream

    def take_streams(self, fds: dict[str, Fd]) -> None:
        """Copies of its ends; those that are known stay."""
        for name, number in fds.items():
            if self.stream(name).fd is None:
                self.stream(name).fd = number
        self.wake()

    def wake(self) -> None:
        """Something about it has changed."""
        self._changes.wake()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds` is true of it."""
        await self._changes.until(holds)

    def is_gone(self) -> bool:
        """It has ended, whether the keeper has said so yet or not."""
        if self.exited is not None or self.pidfd.closed:
            return True
        poll = select.poll()
        poll.register(self.pidfd.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def ended(self) -> None:
        """Wait until it is known how it ended."""
        await self.until(lambda: self.exited is not None)

    async def killed(self) -> None:
        """Kill it, whatever process it goes on as, and wait until it is gone."""
        while self.exited is None:
            pid = self.pid
            self.kill()
            await self.until(lambda: self.exited is not None or self.pid != pid)  # noqa: B023

    def open_streams(self) -> list[tuple[protocol.AdoptStream, list[int]]]:
        """What there is of its streams, for another keeper, with the descriptors."""
        found: list[tuple[protocol.AdoptStream, list[int]]] = []
        for stream in self.streams.values():
            fds = [stream.fd.fileno()] if stream.fd is not None and not stream.closed else []
            is_open = bool(fds)
            rings = (stream.ring, stream.input)
            fds += [ring.memfd for ring in rings if ring is not None]
            if fds:
                there = (ring is not None for ring in rings)
                found.append((protocol.AdoptStream(self.id, stream.name, is_open, *there), fds))
        return found

    def adoption(self, streams: int) -> protocol.Adopt:
        """The same of itself; so many streams follow."""
        how = self.exited
        return protocol.Adopt(
            self.id,
            self.kind,
            self.pid,
            forked=self.forked,
            ended=how is not None,
            status=how.status if how is not None else 0,
            time_ns=how.time_ns if how is not None else 0,
            known=how is not None and how.known,
            streams=streams,
        )

    def end(self, how: protocol.Exited) -> None:
        """It has ended; what it wrote is there still."""
        self.exited = how
        self.pidfd.close()
        for stream in self.streams.values():
            # One that the child never came to open will not write either.
            stream.closed = stream.closed or (stream.fd is None and stream.ring is None)
            stream.wake()
        for port in self.ports.values():
            port.end()
        self.wake()

    def close(self) -> None:
        """Let go of all that is held of it."""
        self.pidfd.close()
        for port in self.ports.values():
            port.close()
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()

    def kill(self) -> None:
        """SIGKILL; nothing if it is gone."""
        if self.exited is None:
            with contextlib.suppress(OSError, ValueError):
                signal.pidfd_send_signal(self.pidfd.fileno(), signal.SIGKILL)


def unseen(id_: str, pid: int) -> Held:
    """A child that ended in a way that nobody saw."""
    child = Held(id_, "init", pid, Fd(-1))
    child.exited = protocol.Exited(id_, pid, 0, time.time_ns(), False)
    return child
