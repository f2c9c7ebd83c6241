"""Containers that run out of memory: who was killed is told, once, whoever was there to see it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import types_pb2
from tests.system.calls import events, idle
from tests.system.host import Host
from tests.system.limits import (
    HOG,
    LIMIT_BYTES,
    go,
    limit_memory,
    names_are_told,
    told,
    waiting,
)
from tests.system.machine import until

pytestmark = pytest.mark.vm

KILLED = "container.oom_killed"


def kills(host: Host, name: str, count: int) -> list[Any]:
    return told(host, KILLED, name, count)


@pytest.fixture(autouse=True)
def _names() -> None:
    names_are_told()


def test_the_victim_is_named(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "eater") as made, idle(host, busybox_root, "beside") as beside:
        limit_memory(made)
        init = beside.info().pid
        assert made.sh(f"{HOG}; echo $?") == "137"
        (event,) = kills(host, "eater", 1)
        details = event.details
        assert (details["name"], details["uid"]) == ("tail", "0")
        assert int(details["pid"]) > 1
        assert int(details["limit_bytes"]) == LIMIT_BYTES
        # Pages of its program are not all charged to its container.
        assert LIMIT_BYTES / 2 < int(details["resident_bytes"]) < 2 * LIMIT_BYTES
        assert details["cgroup"].removesuffix("/inner").endswith("/lxc.payload.eater")
        assert "tail (pid " in event.message
        assert "a limit of 32 MiB" in event.message
        # Nobody else suffers, and it goes on itself.
        assert (made.info().state, beside.info().pid) == (types_pb2.STATE_RUNNING, init)
        assert beside.sh("echo well") == "well"
        assert not events(host.channel(), KILLED, names=("beside",))
        shown = host.ctl("events", "--type", KILLED).stdout
        assert "tail (pid " in shown
        assert len(shown.splitlines()) == 1


def test_a_name_is_no_more_than_a_name(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "eater") as made:
        limit_memory(made)
        # The shell itself is the victim: its name is its own choice, and so is what a user writes to the log.
        names = ("x,pid=1,uid=7", "a) total-vm:1kB", ",task_memcg=/x")
        for name in names:
            line = f"Memory cgroup out of memory: Killed process 1 ({name}) total-vm:1kB, anon-rss:1kB, "
            line += "file-rss:1kB, shmem-rss:1kB, UID:0 pgtables:1kB oom_score_adj:0"
            Path("/dev/kmsg").write_text(f"<3>{line}")
            script = (
                f"printf '%s' '{name}' > /proc/self/comm; x=0123456789; while :; do x=$x$x; done"
            )
            assert made.run("/bin/sh", "-c", script).exit.signal == signal.SIGKILL
        found = kills(host, "eater", len(names))
        assert [event.details["name"] for event in found] == list(names)
        assert all(int(event.details["pid"]) > 1 for event in found)
        assert {event.details["uid"] for event in found} == {"0"}


def test_many_kills_are_told_together(host: Host, busybox_root: Path) -> None:
    count = 30
    with idle(host, busybox_root, "eater") as made:
        limit_memory(made, 8 << 20)
        made.sh(f"i=0; while [ $i -lt {count} ]; do {HOG}; i=$((i + 1)); done")
        found = kills(host, "eater", count)
        assert len(found) < count
        assert sum(event.details["count"] == "1" for event in found) >= 5


def test_the_end_of_init_has_its_own_cause(host: Host, busybox_root: Path) -> None:
    with waiting(
        host, busybox_root, "eater", f"cat /mnt/0; {HOG}; cat /mnt/1", system=True
    ) as made:
        limit_memory(made)
        go(host, "eater")
        (event,) = kills(host, "eater", 1)
        assert "init" not in event.details
        # Nobody has asked for a stop.
        os.kill(made.info().pid, signal.SIGKILL)
        made.wait()
        how = made.info().exit
        assert (how.signal, how.oom_killed, how.cause) == (9, False, types_pb2.CAUSE_SELF)


def test_an_init_that_goes_after_its_child(host: Host, busybox_root: Path) -> None:
    with waiting(host, busybox_root, "eater", f"cat /mnt/0; {HOG}; exit 3", system=True) as made:
        limit_memory(made)
        go(host, "eater")
        made.wait()
        how = made.info().exit
        assert (how.code, how.oom_killed, how.cause) == (3, False, types_pb2.CAUSE_SELF)
        kills(host, "eater", 1)


@pytest.mark.parametrize("system", [True, False], ids=["init", "application"])
def test_a_victim_ends_its_container(host: Host, busybox_root: Path, *, system: bool) -> None:
    script = f"cat /mnt/0; exec {HOG}"
    with waiting(host, busybox_root, "eater", script, system=system) as made:
        limit_memory(made)
        go(host, "eater")
        made.wait()
        (event,) = kills(host, "eater", 1)
        how = made.info().exit
        assert (how.oom_killed, how.cause) == (True, types_pb2.CAUSE_OOM)
        assert ("init" in event.details) == system
        (ended,) = events(host.channel(), "container.exited", after=event.sequence)
        assert ended.exit.oom_killed


def test_kills_while_lxcd_is_away(host: Host, busybox_root: Path) -> None:
    script = f"cat /mnt/0; {HOG}; cat /mnt/1; {HOG}; {HOG}; touch /mnt/over; cat /mnt/2"
    with waiting(host, busybox_root, "eater", script) as made:
        limit_memory(made)
        go(host, "eater")
        (first,) = kills(host, "eater", 1)
        host.kill_daemon()
        go(host, "eater", 1)
        over = host.root / "share/eater/over"
        until(over.exists, "two more were killed")
        host.start_daemon()
        found = kills(host, "eater", 3)
        assert [event.details["name"] for event in found] == ["tail"] * 3
        assert "missed" not in first.details
        assert [event.details["missed"] for event in found[1:]] == ["true"] * 2
        assert len({event.details["pid"] for event in found}) == 3
        # The next one has nothing to add.
        host.kill_daemon()
        host.start_daemon()
        made.sh(f"{HOG}; true")
        found = kills(host, "eater", 4)
        assert "missed" not in found[3].details
        assert made.info().state == types_pb2.STATE_RUNNING


def test_killed_in_the_midst_of_it(host: Host, busybox_root: Path) -> None:
    count = 12
    script = f"cat /mnt/0; i=0; while [ $i -lt {count} ]; do {HOG}; i=$((i + 1)); done; touch /mnt/over; cat /mnt/1"
    with waiting(host, busybox_root, "eater", script) as made:
        limit_memory(made, 8 << 20)
        go(host, "eater")
        until(lambda: len(events(host.channel(), KILLED)) > 2, "the first were told")
        host.kill_daemon()
        until((host.root / "share/eater/over").exists, "all were killed")
        host.start_daemon()
        kills(host, "eater", count)
