"""Before the first container: the kernel, the network, the root file systems."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.walkthrough import texts
from contrib.walkthrough.figures import Shown, lacks
from contrib.walkthrough.stage import IMAGE

if TYPE_CHECKING:
    from contrib.walkthrough.stage import Stage

ROOT_001 = "/lxc/rootfs/001"
ROOT_002 = "/lxc/rootfs/002"
_ROW = re.compile(r"^([\w/ ]+): (enabled|missing|required|not .*)$", re.MULTILINE)
# What a kernel of today may be without, and lxcd with it.
_OPTIONAL = {"Macvlan", "Vlan", "User namespace", "Cgroup memory controller"}
_BRIDGE = """\
ip link add br0 type bridge
ip link add eth0 type veth peer name wire0 netns {there}
ip link set eth0 master br0 up
ip addr add 192.168.122.199/24 dev br0
ip link set br0 up"""
_THERE = """\
ip link set lo up
ip link set wire0 up
ip addr add 192.168.122.1/24 dev wire0
ip addr add 10.20.30.40/32 dev lo"""
# A guest's halt without what the article takes out of it.
_WITHOUT_SWAP = r"sed -i '/^# Turn off swap/,/^# End of swap/d' {root}/etc/rc.d/init.d/halt"
_ON_CONSOLE = (
    r"sed -i -e 's/^\tfor tty/\tinitctl start serial DEV=console SPEED=38400\n&/'"
    r" {root}/etc/init/start-ttys.conf &&"
    r" sed -i -e '/^\tfor tty/,/^\tdone/s/^/#/' {root}/etc/init/start-ttys.conf"
)
# What is left of it in a container, as in the article.
_SYSINIT = r"""#!/bin/bash

. /etc/init.d/functions
HOSTNAME=$(/bin/hostname)
[ -f /etc/sysconfig/network ] && . /etc/sysconfig/network
[ ! -z "$GATEWAY" ] && route add default gw $GATEWAY
printf '\n\t\tWelcome to %s\n\n' "$(sed 's/ release.*//' /etc/system-release)"
action "Setting hostname $HOSTNAME: " hostname "$HOSTNAME"

: >/etc/mtab
mount -f /proc >/dev/null 2>&1
mount -f /sys >/dev/null 2>&1
mount -f /dev/pts >/dev/null 2>&1
action "Mounting local filesystems: " mount -a -t nonfs,nfs4,cifs -O no_netdev
find /var/lock /var/run ! -type d -exec rm -f {} \;
: >/var/run/utmp
touch /var/log/wtmp
rm -rf /tmp/*
"""


def checkconfig(stage: Stage) -> Shown:
    """The kernel."""
    shown = stage.sh("lxc-checkconfig", check=False)
    wanted = [name for name, _ in _ROW.findall(texts.CHECKCONFIG)]
    found = dict(_ROW.findall(shown))
    wrong = [] if [name for name in found if name in wanted] == wanted else ["other rows"]
    wrong += [
        f"{name} is {found.get(name)}"
        for name in wanted
        if found.get(name) != "enabled" and name not in _OPTIONAL
    ]
    return Shown(shown, wrong=tuple(wrong))


def bridge(stage: Stage) -> Shown:
    """Red Hat's files, said with ip(8)."""
    lines = _BRIDGE.format(there=stage.elsewhere)
    stage.sh(f"set -e\n{lines}")
    stage.there(f"set -e\n{_THERE}")
    shown = stage.sh("ip -br addr show br0; ip -br link show master br0")
    stage.there("busybox ping -c 1 -W 20 192.168.122.199")
    return Shown(
        shown,
        typed="\n".join(f"# {line}" for line in lines.splitlines()),
        because="the files are Red Hat's; eth0 is a cable to a namespace with 192.168.122.1",
        wrong=lacks(shown, "192.168.122.199/24", "eth0"),
    )


def bind_root(stage: Stage) -> Shown:
    """All of the host, manly."""
    lines = (f"mkdir -p {ROOT_001}", f"mount -o bind / {ROOT_001}", f"mkdir {ROOT_001}/run/sshd")
    stage.sh(" && ".join(lines))
    shown = stage.sh(f"ls -d {ROOT_001}/etc {ROOT_001}/usr {ROOT_001}/lxc")
    return Shown(
        shown,
        typed="\n".join(f"# {line}" for line in lines),
        because="Debian's sshd wants a directory of /run, which is mounted, and not bound along",
        wrong=lacks(shown, "/etc", "/usr", "/lxc"),
    )


def mount_image(stage: Stage) -> Shown:
    """The image's second partition."""
    device = stage.sh(f"losetup --show --find {IMAGE}")
    stage.claim(device)
    stage.sh(f"partx --add {device}")
    # As udev does it where the kernel's own /dev is not used.
    number = Path(f"/sys/class/block/{Path(device).name}p2/dev").read_text().strip()
    stage.sh(f"[ -e {device}p2 ] || mknod {device}p2 b {number.replace(':', ' ')}")
    stage.sh(f"mkdir -p {ROOT_002} && mount {device}p2 {ROOT_002}")
    shown = stage.sh(f"ls {ROOT_002}/sbin/init {ROOT_002}/etc/inittab")
    return Shown(
        shown,
        typed=f"# mkdir -p {ROOT_002}\n# losetup --show --find {IMAGE}\n"
        f"# partx --add {device}\n# mount {device}p2 {ROOT_002}",
        because="partx(8) tells the kernel of partitions without a device mapper",
        wrong=lacks(shown, "sbin/init", "etc/inittab"),
    )


def guest_changes(stage: Stage) -> Shown:
    """What the article edits inside."""
    (Path(ROOT_002) / "etc/rc.d/rc.sysinit").write_text(_SYSINIT)
    (Path(ROOT_002) / "etc/fstab").write_text(texts.GUEST_FSTAB)
    stage.sh(_WITHOUT_SWAP.format(root=ROOT_002))
    stage.sh(_ON_CONSOLE.format(root=ROOT_002))
    stage.sh(f"rm {ROOT_002}/etc/sysconfig/network-scripts/ifcfg-eth*")
    shown = stage.sh(f"grep -v '^#' {ROOT_002}/etc/init/start-ttys.conf; cat {ROOT_002}/etc/fstab")
    halt = Path(ROOT_002, "etc/rc.d/init.d/halt").read_text()
    wrong = [*lacks(shown, "initctl start serial DEV=console")]
    wrong += ["tty1 to tty6 are still started"] if "initctl start tty " in shown else []
    wrong += ["halt still has swapoff"] if "swapoff" in halt else []
    return Shown(shown, wrong=tuple(wrong))


ACTS = {
    "checkconfig": checkconfig,
    "bridge": bridge,
    "bind-root": bind_root,
    "mount-image": mount_image,
    "guest-changes": guest_changes,
}
