"""Cgroups as the article has them: all controllers in one tree, mounted at a place of one's own choice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).resolve().parents[2]
_SECONDS = 1800


@pytest.mark.long
@pytest.mark.timeout(_SECONDS * 2)
def test_one_tree_somewhere() -> None:
    """Controllers stay where they are once mounted: only a machine that just came up has all to give."""
    script = (
        "grep -q '^lxc /lxc/cgroup cgroup ' /proc/mounts && ! grep -q ' /sys/fs/cgroup ' /proc/mounts &&"
        " exec python3 -m pytest -q --color=no -k of_the_article tests/system/test_limits.py"
    )
    done = subprocess.run(
        [
            *(_CHECKOUT / "contrib/vm/run", "--deadline", str(_SECONDS)),
            *("--cgroups", "/lxc/cgroup", "sh", "-c", script),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
