"""How many prepared children there shall be, and which keeper's build takes another's place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.supervisor.launch import newer
from lxcd.supervisor.pool import wanted

TIMES = st.lists(st.floats(0, 10_000), max_size=200)


def test_none_of_a_kind_that_nobody_asks_for() -> None:
    assert wanted([], 1000, 8) == 0
    assert wanted([10.0], 1000, 8) == 0


def test_a_few_while_starts_are_rare() -> None:
    assert wanted([900.0], 1000, 8) == 4
    assert wanted([900.0], 1000, 2) == 2


def test_more_while_they_come_often() -> None:
    slow = [999 + number / 10 for number in range(10)]
    fast = [999.5 + number / 200 for number in range(100)]
    assert wanted(slow, 1000, 8) < wanted(fast, 1000, 8) <= 8


def test_none_where_none_are_allowed() -> None:
    assert wanted([999.9] * 100, 1000, 0) == 0


@settings(deadline=None, derandomize=True, database=None)
@given(TIMES, st.floats(10_000, 20_000), st.integers(0, 50))
def test_never_more_than_allowed_and_never_fewer_for_more_starts(
    starts: list[float], now: float, maximum: int
) -> None:
    number = wanted(starts, now, maximum)
    assert 0 <= number <= maximum
    assert wanted([*starts, now], now, maximum) >= number
    assert wanted(starts, now + 100_000, maximum) == 0


@pytest.mark.parametrize(
    ("own", "other", "is_newer"),
    [
        ("0.1.0+a", "0.1.0+a", False),
        ("0.1.0+a", "0.1.0+b", True),
        ("0.1.1+a", "0.1.0+b", True),
        ("0.1.0+a", "0.1.1+b", False),
        ("0.10.0+a", "0.9.0+b", True),
        ("1.0+a", "0.99.99+a", True),
        ("0.2.0+a", "0.2.0.dev1+a", False),
        ("0.2.0+a", "test", True),
    ],
)
def test_a_later_version_or_other_code_of_the_same_is_newer(
    own: str,
    other: str,
    is_newer: bool,  # noqa: FBT001
) -> None:
    assert newer(own, other) is is_newer
