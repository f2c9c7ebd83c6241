"""Containers of which each place of a start can fail: see `test_faults`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lxcd.supervisor.faults import PHASES
from lxcd.v1 import container_pb2
from tests.system import images, ledger, roots, wires
from tests.system.boxes import IDMAP, KERNEL_MOUNTS, over
from tests.system.calls import IDLE
from tests.system.host import Host

FAULTS = ("EIO", "kill-child", "kill-keeper", "kill-daemon")
# Steps of a device node that comes and goes, and a call that each makes: see `test_device_nodes_faults`.
OF_NODES = {"make_node": "mknodat", "bind_node": "openat2", "unbind_node": "umount2"}

NAME = f"f{os.environ[ledger.MARK][:10]}"  # nobody else's cgroup has this in its name

_WHOLE = """\
lxc.uts.name = inside
lxc.rootfs.options = idmap=container
lxc.time.offset.boot = 1h
lxc.prlimit.nofile = 200:300
lxc.proc.oom_score_adj = 123
lxc.autodev = 1
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.mount.fstab = {host.root}/fstab
lxc.mount.entry = {host.root}/share mnt none bind 0 0
lxc.mount.entry = etc/inittab srv/inittab none bind,relative,create=file 0 0
lxc.mount.entry = tmpfs run tmpfs size=64k 0 0
lxc.pty.max = 8
lxc.tty.max = 2
lxc.sysctl.net.ipv4.ip_forward = 1
lxc.arch = i686
lxc.cap.drop = sys_time
lxc.no_new_privs = 1
"""


def _whole(host: Host, busybox: Path) -> str:
    """All in one: every namespace, every kind of mount, console and ttys, every limit of rights."""
    share = host.root / "share"
    share.mkdir()
    (host.root / "fstab").write_text(f"# at home\n{share} home none bind 0 0\n")
    root = roots.copy(busybox, host.root / "root")
    return f"lxc.rootfs.path = {root}\n{IDMAP}{_WHOLE.format(host=host)}"


def _pipes(host: Host, busybox: Path) -> str:
    """Pipes instead of a console, device nodes instead of binds, and an overlay; the host's users."""
    return over(host, busybox, NAME) + KERNEL_MOUNTS + "lxc.console.path = none\n"


def _below(host: Host, busybox: Path) -> str:
    """In a cgroup below another, which no prepared child fits; init is a system's, in the host's pid namespace."""
    return (
        over(host, busybox, NAME)
        + KERNEL_MOUNTS
        + f"lxc.cgroup.dir = {NAME}.above/further\nlxc.namespace.keep = pid ipc\n"
        + "lxc.init.cmd = /bin/sleep 100000\n"
    )


def _devices(host: Host, busybox: Path) -> str:
    """Devices of every kind that takes something of the host."""
    return (
        over(host, busybox, NAME)
        + KERNEL_MOUNTS
        + wires.nic("link = br0", "flags = up", "veth.pair = web0", "ipv4.address = 10.9.0.2/24")
        + wires.nic("link = card0", "flags = up", "name = lan", "mtu = 1400", number=1, kind="phys")
        + wires.nic("link = lan0", "script.up = true", number=2, kind="macvlan")
        + "lxc.sysctl.net.ipv4.conf.lan.rp_filter = 2\n"
    )


@contextmanager
def _cards(host: Host) -> Iterator[None]:
    with (
        wires.device(host, "br0", "type", "bridge"),
        wires.pair(host, "card0"),
        wires.pair(host, "lan0"),
    ):
        yield


def _core(host: Host, busybox: Path) -> str:
    """A cookie for core scheduling, which not every kernel has."""
    return over(host, busybox, NAME) + KERNEL_MOUNTS + "lxc.sched.core = 1\n"


def _shared(host: Host, busybox: Path) -> str:
    """In somebody else's network, with ids of its own: those namespaces that are its own are made by itself."""
    return (
        over(host, busybox, NAME)
        + IDMAP
        + f"lxc.mount.auto = proc:mixed\nlxc.namespace.share.net = {host.machine.pid}\n"
    )


def _image(host: Host, busybox: Path) -> str:
    """In a partition of a disk image, with ids of its own."""
    path = host.root / "vm.img"
    images.disk(host, path, "gpt", (images.Filler("swap"), images.Filler("ext4")), busybox)
    return (
        f"lxc.rootfs.path = loop:{path}\nlxc.rootfs.options = partition=2,idmap=container\n"
        + IDMAP
        + KERNEL_MOUNTS
    )


# Of a container without devices.
_PHASES = frozenset(PHASES) - {"network"}


@dataclass(frozen=True)
class Case:
    """A container, and the places of its start where something can be made to happen."""

    config: Callable[[Host, Path], str]
    command: tuple[str, ...] = IDLE
    pipes: bool = False
    barriers: tuple[str, ...] = ("ready",)
    phases: frozenset[str] = _PHASES
    only: frozenset[str] = frozenset()  # of its steps only these; all, if empty
    stocked: bool = True  # children for it are prepared ahead
    around: Callable[[Host], AbstractContextManager[None]] | None = None  # what the host has
    long: bool = False
    without: str = ""  # a key to be 0 for a start that is to succeed: not every kernel can

    def options(self) -> dict[str, Any]:
        """Of a start."""
        return {"stdio": container_pb2.STDIO_PIPES} if self.pipes else {}


CASES = {
    "whole": Case(_whole, barriers=("limits", "ready")),
    # No ids are mapped in these.
    "pipes": Case(_pipes, pipes=True, phases=_PHASES - {"identity"}),
    "below": Case(_below, command=(), phases=_PHASES - {"identity"}, stocked=False),
    # Devices are made beside all the steps between two barriers: some of them will do for a check.
    "devices": Case(
        _devices,
        barriers=("network", "ready"),
        phases=frozenset(PHASES) - {"identity"},
        only=frozenset({"fork", "make_dev", "barrier", "execute"}),
        around=_cards,
    ),
    "devices-whole": Case(
        _devices,
        barriers=("network", "ready"),
        phases=frozenset(PHASES) - {"identity"},
        around=_cards,
        long=True,
    ),
    "shared": Case(
        _shared,
        barriers=("identity", "ready"),
        phases=_PHASES - {"identity"},
        only=frozenset({"share_namespace", "make_namespaces", "fork", "barrier"}),
    ),
    "image": Case(_image, only=frozenset({"fork", "attach_rootfs", "pivot_root", "execute"})),
    "core": Case(
        _core,
        barriers=(),
        phases=frozenset(),
        only=frozenset({"new_core_cookie"}),
        without="lxc.sched.core",
    ),
}


TRIALS = [
    pytest.param(name, marks=pytest.mark.long) if case.long else name
    for name, case in CASES.items()
]
