"""One child of the keeper and the streams that it writes to."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd.keeper.ring import CHUNK_BYTES, Ring
from lxcd.kernel import tty

if TYPE_CHECKING:
    import socket

    from lxcd.keeper.protocol import Exited


@dataclass(slots=True)
class Stream:
    """A terminal's master or a pipe's read end, and the ring that it is drained into."""

    child: Child
    name: str
    fd: int  # -1 once it has ended
    ring: Ring | None = None  # made on first output
    peer: int = -1  # of a terminal: a slave of our own, so that the master never hangs up
    is_tty: bool = False
    held: bool = False  # a new ring of it waits for its reader
    at_end: bool = False  # the other side has closed it for good
    paused: bool = False  # the ring is full and held: not read until lxcd says so

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
            self.ring = Ring.create(f"lxcd-ring-{self.name}", hold=self.held)
        except OSError as error:
            # No memory or descriptors: the bytes are lost, the container goes on.
            print(f"keeper: no ring for {self.child.id}: {error}", file=sys.stderr)
            with contextlib.suppress(OSError):
                os.read(self.fd, CHUNK_BYTES)
        return self.ring is not None

    def drain(self) -> bool:
        """Read once. True: something came, there may be more. False: nothing more for now, or
        `paused`, or `at_end`.
        """
        if self.ring is None:
            if self._events() & ~select.POLLIN:
                self._hung_up()
            return False
        if self.ring.room() <= 0:
            self.paused = True
            return False
        try:
            count = self.ring.read_from(self.fd)
        except BlockingIOError:
            return False
        except OSError as error:
            self._hung_up(for_good=error.errno != errno.EIO)
            return False
        self.at_end = count == 0
        return count > 0

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
            if stream.fd >= 0:
                stream.end()
            if stream.ring is not None:
                stream.ring.close()
        self.streams.clear()
        if self.control is not None:
            self.control.close()
            self.control = None
