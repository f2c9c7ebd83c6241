"""One direction of a stream: a ring in a memfd, addressed by absolute offsets. What a container
writes is put in by the keeper and read by lxcd; what is typed, the other way round.

An offset counts bytes since the stream began and never wraps. The writer moves `tail` past what it
is about to overwrite, then writes, then moves `head`; a reader copies and looks at `tail` again:
what is still in front of it was intact. No lock, nobody waits for a reader. Words are read and
written as aligned native 64-bit words through a memoryview (`struct` would write them byte by
byte).

From a pipe bytes go into the ring by splice(2), and the memfd's own file position, which the kernel
moves with them and every holder of a copy shares, says how far. So a writer that is killed between
that and moving `head` loses nothing: the next one catches up. (With a terminal splice(2) would want
a pipe in between: one read may be lost there.)

With `hold` set the writer does not overwrite what the reader has not acknowledged: then it stops
reading its pipe and the process behind it waits. That is for data (an exec without a terminal), and
for all that is typed; a terminal waits a moment at most, then skips ahead (see `child.py`).

The header also says when what was written: one stamp for each second in which something was.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

HEADER_BYTES = 4096
CAPACITY_BYTES = 256 * 1024
# The writer reads at most this much at once, straight into the ring; so much of the oldest history
# is given up for it.
CHUNK_BYTES = 64 * 1024
_NONBLOCK = 2  # SPLICE_F_NONBLOCK

_MAGIC = int.from_bytes(b"LXCDRNG1", "little")
# What is typed waits here for a program to read it.
INPUT_CAPACITY_BYTES = 64 * 1024
# Words of the header.
_WORD_MAGIC, _WORD_CAPACITY, _WORD_HEAD, _WORD_TAIL, _WORD_ACKED, _WORD_HOLD, _WORD_CLOSED = (
    0,
    1,
    8,
    9,
    10,
    11,
    12,
)
# Stamps: how many there ever were, and the last ones, a ring themselves: time, then offset.
_WORD_STAMPS, _WORD_STAMP = 13, 16
_STAMPS = (HEADER_BYTES // 8 - _WORD_STAMP) // 2
_STAMP_NS = 1_000_000_000


# The least and the most that may be asked for; pages of it are taken as they are written.
_LEAST_BYTES, _MOST_BYTES = 2 * CHUNK_BYTES, 64 << 20


def capacity_of(history_bytes: int) -> int:
    """The capacity of a ring that keeps so much, in whole pages; 0: as much as is usual."""
    if not history_bytes:
        return CAPACITY_BYTES
    pages = -(-history_bytes // HEADER_BYTES) * HEADER_BYTES
    return min(max(pages, _LEAST_BYTES), _MOST_BYTES)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a reader got: `data` begins at `offset`; `gap_bytes` in front of it were lost to this
    reader.
    """

    offset: int
    data: bytes
    gap_bytes: int


class Ring:
    """The shared pages. One side writes (`read_from`), the other reads (`read`); both may look at
    the words.
    """

    def __init__(self, memfd: int) -> None:
        """Map `memfd`, which this object owns from now on. ValueError if it is no ring."""
        self.memfd = memfd
        size = os.fstat(memfd).st_size
        if size <= HEADER_BYTES:
            os.close(memfd)
            raise ValueError("not a ring: too small")
        self._map = mmap.mmap(memfd, size)
        # A child of the keeper has no business with it, and each mapping makes its fork dearer.
        self._map.madvise(mmap.MADV_DONTFORK)
        self._view = memoryview(self._map)
        self._words = self._view[:HEADER_BYTES].cast("Q")
        self.capacity = size - HEADER_BYTES
        if self._words[_WORD_MAGIC] != _MAGIC or self._words[_WORD_CAPACITY] != self.capacity:
            self.close()
            raise ValueError("not a ring: wrong header")

    @classmethod
    def create(cls, name: str, *, hold: bool, capacity: int = CAPACITY_BYTES) -> Ring:
        """A new, empty ring. Pages are backed as they are written."""
        memfd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(memfd, HEADER_BYTES + capacity)
        with (
            mmap.mmap(memfd, HEADER_BYTES) as header,
            memoryview(header) as view,
            view.cast("Q") as words,
        ):
            words[_WORD_CAPACITY] = capacity
            words[_WORD_HOLD] = int(hold)
            words[_WORD_MAGIC] = _MAGIC
        return cls(memfd)

    def close(self) -> None:
        """Unmap and close; the other side's mapping lives on."""
        self._words.release()
        self._view.release()
        self._map.close()
        os.close(self.memfd)

    @property
    def head(self) -> int:
        """Offset behind the newest byte."""
        return self._words[_WORD_HEAD]

    @property
    def tail(self) -> int:
        """Offset of the oldest byte that is still there."""
        return self._words[_WORD_TAIL]

    @property
    def acked(self) -> int:
        """Offset up to which the reader has consumed."""
        return self._words[_WORD_ACKED]

    @property
    def closed(self) -> bool:
        """Nothing will be added any more."""
        return bool(self._words[_WORD_CLOSED])

    @property
    def hold(self) -> bool:
        """The writer waits for `acknowledge` instead of overwriting."""
        return bool(self._words[_WORD_HOLD])

    def set_hold(self, hold: bool) -> None:  # noqa: FBT001
        """Reader's side: begin (from the present head's history on) or cease to be waited for."""
        self._words[_WORD_ACKED] = max(self._words[_WORD_ACKED], self.tail)
        self._words[_WORD_HOLD] = int(hold)

    def acknowledge(self, offset: int) -> bool:
        """Reader's side: all before `offset` was consumed and may be overwritten. Whether the
        writer may wait for that: it is to be told. Looked at behind the deed, or one that fills the
        ring in between would wait for ever.
        """
        before = self.acked
        now = max(before, min(offset, self.head))
        self._words[_WORD_ACKED] = now
        return now > before and self.head - before >= self.capacity

    def room(self) -> int:
        """How much may be written now; 0: the writer has to wait for the reader."""
        if not self.hold:
            return min(CHUNK_BYTES, self.capacity)
        return min(CHUNK_BYTES, self.capacity - (self.head - self._words[_WORD_ACKED]))

    def read_from(self, fd: int, *, splices: bool = True) -> int:
        """Writer's side: read once from `fd` into the ring, at most `room()` bytes; how many came.
        A pipe `splices`, a terminal does not.

        Raises OSError as read(2) does: BlockingIOError when there is nothing, EIO from a terminal
        without a peer.
        """
        head = self.head
        room = self.room()
        self._words[_WORD_TAIL] = max(self.tail, head + room - self.capacity)
        if splices:
            at = head % self.capacity
            os.lseek(self.memfd, HEADER_BYTES + at, os.SEEK_SET)
            count = os.splice(fd, self.memfd, min(room, self.capacity - at), flags=_NONBLOCK)
        else:
            first, second = self._slices(head, room)
            count = os.readv(fd, [first, second] if second else [first])
        self._words[_WORD_HEAD] = head + count
        return count

    def catch_up(self) -> None:
        """Writer's side, of a ring that another one has written to: it may have been lost between
        reading from a pipe and saying so.
        """
        place = os.lseek(self.memfd, 0, os.SEEK_CUR) - HEADER_BYTES
        if place >= 0:
            self._words[_WORD_HEAD] += (place - self.head) % self.capacity

    def write_to(self, fd: int) -> int:
        """Reader's side: write once to `fd` what waits, and have it consumed; how much that was.

        Raises OSError as write(2) does: BlockingIOError when nothing goes in now.
        """
        acked = self.acked
        first, second = self._slices(acked, self.head - acked)
        if not first:
            return 0
        count = os.writev(fd, [first, second] if second else [first])
        self._words[_WORD_ACKED] = acked + count
        return count

    def stamp(self, offset: int, time_ns: int) -> None:
        """Writer's side: what is behind `offset` was written from now on. At most one a second is
        kept.
        """
        count = self._words[_WORD_STAMPS]
        if count and 0 <= time_ns - self._stamp(count - 1)[0] < _STAMP_NS:
            return
        place = _WORD_STAMP + count % _STAMPS * 2
        self._words[place], self._words[place + 1] = time_ns, offset
        self._words[_WORD_STAMPS] = count + 1

    def since(self, time_ns: int) -> int:
        """Offset behind which all that was written from this time on stands, to a second."""
        count = self._words[_WORD_STAMPS]
        offset = self.head
        for number in range(count - 1, max(0, count - _STAMPS) - 1, -1):
            time, start = self._stamp(number)
            if time + _STAMP_NS <= time_ns:
                return offset
            offset = start
        return max(offset, self.tail)

    def _stamp(self, number: int) -> tuple[int, int]:
        place = _WORD_STAMP + number % _STAMPS * 2
        return self._words[place], self._words[place + 1]

    def append(self, data: bytes | memoryview) -> None:
        """Writer's side: add bytes that were read already; at most `room()` of them."""
        head = self.head
        self._words[_WORD_TAIL] = max(self.tail, head + len(data) - self.capacity)
        first, second = self._slices(head, len(data))
        first[:] = data[: len(first)]
        second[:] = data[len(first) :]
        self._words[_WORD_HEAD] = head + len(data)

    def finish(self) -> None:
        """Writer's side: nothing will be added any more."""
        self._words[_WORD_CLOSED] = 1

    def read(self, offset: int, limit: int) -> Piece:
        """Reader's side: at most `limit` bytes from `offset` on; what is lost by now is told as a
        gap.
        """
        while True:
            head, tail = self.head, self.tail
            start = min(max(offset, tail), head)
            first, second = self._slices(start, min(limit, head - start))
            data = bytes(first) + bytes(second)
            lost = self.tail - start
            if lost <= 0:
                return Piece(start, data, max(0, start - offset))
            # Overwritten while it was copied: once more, from the new tail.

    def _slices(self, offset: int, count: int) -> tuple[memoryview, memoryview]:
        at = offset % self.capacity
        first = min(count, self.capacity - at)
        start = HEADER_BYTES + at
        return self._view[start : start + first], self._view[
            HEADER_BYTES : HEADER_BYTES + count - first
        ]
