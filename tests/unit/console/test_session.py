"""One session: credit and windows, gaps with exact offsets, ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd import errors
from lxcd.console.port import Start
from lxcd.console.session import (
    CHUNK_BYTES,
    WINDOW_BYTES,
    WINDOW_LIMIT_BYTES,
    Frame,
    Gap,
    Output,
    Reason,
    Resized,
    Role,
    RoleChanged,
    Taken,
    window_of,
)
from lxcd.keeper.ring import CAPACITY_BYTES
from lxcd.keeper.ring import CHUNK_BYTES as WRITE_BYTES
from tests.unit.console.made import Made, Reader

STEADY = settings(deadline=None, derandomize=True, database=None)


def data(frames: list[Frame], stream: str = "console") -> bytes:
    return b"".join(f.data for f in frames if isinstance(f, Output) and f.stream == stream)


# ---- where it begins


@pytest.mark.parametrize(
    ("start", "seen"),
    [
        (Start(), b"0123456789"),
        (Start(offsets={"console": 4}), b"456789"),
        (Start(offsets={"console": 10}), b""),
        (Start(offsets={"console": 8}, live=True), b"89"),
        (Start(tail_bytes=3), b"789"),
        (Start(tail_bytes=0), b""),
        (Start(tail_bytes=1 << 63), b"0123456789"),
        (Start(live=True), b""),
    ],
)
async def test_where_it_begins(made: Callable[..., Made], start: Start, seen: bytes) -> None:
    one = made("console")
    one.write(b"0123456789")
    reader = Reader(one.attach(start=start))
    frames = await reader.take()
    assert data(frames) == seen
    if frames:
        assert frames == [Output("console", 10 - len(seen), seen)]
    one.write(b"more")
    assert await reader.take() == [Output("console", 10, b"more")]
    await reader.stop()


async def test_an_offset_that_was_never_written(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr")
    one.write(b"x")
    with pytest.raises(errors.InvalidArgument) as caught:
        one.attach(start=Start(offsets={"stderr": 1}))
    assert caught.value.reason == "OFFSET_BEYOND_END"
    assert not one.port.sessions


# ---- how much is under way


async def test_no_more_than_the_window_is_under_way(made: Callable[..., Made]) -> None:
    one = made("console")
    session = one.attach(window=100)
    reader = Reader(session)
    one.write(bytes(range(250)))
    assert await reader.take() == [Output("console", 0, bytes(range(100)))]
    session.credit("console", 30)
    assert await reader.take() == [Output("console", 100, bytes(range(100, 130)))]
    # What was credited before is nothing new.
    session.credit("console", 10)
    assert await reader.take() == []
    session.credit("console", 130)
    assert await reader.take() == [Output("console", 130, bytes(range(130, 230)))]
    session.credit("console", 230)
    assert await reader.take() == [Output("console", 230, bytes(range(230, 250)))]
    await reader.stop()


@pytest.mark.parametrize("offset", [101, 250, 1 << 63])
async def test_credit_for_what_was_never_sent(made: Callable[..., Made], offset: int) -> None:
    one = made("console")
    session = one.attach(window=100)
    reader = Reader(session)
    one.write(bytes(250))
    await reader.take()
    with pytest.raises(errors.InvalidArgument) as caught:
        session.credit("console", offset)
    assert caught.value.reason == "INVALID_CREDIT"
    assert session.cursors["console"].consumed == 0
    await reader.stop()


async def test_credit_for_no_stream(made: Callable[..., Made]) -> None:
    with pytest.raises(errors.NotFound) as caught:
        made("console").attach().credit("stdout", 0)
    assert caught.value.reason == "STREAM_NOT_FOUND"


@pytest.mark.parametrize("asked", [0, -1, WINDOW_LIMIT_BYTES + 1, 1 << 63])
def test_windows_that_there_are_not(asked: int) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        window_of(asked)
    assert caught.value.reason == "INVALID_WINDOW"


def test_windows() -> None:
    assert window_of(None) == WINDOW_BYTES
    assert window_of(1) == 1
    assert window_of(WINDOW_LIMIT_BYTES) == WINDOW_LIMIT_BYTES


async def test_streams_have_a_window_each(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr")
    session = one.attach(window=10)
    reader = Reader(session)
    one.write(bytes(50), 0)
    one.write(bytes(4), 1)
    assert await reader.take() == [Output("stdout", 0, bytes(10)), Output("stderr", 0, bytes(4))]
    one.write(bytes(20), 1)
    assert await reader.take() == [Output("stderr", 4, bytes(6))]
    session.credit("stderr", 10)
    assert await reader.take() == [Output("stderr", 10, bytes(10))]
    await reader.stop()


async def test_a_stream_that_has_much_waits_for_the_others(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr")
    for _ in range(4):
        one.write(bytes(WRITE_BYTES), 0)
    one.write(b"short", 1)
    reader = Reader(one.attach())
    found = [(f.stream, len(f.data)) for f in await reader.take() if isinstance(f, Output)]
    assert found == [("stdout", CHUNK_BYTES), ("stderr", 5), ("stdout", CHUNK_BYTES)]
    await reader.stop()


# ---- what is lost


async def test_a_gap_says_exactly_what_is_lost(made: Callable[..., Made]) -> None:
    one = made("console")
    session = one.attach(window=100)
    reader = Reader(session)
    one.write(b"x" * 100)
    assert len(data(await reader.take())) == 100
    # It does not say that it has them; the terminal goes on meanwhile.
    written = 100
    ring = one.streams[0].ring
    assert ring is not None
    ring.set_hold(hold=False)
    while written < 2 * CAPACITY_BYTES:
        one.write(bytes(WRITE_BYTES))
        written += WRITE_BYTES
    assert await reader.take() == []
    session.credit("console", 100)
    tail = written - CAPACITY_BYTES
    assert await reader.take() == [Gap("console", 100, tail), Output("console", tail, bytes(100))]
    # A gap takes no room: what is lost was never under way.
    assert session.cursors["console"].unconsumed == 100
    session.credit("console", tail + 60)
    assert await reader.take() == [Output("console", tail + 100, bytes(60))]
    await reader.stop()


async def test_credit_within_a_gap(made: Callable[..., Made]) -> None:
    one = made("console")
    ring = one.streams[0].ring
    assert ring is not None
    for _ in range(10):
        ring.append(bytes(WRITE_BYTES))
    tail = ring.tail
    session = one.attach(start=Start(offsets={"console": 5}), window=10)
    reader = Reader(session)
    assert await reader.take() == [Gap("console", 5, tail), Output("console", tail, bytes(10))]
    for upto in (6, tail // 2, tail - 1, tail):
        session.credit("console", upto)
        assert session.cursors["console"].unconsumed == 10
        assert await reader.take() == []
    session.credit("console", tail + 1)
    assert await reader.take() == [Output("console", tail + 10, b"\0")]
    await reader.stop()


@STEADY
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(1, WRITE_BYTES)),
            st.tuples(st.just("credit"), st.integers(0, 2 * CAPACITY_BYTES)),
        ),
        max_size=30,
    ),
    st.sampled_from([1, 1000, WINDOW_BYTES, WINDOW_LIMIT_BYTES]),
)
async def test_every_byte_is_sent_or_told_as_lost(
    steps: list[tuple[str, int]], window: int
) -> None:
    one = Made("console")
    session = one.attach(window=window)
    reader = Reader(session)
    written = at = consumed = received = lost = 0
    for step, count in steps:
        if step == "write":
            ring = one.streams[0].ring
            assert ring is not None
            ring.set_hold(hold=False)
            one.write(bytes((written + k) % 251 for k in range(count)))
            written += count
        else:
            consumed = max(consumed, min(at, consumed + count))
            session.credit("console", consumed)
        for frame in await reader.take():
            if isinstance(frame, Gap):
                assert frame.begin == at
                lost += frame.end - frame.begin
                at = frame.end
            else:
                assert isinstance(frame, Output)
                assert frame.offset == at
                assert frame.data == bytes((at + k) % 251 for k in range(len(frame.data)))
                received += len(frame.data)
                at += len(frame.data)
        assert received + lost == at
        assert session.cursors["console"].unconsumed <= window
    await reader.stop()
    one.close()


# ---- what it is told besides


async def test_notices_come_before_more_output_and_only_the_last_of_a_kind(
    made: Callable[..., Made],
) -> None:
    one = made("console")
    session = one.attach()
    one.write(b"x")
    session.notice(Taken(1))
    session.notice(Taken(5))
    session.notice(Resized(1, 2))
    session.notice(Taken(7))
    session.notice(RoleChanged(Role.VIEWER, "a"))
    session.notice(RoleChanged(Role.VIEWER, "b"))
    reader = Reader(session)
    assert await reader.take() == [
        Taken(5),
        Resized(1, 2),
        Taken(7),
        RoleChanged(Role.VIEWER, "b"),
        Output("console", 0, b"x"),
    ]
    session.notice(Taken(9))
    assert await reader.take() == [Taken(9)]
    await reader.stop()


# ---- how it ends


async def test_it_ends_behind_the_last_byte(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr")
    session = one.attach(window=3)
    reader = Reader(session)
    one.write(b"abcdef", 0)
    one.write(b"x", 1)
    await reader.take()
    one.port.end()
    for stream in one.streams:
        stream.end()
    assert await reader.take() == []
    assert not reader.task.done(), "there is more, as soon as it has room"
    session.credit("stdout", 3)
    assert await reader.over() == [Output("stdout", 3, b"def")]
    assert session.ending is None


async def test_it_waits_for_the_end_of_the_process_and_of_the_streams(
    made: Callable[..., Made],
) -> None:
    one = made("stdout", "stderr")
    reader = Reader(one.attach())
    one.streams[0].end()
    one.streams[1].end()
    await reader.take()
    assert not reader.task.done(), "who closes its output may go on"
    one.port.end()
    assert await reader.over() == []


async def test_a_reason_ends_it_at_once(made: Callable[..., Made]) -> None:
    one = made("console")
    session = one.attach(window=1)
    reader = Reader(session)
    one.write(b"abc")
    await reader.take()
    session.notice(RoleChanged(Role.VIEWER, "bob"))
    session.end(Reason.KICKED)
    session.end(Reason.LEAVING)
    # What it was told before is still said.
    assert await reader.over() == [RoleChanged(Role.VIEWER, "bob")]
    assert session.ending is Reason.KICKED


async def test_lxcd_leaves(made: Callable[..., Made]) -> None:
    one = made("console")
    readers = [Reader(one.attach()) for _ in range(3)]
    one.port.end(Reason.LEAVING)
    for reader in readers:
        assert await reader.over() == []
        assert reader.session.ending is Reason.LEAVING
    assert not one.port.over, "what they were attached to goes on"
