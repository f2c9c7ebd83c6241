"""What the article prepares before anything runs, and whether lxcd needs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preparation:
    """One of them."""

    what: str
    needed: str  # "no", or what of it stays
    reason: str


PREPARATIONS = (
    Preparation(
        "development tools, build",
        "no",
        "Python and packages that come compiled; PID 1 of applications comes compiled, too",
    ),
    Preparation(
        "SELinux off",
        "no",
        "nothing here needs it off: lxcd sets no label, a policy for it applies as to any daemon",
    ),
    Preparation(
        "NetworkManager off",
        "no",
        "a bridge of lxcd's own (lxcbr0) or any that exists will do; only who enslaves eth0 by"
        " hand must tell NetworkManager so",
    ),
    Preparation(
        "cgconfig off",
        "no",
        "trees are used where they are mounted; one's own directories are made in them,"
        " others' left alone",
    ),
    Preparation("/lxc/cgroup mount", "no", "the same, on version 1, version 2 and both"),
    Preparation(
        "ptmx in rc.local",
        "no",
        "since Linux 4.7 /dev/ptmx opens the devpts beside it; and a container may have"
        " a /dev of its own",
    ),
    Preparation(
        "rc.sysinit",
        "no",
        "as it came it runs to its end: what it asks of hardware fails, or finds what a"
        " container has",
    ),
    Preparation(
        "halt",
        "no",
        "as it came it runs to its end: swapoff and the clock are refused to any"
        " container, and the device list has neither",
    ),
    Preparation(
        "start-ttys or inittab",
        "no",
        "lxc.tty.max = 6 gives it tty1 to tty6, lxcctl console --tty N reaches them",
    ),
    Preparation(
        "ifcfg",
        "no",
        "its HWADDR is not there, so the guest itself leaves it aside; addresses come"
        " from the configuration",
    ),
    Preparation(
        "fstab",
        "no",
        "lines that no container can follow (root, disks, swap) are left out in a copy"
        " that hangs over it; lxcctl plan shows it",
    ),
    Preparation(
        "extra loop devices, losetup, kpartx",
        "no",
        "lxc.rootfs.path = loop:FILE takes a free one inside the container's start, any"
        " number of them",
    ),
    Preparation(
        "default route by hand",
        "no",
        "lxc.network.ipv4.gateway (lxc.net.0.ipv4.gateway), in any era",
    ),
    Preparation(
        "a bridge",
        "only for this network",
        "who wants to be on eth0's segment needs one with eth0 in it; else lxcd's own serves",
    ),
    Preparation(
        "/run/sshd for 001",
        "by Debian's sshd",
        "it lies in memory (/run) there, and the article binds / without what is mounted in it",
    ),
)
