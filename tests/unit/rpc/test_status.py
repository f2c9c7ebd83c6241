from __future__ import annotations

import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcctl import wire
from lxcd import errors
from lxcd.config.model import Line, Problem
from lxcd.rpc import convert, status
from lxcd.supervisor.events import Event
from lxcd.supervisor.state import Cause, Exit, State

STEADY = settings(deadline=None, derandomize=True, database=None)
# Bytes that are no UTF-8, as os.fsdecode gives them; and halves of a pair, as JSON may hold them.
TEXT = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=8)


def every_error() -> list[type[errors.LxcdError]]:
    found: list[type[errors.LxcdError]] = []
    todo = errors.LxcdError.__subclasses__()
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return found


def test_the_table_is_whole() -> None:
    assert set(status.CODES) == set(every_error())


@pytest.mark.parametrize("kind", every_error())
def test_one_error_info(kind: type[errors.LxcdError]) -> None:
    made = status.status_of(kind("text \udcff", name="a\udcff"))
    info = error_details_pb2.ErrorInfo()
    assert made.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("lxcd", kind.reason)
    assert info.metadata["name"] == "a\ufffd"
    assert made.message == "text \ufffd"
    assert made.code == status.CODES[kind].value[0]


@STEADY
@given(TEXT, TEXT)
def test_no_text_is_too_odd(one: str, two: str) -> None:
    status.status_of(errors.NotFound(one, name=two))
    convert.problem(Problem("error", one, two, one))
    convert.config_item(Line(one, two, one, two, in_force=True))
    convert.event(Event(1, 2, "TYPE", one, two, 3, message=one, details={one: two}))


@pytest.mark.parametrize("state", State)
def test_states(state: State) -> None:
    assert convert.states([convert.state(state)]) == {state}


@pytest.mark.parametrize("number", [0, 99, -1])
def test_no_state(number: int) -> None:
    with pytest.raises(errors.InvalidArgument):
        convert.states([number])  # type: ignore[list-item]


@pytest.mark.parametrize("cause", [one for one in Cause if one is not Cause.KEEPER_LOST])
@pytest.mark.parametrize(("code", "signal"), [(0, 0), (3, 0), (0, 9)])
def test_exits(cause: Cause, code: int, signal: int) -> None:
    made = convert.exit_(Exit(code, signal, False, False, 5, 1, cause))
    assert made.WhichOneof("how") == ("signal" if signal else "code")
    assert (made.code, made.signal) == (code, signal)


@pytest.mark.parametrize(("code", "signal"), [(0, 0), (3, 0), (0, 9)])
def test_an_exit_that_nobody_knows(code: int, signal: int) -> None:
    made = convert.exit_(Exit(code, signal, False, False, 5, 1, Cause.KEEPER_LOST))
    assert made.WhichOneof("how") is None
    assert wire.exit_status(made) == 1
    assert wire.exit_words(made) == "? KEEPER_LOST"


@STEADY
@given(st.integers(0, 2**62))
def test_time(number: int) -> None:
    assert convert.nanoseconds(convert.timestamp(number)) == number


@pytest.mark.parametrize("text", ["\udcff", "a\ud83d"])
def test_halves_of_a_pair(text: str) -> None:
    """JSON may hold them: a child's report, a record."""
    convert.text_of(text).encode()
    status.status_of(errors.NotFound(text, name=text))
