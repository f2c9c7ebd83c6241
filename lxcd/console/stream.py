"""One terminal or pipe of a child, as lxcd sees it: the keeper's ring, and who waits for it to
grow.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd.keeper.ring import Piece, Ring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lxcd.kernel.fd import Fd

CHUNK_BYTES = 64 * 1024


@dataclass(slots=True, eq=False)
class Stream:
    """Owned by the keeper's client. `ring` appears with the first output, `input` with the first
    byte that is typed; `closed`: no more comes, or goes. It is in `awaited` while somebody waits
    for it.
    """

    name: str
    awaited: set[Stream] = field(default_factory=set["Stream"])
    fd: Fd | None = None  # a copy of the master, or of our end of a pipe
    ring: Ring | None = None
    input: Ring | None = None
    closed: bool = False
    _waiters: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])

    @property
    def head(self) -> int:
        """Offset behind the newest byte."""
        return self.ring.head if self.ring is not None else 0

    @property
    def tail(self) -> int:
        """Offset of the oldest byte that is left."""
        return self.ring.tail if self.ring is not None else 0

    def wake(self) -> None:
        """Somebody has written, or the stream has ended."""
        waiters, self._waiters = self._waiters, []
        self.awaited.discard(self)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def grown(self, offset: int) -> bool:
        """Wait until there is something behind `offset` (True), or nothing will come (False)."""
        while self.head <= offset:
            if self.closed:
                return False
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.add_waiter(waiter)
            try:
                await waiter
            finally:
                self.remove_waiter(waiter)
        return True

    def add_waiter(self, waiter: asyncio.Future[None]) -> None:
        """Have `waiter` resolved at the next `wake`."""
        self._waiters.append(waiter)
        self.awaited.add(self)

    def remove_waiter(self, waiter: asyncio.Future[None]) -> None:
        """It waits no longer."""
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)
        if not self._waiters:
            self.awaited.discard(self)

    def read(self, offset: int, limit: int = CHUNK_BYTES) -> Piece:
        """At most `limit` bytes from `offset` on; nothing if there is nothing."""
        if self.ring is None:
            return Piece(0, b"", 0)
        return self.ring.read(offset, limit)

    def since(self, time_ns: int) -> int:
        """Offset from which on all stands that was written from this time on, to a second."""
        return self.ring.since(time_ns) if self.ring is not None else 0

    def end(self) -> None:
        """The other side is closed: nothing more comes, or goes."""
        self.closed = True
        if self.fd is not None:
            # A copy of a write end would keep its reader waiting.
            self.fd.close()
        self.wake()

    def close(self) -> None:
        """Let go of the descriptors; the keeper has its own."""
        self.closed = True
        if self.fd is not None:
            self.fd.close()
        for ring in (self.ring, self.input):
            if ring is not None:
                ring.close()
        self.ring = self.input = None
        self.wake()


async def follow(
    offsets: list[tuple[Stream, int]], *, until_head: bool
) -> AsyncIterator[tuple[Stream, Piece]]:
    """Pieces of several streams, each from its offset on, as they come; with `until_head` only what
    is there now.
    """
    places = [
        _Place(stream, offset, stream.head if until_head else None) for stream, offset in offsets
    ]
    while places:
        idle = True
        for place in list(places):
            piece = place.next_piece()
            if piece.data or piece.gap_bytes:
                place.offset = piece.offset + len(piece.data)
                idle = False
                yield place.stream, piece
            elif place.end is not None or place.stream.closed:
                places.remove(place)
                idle = False
        if idle:
            await _any_grown(places)


@dataclass(slots=True, eq=False)
class _Place:
    """Where a reader of one stream is; `end` is where it leaves."""

    stream: Stream
    offset: int
    end: int | None

    def next_piece(self) -> Piece:
        limit = CHUNK_BYTES if self.end is None else min(CHUNK_BYTES, self.end - self.offset)
        return self.stream.read(self.offset, max(0, limit))


async def _any_grown(places: list[_Place]) -> None:
    """Wait until one of them has something behind its offset, or has ended."""
    if any(place.stream.head > place.offset or place.stream.closed for place in places):
        return
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for place in places:
        place.stream.add_waiter(waiter)
    try:
        await waiter
    finally:
        for place in places:
            place.stream.remove_waiter(waiter)


def offset_of_lines(stream: Stream, lines: int) -> int:
    """Offset at which the last `lines` lines begin."""
    piece = stream.read(stream.tail, stream.head - stream.tail)
    data = piece.data
    if lines <= 0:
        return stream.head
    end = len(data) - 1 if data.endswith(b"\n") else len(data)
    place = end
    for _ in range(lines):
        place = data.rfind(b"\n", 0, place)
        if place < 0:
            return piece.offset
    return piece.offset + place + 1
