"""The disk image of a virtual machine, as the article has one: the second partition is the root.

The guest behaves as one of Red Hat's does at boot and at halt, in a few scripts (`guest/`), on
busybox, with this machine's bash and sshd. Nothing in it knows of containers.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contrib.benchmark.commands import Commands

_GUEST = Path(__file__).with_name("guest")
_SECTOR_BYTES = 512
_MIB = 1 << 20
_LINUX, _SWAP = 0x83, 0x82
_UUID = "6a1b5c3e-60a1-4b7e-8d7e-00000000000{}"
_DIRECTORIES = (
    *("bin", "boot", "dev/pts", "dev/shm", "lib64", "mnt", "proc", "root/.ssh", "sys", "tmp"),
    *("etc/rc.d/rc0.d", "etc/rc.d/rc3.d", "usr/bin", "usr/sbin", "var/empty/sshd"),
    *("var/lock", "var/log", "var/run/sshd", "var/spool/cron/crontabs"),
)
# In which order services start and end.
_SERVICES = {
    "rc3.d": {
        "S10network": "network",
        "S12syslogd": "syslogd",
        "S55sshd": "sshd",
        "S90crond": "crond",
    },
    "rc0.d": {
        "K25sshd": "sshd",
        "K60crond": "crond",
        "K88syslogd": "syslogd",
        "K90network": "network",
        "S01halt": "halt",
    },
}
_LINKS = {"etc/init.d": "rc.d/init.d", "run": "var/run", "bin/bash": "../usr/bin/bash"}
# sshd(8) of later versions consists of several programs.
_PROGRAMS = (
    *("bash", "sshd"),
    *("/usr/lib/openssh/sshd-session", "/usr/lib/openssh/sshd-auth"),
)
_LIBRARY = re.compile(r"(/\S+) \(0x")


@dataclass(frozen=True, slots=True)
class _Partition:
    kind: int
    first_mib: int
    size_mib: int

    def entry(self) -> bytes:
        """Sixteen bytes of the table; sectors are counted, cylinders are not."""
        sectors = _MIB // _SECTOR_BYTES
        place = (self.first_mib * sectors, self.size_mib * sectors)
        return struct.pack("<B3sB3sII", 0, bytes(3), self.kind, bytes(3), *place)


_BOOT = _Partition(_LINUX, 1, 8)
_ROOT = _Partition(_LINUX, 9, 96)
_SWAPPED = _Partition(_SWAP, 105, 8)
ROOT_OFFSET_BYTES = _ROOT.first_mib * _MIB


def partition_table() -> bytes:
    """The end of the first sector: four entries and the signature."""
    entries = b"".join(one.entry() for one in (_BOOT, _ROOT, _SWAPPED))
    return entries.ljust(64, b"\0") + b"\x55\xaa"


def make(commands: Commands, image: Path, scratch: Path, password: str, key: str) -> None:
    """Write the image. `key` may log in as root by ssh; so may who knows the password."""
    root = scratch / "guest"
    _fill(commands, root, password, key)
    with image.open("wb") as file:
        file.truncate(_MIB * (_SWAPPED.first_mib + _SWAPPED.size_mib))
        file.seek(446)
        file.write(partition_table())
    boot = scratch / "boot"
    boot.mkdir()
    for number, (partition, source) in enumerate(((_BOOT, boot), (_ROOT, root)), 1):
        commands.run(
            *(commands.find("mke2fs"), "-q", "-F", "-t", "ext4", "-O", "^has_journal"),
            *("-U", _UUID.format(number), "-d", str(source)),
            *("-E", f"offset={partition.first_mib * _MIB}", "-b", "4096", "-I", "256"),
            *(str(image), f"{partition.size_mib}M"),
        )
    swap = scratch / "swap"
    with swap.open("wb") as file:
        file.truncate(_SWAPPED.size_mib * _MIB)
    commands.run(commands.find("mkswap"), "-U", _UUID.format(3), str(swap))
    with image.open("r+b") as file:
        file.seek(_SWAPPED.first_mib * _MIB)
        file.write(swap.read_bytes())
    for directory in (root, boot):
        shutil.rmtree(directory)
    swap.unlink()


def _fill(commands: Commands, root: Path, password: str, key: str) -> None:
    shutil.copytree(_GUEST, root)
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    for path in (*(root / "sbin").iterdir(), *(root / "etc/rc.d").rglob("*")):
        path.chmod(0o755)
    for level, scripts in _SERVICES.items():
        for name, service in scripts.items():
            (root / "etc/rc.d" / level / name).symlink_to(f"../init.d/{service}")
    (root / "tmp").chmod(0o1777)
    (root / "root/.ssh").chmod(0o700)
    (root / "root").chmod(0o700)
    (root / "root/.ssh/authorized_keys").write_text(key)
    hashed = commands.run(commands.find("busybox"), "mkpasswd", "-m", "sha512", password)
    (root / "etc/shadow").write_text(f"root:{hashed.output.strip()}:15000:0:99999:7:::\n")
    (root / "etc/shadow").chmod(0o600)
    host_key = root / "etc/ssh/ssh_host_ed25519_key"
    commands.run(
        *(commands.find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
    )
    _programs(commands, root)


def _programs(commands: Commands, root: Path) -> None:
    """Busybox with all its names, and programs of this machine with their libraries."""
    busybox = commands.find("busybox")
    for name in _PROGRAMS:
        program = commands.find(name)
        if program:
            _install(program, root)
            for library in _LIBRARY.findall(commands.run(commands.find("ldd"), program).output):
                _install(library, root)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in commands.run(busybox, "--list-full").output.split():
        path = root / applet
        if not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to("/bin/busybox")


def _install(path: str, root: Path) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy(path, target)
