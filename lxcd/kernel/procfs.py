"""Readers for /proc: proc(5). What is gone by the time it is read raises ProcessLookupError or
FileNotFoundError.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from lxcd.kernel.fd import Fd

_OCTAL = re.compile(r"\\([0-7]{3})")
# From include/linux/sched.h.
_PF_EXITING = 0x4
_PIECE_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Status:
    """The lines of /proc/PID/status that somebody needs."""

    comm: str
    state: str
    parent_pid: int
    uid: int
    pids: tuple[int, ...]  # NSpid: in every pid namespace, the reader's first, its own last
    signals_blocked: int
    signals_caught: int


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/PID/mountinfo."""

    mount_id: int
    parent_id: int
    root: str
    target: str
    options: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]


def read(pid: int | str, name: str, limit: int = 1 << 20) -> bytes:
    """Content of /proc/PID/NAME, at most `limit` bytes."""
    with Fd(os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)) as file:
        # Most fit into the first piece. Room for all that there may be would be cleared each time.
        pieces: list[bytes] = []
        while limit > 0 and (piece := os.read(file.fileno(), min(limit, _PIECE_BYTES))):
            pieces.append(piece)
            limit -= len(piece)
    return b"".join(pieces)


def pids() -> list[int]:
    """All processes that this process's /proc shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def status(pid: int | str) -> Status:
    """Parse /proc/PID/status."""
    fields: dict[str, str] = {}
    for line in _lines(read(pid, "status").decode(errors="surrogateescape")):
        key, _, value = line.partition(":")
        fields[key] = value.strip()
    own = fields.get("Pid", "0")
    return Status(
        comm=fields.get("Name", ""),
        state=fields.get("State", "?")[:1],
        parent_pid=int(fields.get("PPid", "0")),
        uid=int(fields.get("Uid", "0").split()[0]),
        pids=tuple(int(word) for word in fields.get("NSpid", own).split()),
        signals_blocked=int(fields.get("SigBlk", "0"), 16),
        signals_caught=int(fields.get("SigCgt", "0"), 16),
    )


def start_time(pid: int | str) -> int:
    """Field 22 of /proc/PID/stat: clock ticks from boot to its start. With the pid it names one
    process for good.
    """
    # comm may hold blanks and brackets: count from the last one.
    return int(read(pid, "stat").rpartition(b")")[2].split()[19])


def exit_status(pid: int | str) -> int | None:
    """Wait status of a zombie, field 52 of /proc/PID/stat; None of what still lives."""
    fields = read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[49]) if fields[0] == b"Z" else None


def is_exiting(pid: int | str) -> bool:
    """Whether it is on its way out (PF_EXITING of field 9 of /proc/PID/stat), or gone. A PID 1 is
    that for as long as others of its namespace are: nothing can join or be forked there any more.
    """
    try:
        fields = read(pid, "stat").rpartition(b")")[2].split()
    except OSError:
        return True
    return bool(int(fields[6]) & _PF_EXITING)


def command(pid: int | str) -> list[str]:
    """/proc/PID/cmdline, split; empty for a zombie or a kernel thread."""
    data = read(pid, "cmdline")
    return (
        [part.decode(errors="surrogateescape") for part in data.rstrip(b"\0").split(b"\0")]
        if data
        else []
    )


def cgroups(pid: int | str) -> dict[str, str]:
    """/proc/PID/cgroup: controllers as written (`cpu,cpuacct`, `name=systemd`, empty for v2) ->
    path.
    """
    found: dict[str, str] = {}
    for line in _lines(read(pid, "cgroup").decode(errors="surrogateescape")):
        _, controllers, path = line.split(":", 2)
        found[controllers] = path
    return found


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse the text of a mountinfo file."""
    mounts: list[Mount] = []
    for line in _lines(text):
        before, _, behind = line.partition(" - ")
        words = before.split(" ")
        fstype, source, *more = behind.split(" ", 2)
        mounts.append(
            Mount(
                mount_id=int(words[0]),
                parent_id=int(words[1]),
                root=_unescape(words[3]),
                target=_unescape(words[4]),
                options=tuple(words[5].split(",")),
                fstype=fstype,
                source=_unescape(source),
                super_options=tuple(more[0].split(",")) if more else (),
            )
        )
    return mounts


def mounts(pid: int | str = "self") -> list[Mount]:
    """Mounts that a process sees."""
    return parse_mountinfo(read(pid, "mountinfo", 64 << 20).decode(errors="surrogateescape"))


def filesystems() -> dict[str, bool]:
    """/proc/filesystems: type -> whether it needs a device."""
    found: dict[str, bool] = {}
    with open("/proc/filesystems", encoding="ascii") as file:
        for line in file:
            nodev, _, name = line.rstrip("\n").partition("\t")
            found[name] = nodev != "nodev"
    return found


def namespace_id(pid: int | str, name: str) -> int:
    """Inode of /proc/PID/ns/NAME: the identity of a namespace while anybody holds it."""
    return os.stat(f"/proc/{pid}/ns/{name}").st_ino


def _lines(text: str) -> list[str]:
    """Lines end at a newline and nowhere else: str.splitlines would also cut at characters that a
    container may put into the name of a cgroup or a mount point.
    """
    return [line for line in text.split("\n") if line]


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
