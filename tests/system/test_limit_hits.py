"""Containers that meet their limits: told at once, then seldom, whatever they do; and ended in spite of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import types_pb2
from tests.system.boxes import defined
from tests.system.calls import application, events, get, idle
from tests.system.host import Host
from tests.system.limits import BOMB, go, limit_memory, limit_processes, waiting
from tests.system.machine import until

HIT = "container.limit_hit"


def hits(host: Host, name: str, limit: str) -> list[Any]:
    """The limit was met, and that was told."""
    with host.channel() as api:

        def found() -> list[Any]:
            return [e for e in events(api, HIT, names=(name,)) if e.details["limit"] == limit]

        until(lambda: bool(found()), f"{name} has met its limit of {limit}")
        return found()


@pytest.mark.vm(short=True)
def test_a_limit_of_processes(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "many") as made:
        limit_processes(made, 5)
        made.run("/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done")
        event, *_ = hits(host, "many", "pids")
        assert event.details["limit_processes"] == "5"
        assert int(event.details["count"]) >= 1
        assert "limit of processes met (5)" in event.message


def test_a_limit_of_memory(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "full") as made:
        limit_memory(made, 16 << 20)
        # Nobody is killed for what can be written out.
        made.sh("dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null; rm /big")
        event, *_ = hits(host, "full", "memory")
        assert int(event.details["limit_bytes"]) == 16 << 20
        assert not events(host.channel(), "container.oom_killed")


def test_what_was_not_told_is_told_at_the_end(host: Host, busybox_root: Path) -> None:
    script = "cat /mnt/0; for i in 1 2 3 4; do sleep 100000 & done; cat /mnt/1; for i in 5 6 7 8; do sleep 1 & done"
    with waiting(host, busybox_root, "many", script) as made:
        limit_processes(made, 5)
        go(host, "many")
        hits(host, "many", "pids")
        made.stop(kill=True)
        found = hits(host, "many", "pids")
        assert found
        (ended,) = events(host.channel(), "container.exited", names=("many",))
        assert all(event.sequence < ended.sequence for event in found)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_a_fork_bomb(host: Host, busybox_root: Path, *, shared: bool) -> None:
    """With the host's pid namespace nothing ends with init."""
    line = "lxc.namespace.keep = pid" if shared else ""
    with defined(host, application(host, busybox_root, "bomb", line), "bomb") as made:
        made.start("/bin/sleep", "100000", system=True)
        limit_processes(made, 200)
        payload = Path(made.info().cgroups["pids"])
        made.run("/bin/sh", "-c", f"({BOMB}) 2>/dev/null >/dev/null </dev/null &")
        hits(host, "bomb", "pids")
        before, begun = ticks(host), time.monotonic()
        rejected = (payload / "pids.events").read_text()
        until(lambda: (payload / "pids.events").read_text() != rejected, "it goes on")
        api = host.channel()
        for _ in range(200):
            assert get(api, "bomb").state == types_pb2.STATE_RUNNING
        spent = time.monotonic() - begun
        print(f"lxcd: {ticks(host) - before} ticks in {spent:.1f} s of 200 GetContainer")
        assert int((payload / "pids.current").read_text()) > 150
        begun = time.monotonic()
        made.stop(kill=True)
        print(f"ended in {time.monotonic() - begun:.1f} s")
        assert not payload.exists()
        # At once, and before the end: a bomb fills no log.
        assert len(events(api, HIT)) <= 4


def test_what_somebody_else_has_frozen_ends_too(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "cold") as made:
        cgroups = made.info().cgroups
        if "freezer" in cgroups:
            Path(cgroups["freezer"], "freezer.state").write_text("FROZEN")
        else:
            Path(cgroups["unified"], "cgroup.freeze").write_text("1")
        assert made.stop(kill=True).killed
        made.wait(types_pb2.STATE_STOPPED)


def ticks(host: Host) -> int:
    """CPU time that lxcd has used, as proc(5) counts it."""
    assert host.daemon is not None
    fields = Path(f"/proc/{host.daemon}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
