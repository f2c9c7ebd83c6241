"""How often a namespace is looked at."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lxcd.network.watch import Pace


def test_a_few_changes_are_seen_at_once() -> None:
    pace = Pace(0.0)
    assert {pace.pause(number * 0.1, 0.0) for number in range(20)} == {0.01}


def test_many_are_seen_once_a_second() -> None:
    pace, now, looks = Pace(0.0), 0.0, 0
    while now < 1000:
        now += pace.pause(now, 0.0001)
        looks += 1
    assert looks < 1000 + 25


def test_quiet_makes_it_quick_again() -> None:
    pace, now = Pace(0.0), 0.0
    for _ in range(100):
        now += pace.pause(now, 0.0)
    assert pace.pause(now, 0.0) > 0.5
    assert pace.pause(now + 25, 0.0) == 0.01


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=200))
def test_a_look_costs_a_twentieth_at_most(waits: list[tuple[float, float]]) -> None:
    pace, now = Pace(0.0), 0.0
    for wait, spent in waits:
        now += wait
        pause = pace.pause(now, spent)
        assert pause >= spent * 20
        assert 0.01 <= pause <= max(1.01, spent * 20)
        now += pause
