"""Walking trees: what it leaves behind when a visit fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lxcd.kernel import directory


def _open() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_visit_that_fails_leaves_no_descriptor(tmp_path: Path, failing: int) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    visits = 0

    def visit(here: int) -> list[str]:
        nonlocal visits
        visits += 1
        if visits == failing:
            raise OSError(errno.EACCES, "no")
        return directory.subdirectories(here)

    top = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        before = _open()
        with pytest.raises(OSError, match="no"):
            directory.walk(top, visit)
        assert _open() == before
    finally:
        os.close(top)
    assert visits == failing
