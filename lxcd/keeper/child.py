"""One child of the keeper and the streams that it writes to."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd.keeper.ring import CAPACITY_BYTES, CHUNK_BYTES, Ring
from lxcd.kernel import tty

if TYPE_CHECKING:
    import socket

    from lxcd.keeper.protocol import Exited


# A terminal whose ring is full and held waits so long for its readers, then skips ahead: they may
# slow a program down, not stop it. What they consume earns them as much time again as it would take
# at this rate, which is the least that a program is ever slowed down to.
PATIENCE_SECONDS = 0.5
_PACE_BYTES_A_SECOND = 2 << 20


@dataclass(slots=True)
class Stream:
    """A terminal's master, or one end of a pipe, and the rings: what comes out of it is drained
    into one, what is put into the other is written to it.
    """

    child: Child
    name: str
    fd: int  # -1 once it has ended
    capacity: int = CAPACITY_BYTES  # of its ring
    ring: Ring | None = None  # made on first output
    peer: int = -1  # of a terminal: a slave of our own, so that the master never hangs up
    is_tty: bool = False
    is_input: bool = False  # the write end of a pipe: nothing comes out of it
    input: Ring | None = None  # what is to be written to it; lxcd's, made with the first of it
    held: bool = False  # a new ring of it waits for its reader
    at_end: bool = False  # the other side has closed it for good
    paused: bool = False  # the ring is full and held: not read until lxcd says so
    full: bool = False  # the other side takes nothing more for now
    retry_seconds: float = 0.0  # it says that it takes more, and does not: tried again so late
    patience_seconds: float = PATIENCE_SECONDS
    paused_since: float = 0.0
    given_up: int = -1  # where those stood who were not waited for any longer

    def open_peer(self) -> None:
        """Hold the terminal open: without any slave its master reads EIO and polls as hung up,
        without end.

        vhangup(2), which a getty calls, takes our slave too; then this is done again.
        """
        if self.peer >= 0:
            os.close(self.peer)
            self.peer = -1
        self.peer = tty.open_peer(self.fd)

    def make_ring(self) -> bool:
        """Whether a ring was made, as there is something to go into the first one: before that is
        read, so that it can be in the hands of others by then.
        """
        # A terminal that nobody ever writes to costs no pages.
        if self.ring is not None or not self._events() & select.POLLIN:
            return False
        try:
            name = f"lxcd-ring-{self.name}"
            self.ring = Ring.create(name, hold=self.held, capacity=self.capacity)
        except OSError as error:
            # No memory or descriptors: the bytes are lost, the container goes on.
            print(f"keeper: no ring for {self.child.id}: {error}", file=sys.stderr)
            with contextlib.suppress(OSError):
                os.read(self.fd, CHUNK_BYTES)
        return self.ring is not None

    def drain(self) -> int:
        """Read once; how much came. 0: nothing more for now, or `paused`, or `at_end`."""
        if self.ring is None:
            if self._events() & ~select.POLLIN:
                self._hung_up()
            return 0
        if self.ring.room() <= 0:
            self.paused = True
            self.paused_since = time.monotonic()
            return 0
        try:
            count = self._read(self.ring)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._hung_up(for_good=error.errno != errno.EIO)
            return 0
        self.at_end = count == 0
        return count

    def resume(self) -> None:
        """Its ring has room again."""
        self.paused = False
        waited = time.monotonic() - self.paused_since
        self.patience_seconds = max(0.0, self.patience_seconds - waited)

    def skip_ahead(self) -> None:
        """Whoever is behind half a ring is not waited for any more. If nobody at all has read since
        the last time, nobody is waited for, until somebody wants that again.
        """
        if self.ring is not None:
            if self.ring.acked == self.given_up:
                self.ring.set_hold(hold=False)
            self.ring.acknowledge(self.ring.head - self.ring.capacity // 2)
            self.given_up = self.ring.acked
        self.resume()

    def feed(self) -> None:
        """Write once what waits in the input ring. It is `full` if the other side takes no more
        now, and `at_end` if it takes nothing more or there is nothing more.
        """
        if self.input is None or self.fd < 0:
            return
        try:
            self.input.write_to(self.fd)
        except BlockingIOError:
            pass
        except OSError:
            # Nobody will ever read it. A terminal is there all the same.
            self.input.acknowledge(self.input.head)
            self.at_end = self.is_input
        self.full = self.input.head > self.input.acked
        if self.is_input and self.input.closed and not self.full:
            self.at_end = True

    def _read(self, ring: Ring) -> int:
        head = ring.head
        count = ring.read_from(self.fd, splices=not self.is_tty)
        if count:
            ring.stamp(head, time.time_ns())
            earned = self.patience_seconds + count / _PACE_BYTES_A_SECOND
            self.patience_seconds = min(PATIENCE_SECONDS, earned)
        return count

    def _events(self) -> int:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return sum(events for _, events in poll.poll(0))

    def _hung_up(self, *, for_good: bool = False) -> None:
        """A terminal can be opened again as long as its child lives."""
        if self.is_tty and not self.child.ended and not for_good:
            with contextlib.suppress(OSError):
                self.open_peer()
                return
        self.at_end = True

    def end(self) -> None:
        """Close it; what is in the ring stays. No epoll may know the descriptor any more: lxcd
        holds a copy of it, so closing ours would not take it out.
        """
        for number in (self.fd, self.peer):
            if number >= 0:
                os.close(number)
        self.fd = self.peer = -1
        self.paused = False
        if self.ring is not None:
            self.ring.finish()

    def close(self) -> None:
        """Let go of every descriptor."""
        if self.fd >= 0:
            self.end()
        for ring in (self.ring, self.input):
            if ring is not None:
                ring.close()


@dataclass(slots=True)
class Child:
    """A process that this keeper forked, that one such has forked in its place (`forked`), or that
    an earlier keeper has left (not `ours`).
    """

    id: str
    kind: str
    pid: int
    pidfd: int  # -1 once it was reaped
    control: socket.socket | None  # the child's way to hand over streams; None once it has exec'ed
    forked: bool = False
    ours: bool = True  # it can be waited for
    exited: Exited | None = None
    streams: dict[str, Stream] = field(default_factory=dict[str, Stream])

    @property
    def ended(self) -> bool:
        """It was reaped."""
        return self.exited is not None

    def forget(self) -> None:
        """Let go of every descriptor."""
        for stream in self.streams.values():
            stream.close()
        self.streams.clear()
        if self.control is not None:
            self.control.close()
            self.control = None
