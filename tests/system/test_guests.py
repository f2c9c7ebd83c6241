"""Guests that were virtual machines boot, reboot and halt as they are, and the host stays as it was.

What they find missing they say, as they would on a machine with a broken part: no clock to set, no serial line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxcd.v1 import types_pb2
from tests.system import guests, roots
from tests.system.boxes import (
    IDMAP,
    Box,
    box,
    defined,
    generation_runs,
    over,
    systemd_is_up,
    tree_hash,
)
from tests.system.host import Host
from tests.system.machine import until
from tests.system.wires import addresses_inside

pytestmark = pytest.mark.slow

_ADDRESS = "192.168.122.103/24"
_TTYS = [f"tty{number}" for number in range(1, 7)]
_DEVICES = """\
lxc.tty.max = 6
lxc.pty.max = 64
lxc.net.0.type = veth
lxc.net.0.name = eth0
"""
_SYSTEM = "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\n" + _DEVICES
# fake-hwclock wants the clock to be that of the machine's last halt, which it says was years from now.
_MAY_FAIL = {b"fake-hwclock.service"}
_WANTS_NETWORKD = "systemd/system/multi-user.target.wants/systemd-networkd.service"
_LOOPBACK = {"network/interfaces": "auto lo\niface lo inet loopback\n"}
# Who else may have set up the machine's card, by its name or by its hardware address.
_CARDS = {
    "NetworkManager": {
        **_LOOPBACK,
        "NetworkManager/system-connections/eth0.nmconnection": f"""\
[connection]
id=eth0
uuid=b6e3c1f0-94cf-4d67-8a4e-0a7e211d2c3b
type=ethernet
interface-name=eth0
[ipv4]
method=manual
address1={_ADDRESS}
""",
    },
    "networkd": {
        **_LOOPBACK,
        "systemd/network/lan.network": f"""\
[Match]
MACAddress={guests.HARDWARE}
[Network]
Address={_ADDRESS}
""",
        _WANTS_NETWORKD: "/lib/systemd/system/systemd-networkd.service",
    },
}
# The kernel lets only the host's root mount these (FS_USERNS_MOUNT is not set for them).
_MAPPED = {b"sys-kernel-debug.mount", b"sys-kernel-tracing.mount", b"sys-kernel-config.mount"}


@pytest.fixture(autouse=True)
def swap_stays() -> Iterator[None]:
    before = Path("/proc/swaps").read_text()
    yield
    assert Path("/proc/swaps").read_text() == before


@contextmanager
def _copied(host: Host, root: Path, config: str) -> Iterator[Box]:
    """On a copy: an overlay cannot be idmapped."""
    copy = roots.copy(root, host.root / "copy")
    text = f"lxc.rootfs.path = dir:{copy}\nlxc.rootfs.options = idmap=container\n{IDMAP}{config}"
    with box(host, text, "vm") as made:
        yield made


def _is_whole(made: Box) -> None:
    """What its own fstab and interfaces ask for, and a container can have, is there."""
    assert made.sh("findmnt -n -o FSTYPE,SIZE /var/scratch").split() == ["tmpfs", "1M"]
    for place in ("/boot", "/home", "/srv"):
        assert made.run("mountpoint", "-q", place).exit.code != 0
    assert addresses_inside(made.host, made.info().pid, "eth0") == {_ADDRESS}
    for tty in _TTYS:
        made.shows("login:", stream=tty)


def _halts(made: Box, method: str) -> None:
    reply = json.loads(made.host.ctl("--format", "json", "stop", made.name).stdout)
    assert reply["method"] == method
    assert reply["killed"] is False
    assert reply["exit"]["cause"] == "REQUESTED"


def _powers_off(made: Box, generation: int) -> None:
    made.run("poweroff")
    end = made.wait(generation=generation).exit
    assert (end.cause, end.code) == (types_pb2.CAUSE_SELF, 0)
    made.wait(types_pb2.STATE_STOPPED)


# systemd


def test_systemd_boots_and_stops(host: Host, debian_vm_root: Path) -> None:
    before = tree_hash(debian_vm_root / "etc")
    with box(host, over(host, debian_vm_root, "vm") + _SYSTEM, "vm") as made:
        systemd_is_up(made, _MAY_FAIL)
        _is_whole(made)
        assert made.sh("systemctl is-active NetworkManager.service") == "active"
        # Where there is no hardware, nobody waits for it; nor for the tty0 that gettys of a machine want.
        assert made.sh("systemctl list-jobs --no-legend") == ""
        assert made.sh("systemctl is-active getty@tty3.service || :") == "inactive"
        _halts(made, "SIGRTMIN+3 (systemd)")
        assert b"Reached target shutdown.target" in made.log()
    assert tree_hash(debian_vm_root / "etc") == before
    assert not (host.root / "upper/vm/delta/etc/fstab").exists()


def test_systemd_reboots_and_powers_off(host: Host, debian_vm_root: Path) -> None:
    with box(host, over(host, debian_vm_root, "vm") + _SYSTEM, "vm") as made:
        systemd_is_up(made, _MAY_FAIL)
        made.run("reboot")
        assert made.wait(generation=1).exit.cause == types_pb2.CAUSE_REBOOT
        generation_runs(made, 2)
        systemd_is_up(made, _MAY_FAIL)
        _is_whole(made)
        _powers_off(made, 2)


def test_systemd_does_not_wait_for_disks_where_sys_is_writable(
    host: Host, debian_vm_root: Path
) -> None:
    # There systemd takes devices of fstab for real, and udev runs. A serial line it does wait for.
    config = "lxc.mount.auto = proc:mixed sys:rw cgroup:mixed\n" + _DEVICES
    with box(host, over(host, debian_vm_root, "vm") + config, "vm") as made:
        made.shows("Reached target local-fs.target", "Reached target sysinit.target", "login:")
        waiting = made.sh("systemctl list-jobs --no-legend --plain | grep -o '[^ ]*[.]device' || :")
        assert set(waiting.split()) <= {"dev-ttyS0.device"}
        assert made.sh("systemctl is-active local-fs.target") == "active"
        assert made.sh("systemctl is-active emergency.target || :") == "inactive"
        _is_whole(made)


def test_systemd_in_a_user_namespace(host: Host, debian_vm_root: Path) -> None:
    with _copied(host, debian_vm_root, _SYSTEM) as made:
        systemd_is_up(made, _MAY_FAIL | _MAPPED)
        _is_whole(made)
        assert made.sh("stat -c %u:%g:%a /etc/fstab") == "0:0:644"
        _halts(made, "SIGRTMIN+3 (systemd)")
    assert (host.root / "copy/etc/fstab").read_text() == guests.FSTAB


@pytest.mark.parametrize("who", _CARDS)
def test_a_card_set_up_in_another_way(host: Host, debian_vm_root: Path, who: str) -> None:
    etc = host.root / "upper/vm/delta/etc"
    for name, text in _CARDS[who].items():
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        if name == _WANTS_NETWORKD:
            (etc / name).symlink_to(text)
        else:
            (etc / name).write_text(text)
            (etc / name).chmod(0o600 if who == "NetworkManager" else 0o644)
    config = over(host, debian_vm_root, "vm") + _SYSTEM + f"lxc.net.0.hwaddr = {guests.HARDWARE}\n"
    with box(host, config, "vm") as made:
        systemd_is_up(made, _MAY_FAIL)
        until(lambda: _ADDRESS in addresses_inside(host, made.info().pid, "eth0"), f"{who} acts")
        _powers_off(made, 1)


def test_an_address_by_dhcp_with_the_machine_s_own_client(host: Host, debian_vm_root: Path) -> None:
    config = over(host, debian_vm_root, "vm") + _SYSTEM + "lxc.net.0.link = lxcbr0\n"
    etc = host.root / "upper/vm/delta/etc"
    (etc / "network").mkdir(parents=True)
    (etc / "network/interfaces").write_text(
        "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n"
    )
    with box(host, config, "vm") as made:
        systemd_is_up(made, _MAY_FAIL)
        found = addresses_inside(host, made.info().pid, "eth0")
        (address,) = (one for one in found if ":" not in one)
        leases = json.loads(host.ctl("--format", "json", "network", "leases", "lxcbr0").stdout)
        assert [lease["address"] for lease in leases] == [address.partition("/")[0]]
        _powers_off(made, 1)


# sysvinit


def _sysv_is_up(made: Box) -> bytes:
    boot = made.shows("Starting fake hwclock", "INIT: Entering runlevel: 2")
    made.shows("login:", stream="tty1")
    assert b"maintenance" not in boot
    return boot


def test_sysvinit_boots_and_stops(host: Host, sysv_vm_root: Path) -> None:
    before = tree_hash(sysv_vm_root / "etc")
    with box(host, over(host, sysv_vm_root, "vm") + _SYSTEM, "vm") as made:
        _sysv_is_up(made)
        _is_whole(made)
        _halts(made, "runlevel 0 (sysvinit)")
        halt = made.log()
        # Its halt scripts find nothing to do harm to.
        assert b"hwclock: Cannot access the Hardware Clock" in halt
        assert b"Will now halt" in halt
    assert tree_hash(sysv_vm_root / "etc") == before


def test_sysvinit_reboots_and_powers_off(host: Host, sysv_vm_root: Path) -> None:
    with box(host, over(host, sysv_vm_root, "vm") + _SYSTEM, "vm") as made:
        _sysv_is_up(made)
        made.run("reboot")
        assert made.wait(generation=1).exit.cause == types_pb2.CAUSE_REBOOT
        generation_runs(made, 2)
        _sysv_is_up(made)
        _is_whole(made)
        _powers_off(made, 2)


def test_sysvinit_in_a_user_namespace(host: Host, sysv_vm_root: Path) -> None:
    with _copied(host, sysv_vm_root, _SYSTEM) as made:
        _sysv_is_up(made)
        _is_whole(made)
        _halts(made, "runlevel 0 (sysvinit)")
    assert (host.root / "copy/etc/fstab").read_text() == guests.FSTAB


def test_gettys_of_sysvinit_without_terminals_wait(host: Host, sysv_vm_root: Path) -> None:
    # LXC's default. Each getty says so in the log and sleeps ten seconds before it gives up.
    config = _SYSTEM.replace("lxc.tty.max = 6", "lxc.tty.max = 0")
    with box(host, over(host, sysv_vm_root, "vm") + config, "vm") as made:
        made.shows("INIT: Entering runlevel: 2")
        sleeping = "grep -l '^Name:.getty' /proc/[0-9]*/status | xargs grep -h ^State: | grep -c S"
        until(lambda: made.run("/bin/sh", "-c", sleeping).stdout == b"6\n", "six gettys sleep")
        _halts(made, "runlevel 0 (sysvinit)")


@contextmanager
def _disk(host: Host, root: Path) -> Iterator[Path]:
    """A file system of the host's with nothing else on it, and a copy of a root in it."""
    disk = host.root / "disk"
    disk.mkdir()
    host.machine.run("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(disk))
    try:
        host.machine.run("cp", "-a", f"{root}/.", str(disk))
        yield disk
    finally:
        host.machine.run("umount", str(disk))


def test_sysvinit_as_the_era_of_the_article_configured_it(host: Host, sysv_vm_root: Path) -> None:
    with _disk(host, sysv_vm_root) as disk:
        config = f"""\
lxc.utsname = 003
lxc.tty = 6
lxc.network.type = veth
lxc.network.name = eth0
lxc.rootfs = {disk}
lxc.mount.entry=devpts {disk}/dev/pts devpts gid=5,mode=620,newinstance,ptmxmode=0666 0 0
lxc.mount.entry=proc {disk}/proc proc nodev,noexec,nosuid 0 0
lxc.mount.entry=sysfs {disk}/sys sysfs defaults  0 0
"""
        with box(host, config, "003") as made:
            for generation in (1, 2):
                _sysv_is_up(made)
                _is_whole(made)
                _powers_off(made, generation)
                assert b"swapoff: Not superuser" in made.log()
                host.machine.run("touch", f"{disk}/it-can-be-written-to-still")
                if generation == 1:
                    made.start()


# what it takes


def test_without_the_cover_it_does_not_boot(host: Host, sysv_vm_root: Path) -> None:
    with defined(host, over(host, sysv_vm_root, "own") + _SYSTEM, "own") as made:
        (made.directory / "lxcd.toml").write_text("whole_fstab = true\n")
        made.start()
        made.shows("Press Enter for maintenance")
        assert made.sh("cat /etc/fstab") == guests.FSTAB.rstrip("\n")


def test_the_plan_says_what_is_left_out(host: Host, sysv_vm_root: Path) -> None:
    with defined(host, over(host, sysv_vm_root, "vm") + _SYSTEM, "vm"):
        plan = host.ctl("plan", "vm").stdout
        assert "read /etc/fstab of the root file system; leave out swap, /" in plan
        assert "cover /etc/fstab" in plan
        assert "drop capabilities: sys_module sys_rawio sys_time mac_override mac_admin" in plan
