"""Root file systems that were virtual machines: Debian as it stood on a disk, with all that hardware had made of it.

    debian-vm    systemd, udev, NetworkManager, ifupdown, time synchronisation
    sysv-vm      sysvinit, udev, ifupdown, hwclock at halt

Nothing in them is made ready for a container. `python -m tests.system.guests` builds what is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.system import roots

HARDWARE = "52:54:00:d3:34:8b"  # the address of its network card
# What the installer has made of four partitions, a CD drive, a swap file that somebody added later, and a tmpfs.
FSTAB = """\
# /etc/fstab: static file system information.
#
# Use 'blkid' to print the universally unique identifier for a device.
# <file system> <mount point>   <type>  <options>       <dump>  <pass>
# / was on /dev/vda2 during installation
UUID=5b5b9f0a-7f0c-4f5e-9a3c-0f6f8e1d2c3b /               ext4    errors=remount-ro 0       1
# /boot was on /dev/vda1 during installation
UUID=0f4d3c52-29d7-4a8e-8d0e-6c1b7a9e5f44 /boot           ext4    defaults        0       2
# /home was on /dev/vdb1 during installation
LABEL=home      /home           ext4    defaults,nofail 0       2
/dev/vdc1       /srv            xfs     defaults        0       2
# swap was on /dev/vda5 during installation
UUID=c1f0a1de-3b7c-4d67-b6e3-94cf1d0a7e21 none            swap    sw              0       0
/swapfile       none            swap    sw              0       0
/dev/sr0        /media/cdrom0   udf,iso9660 user,noauto 0       0
tmpfs           /var/scratch    tmpfs   nosuid,nodev,size=1m 0  0
"""
INTERFACES = f"""\
# This file describes the network interfaces available on your system
# and how to activate them. For more information, see interfaces(5).
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback

# The primary network interface
auto eth0
iface eth0 inet static
        address 192.168.122.103/24
        gateway 192.168.122.1
        hwaddress ether {HARDWARE}
"""
# systemd's names for devices, and udev's of before.
_LINK = f"[Match]\nMACAddress={HARDWARE}\n[Link]\nName=eth0\n"
_RULES = f"""\
SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{HARDWARE}", NAME="eth0"
"""
# A clock that was never set otherwise: what fake-hwclock saved at the last halt of the machine.
_LAST_HALT = "2031-05-29 10:11:12\n"
_CLOCK = "0.0 0 0.0\n0\nLOCAL\n"

_COMMON = [
    *("iproute2", "iputils-ping", "procps", "udev", "kmod", "ifupdown", "isc-dhcp-client"),
    *("util-linux-extra", "fake-hwclock", "e2fsprogs"),
]
_SYSTEMD = [
    *(*_COMMON, "systemd", "systemd-sysv", "systemd-timesyncd", "dbus", "libpam-systemd"),
    "network-manager",
]
# Debian's network-manager has no init script any more.
_SYSV = [*_COMMON, "sysvinit-core"]
_UNITS = "etc/systemd/system"
_SHIPPED = "/lib/systemd/system"


def debian() -> Path:
    """Debian with systemd that was a virtual machine."""
    return roots.cached("debian-vm", _debian)


def sysv() -> Path:
    """Debian with sysvinit that was a virtual machine."""
    return roots.cached("sysv-vm", _sysv)


def _debian(target: Path) -> None:
    roots.debootstrap(target, _SYSTEMD)
    _furnish(target)
    wanted = target / _UNITS / "getty.target.wants"
    wanted.mkdir(exist_ok=True)
    for number in range(2, 7):
        (wanted / f"getty@tty{number}.service").symlink_to(f"{_SHIPPED}/getty@.service")
    # Virtual machines have a serial console.
    (wanted / "serial-getty@ttyS0.service").symlink_to(f"{_SHIPPED}/serial-getty@.service")
    (target / "etc/systemd/network/10-eth0.link").write_text(_LINK)


def _sysv(target: Path) -> None:
    # Its /etc/inittab has gettys on tty1 to tty6 as shipped.
    roots.debootstrap(target, _SYSV)
    _furnish(target)


def _furnish(target: Path) -> None:
    (target / "etc/fstab").write_text(FSTAB)
    (target / "etc/network/interfaces").write_text(INTERFACES)
    (target / "etc/udev/rules.d/70-persistent-net.rules").write_text(_RULES)
    (target / "etc/fake-hwclock.data").write_text(_LAST_HALT)
    (target / "etc/adjtime").write_text(_CLOCK)
    for directory in ("boot", "home", "srv", "media/cdrom0", "var/scratch"):
        (target / directory).mkdir(parents=True, exist_ok=True)


def main() -> int:
    """Build what is missing, and say where it is."""
    for build in (debian, sysv):
        print(build(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
