"""What is started: a tiny root file system, and configurations that every contestant gets alike."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrib.benchmark.commands import BenchError
from contrib.benchmark.figures import PRIVILEGED, UNPRIVILEGED

if TYPE_CHECKING:
    from pathlib import Path

ID_RANGE = 65536
# No user of the machine needs to have been granted them: /etc/subuid is the run's own.
FIRST_ID = 1_000_000

# Init of what is started only to be timed: it does nothing, so that the next one has the machine.
IDLE = ("/bin/sleep", "1000000")
TRUE = "/bin/true"
# Init of a system container, with a shell on its console, as LXC's busybox template has it.
SYSTEM = ("/sbin/init",)

_DIRECTORIES = (
    *("bin", "sbin", "usr/bin", "usr/sbin", "lib", "etc/init.d"),
    *("dev", "proc", "sys", "tmp", "run", "root", "var/log"),
)
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\ntty:x:5:\n",
    # systemd-nspawn wants to see that this is a system.
    "etc/os-release": "ID=bench\n",
    "etc/inittab": "::sysinit:/etc/init.d/rcS\nconsole::respawn:-/bin/sh\n",
    "etc/init.d/rcS": '#!/bin/sh\necho "busybox is up"\n',
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A configuration that is measured: with the host's ids, or with mapped ones."""

    name: str
    rootfs: Path
    first_id: int | None
    network: tuple[str, ...] = ("lxc.net.0.type = empty", "lxc.net.0.flags = up")

    def config(self, init: tuple[str, ...]) -> str:
        """LXC's text for it; lxcd and stock LXC get the same, and no default decides anything."""
        lines = [
            f"lxc.rootfs.path = dir:{self.rootfs}",
            "lxc.uts.name = bench",
            *self.network,
            "lxc.mount.auto = proc:mixed sys:mixed",
            "lxc.autodev = 1",
            "lxc.tty.max = 0",
            "lxc.pty.max = 1024",
            # Not every contestant has a profile, and the kernel need not have AppArmor.
            "lxc.apparmor.profile = unconfined",
        ]
        if init:
            lines.append(f"lxc.init.cmd = {' '.join(init)}")
        if self.first_id is not None:
            lines += [f"lxc.idmap = {which} 0 {self.first_id} {ID_RANGE}" for which in "ug"]
        return "\n".join(lines) + "\n"


def make_kinds(work: Path) -> tuple[Kind, Kind]:
    """Build both root file systems; they differ in their owner."""
    plain, mapped = work / "rootfs", work / "rootfs-mapped"
    _build(plain)
    shutil.copytree(plain, mapped, symlinks=True)
    for folder, folders, names in os.walk(mapped):
        for name in (".", *folders, *names):
            os.lchown(os.path.join(folder, name), FIRST_ID, FIRST_ID)
    return Kind(PRIVILEGED, plain, None), Kind(UNPRIVILEGED, mapped, FIRST_ID)


def define(lxcpath: Path, name: str, config: str) -> None:
    """Define a container the way both lxcd and stock LXC find it: LXCPATH/NAME/config."""
    directory = lxcpath / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config").write_text(config)


def _build(target: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise BenchError("busybox is not installed (Debian: busybox-static)")
    for name in _DIRECTORIES:
        (target / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (target / name).write_text(text)
    (target / "etc/init.d/rcS").chmod(0o755)
    shutil.copy(busybox, target / "bin/busybox")
    listed = subprocess.run(  # noqa: S603  found on PATH
        [busybox, "--list-full"], check=True, capture_output=True, text=True
    )
    for applet in listed.stdout.split():
        # `busybox` itself is there already; a link somewhere new is for nobody.
        with suppress(FileExistsError, FileNotFoundError):
            (target / applet).symlink_to("/bin/busybox")
