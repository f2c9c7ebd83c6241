from __future__ import annotations

import mmap
import os
import select
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lxcd.keeper.ring import CAPACITY_BYTES, CHUNK_BYTES, HEADER_BYTES, Ring

STEADY = settings(deadline=None, derandomize=True, database=None)
CAPACITY = 2 * CHUNK_BYTES + 4096

SIZES = st.one_of(
    st.integers(0, CHUNK_BYTES), st.sampled_from([0, 1, CHUNK_BYTES - 1, CHUNK_BYTES])
)


def pattern(offset: int, count: int) -> bytes:
    """Bytes that tell at which offset they were written."""
    first = offset // 8
    words = b"".join(number.to_bytes(8, "big") for number in range(first, first + count // 8 + 2))
    return words[offset % 8 : offset % 8 + count]


class Model(RuleBasedStateMachine):
    """A stream of known bytes; one writer, one reader who comes when he likes."""

    hold = False

    def __init__(self) -> None:
        super().__init__()
        self.writer = Ring.create("model", hold=self.hold, capacity=CAPACITY)
        self.reader = Ring(os.dup(self.writer.memfd))
        self.pipe_read, self.pipe_write = os.pipe2(os.O_NONBLOCK)
        self.total = 0
        self.seen = 0

    @precondition(lambda self: self.writer.room() > 0)
    @rule(count=SIZES)
    def read_from(self, count: int) -> None:
        if count:
            # A pipe has room for exactly this much.
            count = min(count, 65536)
            assert os.write(self.pipe_write, pattern(self.total, count)) == count
            while count:
                got = self.writer.read_from(self.pipe_read) if self.writer.room() else 0
                if not got:
                    self.seen = self.reader.head
                    self.reader.acknowledge(self.seen)
                    continue
                assert got <= CHUNK_BYTES
                self.total += got
                count -= got
        else:
            with pytest.raises(BlockingIOError):
                self.writer.read_from(self.pipe_read)

    @precondition(lambda self: self.writer.room() > 0)
    @rule(count=SIZES, is_late=st.booleans())
    def lose_the_writer(self, count: int, *, is_late: bool) -> None:
        """It is killed when it has read from the pipe, before or behind saying so; another one comes."""
        if count:
            os.write(self.pipe_write, pattern(self.total, min(count, self.writer.room())))
            got = self.writer.read_from(self.pipe_read)
            if not is_late:
                self.writer._words[8] = self.total
            self.total += got
        lost = self.writer
        self.writer = Ring(os.dup(lost.memfd))
        lost.close()
        self.writer.catch_up()
        while True:
            # What did not fit in front of the ring's end is still in the pipe.
            try:
                got = self.writer.read_from(self.pipe_read) if self.writer.room() else 0
            except BlockingIOError:
                break
            if not got:
                self.seen = self.reader.head
                self.reader.acknowledge(self.seen)
            self.total += got

    @rule(limit=st.integers(1, 2 * CAPACITY))
    def read(self, limit: int) -> None:
        piece = self.reader.read(self.seen, limit)
        assert piece.offset == max(self.seen, self.reader.tail)
        assert piece.gap_bytes == piece.offset - self.seen
        assert piece.data == pattern(piece.offset, min(limit, self.total - piece.offset))
        self.seen = piece.offset + len(piece.data)

    @rule(offset=st.integers(0, 10 * CAPACITY), limit=st.integers(0, CHUNK_BYTES))
    def read_anywhere(self, offset: int, limit: int) -> None:
        piece = self.reader.read(offset, limit)
        assert self.reader.tail <= piece.offset <= self.total
        assert piece.gap_bytes == max(0, piece.offset - offset)
        assert piece.data == pattern(piece.offset, min(limit, self.total - piece.offset))

    @rule()
    def acknowledge(self) -> None:
        self.reader.acknowledge(self.seen)

    @invariant()
    def words(self) -> None:
        assert self.reader.head == self.writer.head == self.total
        assert 0 <= self.reader.tail <= self.total
        assert self.total - self.reader.tail <= CAPACITY
        assert 0 <= self.writer.room() <= CHUNK_BYTES

    def teardown(self) -> None:
        self.writer.close()
        self.reader.close()
        os.close(self.pipe_read)
        os.close(self.pipe_write)


class HeldModel(Model):
    """The same, where the writer waits: nothing is ever lost."""

    hold = True

    @invariant()
    def nothing_is_lost(self) -> None:
        # What was acknowledged may go, and no byte more.
        assert self.reader.tail <= self.seen


TestSkipping = Model.TestCase
TestHeld = HeldModel.TestCase
for case in (TestSkipping, TestHeld):
    case.settings = settings(STEADY, max_examples=50, stateful_step_count=30)


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring.create("test", hold=False)
    yield made
    made.close()


def test_a_new_ring_is_empty(ring: Ring) -> None:
    assert (ring.head, ring.tail, ring.closed, ring.hold) == (0, 0, False, False)
    assert ring.capacity == CAPACITY_BYTES
    assert ring.read(0, 100).data == b""
    ring.finish()
    assert ring.closed


def test_hold_that_begins_later(ring: Ring) -> None:
    read_end, write_end = os.pipe()
    for _ in range(10):
        os.write(write_end, bytes(CHUNK_BYTES))
        assert ring.read_from(read_end) == CHUNK_BYTES
    for number in (read_end, write_end):
        os.close(number)
    ring.set_hold(True)
    # All that is still there counts as unread.
    assert ring.room() == ring.capacity - (ring.head - ring.tail)
    ring.acknowledge(ring.head + 1000)
    assert ring.room() == CHUNK_BYTES
    ring.acknowledge(0)
    assert ring.room() == CHUNK_BYTES
    ring.set_hold(False)
    assert ring.room() == CHUNK_BYTES


def test_a_small_ring_has_no_more_room_than_it_holds() -> None:
    ring = Ring.create("small", hold=False, capacity=4096)
    assert ring.room() <= 4096
    ring.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES, HEADER_BYTES + 1, HEADER_BYTES + 8192])
def test_what_is_no_ring_is_refused_and_closed(size: int) -> None:
    before = open_descriptors()
    memfd = os.memfd_create("no ring")
    os.ftruncate(memfd, size)
    with pytest.raises(ValueError, match="not a ring"):
        Ring(memfd)
    assert open_descriptors() == before


@STEADY
@given(byte=st.integers(0, 15), value=st.integers(0, 255))
def test_a_torn_header_is_refused(byte: int, value: int) -> None:
    ring = Ring.create("torn", hold=False, capacity=CAPACITY)
    with mmap.mmap(ring.memfd, HEADER_BYTES) as header:
        good = header[byte] == value
        header[byte] = value
    copy = os.dup(ring.memfd)
    ring.close()
    if good:
        Ring(copy).close()
    else:
        with pytest.raises(ValueError, match="wrong header"):
            Ring(copy)


def test_a_pipe_that_has_ended(ring: Ring) -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    assert ring.read_from(read_end) == 0
    os.close(read_end)
    assert ring.head == 0


def test_what_is_no_pipe_is_read_too(ring: Ring) -> None:
    """A terminal, say; the next writer finds it as it is."""
    ours, theirs = socket.socketpair()
    total = 0
    with ours, theirs:
        for _ in range(3 * CAPACITY_BYTES // 40_000):
            ours.send(pattern(total, 40_000))
            while total % 40_000 or select.select([theirs], [], [], 0)[0]:
                total += ring.read_from(theirs.fileno())
    after = Ring(os.dup(ring.memfd))
    after.catch_up()
    assert after.head == ring.head == total
    piece = after.read(after.tail, CAPACITY_BYTES)
    assert piece.data == pattern(after.tail, total - after.tail)
    after.close()
