"""Whole systems come up, and go down in the way that their own init understands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcd.v1 import types_pb2
from tests.system import roots
from tests.system.boxes import IDMAP, Box, box, busybox_up, generation_runs, over, systemd_is_up
from tests.system.host import Host

pytestmark = pytest.mark.vm

# The kernel lets only the host's root mount debugfs and tracefs (FS_USERNS_MOUNT is not set for them).
_MAPPED = (b"sys-kernel-debug.mount", b"sys-kernel-tracing.mount")
_SYSTEM = "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\nlxc.tty.max = 2\nlxc.pty.max = 64\n"


@pytest.fixture
def debian(host: Host, debian_root: Path) -> Iterator[Box]:
    with box(host, over(host, debian_root) + _SYSTEM, "deb") as made:
        yield made


@pytest.fixture(scope="module")
def debian_copy(debian_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For the tests that map ids, one after the other: an overlay cannot be idmapped, and a copy takes its time."""
    copy = roots.copy(debian_root, tmp_path_factory.mktemp("mapped") / "debian")
    yield copy
    shutil.rmtree(copy)


@pytest.fixture
def mapped_debian(host: Host, debian_copy: Path) -> Iterator[Box]:
    config = f"lxc.rootfs.path = dir:{debian_copy}\nlxc.rootfs.options = idmap=container\n{IDMAP}{_SYSTEM}"
    with box(host, config, "deb") as made:
        yield made


@pytest.fixture
def sysv(host: Host, sysv_root: Path) -> Iterator[Box]:
    with box(host, over(host, sysv_root) + _SYSTEM, "sysv") as made:
        yield made


@pytest.fixture
def busybox(host: Host, busybox_root: Path) -> Iterator[Box]:
    with box(host, over(host, busybox_root) + _SYSTEM, "bb") as made:
        yield made


def _stops_cleanly(made: Box) -> None:
    reply = json.loads(made.host.ctl("--format", "json", "stop", made.name).stdout)
    assert reply["method"] == "SIGRTMIN+3 (systemd)"
    assert reply["killed"] is False
    assert reply["exit"]["cause"] == "REQUESTED"
    shutdown = made.log()
    assert b"Reached target shutdown.target" in shutdown
    assert b"Halting system." in shutdown
    assert made.info().state == types_pb2.STATE_STOPPED


# systemd


@pytest.mark.vm(short=True)
def test_debian_boots_and_says_that_it_runs(debian: Box) -> None:
    systemd_is_up(debian)
    boot = debian.shows("Reached target multi-user.target", "login:")
    assert b"Welcome to" in boot
    debian.shows("login:", stream="tty1")
    debian.shows("login:", stream="tty2")
    logs = debian.host.ctl("logs", "deb").stdout
    assert "Welcome to" in logs
    assert "login:" in debian.host.ctl("logs", "deb", "--stream", "tty1").stdout


def test_systemd_knows_that_it_is_in_a_container(debian: Box) -> None:
    systemd_is_up(debian)
    assert debian.sh("systemd-detect-virt") == "lxc"
    assert debian.sh("hostname") == "deb"
    assert debian.sh("cat /proc/1/comm") == "systemd"


def test_poweroff_inside_debian_stops_it(debian: Box) -> None:
    systemd_is_up(debian)
    debian.run("poweroff")
    end = debian.wait(generation=1).exit
    assert (end.cause, end.code, end.generation) == (types_pb2.CAUSE_SELF, 0, 1)
    debian.wait(types_pb2.STATE_STOPPED)
    assert debian.info().generation == 1


def test_reboot_inside_debian_starts_the_next_generation(debian: Box) -> None:
    systemd_is_up(debian)
    before = debian.info()
    debian.run("reboot")
    end = debian.wait(generation=1).exit
    assert end.cause == types_pb2.CAUSE_REBOOT
    generation_runs(debian, 2)
    systemd_is_up(debian)
    after = debian.info()
    assert after.generation == 2
    assert after.pid != before.pid
    assert after.exit.generation == 1
    debian.shows("login:")


def test_stop_of_debian_is_a_clean_shutdown(debian: Box) -> None:
    systemd_is_up(debian)
    _stops_cleanly(debian)


def test_debian_boots_and_stops_in_a_user_namespace(mapped_debian: Box) -> None:
    systemd_is_up(mapped_debian, _MAPPED)
    assert mapped_debian.info().unprivileged
    assert mapped_debian.sh("cat /proc/self/uid_map").split() == ["0", "100000", "65536"]
    assert mapped_debian.sh("stat -c %u:%g /etc/passwd /root") == "0:0\n0:0"
    mapped_debian.shows("Reached target multi-user.target", "login:")
    mapped_debian.shows("login:", stream="tty1")
    _stops_cleanly(mapped_debian)


def test_what_a_mapped_debian_writes_belongs_on_disk_to_the_unmapped_owner(
    mapped_debian: Box, debian_copy: Path
) -> None:
    # idmap=container shifts at the mount: the files themselves keep the ids that they always had.
    mapped_debian.sh("touch /root/mine && chown 33:33 /root/mine")
    found = (debian_copy / "root/mine").stat()
    assert (found.st_uid, found.st_gid) == (33, 33)
    pid = mapped_debian.info().pid
    owner = Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0]
    assert owner == "100000"


def test_reboot_and_poweroff_work_in_a_user_namespace(mapped_debian: Box) -> None:
    systemd_is_up(mapped_debian, _MAPPED)
    mapped_debian.run("reboot")
    generation_runs(mapped_debian, 2)
    systemd_is_up(mapped_debian, _MAPPED)
    mapped_debian.run("poweroff")
    end = mapped_debian.wait(generation=2).exit
    assert (end.cause, end.generation) == (types_pb2.CAUSE_SELF, 2)


# sysvinit


def test_sysvinit_boots_with_a_prompt_on_tty1_and_stops_through_runlevel_0(sysv: Box) -> None:
    sysv.shows("login:", stream="tty1")
    reply = json.loads(sysv.host.ctl("--format", "json", "stop", "sysv").stdout)
    assert reply["method"] == "runlevel 0 (sysvinit)"
    assert reply["killed"] is False
    assert reply["exit"]["cause"] == "REQUESTED"


@pytest.mark.parametrize("command", ["poweroff", "halt"])
def test_sysvinit_is_switched_off_from_inside(sysv: Box, command: str) -> None:
    sysv.shows("login:", stream="tty1")
    sysv.run(command)
    end = sysv.wait(generation=1).exit
    assert (end.cause, end.code) == (types_pb2.CAUSE_SELF, 0)
    sysv.wait(types_pb2.STATE_STOPPED)


def test_reboot_inside_sysvinit_starts_the_next_generation(sysv: Box) -> None:
    sysv.shows("login:", stream="tty1")
    sysv.run("reboot")
    assert sysv.wait(generation=1).exit.cause == types_pb2.CAUSE_REBOOT
    generation_runs(sysv, 2)
    sysv.shows("login:", stream="tty1")


# busybox


def test_busybox_is_stopped_by_sigusr1(busybox: Box) -> None:
    busybox_up(busybox)
    reply = json.loads(busybox.host.ctl("--format", "json", "stop", "bb").stdout)
    assert reply["method"] == "SIGUSR1 (busybox)"
    assert reply["killed"] is False


@pytest.mark.vm(short=True)
def test_busybox_reboots_and_powers_off_from_inside(busybox: Box) -> None:
    busybox_up(busybox)
    busybox.run("reboot")
    assert busybox.wait(generation=1).exit.cause == types_pb2.CAUSE_REBOOT
    generation_runs(busybox, 2)
    busybox_up(busybox)
    busybox.run("poweroff")
    assert busybox.wait(generation=2).exit.cause == types_pb2.CAUSE_SELF


# what does not come up


def test_a_root_without_init_fails_at_the_exec_and_says_so(host: Host, busybox_root: Path) -> None:
    root = roots.copy(busybox_root, host.root / "copy")
    (root / "sbin/init").unlink()
    host.ctl("create", "none", "--config", "-", input=f"lxc.rootfs.path = {root}\n")
    done = host.ctl("start", "none", check=False)
    assert done.returncode == 1
    assert "/sbin/init" in done.stderr
    assert "ENOENT" in done.stderr
    assert "STOPPED" in host.ctl("list").stdout
    host.ctl("delete", "none")


def test_an_init_that_ends_at_once_is_an_exit_not_a_failed_start(
    host: Host, busybox_root: Path
) -> None:
    config = over(host, busybox_root) + "lxc.init.cmd = /bin/sh -c 'exit 7'\n"
    with box(host, config) as made:
        end = made.wait(generation=1).exit
        assert (end.code, end.cause) == (7, types_pb2.CAUSE_SELF)
