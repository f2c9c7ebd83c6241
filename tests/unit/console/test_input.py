"""What is typed into a port: what is taken, what waits, what is dropped, and where it ends."""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd import errors
from lxcd.console.session import (
    INPUT_WINDOW_BYTES,
    Output,
    Role,
    RoleChanged,
    Taken,
)
from lxcd.keeper.ring import CAPACITY_BYTES, INPUT_CAPACITY_BYTES
from tests.unit.console.made import Made, Reader, refused

STEADY = settings(deadline=None, derandomize=True, database=None)
LATE = CAPACITY_BYTES // 2


async def test_what_is_typed_is_taken_and_told(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr")
    session = one.attach(Role.CONTROLLER)
    reader = Reader(session)
    assert one.port.input_offset == 0
    one.port.type(session, b"abc")
    one.port.type(session, b"")
    assert await reader.take() == [Taken(3)]
    one.port.type(session, b"de")
    assert await reader.take() == [Taken(5)]
    assert one.port.input_offset == 5
    one.port.end_input(session)
    assert one.ends.finished == ["stdin"]
    assert one.stdin is not None
    await one.ends.feed(one.stdin)
    assert one.ends.read == b"abcde"
    await reader.stop()


async def test_input_waits_and_is_never_dropped(made: Callable[..., Made]) -> None:
    one = made("console")
    assert one.stdin is not None
    session = one.attach(Role.CONTROLLER)
    reader = Reader(session)
    first, second = os.urandom(INPUT_CAPACITY_BYTES), os.urandom(50_000)
    one.port.type(session, first)
    assert await reader.take() == [Taken(len(first))]
    for begin in range(0, len(second), 10_000):
        one.port.type(session, second[begin : begin + 10_000])
    # Nobody reads: nothing of it is acknowledged.
    assert await reader.take() == []
    await one.ends.feed(one.stdin, 15_000)
    assert await reader.take() == [Taken(len(first) + 15_000)]
    while len(one.ends.read) < len(first) + len(second):
        await one.ends.feed(one.stdin, 7_000)
    assert one.ends.read == first + second
    assert (await reader.take())[-1] == Taken(len(first) + len(second))
    assert session.typed == 0
    await reader.stop()


async def test_other_frames_do_not_wait_behind_input(made: Callable[..., Made]) -> None:
    one = made("console")
    session = one.attach(Role.CONTROLLER)
    one.port.type(session, bytes(INPUT_CAPACITY_BYTES))
    one.port.type(session, bytes(INPUT_WINDOW_BYTES))
    reader = Reader(session)
    await reader.take()
    one.write(b"x")
    assert await reader.take() == [Output("console", 0, b"x")]
    session.credit("console", 1)
    one.port.release_control(session)
    assert await reader.take() == [RoleChanged(Role.VIEWER, "")]
    await reader.stop()


async def test_more_input_than_the_window(made: Callable[..., Made]) -> None:
    one = made("console")
    session = one.attach(Role.CONTROLLER)
    one.port.type(session, bytes(INPUT_CAPACITY_BYTES))
    one.port.type(session, bytes(INPUT_WINDOW_BYTES - 1))
    with refused(errors.InvalidArgument, "INPUT_OVERFLOW"):
        one.port.type(session, b"xx")
    one.port.type(session, b"x")
    with refused(errors.InvalidArgument, "INPUT_OVERFLOW"):
        one.port.type(session, b"x")


async def test_the_end_stands_behind_what_was_typed(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr")
    assert one.stdin is not None
    session = one.attach(Role.CONTROLLER)
    one.port.type(session, bytes(INPUT_CAPACITY_BYTES))
    one.port.type(session, b"last")
    one.port.end_input(session)
    assert one.ends.finished == []
    await one.ends.feed(one.stdin)
    await one.ends.feed(one.stdin)
    assert one.ends.read[-4:] == b"last"
    assert one.ends.finished == ["stdin"]


async def test_input_behind_its_end(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr")
    session = one.attach(Role.CONTROLLER)
    one.port.end_input(session)
    with refused(errors.InvalidArgument, "INPUT_AFTER_END"):
        one.port.type(session, b"x")
    # Who was cut off may say it again.
    one.port.end_input(session)
    assert one.ends.finished == ["stdin"]


async def test_a_terminal_has_no_end_of_input(made: Callable[..., Made]) -> None:
    one = made("console")
    with refused(errors.InvalidArgument, "NO_END_OF_INPUT"):
        one.port.end_input(one.attach(Role.CONTROLLER))


async def test_no_standard_input(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr", stdin=False)
    session = one.attach(Role.CONTROLLER)
    with refused(errors.InvalidArgument, "NO_INPUT"):
        one.port.type(session, b"x")
    with refused(errors.InvalidArgument, "NO_INPUT"):
        one.port.end_input(session)
    assert one.port.input_offset == 0


async def test_what_is_typed_to_a_closed_input_is_as_good_as_taken(
    made: Callable[..., Made],
) -> None:
    one = made("stdout", "stderr")
    assert one.stdin is not None
    session = one.attach(Role.CONTROLLER)
    reader = Reader(session)
    one.port.type(session, b"abc")
    await reader.take()
    one.stdin.end()
    for upto in range(1, 5):
        # Else a client would wait for room without end.
        one.port.type(session, bytes(INPUT_WINDOW_BYTES))
        assert await reader.take() == [Taken(3 + upto * INPUT_WINDOW_BYTES)]
    one.port.end_input(session)
    assert one.ends.finished == []
    await reader.stop()


async def test_a_broken_connection_s_input_is_typed_once(made: Callable[..., Made]) -> None:
    """What was not acknowledged when it broke is sent again by whoever comes back."""
    one = made("stdout", "stderr")
    assert one.stdin is not None
    whole = os.urandom(INPUT_CAPACITY_BYTES + 20_000)
    first = one.attach(Role.CONTROLLER)
    one.port.type(first, whole[:INPUT_CAPACITY_BYTES])
    one.port.type(first, whole[INPUT_CAPACITY_BYTES:])
    one.port.end_input(first)
    one.port.leave(first)
    second = one.attach(Role.CONTROLLER)
    assert one.port.input_offset == INPUT_CAPACITY_BYTES
    one.port.type(second, whole[one.port.input_offset :])
    one.port.end_input(second)
    for _ in range(2):
        await one.ends.feed(one.stdin)
    assert one.ends.read == whole
    assert one.ends.finished == ["stdin"]


async def test_an_end_may_be_said_again_by_who_comes_back(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr")
    first = one.attach(Role.CONTROLLER)
    one.port.type(first, b"abc")
    one.port.end_input(first)
    one.port.leave(first)
    second = one.attach(Role.CONTROLLER)
    one.port.end_input(second)
    assert one.ends.finished == ["stdin"]
    with refused(errors.InvalidArgument, "INPUT_AFTER_END"):
        one.port.type(second, b"x")


async def test_who_leaves_on_purpose_has_typed_what_he_typed(made: Callable[..., Made]) -> None:
    one = made("console")
    assert one.stdin is not None
    session = one.attach(Role.CONTROLLER)
    one.port.type(session, bytes(INPUT_CAPACITY_BYTES))
    one.port.type(session, b"last")
    session.detached = True
    one.port.leave(session)
    for _ in range(2):
        await one.ends.feed(one.stdin)
    assert one.ends.read[-4:] == b"last"


@STEADY
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("type"), st.integers(0, 32 * 1024)),
            st.tuples(st.just("feed"), st.integers(1, 64 * 1024)),
            st.tuples(st.just("break"), st.just(0)),
        ),
        max_size=30,
    )
)
async def test_input_over_any_connections(steps: list[tuple[str, int]]) -> None:
    """A client that keeps what was not acknowledged, as ours does."""
    one = Made("console")
    assert one.stdin is not None
    session, typed, acked = one.attach(Role.CONTROLLER), b"", 0
    reader = Reader(session)
    for step, count in steps:
        if step == "type":
            data = bytes((len(typed) + k) % 251 for k in range(count))
            if len(typed) + count - acked > INPUT_WINDOW_BYTES:
                continue
            typed += data
            one.port.type(session, data)
        elif step == "feed":
            if one.stdin.input is not None:
                await one.ends.feed(one.stdin, count)
        else:
            one.port.leave(session)
            await reader.stop()
            session = one.attach(Role.CONTROLLER)
            reader = Reader(session)
            acked = one.port.input_offset
            one.port.type(session, typed[acked:])
        for frame in await reader.take():
            assert isinstance(frame, Taken)
            assert acked <= frame.offset <= len(typed)
            acked = frame.offset
    for _ in range(4 if typed else 0):
        await one.ends.feed(one.stdin)
    assert one.ends.read == typed
    await reader.stop()
    one.close()


async def test_what_waits_is_dropped_when_another_takes_control(
    made: Callable[..., Made],
) -> None:
    """It could vanish behind what that one is told when the first is found to be cut off."""
    one = made("stdout", "stderr")
    assert one.stdin is not None
    whole = os.urandom(INPUT_CAPACITY_BYTES + 20_000)
    first = one.attach(Role.CONTROLLER)
    one.port.type(first, whole[:INPUT_CAPACITY_BYTES])
    one.port.type(first, whole[INPUT_CAPACITY_BYTES:])
    assert one.port.input_offset == len(whole)
    second = one.attach(Role.CONTROLLER, steal=True)
    assert one.port.input_offset == INPUT_CAPACITY_BYTES
    one.port.leave(first)
    assert one.port.input_offset == INPUT_CAPACITY_BYTES
    one.port.type(second, whole[INPUT_CAPACITY_BYTES:])
    for _ in range(2):
        await one.ends.feed(one.stdin)
    assert one.ends.read == whole
