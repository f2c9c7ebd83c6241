from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.supervisor.statistics import next_multiple

STEADY = settings(deadline=None, derandomize=True, database=None)


@STEADY
@given(st.floats(0, 1e7), st.floats(0.1, 86_400))
def test_the_next_tick_is_soon_and_on_the_grid(after: float, interval: float) -> None:
    found = next_multiple(after, interval)
    assert after - 1e-6 <= found < after + interval + 1e-6
    assert found / interval == pytest.approx(round(found / interval), abs=1e-6)


def test_streams_that_begin_at_different_times_meet() -> None:
    assert next_multiple(100.3, 1.0) == next_multiple(100.9, 1.0) == 101.0
    assert next_multiple(101.0, 1.0) == 101.0
