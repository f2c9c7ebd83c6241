"""The article's way: losetup and mount on the host, `lxc.rootfs` at the mount. After the stop nothing of it is busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system import images
from tests.system.boxes import KERNEL_MOUNTS, box, defined, over
from tests.system.calls import IDLE
from tests.system.consistency import VERSION_1, prepared
from tests.system.host import Host
from tests.system.images import MIB, Filler
from tests.system.machine import until


@contextmanager
def _mounted(host: Host, busybox: Path) -> Iterator[tuple[Path, str]]:
    """The second partition of a disk on /…/rootfs/002, and its loop device: an offset stands for kpartx."""
    path = host.root / "rhel60vm.img"
    part = Filler("ext4")
    images.disk(host, path, "dos", (part, part), busybox)
    place = host.root / "rootfs/002"
    place.mkdir(parents=True)
    offset = ("--offset", str(MIB + part.size_bytes), "--sizelimit", str(part.size_bytes))
    device = images.run("losetup", "--find", "--show", *offset, path).strip()
    try:
        host.machine.run("mount", device, str(place))
        yield place, device
    finally:
        if Path(device).name in images.attached(host):
            host.machine.run("umount", "--lazy", str(place), check=False)
            images.run("losetup", "--detach", device)


def _let_go(host: Host, place: Path, device: str) -> None:
    """`umount`, and `losetup -d`, which is put off for as long as anybody has the device: one that looks at all devices
    only for a moment.
    """
    images.not_busy(host, place)
    images.run("losetup", "--detach", device)
    until(lambda: Path(device).name not in images.attached(host), f"{device} is free")


def _warm(host: Host) -> None:
    """Wait until children are prepared: their mount namespaces are from now."""
    if VERSION_1:
        until(lambda: bool(prepared(host)), "a child is prepared")


def _has_run(host: Host, place: Path) -> None:
    with defined(host, f"lxc.rootfs = {place}\n{KERNEL_MOUNTS}", "002") as made:
        made.start(*IDLE)
        made.sh("echo here > /root/note; ls /")
        made.stop(kill=True)


def test_unmounting_after_a_stop_is_not_busy(host: Host, busybox_root: Path) -> None:
    with _mounted(host, busybox_root) as (place, device):
        _has_run(host, place)
        _warm(host)
        _has_run(host, place)
        _warm(host)
        _let_go(host, place, device)


@pytest.mark.parametrize("propagation", ["rprivate", "rshared"])
def test_others_that_were_started_meanwhile_hold_nothing(
    host: Host, busybox_root: Path, propagation: str
) -> None:
    host.machine.run("mount", f"--make-{propagation}", "/")
    with (
        _mounted(host, busybox_root) as (place, device),
        box(host, over(host, busybox_root, "o") + KERNEL_MOUNTS, "other", *IDLE) as other,
    ):
        _warm(host)
        _has_run(host, place)
        _warm(host)
        # Of a child that was prepared while it was mounted.
        with box(host, over(host, busybox_root, "p") + KERNEL_MOUNTS, "later", *IDLE) as later:
            _let_go(host, place, device)
            assert later.sh("echo in") == other.sh("echo in") == "in"


@pytest.mark.parametrize("root", ["", "lxc.rootfs.path = /\n"])
def test_one_that_has_the_host_s_own_root_follows_the_unmount(
    host: Host, busybox_root: Path, root: str
) -> None:
    # As systemd sets it up on every host.
    host.machine.run("mount", "--make-rshared", "/")
    (host.lxcpath / "own").mkdir()
    (host.lxcpath / "own/config").write_text(f"lxc.uts.name = own\n{root}")

    def sh(script: str) -> int:
        return host.ctl("exec", "own", "--", "/bin/sh", "-c", script, check=False).returncode

    with _mounted(host, busybox_root) as (place, device):
        host.ctl("start", "own", "--", *IDLE)
        assert sh(f"test -f {place}/etc/inittab") == 0
        _has_run(host, place)
        _let_go(host, place, device)
        assert sh(f"test -f {place}/etc/inittab") == 1
        # But nothing of it comes to the host.
        assert sh(f"mount -t tmpfs none {place}") == 0
        assert host.machine.run("findmnt", "-n", str(place), check=False).stdout == ""
        host.ctl("delete", "--force", "own")


def test_unmounting_while_it_runs_is_busy_and_takes_nothing_away(
    host: Host, busybox_root: Path
) -> None:
    with _mounted(host, busybox_root) as (place, device):
        with box(host, f"lxc.rootfs = {place}\n{KERNEL_MOUNTS}", "002", *IDLE) as made:
            # The host's mount may go: the container has its own of it.
            host.machine.run("umount", str(place))
            assert made.sh("cat /etc/inittab")
            made.stop(kill=True)
        images.run("losetup", "--detach", device)
        until(lambda: Path(device).name not in images.attached(host), f"{device} is free")
