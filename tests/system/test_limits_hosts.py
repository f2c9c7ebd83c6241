"""Limits and devices on hosts that lack something: version 1, a controller, the right to write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.boxes import Box
from tests.system.calls import idle
from tests.system.host import Host


@pytest.fixture
def second(nothing_outlives_the_test: None) -> Iterator[Host]:
    """A machine that has cgroups of version 2 alone, with lxcd running."""
    host = Host(("unified",))
    host.start_daemon()
    yield host
    host.close()


def test_try(second: Host, busybox_root: Path) -> None:
    with idle(second, busybox_root, "one") as made:
        print(made.info())
        print(
            made.sh(
                "cat /proc/self/cgroup; cat /proc/self/mountinfo | grep cgroup; ls -l /sys/fs/cgroup"
            )
        )
        print(made.fails("mknod /x b 8 0"))
        print(second.ctl("info", "one").stdout)
        print(second.ctl("host").stdout)
        made.stop()
    print(second.log_text())
    assert 0
