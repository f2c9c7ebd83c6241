from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.images.ranges import COUNT, FIRST, LAST, free_range

STEADY = settings(deadline=None, derandomize=True, database=None)
TAKEN = st.lists(
    st.tuples(st.integers(0, FIRST + 5 * COUNT), st.integers(1, 2 * COUNT)), max_size=8
)


def overlaps(first: int, taken: list[tuple[int, int]]) -> bool:
    return any(begin < first + COUNT and first < begin + count for begin, count in taken)


@STEADY
@given(TAKEN)
def test_lowest_and_free(taken: list[tuple[int, int]]) -> None:
    first = free_range(taken)
    assert first >= FIRST
    assert not overlaps(first, taken)
    # Nothing lower is free: a lowest range begins at FIRST or behind a taken one.
    lower = [FIRST, *(begin + count for begin, count in taken)]
    assert not [place for place in lower if FIRST <= place < first and not overlaps(place, taken)]


def test_all_are_taken() -> None:
    with pytest.raises(ValueError, match="taken"):
        free_range([(FIRST, LAST - FIRST)])
