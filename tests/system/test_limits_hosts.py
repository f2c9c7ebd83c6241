"""Limits and devices on hosts that lack something: version 1, a controller, the right to write."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxcd.v1 import container_pb2 as pb
from lxcd.v1 import types_pb2
from tests.system import roots
from tests.system.boxes import IDMAP, KERNEL_MOUNTS, Refused, defined
from tests.system.calls import IDLE, application, idle, refused
from tests.system.host import Host
from tests.system.limits import BOMB
from tests.system.machine import DEADLINE, until

CGROUPS = Path("/sys/fs/cgroup")
FULL = "dd if=/dev/full of=/dev/null count=0 2>&1; true"
ZERO = "dd if=/dev/zero of=/dev/null count=0 2>&1"
BLOCK = "dd if=/mnt/sda of=/dev/null count=0 2>&1; true"
RULES = (
    "lxc.cgroup.devices.deny = a",
    "lxc.cgroup.devices.allow = c 1:3 rwm",
    "lxc.cgroup.devices.allow = c 1:5 r",
    "lxc.cgroup.devices.allow = c 5:* rwm",
    "lxc.cgroup.devices.allow = c 136:* rwm",
)


@contextmanager
def _host(*trees: str) -> Iterator[Host]:
    host = Host(trees)
    try:
        host.start_daemon()
        yield host
    finally:
        host.close()


@pytest.fixture
def second(nothing_outlives_the_test: None) -> Iterator[Host]:
    """A host that has version 2 alone, and no controller in it that limits what is limited here."""
    with _host("unified") as host:
        yield host


@pytest.fixture
def forgetful(nothing_outlives_the_test: None) -> Iterator[Host]:
    """A host without a memory controller."""
    with _host(*(path.name for path in CGROUPS.iterdir() if path.name != "memory")) as host:
        yield host


def disk(host: Host) -> str:
    """A block device at /mnt that nobody has taken away."""
    path = host.root / "nodes"
    path.mkdir()
    os.mknod(path / "sda", stat.S_IFBLK | 0o666, os.makedev(8, 0))
    return f"lxc.mount.entry = {path} mnt none bind 0 0"


# version 2 alone


def test_a_life_with_version_2_alone(second: Host, busybox_root: Path) -> None:
    with idle(second, busybox_root, "two") as made:
        assert "v2" in second.ctl("host").stdout
        assert list(made.info().cgroups) == ["unified"]
        payload = Path(made.info().cgroups["unified"])
        assert made.sh("echo in; sed -n s/^0:://p /proc/self/cgroup") == "in\n/"
        second.ctl("freeze", "two")
        events = Path(made.info().cgroups["unified"], "cgroup.events")
        assert "frozen 1" in events.read_text()
        assert refused(lambda: made.run("/bin/true")).reason == "CONTAINER_FROZEN"
        second.kill_daemon()
        second.start_daemon()
        assert made.info().state == types_pb2.STATE_FROZEN
        second.ctl("thaw", "two")
        assert "frozen 0" in events.read_text()
        assert made.sh("echo on") == "on"
        made.stop()
        assert made.info().state == types_pb2.STATE_STOPPED
        assert not payload.exists()
        made.start(*IDLE)
        second.ctl("freeze", "two")
        second.ctl("stop", "--kill", "two")
        assert made.info().exit.signal == 9


@pytest.mark.parametrize("kind", ["privileged", "mapped"])
def test_device_rules_by_a_program(
    second: Host, busybox_root: Path, tmp_path: Path, kind: str
) -> None:
    config = application(second, busybox_root, "two")
    if kind == "mapped":
        root = roots.copy(busybox_root, tmp_path / "root")
        config = f"lxc.rootfs.path = {root}\nlxc.rootfs.options = idmap=container\n"
        config += IDMAP + KERNEL_MOUNTS
    config += "\n".join((disk(second), *RULES, ""))
    with defined(second, config, "two") as made:
        made.start(*IDLE)

        def obeyed() -> None:
            made.sh(ZERO)
            assert "not permitted" in made.sh(
                "dd if=/dev/null of=/dev/zero conv=notrunc 2>&1; true"
            )
            assert "not permitted" in made.sh(FULL)
            assert "not permitted" in made.sh(BLOCK)
            assert "not permitted" in made.sh("mknod /tmp/made b 8 0 2>&1; true")

        obeyed()
        second.kill_daemon()
        second.start_daemon()
        obeyed()
        allow = [line.partition(" = ")[2] for line in RULES[1:]]
        key = "lxc.cgroup.devices.allow"
        second.ctl("config", "set", "--live-only", "two", key, *allow, "c 1:7 rwm")
        assert "not permitted" not in made.sh(FULL)
        assert "not permitted" in made.sh(BLOCK)
        second.ctl("config", "set", "--live-only", "two", key, *allow)
        obeyed()


def test_without_a_rule_it_has_the_default_list(second: Host, busybox_root: Path) -> None:
    with idle(second, busybox_root, "two", disk(second)) as made:
        assert "not permitted" not in made.sh(FULL)
        assert "not permitted" in made.sh(BLOCK)
        assert "not permitted" in made.sh("mknod /tmp/made b 8 0 2>&1; true")


def test_a_node_that_is_added_and_removed(second: Host, busybox_root: Path) -> None:
    with idle(second, busybox_root, "two", *RULES) as made:
        look = "dd if=/dev/full of=/dev/null count=0 2>&1; true"
        assert "not permitted" in made.sh(look)
        request = pb.AddDeviceNodeRequest(name="two", path="/dev/full", container_path="/dev/more")
        made.api.container.AddDeviceNode(request, timeout=DEADLINE)
        assert "not permitted" not in made.sh(look)
        made.sh("dd if=/dev/more of=/dev/null count=0")
        second.kill_daemon()
        second.start_daemon()
        # Others count on while it is there.
        key = "lxc.cgroup.devices.allow"
        second.ctl("config", "set", "--live-only", "two", key, "c 1:3 rwm", "c 1:9 rwm")
        made.sh("dd if=/dev/more of=/dev/null count=0")
        assert "not permitted" in made.sh(f"{ZERO}; true")
        gone = pb.RemoveDeviceNodeRequest(name="two", container_path="/dev/more")
        made.api.container.RemoveDeviceNode(gone, timeout=DEADLINE)
        assert "not permitted" in made.sh(look)


def test_a_fork_bomb_of_version_2(second: Host, busybox_root: Path, tmp_path: Path) -> None:
    """No controller bounds it here: its user may have so many processes."""
    root = roots.copy(busybox_root, tmp_path / "root")
    config = f"lxc.rootfs.path = {root}\nlxc.rootfs.options = idmap=container\n{IDMAP}"
    config += f"{KERNEL_MOUNTS}lxc.prlimit.nproc = 300\n"
    with defined(second, config, "two") as made:
        made.start("/bin/sh", "-c", f"({BOMB}; wait) 2>/dev/null", system=True)
        procs = Path(made.info().cgroups["unified"])

        def count() -> int:
            return sum(len(path.read_text().split()) for path in procs.rglob("cgroup.procs"))

        until(lambda: count() > 150, "it burns")
        second.ctl("stop", "--kill", "two")
        assert not procs.exists()
        assert made.info().exit.cause == types_pb2.CAUSE_REQUESTED


def test_limits_without_a_controller(second: Host, busybox_root: Path) -> None:
    """What must not be unbounded is an error, what is a share of something is not."""
    lines = ("lxc.cgroup.cpu.shares = 512", "lxc.cgroup.memory.limit_in_bytes = 64M")
    with defined(second, application(second, busybox_root, "two"), "two") as made:
        path = made.directory / "config"
        text = path.read_text()
        path.write_text(text + "\n".join((*lines, "")))
        number = len(text.splitlines())
        done = second.ctl("config", "check", "two", check=False)
        shares, memory = done.stdout.splitlines()
        assert done.returncode == 1
        assert ("warning" in shares, f":{number + 1}" in shares) == (True, True), shares
        assert "this host has no cpu controller" in shares
        assert ("error" in memory, f":{number + 2}" in memory) == (True, True), memory
        error = refused(lambda: made.start(*IDLE))
        assert (error.reason, error.metadata["origin"]) == (
            "INVALID_CONFIG",
            f"{path}:{number + 2}",
        )
        second.ctl("config", "unset", "two", "lxc.cgroup.memory.limit_in_bytes")
        made.start(*IDLE)
        saved = path.read_text()
        done = second.ctl(
            "config", "set", "--live", "two", "lxc.cgroup2.memory.max", "64M", check=False
        )
        assert (done.returncode, "no memory controller" in done.stderr) == (2, True), done.stderr
        assert path.read_text() == saved


# a controller less


def test_without_a_memory_controller(forgetful: Host, busybox_root: Path) -> None:
    with idle(forgetful, busybox_root, "less", "lxc.cgroup.cpu.shares = 512") as made:
        assert "memory" not in made.info().cgroups
        assert Path(made.info().cgroups["cpu"], "cpu.shares").read_text() == "512\n"
        update = ("config", "set", "--live", "less", "limits.memory", "64MiB")
        done = forgetful.ctl(*update, check=False)
        assert done.returncode == 2
        assert "limits.memory" in done.stderr or "lxcd.toml" in done.stderr
        assert "this host has no memory controller" in done.stderr
        assert not (made.directory / "lxcd.toml").exists()
        soft = application(forgetful, busybox_root, "x", "lxc.cgroup2.memory.low = 1M")
        hard = application(forgetful, busybox_root, "x", "lxc.cgroup2.memory.max = 1M")
        for text, severity, code in ((soft, "warning", 0), (hard, "error", 1)):
            check = ("config", "check", "--file", "-")
            found = forgetful.ctl(*check, input=text, check=False)
            assert (severity in found.stdout, found.returncode) == (True, code)
            assert forgetful.ctl(*check, "--strict", input=text, check=False).returncode == 1
        assert made.info().state == types_pb2.STATE_RUNNING


# read-only


def writable(host: Host, *, writable: bool, tree: str = "cpu") -> None:
    """In the machine's own mounts, and nowhere else."""
    assert os.readlink(f"/proc/{host.machine.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    how = f"remount,bind,{'rw' if writable else 'ro'}"
    command = ("mount", "-o", how, str(CGROUPS / tree))
    # EBUSY while anybody writes there: a child is being prepared.
    until(lambda: host.machine.run(*command, check=False).returncode == 0, f"{tree} is {how}")


def test_what_runs_on_a_cgroupfs_that_is_read_only(host: Host, busybox_root: Path) -> None:
    key = "lxc.cgroup.cpu.shares"
    with idle(host, busybox_root, "still", f"{key} = 512") as made:
        shares = Path(made.info().cgroups["cpu"], "cpu.shares")
        saved = (made.directory / "config").read_text()
        writable(host, writable=False)
        try:
            for flag in ("--live", "--live-only"):
                done = host.ctl("config", "set", flag, "still", key, "256", check=False)
                assert done.returncode == 4
                assert f"{key} = 256" in done.stderr
                assert "Read-only file system" in done.stderr
                assert shares.read_text() == "512\n"
            assert (made.directory / "config").read_text() == saved
            error = refused(lambda: made.run("/bin/true"))
            assert (error.reason, error.metadata["errno"]) == ("HOST_REFUSED", "EROFS")
        finally:
            writable(host, writable=True)
        assert made.sh("echo on") == "on"
        host.ctl("config", "set", "--live", "still", key, "256")
        assert shares.read_text() == "256\n"


def test_a_start_on_a_cgroupfs_that_is_read_only(host: Host, busybox_root: Path) -> None:
    with defined(host, application(host, busybox_root, "still"), "still") as made:
        writable(host, writable=False)
        try:
            error = None
            while error is None:  # something may have been prepared before
                try:
                    made.start(*IDLE)
                    made.stop(kill=True)
                except Refused as caught:
                    error = caught
            assert error.reason == "START_FAILED"
            assert error.metadata["step"] in ("prepare", "claim_cgroups", "limit")
            assert error.metadata["errno"] == "EROFS"
            assert "/sys/fs/cgroup/cpu" in error.text
            assert made.info().state == types_pb2.STATE_STOPPED
        finally:
            writable(host, writable=True)
        made.start(*IDLE)
        assert made.sh("echo on") == "on"
