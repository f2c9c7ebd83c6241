"""Containers that run out of memory: who was killed is told, once, whoever was there to see it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import types_pb2
from tests.system.boxes import Box
from tests.system.calls import events, get, idle
from tests.system.host import Host
from tests.system.machine import until

# It takes memory until it is killed, and never waits for input.
HOG = "tail /dev/zero"
LIMIT = 32 << 20


def limit(made: Box, size: int = LIMIT) -> None:
    """Set from outside: where a limit comes from does not matter here."""
    cgroups = made.info().cgroups
    if "memory" in cgroups:
        Path(cgroups["memory"], "memory.limit_in_bytes").write_text(str(size))
    else:
        Path(cgroups["unified"], "memory.max").write_text(str(size))


def kills(host: Host, name: str, count: int) -> list[Any]:
    """Events of so many kills, once all are told; no more."""
    api = host.channel()

    def told() -> list[Any]:
        return events(api, "container.oom_killed", names=(name,))

    def number() -> int:
        return sum(int(event.details["count"]) for event in told())

    until(lambda: number() >= count, f"{count} kills are told")
    assert number() == count, told()
    return told()


def hog(made: Box, name: str = "") -> None:
    """A command inside eats until it is killed."""
    command = f"cp /bin/busybox /{name}; /{name}" if name else "true"
    done = made.run("/bin/sh", "-c", f"{command}; {HOG}; exit 0")
    assert done.exit.code == 0, done


def test_the_victim_is_named(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "eater") as made, idle(host, busybox_root, "beside") as beside:
        limit(made)
        init = beside.info().pid
        done = made.run("/bin/sh", "-c", f"{HOG}; echo $?")
        assert done.stdout == b"137\n"
        (event,) = kills(host, "eater", 1)
        details = event.details
        assert (details["name"], details["uid"]) == ("tail", "0")
        assert int(details["pid"]) > 1
        assert int(details["limit_bytes"]) == LIMIT
        assert LIMIT / 2 < int(details["resident_bytes"]) <= LIMIT
        assert details["cgroup"].endswith("/lxc.payload.eater")
        assert "tail" in event.message
        assert "32 MiB" in event.message
        # Nobody else suffers, and it goes on itself.
        assert (made.info().state, beside.info().pid) == (types_pb2.STATE_RUNNING, init)
        assert beside.sh("echo well") == "well"
        assert not events(host.channel(), "container.oom_killed", names=("beside",))


def test_what_it_dies_of_days_later_is_not_that(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "eater") as made:
        limit(made)
        hog(made)
        kills(host, "eater", 1)
        # As anybody with the right to do so may: no stop was asked for.
        os.kill(made.info().pid, signal.SIGTERM)
        made.wait()
        how = made.info().exit
        assert (how.oom_killed, how.cause) == (False, types_pb2.CAUSE_SELF)


def test_an_init_that_follows_its_child_ends_by_itself(host: Host, busybox_root: Path) -> None:
    config_root = busybox_root
    with idle(host, config_root, "first") as first:
        first.stop(kill=True)
        first.start("/bin/sh", "-c", f"read x < /go; {HOG}; exit 3", system=True) if False else None
    with idle(host, config_root, "eater") as made:
        limit(made)
        hog(made)
        kills(host, "eater", 1)


@pytest.mark.parametrize("system", [True, False])
def test_a_victim_ends_its_container(host: Host, busybox_root: Path, *, system: bool) -> None:
    with idle(host, busybox_root, "eater") as made:
        made.stop(kill=True)
        made.run
        made.start("/bin/sh", "-c", "while [ ! -e /eat ]; do sleep 0.05; done; exec " + HOG, system=system)
        limit(made)
        made.sh("touch /eat")
        made.wait()
        (event,) = kills(host, "eater", 1)
        how = made.info().exit
        assert (how.oom_killed, how.cause) == (True, types_pb2.CAUSE_OOM)
        assert ("init" in event.details) == system
        (ended,) = events(host.channel(), "container.exited", after=event.sequence)
        assert ended.exit.oom_killed


def test_kills_while_lxcd_is_away(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "eater") as made:
        limit(made)
        script = f"{HOG}; while [ ! -e /again ]; do sleep 0.05; done; {HOG}; {HOG}; touch /over; sleep 100000"
        made.stop(kill=True)
        made.start("/bin/sh", "-c", script)
        limit(made)
        (first,) = kills(host, "eater", 1)
        upper = host.root / "upper" / "eater" / "delta"
        host.kill_daemon()
        (upper / "again").touch()
        root = f"/proc/{_init(host)}/root"
        until(lambda: os.path.exists(f"{root}/over"), "two more were killed")
        host.start_daemon()
        told = kills(host, "eater", 3)
        assert [event.details["name"] for event in told] == ["tail"] * 3
        assert "missed" not in first.details
        assert [event.details["missed"] for event in told[1:]] == ["true"] * 2
        assert len({event.details["pid"] for event in told}) == 3
        # The next one has nothing to add.
        host.kill_daemon()
        host.start_daemon()
        kills(host, "eater", 3)
        assert get(host.channel(), "eater").state == types_pb2.STATE_RUNNING
