from __future__ import annotations

import contextlib
import mmap
import os
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


# ---- when what was written

SECOND = 1_000_000_000
# As many as the header of a ring has room for, two words each, behind sixteen others.
STAMPS = (HEADER_BYTES // 8 - 16) // 2


@STEADY
@given(
    st.lists(
        st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 20_000)), min_size=1, max_size=60
    ),
    st.lists(st.integers(-2 * SECOND, 200 * SECOND), min_size=1, max_size=10),
)
def test_since_leaves_nothing_out_and_is_true_to_a_second(
    writes: list[tuple[int, int]], asked: list[int]
) -> None:
    ring = Ring.create("stamps", hold=False, capacity=CAPACITY)
    now, begin = 100 * SECOND, 100 * SECOND
    written: list[tuple[int, int, int]] = []  # when, from where, to where
    for pause, count in writes:
        now += pause
        ring.stamp(ring.head, now)
        written.append((now, ring.head, ring.head + count))
        ring.append(bytes(count))
    for time in [*(begin + span for span in asked), *(when for when, _, _ in written)]:
        offset = ring.since(max(0, time))
        assert ring.tail <= offset <= ring.head
        for when, start, end in written:
            if when >= time:
                # What was written from then on is there, as far as it is left.
                assert offset <= max(start, ring.tail)
            elif when + 2 * SECOND <= time and end > start:
                assert offset >= min(end, ring.head), "much older than what was asked for"
    ring.close()


def test_a_clock_that_is_set_back() -> None:
    ring = Ring.create("stamps", hold=False)
    for number, time in enumerate((50, 51, 52, 10, 11)):
        ring.stamp(number * 10, time * SECOND)
        ring.append(bytes(10))
    # What was written last counts; its time is what the clock says now.
    assert ring.since(11 * SECOND) == 40
    assert ring.since(10 * SECOND) <= 30
    assert ring.since(0) == 0
    ring.close()


def test_more_stamps_than_there_is_room_for() -> None:
    ring = Ring.create("stamps", hold=False)
    count = STAMPS + 100
    for number in range(count):
        ring.stamp(ring.head, number * SECOND)
        ring.append(b"x")
    for number in range(100, count, 7):
        assert ring.since(number * SECOND) == number
    # Of what is older than all of them it cannot be said when: it is left out.
    assert ring.since(50 * SECOND) == 100
    assert ring.since(count * SECOND) == count
    # Nothing of it stands where the bytes are.
    assert ring.read(0, count).data == b"x" * count
    ring.close()


def test_since_of_a_ring_without_stamps(ring: Ring) -> None:
    assert ring.since(0) == 0
    ring.append(b"abc")
    # Written before there were stamps: nothing is known to be newer.
    assert ring.since(0) == 3


# ---- what is typed


@STEADY
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, CHUNK_BYTES)),
            st.tuples(st.just("write"), st.just(0)),
            st.tuples(st.just("take"), st.integers(1, CHUNK_BYTES)),
        ),
        max_size=40,
    )
)
def test_write_to_a_slow_reader(steps: list[tuple[str, int]]) -> None:
    """Nothing is lost or doubled, however little goes in at once."""
    ring = Ring.create("input", hold=True, capacity=CAPACITY)
    read_end, write_end = os.pipe2(os.O_NONBLOCK)
    typed = written = 0
    taken = b""
    for step, count in steps:
        if step == "append":
            more = pattern(typed, min(count, ring.room()))
            ring.append(more)
            typed += len(more)
        elif step == "take":
            try:
                taken += os.read(read_end, count)
            except BlockingIOError:
                assert len(taken) == written
        else:
            try:
                done = ring.write_to(write_end)
            except BlockingIOError:
                assert len(taken) < written, "the pipe is empty"
                continue
            assert (done == 0) == (written == typed)
            written += done
        assert (ring.acked, ring.head) == (written, typed)
        assert ring.room() == min(CHUNK_BYTES, CAPACITY - (typed - written))
    while len(taken) < typed:
        with contextlib.suppress(BlockingIOError):
            ring.write_to(write_end)
        taken += os.read(read_end, 1 << 20)
    assert taken == pattern(0, typed)
    os.close(read_end)
    os.close(write_end)
    ring.close()


def test_write_to_nobody() -> None:
    ring = Ring.create("input", hold=True)
    read_end, write_end = os.pipe()
    assert ring.write_to(write_end) == 0
    os.close(read_end)
    ring.append(b"abc")
    with pytest.raises(BrokenPipeError):
        ring.write_to(write_end)
    assert ring.acked == 0
    os.close(write_end)
    ring.close()
