"""A range of host ids for a container's user namespace that no other container shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

COUNT = 65536
# Where Incus begins too; above every login user's ids, below what subuid(5) tools give away at the
# top.
FIRST = 1_000_000
LAST = 2_000_000_000


def free_range(taken: Iterable[tuple[int, int]]) -> int:
    """First host id of the lowest range of COUNT ids that overlaps none of `taken` (first, count).

    ValueError when there is none.
    """
    first = FIRST
    for begin, count in sorted(taken):
        if begin >= first + COUNT:
            break
        first = max(first, begin + count)
    if first + COUNT > LAST:
        raise ValueError("all id ranges are taken")
    return first
