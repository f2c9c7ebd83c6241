from __future__ import annotations

import pytest

from lxcd.supervisor.state import TRANSITIONS, Cause, Exit, State, exit_of
from lxcd.supervisor.stop import exit_words


def reachable(start: State) -> set[State]:
    found: set[State] = set()
    todo = [start]
    while todo:
        for state in TRANSITIONS[todo.pop()]:
            if state not in found:
                found.add(state)
                todo.append(state)
    return found


def test_every_state_leads_to_every_other() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in State:
        assert reachable(state) == set(State), state


@pytest.mark.parametrize("code", [0, 1, 127, 128, 255])
def test_codes(code: int) -> None:
    ended = exit_of(
        code << 8, time_ns=1, generation=2, requested=False, oom=False, pid_namespace=False
    )
    assert ended == Exit(code, 0, False, False, 1, 2, Cause.SELF)


@pytest.mark.parametrize("number", range(1, 65))
def test_signals(number: int) -> None:
    ended = exit_of(
        number, time_ns=1, generation=2, requested=False, oom=False, pid_namespace=False
    )
    assert ended == Exit(0, number, False, False, 1, 2, Cause.SELF)


@pytest.mark.parametrize(
    ("status", "requested", "oom", "namespace", "expected"),
    [
        (0, False, False, True, (0, 0, False, Cause.SELF)),
        (0, True, False, True, (0, 0, False, Cause.REQUESTED)),
        (7 << 8, False, False, True, (7, 0, False, Cause.SELF)),
        (255 << 8, True, False, True, (255, 0, False, Cause.REQUESTED)),
        (1, False, False, True, (0, 0, False, Cause.REBOOT)),
        (1, True, False, True, (0, 0, False, Cause.REQUESTED)),
        (2, False, False, True, (0, 0, False, Cause.SELF)),
        (2, True, False, True, (0, 0, False, Cause.REQUESTED)),
        (1, False, False, False, (0, 1, False, Cause.SELF)),
        (2, False, False, False, (0, 2, False, Cause.SELF)),
        (9, False, False, True, (0, 9, False, Cause.SELF)),
        (9, True, False, True, (0, 9, False, Cause.REQUESTED)),
        (9, False, True, True, (0, 9, True, Cause.OOM)),
        (15, False, True, True, (0, 15, False, Cause.SELF)),
        (0, False, True, True, (0, 0, False, Cause.SELF)),
    ],
)
def test_exit_of(
    *,
    status: int,
    requested: bool,
    oom: bool,
    namespace: bool,
    expected: tuple[int, int, bool, Cause],
) -> None:
    ended = exit_of(
        status,
        time_ns=0,
        generation=1,
        requested=requested,
        oom=oom,
        pid_namespace=namespace,
    )
    assert (ended.code, ended.signal, ended.oom_killed, ended.cause) == expected
    assert ended.core_dumped is False


def test_a_core_dump() -> None:
    ended = exit_of(
        11 | 0x80, time_ns=0, generation=1, requested=False, oom=False, pid_namespace=True
    )
    assert (ended.signal, ended.core_dumped) == (11, True)


@pytest.mark.parametrize(
    ("code", "signal", "cause", "expected"),
    [
        (0, 0, Cause.SELF, ("exit status 0", True)),
        (3, 0, Cause.SELF, ("exit status 3", False)),
        (0, 9, Cause.REQUESTED, ("SIGKILL", False)),
        (0, 0, Cause.KEEPER_LOST, ("status not known", False)),
    ],
)
def test_what_is_said_of_an_end(
    code: int, signal: int, cause: Cause, expected: tuple[str, bool]
) -> None:
    ended = Exit(code, signal, False, False, 1, 2, cause)
    assert (exit_words(ended), ended.success) == expected
