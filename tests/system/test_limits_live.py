"""Limits and device rules of what runs: changed all or none, and nothing else with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import container_pb2 as pb
from lxcd.v1 import types_pb2
from tests.system.boxes import Box, Refused, defined
from tests.system.calls import IDLE, application, refused
from tests.system.host import Host
from tests.system.machine import DEADLINE

LIVE = pb.SCOPE_LIVE
BOTH = pb.SCOPE_SAVED_AND_LIVE
MEMORY = "lxc.cgroup.memory.limit_in_bytes"
PIDS = "lxc.cgroup2.pids.max"
# It is not given back, and cannot be written out.
HOLD = "dd if=/dev/zero of=/mnt/held bs=1M count=48 2>/dev/null"
MIB = 1 << 20
# Key, value, the file, what it says then, and what it says without.
KINDS: dict[str, tuple[str, str, str, str, str | None]] = {
    "memory": (MEMORY, "64M", "memory/memory.limit_in_bytes", str(64 * MIB), None),
    "memory2": (
        "lxc.cgroup2.memory.max",
        "64M",
        "memory/memory.limit_in_bytes",
        str(64 * MIB),
        None,
    ),
    "soft": ("lxc.cgroup2.memory.low", "8M", "memory/memory.soft_limit_in_bytes", "", None),
    "shares": ("lxc.cgroup.cpu.shares", "512", "cpu/cpu.shares", "512", "1024"),
    "weight": ("lxc.cgroup2.cpu.weight", "50", "cpu/cpu.shares", "512", "1024"),
    "quota": ("lxc.cgroup2.cpu.max", "20000 100000", "cpu/cpu.cfs_quota_us", "20000", "-1"),
    "cpus": ("lxc.cgroup.cpuset.cpus", "0", "cpuset/cpuset.cpus", "0", None),
    "pids": (PIDS, "77", "pids/pids.max", "77", "16384"),
    "words": ("limits.pids", "78", "pids/pids.max", "78", "16384"),
    "time": ("limits.cpu", "0.5", "cpu/cpu.cfs_quota_us", "50000", "-1"),
}


def value(made: Box, path: str) -> str:
    controller, _, file = path.partition("/")
    return Path(made.info().cgroups[controller], file).read_text().strip()


def put(made: Box, path: str, text: str) -> None:
    """By hand, as an owner does who knows cgroups."""
    controller, _, file = path.partition("/")
    Path(made.info().cgroups[controller], file).write_text(text)


def update(made: Box, scope: Any, *changes: tuple[str, str]) -> Any:
    request = pb.UpdateContainerRequest(container=pb.Container(name=made.name), scope=scope)
    for key, text in changes:
        request.changes.add(key=key, values=[text] if text else [])
    return made.api.container.UpdateContainer(request, timeout=DEADLINE)


def files(made: Box) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in made.directory.iterdir() if path.is_file()}


@pytest.fixture
def running(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    yield from _running(shared_host, busybox_root)


@pytest.fixture
def alone(host: Host, busybox_root: Path) -> Iterator[Box]:
    """On a host whose lxcd may be killed."""
    yield from _running(host, busybox_root)


def _running(host: Host, root: Path) -> Iterator[Box]:
    config = application(host, root, "live", "lxc.mount.entry = tmpfs mnt tmpfs size=200m 0 0")
    with defined(host, config, "live") as made:
        made.start(*IDLE)
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_comes_and_goes(running: Box, kind: str) -> None:
    key, given, path, becomes, without = KINDS[kind]
    host, before, saved = running.host, value(running, path), files(running)
    host.ctl("config", "set", "--live-only", "live", key, given)
    now = value(running, path)
    assert now == becomes or (not becomes and now != before)
    assert files(running) == saved
    host.ctl("config", "unset", "--live-only", "live", key)
    assert value(running, path) == before
    assert without in (None, before)
    host.ctl("config", "set", "--live", "live", key, given)
    assert value(running, path) == now
    assert files(running) != saved
    host.ctl("config", "unset", "--live", "live", key)
    assert value(running, path) == before


def test_device_rules_come_and_go(running: Box) -> None:
    full = "dd if=/dev/full of=/dev/null count=0 2>&1; true"
    assert "not permitted" not in running.sh(full)
    host = running.host
    host.ctl("config", "set", "--live", "live", "lxc.cgroup.devices.deny", "c 1:7 rwm")
    assert "not permitted" in running.sh(full)
    host.ctl("config", "set", "--live", "live", "lxc.cgroup.devices.deny", "a")
    assert "not permitted" in running.sh(full)
    rules = ["c 1:3 rwm", "c 1:7 r"]
    host.ctl("config", "set", "--live", "live", "lxc.cgroup.devices.allow", *rules)
    assert "not permitted" not in running.sh(full)
    done = host.ctl(
        "config", "set", "--live", "live", "lxc.cgroup.devices.allow", "x 1:3 r", check=False
    )
    assert done.returncode == 2
    assert "not permitted" not in running.sh(full)
    assert value(running, "devices/devices.list").splitlines() == rules
    for key in ("allow", "deny"):
        host.ctl("config", "unset", "--live", "live", f"lxc.cgroup.devices.{key}")
    assert "c 136:* rwm" in value(running, "devices/devices.list")


def test_a_limit_below_what_is_used(running: Box) -> None:
    host = running.host
    running.sh(HOLD)
    before, saved = value(running, "memory/memory.limit_in_bytes"), files(running)
    done = host.ctl("config", "set", "--live", "live", MEMORY, "16M", check=False)
    assert done.returncode == 4
    assert MEMORY in done.stderr
    error = refused(lambda: update(running, LIVE, (MEMORY, "16M")))
    assert (error.reason, error.metadata["key"]) == ("LIMIT_BELOW_USE", MEMORY)
    assert value(running, "memory/memory.limit_in_bytes") == before
    assert files(running) == saved
    running.sh("rm /mnt/held")
    host.ctl("config", "set", "--live", "live", MEMORY, "16M")
    assert value(running, "memory/memory.limit_in_bytes") == str(16 * MIB)


def test_all_or_none(running: Box) -> None:
    running.sh(HOLD)
    watched = ("pids/pids.max", "cpu/cpu.shares", "memory/memory.limit_in_bytes")
    before, saved = [value(running, path) for path in watched], files(running)
    changes = ((PIDS, "99"), ("lxc.cgroup.cpu.shares", "256"), (MEMORY, "16M"))
    for scope in (LIVE, BOTH):
        error = refused(partial(update, running, scope, *changes))
        assert error.reason == "LIMIT_BELOW_USE"
        assert [value(running, path) for path in watched] == before
        assert files(running) == saved
    # What only the kernel knows to be wrong, behind what it has taken already.
    wrong = ("lxc.cgroup.blkio.throttle.read_bps_device", "999:999 1")
    error = refused(lambda: update(running, BOTH, *changes[:2], wrong))
    assert (error.reason, error.metadata["errno"]) == ("LIMIT_REFUSED", "ENODEV")
    assert error.metadata["key"] == wrong[0]
    assert [value(running, path) for path in watched] == before
    assert files(running) == saved
    # A mistake in one is known before anything is done.
    error = refused(lambda: update(running, BOTH, *changes[:2], ("lxc.cgroup.cpuset.cpus", "999")))
    assert error.reason == "INVALID_CONFIG"
    assert [value(running, path) for path in watched] == before
    update(running, BOTH, *changes[:2])
    assert [value(running, path) for path in watched[:2]] == ["99", "256"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("lxc.uts.name", "other"),
        ("lxc.cgroup.dir", "else"),
        ("lxc.prlimit.nofile", "10"),
    ],
)
def test_what_cannot_be_changed_while_it_runs(running: Box, key: str, text: str) -> None:
    saved = files(running)
    error = refused(lambda: update(running, BOTH, (key, text)))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "NOT_LIVE")
    assert files(running) == saved


def test_of_a_stopped_container_nothing_can_be_changed(
    shared_host: Host, busybox_root: Path
) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "off"), "off") as made:
        saved = files(made)
        error = refused(lambda: update(made, BOTH, (PIDS, "99")))
        assert (error.reason, files(made)) == ("CONTAINER_NOT_RUNNING", saved)
        done = shared_host.ctl("config", "set", "--live", "off", PIDS, "99", check=False)
        assert done.returncode == 4
        made.start(*IDLE)
        made.stop(kill=True)
        assert refused(lambda: update(made, LIVE, (PIDS, "99"))).reason == "CONTAINER_NOT_RUNNING"


def test_a_cgroup_that_somebody_has_taken_away(running: Box) -> None:
    """With all who were in it; a container goes on without its limits."""
    top = Path(running.info().cgroups["pids"])
    for pid in (top / "cgroup.procs").read_text().split():
        (top.parent / "cgroup.procs").write_text(pid)
    os.rmdir(top)
    saved = files(running)
    error = refused(lambda: update(running, BOTH, (PIDS, "99")))
    assert (error.reason, error.metadata["errno"]) == ("LIMIT_REFUSED", "ENOENT")
    assert (error.metadata["key"], files(running)) == (PIDS, saved)
    update(running, LIVE, ("lxc.cgroup.cpu.shares", "256"))
    assert value(running, "cpu/cpu.shares") == "256"
    assert running.info().state == types_pb2.STATE_RUNNING
    running.stop(kill=True)


def test_what_was_written_by_hand_stays(alone: Box) -> None:
    host = alone.host
    put(alone, "memory/memory.limit_in_bytes", str(100 * MIB))
    put(alone, "pids/pids.max", "123")
    put(alone, "devices/devices.deny", "c 1:7 rwm")
    devices = value(alone, "devices/devices.list")

    def unchanged() -> bool:
        return (
            value(alone, "memory/memory.limit_in_bytes") == str(100 * MIB)
            and value(alone, "pids/pids.max") == "123"
            and value(alone, "devices/devices.list") == devices
        )

    host.ctl("config", "set", "--live", "live", "lxc.cgroup.cpu.shares", "512")
    assert unchanged()
    host.kill_daemon()
    host.start_daemon()
    assert unchanged()
    assert value(alone, "cpu/cpu.shares") == "512"
    host.ctl("config", "set", "--live-only", "live", "lxc.cgroup.cpu.shares", "256")
    assert unchanged()
    # Asked for by name it is written, whatever lxcd believes to be there.
    host.ctl("config", "set", "--live", "live", PIDS, "16384")
    assert value(alone, "pids/pids.max") == "16384"


def test_changes_of_what_runs_add_up(running: Box) -> None:
    for key, text in ((PIDS, "70"), ("limits.memory", "64MiB"), ("limits.cpu", "0.5")):
        running.host.ctl("config", "set", "--live-only", "live", key, text)
    assert value(running, "pids/pids.max") == "70"
    assert value(running, "memory/memory.limit_in_bytes") == str(64 * MIB)
    assert value(running, "cpu/cpu.cfs_quota_us") == "50000"
    running.host.ctl("config", "unset", "--live-only", "live", "limits.memory")
    assert value(running, "pids/pids.max") == "70"
    assert int(value(running, "memory/memory.limit_in_bytes")) > 1 << 60
    # They end with this life.
    running.host.ctl("stop", "--kill", "live")
    running.start(*IDLE)
    assert value(running, "pids/pids.max") == "16384"
    assert value(running, "cpu/cpu.cfs_quota_us") == "-1"


def test_the_next_lxcd_knows_what_runs(alone: Box) -> None:
    """Not what the files say by then."""
    host = alone.host
    host.ctl("config", "set", "--live-only", "live", "limits.memory", "64MiB")
    host.ctl("config", "set", "--live-only", "live", PIDS, "70")
    host.ctl("config", "set", "live", "lxc.cgroup.cpu.shares", "512")
    host.kill_daemon()
    host.start_daemon()
    host.ctl("config", "set", "--live-only", "live", "lxc.cgroup2.cpu.max", "50000")
    assert value(alone, "pids/pids.max") == "70"
    assert value(alone, "memory/memory.limit_in_bytes") == str(64 * MIB)
    assert value(alone, "cpu/cpu.shares") == "1024"
    assert value(alone, "cpu/cpu.cfs_quota_us") == "50000"
    host.ctl("config", "unset", "--live-only", "live", "limits.memory")
    assert int(value(alone, "memory/memory.limit_in_bytes")) > 1 << 60
    host.ctl("config", "unset", "--live-only", "live", PIDS)
    assert value(alone, "pids/pids.max") == "16384"
    host.ctl("config", "set", "--live", "live", "lxc.cgroup.cpu.shares", "512")
    assert value(alone, "cpu/cpu.shares") == "512"


def test_what_a_start_was_told_beside_the_file(alone: Box) -> None:
    host = alone.host
    host.ctl("stop", "--kill", "live")
    defines = {"lxc.cgroup.cpu.shares": "300", PIDS: "90"}
    flags = [word for key, text in defines.items() for word in ("--define", f"{key}={text}")]
    host.ctl("start", "live", *flags, "--", *IDLE)
    assert value(alone, "cpu/cpu.shares") == "300"
    host.ctl("config", "set", "--live-only", "live", PIDS, "80")
    assert (value(alone, "cpu/cpu.shares"), value(alone, "pids/pids.max")) == ("300", "80")
    host.ctl("config", "set", "--live-only", "live", MEMORY, "64M")
    assert (value(alone, "cpu/cpu.shares"), value(alone, "pids/pids.max")) == ("300", "80")
    host.kill_daemon()
    host.start_daemon()
    host.ctl("config", "unset", "--live-only", "live", MEMORY)
    assert (value(alone, "cpu/cpu.shares"), value(alone, "pids/pids.max")) == ("300", "80")
    assert int(value(alone, "memory/memory.limit_in_bytes")) > 1 << 60


def test_without_a_change_nothing_is_told_to_be_wrong(running: Box) -> None:
    """A change of the file alone changes nothing that runs."""
    running.host.ctl("config", "set", "live", PIDS, "55")
    assert value(running, "pids/pids.max") == "16384"
    with pytest.raises(Refused) as caught:
        running._call(lambda: update(running, BOTH, (PIDS, "few")))
    assert caught.value.reason == "INVALID_CONFIG"
    assert value(running, "pids/pids.max") == "16384"
