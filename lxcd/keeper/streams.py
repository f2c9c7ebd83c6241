"""What children write, and what is typed to them: every stream of every child, served as it can
be. Nobody is waited for; a pipe whose reader is slow has its process wait.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lxcd.keeper import protocol
from lxcd.keeper.child import Child, Stream
from lxcd.keeper.protocol import ProtocolError
from lxcd.keeper.ring import Ring, capacity_of
from lxcd.kernel import fd as kernel_fd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxcd.keeper.epoll import Epoll
    from lxcd.keeper.link import Link
    from lxcd.keeper.store import Store

# At the end of a child so many reads are made of what it wrote; others wait meanwhile.
_DRAIN_TURNS = 64
# Of a terminal, which gives but a little each time.
_TURNS = 8
_TERMINAL_BYTES = 4095
# How soon a terminal is tried again that says it has room, and has none.
_AGAIN_SECONDS, _LATEST_SECONDS = 0.01, 0.5


class Streams:
    """All of them. Their children hold them, by name."""

    def __init__(self, epoll: Epoll, link: Link, store: Store) -> None:
        self._epoll = epoll
        self._link = link
        self._store = store

    # ---- how they come

    def add(
        self, child: Child, fds: list[int], *, names: list[str], history_bytes: int, waits: bool
    ) -> None:
        """A child hands them over; the descriptors are ours."""
        for name, number in zip(names, fds, strict=True):
            stream = Stream(child, name, number, capacity=capacity_of(history_bytes))
            self._open(stream)
            stream.held = stream.held and waits
            child.streams[name] = stream
            self.take(stream)
            self.keep(stream)
        self._link.tell(protocol.Streams(child.id, tuple(names)), fds)

    def restore(self, child: Child, name: str, number: int, ring: int, typed: int) -> None:
        """One from its descriptors, which are ours from here on; -1 for what there is not. Raises
        ProtocolError.
        """
        stream = Stream(child, name, number)
        rings: list[Ring | None] = [None, None]
        for place, memfd in enumerate((ring, typed)):
            try:
                rings[place] = Ring(memfd) if memfd >= 0 else None
            except ValueError as error:
                left = [number, *((typed,) if place == 0 else ())]
                kernel_fd.close_all([one for one in left if one >= 0])
                if rings[0] is not None:
                    rings[0].close()
                raise ProtocolError(str(error)) from None
        stream.ring, stream.input = rings
        if stream.ring is not None:
            stream.ring.catch_up()
        if number >= 0:
            self._open(stream)
        child.streams[name] = stream
        self.take(stream)
        self.keep(stream)

    def _open(self, stream: Stream) -> None:
        stream.is_tty = os.isatty(stream.fd)
        stream.is_input = not stream.is_tty and kernel_fd.only_writes(stream.fd)
        # What an application writes waits for whoever started it, if somebody is there.
        waits = not stream.is_tty and self._link.peer is not None
        stream.held = stream.child.kind == "exec" or waits
        os.set_blocking(stream.fd, False)
        if stream.is_tty:
            stream.open_peer()

    def take(self, stream: Stream) -> None:
        """Begin to serve one, as it is; one of an earlier image, too."""
        if stream.fd >= 0:
            # Those that wait for somebody are looked at again, too: once is enough.
            stream.paused = False
            stream.full = stream.input is not None
            self._tend(stream)

    def keep(self, stream: Stream) -> None:
        """Store what is not stored yet."""
        child = stream.child
        if stream.fd >= 0:
            self._store.keep(child.id, child.kind, "open", stream.name, stream.fd)
        if stream.ring is not None:
            self._store.keep(child.id, child.kind, "ring", stream.name, stream.ring.memfd)
        if stream.input is not None:
            self._store.keep(child.id, child.kind, "input", stream.name, stream.input.memfd)

    @staticmethod
    def all_of(child: Child) -> Iterator[tuple[protocol.Answer, list[int]]]:
        """What an lxcd that has just come is told of them."""
        for stream in child.streams.values():
            if stream.fd >= 0:
                yield protocol.Streams(child.id, (stream.name,)), [stream.fd]
            if stream.ring is not None:
                yield protocol.RingMade(child.id, stream.name), [stream.ring.memfd]
            if stream.input is not None:
                yield protocol.InputMade(child.id, stream.name), [stream.input.memfd]
            if stream.fd < 0:
                yield protocol.Closed(child.id, stream.name), []

    # ---- how they are served

    def _tend(self, stream: Stream) -> None:
        """Be called for what can be done with it, and for nothing else: what hangs up polls so
        without end.
        """
        reads, writes = not (stream.is_input or stream.paused), stream.full
        if reads or writes:
            serve = self._serve
            self._epoll.watch(stream.fd, lambda: serve(stream), read=reads, write=writes)
        else:
            self._epoll.unwatch(stream.fd)

    def _serve(self, stream: Stream) -> None:
        if stream.full:
            self._feed(stream)
        if stream.fd >= 0 and not (stream.is_input or stream.paused):
            self._drain(stream)

    def _drain(self, stream: Stream, *, to_the_end: bool = False) -> None:
        turns = _TURNS if stream.is_tty else 1
        for _ in range(_DRAIN_TURNS if to_the_end else turns):
            if stream.make_ring() and stream.ring is not None:
                self.keep(stream)
                made = protocol.RingMade(stream.child.id, stream.name)
                self._link.tell(made, [stream.ring.memfd])
            count = stream.drain()
            # A terminal gives 4095 bytes at most: less than that was all there is.
            if not count or (count < _TERMINAL_BYTES and not to_the_end):
                break
        self._link.grown = True
        if stream.at_end:
            self._end(stream)
        elif stream.paused:
            self._tend(stream)
            if stream.is_tty:
                since, patience = stream.paused_since, stream.patience_seconds
                self._epoll.later(patience, lambda: self._lose_patience(stream, since))

    def _lose_patience(self, stream: Stream, since: float) -> None:
        """A terminal has waited long enough for its readers."""
        if stream.paused and stream.paused_since == since and stream.fd >= 0:
            stream.skip_ahead()
            self._go_on(stream)

    def resume(self, stream: Stream) -> None:
        """A held ring has room again."""
        if stream.paused and stream.fd >= 0:
            stream.resume()
            self._go_on(stream)

    def _go_on(self, stream: Stream) -> None:
        self._tend(stream)
        if stream.child.ended:
            self.finish(stream)

    def release(self, stream: Stream) -> None:
        """There is nobody any more who could read it."""
        stream.held = False
        if stream.ring is not None and stream.ring.hold:
            stream.ring.set_hold(hold=False)
            self.resume(stream)

    def take_input(self, stream: Stream, memfd: int) -> None:
        """What is put into this ring from now on is to be written to it. Raises ProtocolError."""
        if stream.input is not None or stream.fd < 0:
            kernel_fd.close_all([memfd])
            return
        try:
            stream.input = Ring(memfd)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        self.keep(stream)

    def feed(self, stream: Stream) -> None:
        """Something was put into its input ring, or that has ended."""
        if stream.fd >= 0 and not (stream.full or stream.retry_seconds):
            self._feed(stream)

    def _feed(self, stream: Stream) -> None:
        before = stream.input.acked if stream.input is not None else 0
        stream.feed()
        moved = stream.input is not None and stream.input.acked > before
        if moved:
            # Whoever waits for room in the ring.
            self._link.grown = True
            stream.retry_seconds = 0.0
        if stream.at_end:
            self._end(stream)
            return
        if stream.full and stream.is_tty and not moved:
            # A terminal polls writable while nothing goes in: it keeps room for its echo.
            stream.full = False
            stream.retry_seconds = min(2 * stream.retry_seconds or _AGAIN_SECONDS, _LATEST_SECONDS)
            self._epoll.later(stream.retry_seconds, lambda: self._feed_again(stream))
        self._tend(stream)

    def _feed_again(self, stream: Stream) -> None:
        if stream.fd >= 0:
            self._feed(stream)

    # ---- how they end

    def finish(self, stream: Stream) -> None:
        """All that was written before the end goes into the ring; what a background child writes
        later does not.
        """
        if stream.is_input:
            self._end(stream)
            return
        self._drain(stream, to_the_end=True)
        if stream.fd >= 0 and not stream.paused:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        self._epoll.unwatch(stream.fd)
        self._store.drop(stream.child.id, "open", stream.name)
        stream.end()
        self._link.tell(protocol.Closed(stream.child.id, stream.name))

    def let_go(self, stream: Stream) -> None:
        """Before it is closed with its child."""
        if stream.fd >= 0:
            self._epoll.unwatch(stream.fd)
