"""What a guest does to a machine of its own it does not do to the host: clock, swap, file systems. And the file that
hangs over its /etc/fstab, whatever it finds there. All with busybox, which tries it all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system import roots
from tests.system.boxes import IDMAP, KERNEL_MOUNTS, Box, box, busybox_up, over
from tests.system.calls import idle
from tests.system.host import Host

_HOUR_SECONDS = 3600
_FSTAB = (
    "UUID=5b5b9f0a / ext4 defaults 0 1\n/dev/sda2 none swap sw 0 0\ntmpfs /mnt tmpfs size=1m 0 0\n"
)
# What no process may be left with that the host's clock listens to.
_CLOCKS = (
    "date -s '2001-02-03 04:05:06'",
    f"date -s @$(($(date +%s) + {_HOUR_SECONDS}))",
    "adjtimex -t 9000",
    "adjtimex -f 100000",
    "hwclock --systohc",
    "hwclock --hctosys",
)


def _offset_seconds() -> float:
    """How far the wall clock is from the one that nobody can set."""
    return time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


@pytest.fixture(autouse=True)
def the_host_stays_as_it_is() -> Iterator[None]:
    before, swaps = _offset_seconds(), Path("/proc/swaps").read_text()
    yield
    # Whoever keeps the host's time may do so meanwhile, but not by what a guest has tried.
    assert abs(_offset_seconds() - before) < _HOUR_SECONDS / 2
    assert [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()] == [
        line.split()[0] for line in swaps.splitlines()
    ]


@pytest.fixture
def copy(host: Host, busybox_root: Path) -> Path:
    return roots.copy(busybox_root, host.root / "copy")


@contextmanager
def _system(host: Host, copy: Path, *lines: str) -> Iterator[Box]:
    text = f"lxc.rootfs.path = dir:{copy}\n" + KERNEL_MOUNTS + "".join(f"{e}\n" for e in lines)
    with box(host, text) as made:
        busybox_up(made)
        yield made


# the clock


def _complaint(made: Box, script: str) -> str:
    return made.run("/bin/sh", "-c", script).stderr.decode()


@pytest.mark.vm
@pytest.mark.parametrize("lines", [(), ("lxc.utsname = era",), tuple(IDMAP.splitlines())])
def test_no_guest_sets_the_clock(host: Host, copy: Path, lines: tuple[str, ...]) -> None:
    options = ("lxc.rootfs.options = idmap=container",) if len(lines) > 1 else ()
    with _system(host, copy, *lines, *options) as made:
        for command in _CLOCKS:
            # Not by its status: busybox's date has none for that.
            assert _complaint(made, command), command
        assert "not permitted" in _complaint(made, _CLOCKS[0])
        # What it reads is right.
        inside = int(made.sh("date +%s"))
        assert abs(inside - time.time()) < _HOUR_SECONDS / 2


@pytest.mark.vm
def test_no_application_sets_the_clock(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "app") as made:
        assert "not permitted" in _complaint(made, _CLOCKS[0])
        # Nor the clock of the hardware by its ports, or by its device.
        assert "not permitted" in made.fails("mknod /tmp/rtc0 c 254 0 && cat /tmp/rtc0")


# swap


def _makes_a_file(made: Box) -> None:
    made.sh("dd if=/dev/zero of=/swapfile bs=1M count=2 && chmod 600 /swapfile && mkswap /swapfile")


@pytest.mark.vm
def test_no_guest_has_the_host_swap_to_its_file(host: Host, copy: Path) -> None:
    # Of a directory on the host's disk, the kernel would take it.
    with _system(host, copy) as made:
        _makes_a_file(made)
        assert "not permitted" in made.fails("swapon /swapfile")
        # On the console, too, whose processes are init's.
        assert "Seccomp:\t2" in made.sh("cat /proc/1/status")
    with idle(host, copy, "app") as made:
        _makes_a_file(made)
        assert "not permitted" in made.fails("swapon /swapfile")


@pytest.mark.vm
def test_no_guest_takes_swap_from_the_host(host: Host, copy: Path) -> None:
    # As the article's first container has the host's whole root: a swap file of the host's can be named there.
    (copy / "host").mkdir()
    with _system(host, copy, "lxc.mount.entry = / host none bind 0 0") as made:
        names = [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
        for name in [*names, "/swapfile"]:
            made.fails(f"swapoff /host{name}")
        made.run("/bin/sh", "-c", "swapoff -a")
        assert "not permitted" in made.fails("swapoff /etc/passwd")


@pytest.mark.vm
def test_no_guest_in_a_user_namespace_changes_swap(host: Host, copy: Path) -> None:
    lines = (*IDMAP.splitlines(), "lxc.rootfs.options = idmap=container")
    with _system(host, copy, *lines) as made:
        _makes_a_file(made)
        assert "not permitted" in made.fails("swapon /swapfile")
        # The kernel's own answer: there is no filter.
        assert "Seccomp:\t0" in made.sh("cat /proc/self/status")


def test_who_says_that_nothing_is_dropped_has_no_filter(host: Host, copy: Path) -> None:
    with _system(host, copy, "lxc.cap.drop =") as made:
        assert "Seccomp:\t0" in made.sh("cat /proc/self/status")
        # Not even a file for it: the kernel is asked, and has its own reason.
        assert "No such file" in made.fails("swapoff /nothing")


# file systems


@pytest.mark.vm
def test_a_file_system_of_the_host_stays_writable(host: Host, busybox_root: Path) -> None:
    disk = host.root / "disk"
    disk.mkdir()
    host.machine.run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk))
    host.machine.run("cp", "-a", f"{busybox_root}/.", str(disk))
    try:
        with _system(host, disk) as made:
            # The last thing that halt scripts do.
            assert "permission denied" in made.fails("mount -o remount,ro /")
            made.sh("mount -o remount,rw /")
            # Of its mount alone it may say so, and of file systems of its own all but that.
            made.sh("mount -t tmpfs -o size=1m none /mnt && mount -o remount,size=2m /mnt")
            made.sh("mount -o remount,bind,ro /")
            assert "Read-only file system" in made.fails("touch /here")
            host.machine.run("touch", f"{disk}/there")
            made.run("poweroff")
            made.wait(generation=1)
            host.machine.run("touch", f"{disk}/there-still")
    finally:
        host.machine.run("umount", str(disk))


def test_a_file_system_of_its_own_may_become_read_only(host: Host, busybox_root: Path) -> None:
    with box(host, over(host, busybox_root) + KERNEL_MOUNTS) as made:
        busybox_up(made)
        made.sh("mount -o remount,ro /")
        assert "Read-only file system" in made.fails("touch /here")


# the file over its fstab


def _mounts(made: Box) -> list[str]:
    return [line.split()[1] for line in made.sh("cat /proc/mounts").splitlines()]


@pytest.mark.parametrize("mapped", [False, True])
def test_it_hangs_there_read_only_and_is_root_s(host: Host, copy: Path, mapped: bool) -> None:  # noqa: FBT001
    (copy / "etc/fstab").write_text(_FSTAB)
    lines = (*IDMAP.splitlines(), "lxc.rootfs.options = idmap=container") if mapped else ()
    with _system(host, copy, *lines) as made:
        shown = made.sh("cat /etc/fstab")
        assert "# mounted already: UUID=5b5b9f0a / ext4" in shown
        assert "# swap is the host's: /dev/sda2 none swap" in shown
        assert shown.endswith("\ntmpfs /mnt tmpfs size=1m 0 0")
        assert made.sh("stat -c %u:%g:%a /etc/fstab") == "0:0:644"
        assert "Read-only file system" in made.fails("echo x >> /etc/fstab")
        # What was left is done.
        assert "/mnt" in _mounts(made)
        made.run("umount", "/etc/fstab")
        assert made.sh("cat /etc/fstab") == _FSTAB.rstrip("\n")
    assert (copy / "etc/fstab").read_text() == _FSTAB


def _missing(path: Path) -> None:
    path.unlink()


def _fit(path: Path) -> None:
    path.write_text("tmpfs /mnt tmpfs size=1m 0 0\n")


def _link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.with_name("other").write_text(_FSTAB)
    path.symlink_to("other")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _large(path: Path) -> None:
    path.write_text(f"{_FSTAB}#{'x' * (1 << 20)}\n")


@pytest.mark.parametrize("make", [_missing, _fit, _link, _folder, _pipe, _large])
def test_nothing_hangs_where_there_is_nothing_to_leave_out_or_no_file_of_a_sane_size(
    host: Host, copy: Path, make: Callable[[Path], None]
) -> None:
    make(copy / "etc/fstab")
    # busybox's own script would read a pipe for ever.
    (copy / "etc/init.d/rcS").write_text("#!/bin/sh\necho busybox is up\n")
    with _system(host, copy) as made:
        assert "/etc/fstab" not in _mounts(made)


def test_a_broken_fstab_is_covered_where_it_can_be_read(host: Host, copy: Path) -> None:
    (copy / "etc/fstab").write_bytes(b"\xff\xfe\0 garbage\n" + _FSTAB.encode() + b"\\777 / x\n")
    with _system(host, copy) as made:
        assert "/etc/fstab" in _mounts(made)
    assert (copy / "etc/fstab").read_bytes().startswith(b"\xff\xfe\0")


def test_a_device_that_it_is_given_stays_in_it(host: Host, copy: Path) -> None:
    (copy / "etc/fstab").write_text(_FSTAB + "/dev/sdb1 /srv ext4 noauto 0 2\n")
    line = "lxc.mount.entry = /dev/null dev/sdb1 none bind,create=file 0 0"
    with _system(host, copy, line) as made:
        assert made.sh("tail -n 1 /etc/fstab") == "/dev/sdb1 /srv ext4 noauto 0 2"


def test_a_link_in_the_way_leads_nowhere(host: Host, copy: Path) -> None:
    # /etc of a hostile root points out of it: not a byte of that is read or covered.
    (copy / "etc").rename(copy / "etc.real")
    (copy / "etc").symlink_to("/etc.real")
    (copy / "etc.real/fstab").write_text(_FSTAB)
    with _system(host, copy) as made:
        assert "/etc.real/fstab" not in _mounts(made)
