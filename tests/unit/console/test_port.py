"""What sessions attach to: who may type, how far a writer may go, what is typed and taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd import errors
from lxcd.console.port import Port, require_size
from lxcd.console.session import (
    WINDOW_BYTES,
    Output,
    Resized,
    Role,
    RoleChanged,
    Session,
)
from lxcd.console.stream import Stream
from lxcd.keeper.ring import CAPACITY_BYTES, CHUNK_BYTES
from lxcd.kernel.fd import Fd
from tests.unit.console.made import ALL, Ends, Made, Reader, refused, settled

STEADY = settings(deadline=None, derandomize=True, database=None)
LATE = CAPACITY_BYTES // 2


def process(session: Session, offset: int, stream: str = "console") -> None:
    """Its client has got and processed all before this offset."""
    session.cursors[stream].sent = max(session.cursors[stream].sent, offset)
    session.credit(stream, offset)


# ---- who is there


async def test_one_controls_and_the_others_watch(made: Callable[..., Made]) -> None:
    one = made("console")
    first = one.attach(Role.CONTROLLER, label="alice")
    watching = [one.attach() for _ in range(3)]
    with refused(errors.FailedPrecondition, "CONTROL_TAKEN"):
        one.attach(Role.CONTROLLER, label="bob")
    assert one.port.controller is first
    assert set(one.port.sessions) == {first.id, *(each.id for each in watching)}
    for session in watching:
        with refused(errors.PermissionDenied, "NOT_THE_CONTROLLER"):
            one.port.type(session, b"x")
        with refused(errors.PermissionDenied, "NOT_THE_CONTROLLER"):
            one.port.end_input(session)
        with refused(errors.PermissionDenied, "NOT_THE_CONTROLLER"):
            one.port.resize(10, 10, session)
    one.port.leave(first)
    assert one.attach(Role.CONTROLLER).role is Role.CONTROLLER


async def test_control_is_stolen_and_both_are_told(made: Callable[..., Made]) -> None:
    one = made("console")
    alice = one.attach(Role.CONTROLLER, label="alice")
    reader = Reader(alice)
    bob = one.attach(Role.CONTROLLER, label="bob", steal=True)
    assert await reader.take() == [RoleChanged(Role.VIEWER, "bob")]
    assert (alice.role, bob.role, one.port.controller) == (Role.VIEWER, Role.CONTROLLER, bob)
    # What she sent before she knew is dropped, and is no reason to end her session.
    one.port.type(alice, b"x")
    one.port.resize(30, 100, alice)
    assert one.port.input_offset == 0
    with refused(errors.FailedPrecondition, "CONTROL_TAKEN"):
        one.port.take_control(alice, steal=False)
    one.port.take_control(alice, steal=True)
    assert await reader.take() == [RoleChanged(Role.CONTROLLER, "alice")]
    assert one.port.controller is alice
    # Who leaves without having control takes nobody's away.
    one.port.leave(bob)
    assert one.port.controller is alice
    await reader.stop()


async def test_control_is_given_up_and_asked_for(made: Callable[..., Made]) -> None:
    one = made("console")
    session = one.attach(Role.CONTROLLER, label="alice")
    reader = Reader(session)
    one.port.release_control(session)
    assert await reader.take() == [RoleChanged(Role.VIEWER, "alice")]
    assert not one.port.controller
    one.port.take_control(session, steal=False)
    one.port.take_control(session, steal=False)
    assert await reader.take() == [RoleChanged(Role.CONTROLLER, "alice")]
    assert one.port.controller is session
    await reader.stop()


async def test_who_watches_gives_up_nobody_s_control(made: Callable[..., Made]) -> None:
    one = made("console")
    alice = one.attach(Role.CONTROLLER)
    one.port.release_control(one.attach())
    assert one.port.controller is alice


async def test_leaving_is_told_once(made: Callable[..., Made]) -> None:
    one = made("console")
    left: list[Session] = []
    one.port.on_left = left.append
    session = one.attach()
    one.port.leave(session)
    one.port.leave(session)
    assert left == [session]


# ---- how far the writer may go


def ring_of(one: Made, place: int = 0) -> Any:
    ring = one.streams[place].ring
    assert ring is not None
    return ring


async def test_a_terminal_waits_for_nobody_if_nobody_is_there(made: Callable[..., Made]) -> None:
    one = made("console")
    assert not ring_of(one).hold
    session = one.attach()
    assert ring_of(one).hold
    one.port.leave(session)
    assert not ring_of(one).hold


async def test_a_session_that_was_given_up_does_not_hold_the_writer(
    made: Callable[..., Made],
) -> None:
    one = made("console")
    slow = one.attach()
    fast = [one.attach() for _ in range(9)]
    one.write(bytes(CHUNK_BYTES))
    while room := ring_of(one).room():
        one.write(bytes(room))
        for session in fast:
            process(session, ring_of(one).head)
    assert ring_of(one).acked == 0, "it is waited for"
    # What the keeper does when it has waited for long enough.
    ring_of(one).acknowledge(ring_of(one).head - LATE)
    written = ring_of(one).head
    while written < 40 * CAPACITY_BYTES:
        room = ring_of(one).room()
        assert room > 0, f"held at {written}"
        one.write(bytes(room))
        written += room
        for session in fast:
            process(session, written)
        # Nine get every byte.
        assert ring_of(one).tail <= min(s.cursors["console"].consumed for s in fast)
    assert slow.cursors["console"].consumed == 0
    assert ring_of(one).hold


async def test_who_has_caught_up_is_waited_for_again(made: Callable[..., Made]) -> None:
    one = made("console")
    slow, fast = one.attach(), one.attach()
    while room := ring_of(one).room():
        one.write(bytes(room))
    ring_of(one).acknowledge(LATE)
    process(fast, LATE + 50)
    assert ring_of(one).acked == LATE + 50
    process(slow, LATE + 49)
    assert ring_of(one).acked == LATE + 50, "it is behind still"
    process(slow, LATE + 60)
    process(fast, LATE + 100)
    assert ring_of(one).acked == LATE + 60


async def test_one_alone_is_always_waited_for(made: Callable[..., Made]) -> None:
    one = made("console")
    session = one.attach()
    while ring_of(one).room():
        one.write(bytes(ring_of(one).room()))
    assert ring_of(one).head == CAPACITY_BYTES
    assert one.ends.drains == []
    process(session, 1)
    assert ring_of(one).room() == 1
    assert one.ends.drains == ["console"]


async def test_a_full_ring_goes_on_when_the_last_one_leaves(made: Callable[..., Made]) -> None:
    one = made("console")
    session = one.attach()
    while ring_of(one).room():
        one.write(bytes(ring_of(one).room()))
    one.port.leave(session)
    assert ring_of(one).room() == CHUNK_BYTES
    assert one.ends.drains == ["console"]


async def test_a_terminal_that_lost_patience_waits_again_for_who_has_caught_up(
    made: Callable[..., Made],
) -> None:
    one = made("console")
    session = one.attach()
    while ring_of(one).room():
        one.write(bytes(ring_of(one).room()))
    # What the keeper does in the end.
    ring_of(one).set_hold(hold=False)
    one.write(bytes(CHUNK_BYTES))
    process(session, 10)
    assert not ring_of(one).hold, "it is late still"
    process(session, ring_of(one).head - LATE + 1)
    assert ring_of(one).hold
    assert ring_of(one).acked == ring_of(one).head - LATE + 1


async def test_pipes_wait_for_the_slowest_that_waits(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr", hold=True)
    slow = one.attach(waits=True)
    fast = one.attach(waits=True)
    watching = one.attach()
    while ring_of(one).room():
        one.write(bytes(ring_of(one).room()))
    head = ring_of(one).head
    process(fast, head, "stdout")
    process(watching, head, "stdout")
    assert ring_of(one).room() == 0
    assert one.ends.drains == []
    process(slow, 100, "stdout")
    assert ring_of(one).room() == 100
    assert one.ends.drains == ["stdout"]
    # The other stream has nothing to do with it.
    assert ring_of(one, 1).acked == 0
    one.port.leave(slow)
    assert ring_of(one).acked == head


async def test_pipes_do_not_wait_for_who_only_watches(made: Callable[..., Made]) -> None:
    one = made("stdout", "stderr")
    one.attach()
    assert not ring_of(one).hold
    waiting = one.attach(waits=True)
    assert ring_of(one).hold
    one.port.leave(waiting)
    assert ring_of(one).hold, "it will be back, for all of it"
    one.port.release()
    assert not ring_of(one).hold
    assert not ring_of(one, 1).hold
    assert one.ends.drains == ["stdout", "stderr"]


@STEADY
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["write", "read", "come", "go"]), st.integers(0, 1 << 17)),
        max_size=40,
    )
)
async def test_nothing_is_lost_to_a_session_that_pipes_wait_for(
    steps: list[tuple[str, int]],
) -> None:
    one = Made("stdout", hold=True)
    sessions = [one.attach(waits=True)]
    for step, number in steps:
        session = sessions[number % len(sessions)] if sessions else None
        if step == "write":
            one.write(bytes(min(number, ring_of(one).room())))
        elif step == "come":
            sessions.append(one.attach(waits=True))
        elif session is not None and step == "go":
            sessions.remove(session)
            one.port.leave(session)
        elif session is not None:
            at = session.cursors["stdout"].consumed
            process(session, min(ring_of(one).head, at + number), "stdout")
        for each in sessions:
            assert ring_of(one).tail <= each.cursors["stdout"].consumed
        if sessions:
            slowest = min(each.cursors["stdout"].consumed for each in sessions)
            assert ring_of(one).room() == min(
                CHUNK_BYTES, CAPACITY_BYTES - (ring_of(one).head - slowest)
            )
    one.close()


# ---- its size


@pytest.fixture
def pty() -> Iterator[Port]:
    master, slave = os.openpty()
    stream = Stream("console", fd=Fd(master))
    yield Port(Ends(), (stream,), stream, terminal=True)
    stream.close()
    os.close(slave)


async def test_sizes(pty: Port) -> None:
    by = pty.attach(Role.CONTROLLER, ALL, window=WINDOW_BYTES)
    other = pty.attach(Role.VIEWER, ALL, window=WINDOW_BYTES)
    readers = [Reader(by), Reader(other)]
    assert pty.size == (0, 0)
    pty.resize(50, 132, by)
    assert pty.size == (50, 132)
    # Who has asked knows.
    assert [await reader.take() for reader in readers] == [[], [Resized(50, 132)]]
    pty.resize(50, 132, by)
    assert [await reader.take() for reader in readers] == [[], []]
    pty.resize(1, 0x7FFF)
    assert [await reader.take() for reader in readers] == [[Resized(1, 0x7FFF)]] * 2
    with refused(errors.PermissionDenied, "NOT_THE_CONTROLLER"):
        pty.resize(24, 80, other)
    assert pty.size == (1, 0x7FFF)
    for reader in readers:
        await reader.stop()


async def test_the_size_of_what_has_hung_up(pty: Port) -> None:
    pty.outputs[0].end()
    pty.resize(24, 80)
    assert pty.size == (0, 0)


@pytest.mark.parametrize(
    ("rows", "columns"), [(0, 80), (24, 0), (0, 0), (-1, 80), (65535, 80), (24, 0x8000)]
)
async def test_sizes_that_no_terminal_has(pty: Port, rows: int, columns: int) -> None:
    with refused(errors.InvalidArgument, "INVALID_SIZE"):
        require_size(rows, columns)
    with refused(errors.InvalidArgument, "INVALID_SIZE"):
        pty.resize(rows, columns)
    assert pty.size == (0, 0)


async def test_pipes_have_no_size(made: Callable[..., Made]) -> None:
    one = made("stdout")
    with refused(errors.InvalidArgument, "NOT_A_TERMINAL"):
        one.port.resize(24, 80)
    assert one.port.size == (0, 0)


async def test_every_session_ends_with_the_process(made: Callable[..., Made]) -> None:
    one = made("console")
    readers = [Reader(one.attach()) for _ in range(3)]
    one.write(b"bye")
    one.port.end()
    one.streams[0].end()
    for reader in readers:
        assert await reader.over() == [Output("console", 0, b"bye")]
    await settled()
