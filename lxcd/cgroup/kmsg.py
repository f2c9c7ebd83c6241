"""What the kernel says of kills and limits, and nobody else knows: the victim's name.

/dev/kmsg (Documentation/ABI/testing/dev-kmsg) gives one record at a time:
`LEVEL|FACILITY,SEQUENCE,USEC,FLAGS;TEXT`. The OOM killer writes three kinds of lines, all under one
lock, in this order:

    oom-kill:constraint=…,oom_memcg=PATH,task_memcg=PATH,task=NAME,pid=N,uid=N   at most 10 in 5 s
    Memory cgroup out of memory: Killed process N (NAME) total-vm:…               one per victim
    Tasks in PATH are going to be killed due to memory.oom.group set              more victims come

Names of processes and of cgroups below a container are its own choice, so they may look like any of
this: `x,pid=1,uid=0` is a good name. Therefore only what the kernel itself wrote counts (facility
0; a write to /dev/kmsg never gets that one), a line is read from its ends, where numbers are, and
one that can be read in two ways tells no cgroup.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/dev/kmsg"
_RECORD_BYTES = 8192  # CONSOLE_EXT_LOG_MAX
_FACILITY_SHIFT = 3
_HEADER_FIELDS = 3
_KILOBYTE = 1024
_SUMMARY = "oom-kill:constraint="
_GROUP = re.compile(r"Tasks in (/.*) are going to be killed due to memory\.oom\.group set")
_KILLED = re.compile(
    r"(?:Memory cgroup out of memory|Out of memory(?: \([a-z_]+\))?): "
    r"Killed process ([0-9]+) \((.*)\) total-vm:([0-9]+)kB, anon-rss:([0-9]+)kB, "
    r"file-rss:([0-9]+)kB, shmem-rss:([0-9]+)kB, UID:([0-9]+) pgtables:[0-9]+kB "
    r"oom_score_adj:-?[0-9]+",
    re.ASCII,
)
_FORK = re.compile(r"cgroup: fork rejected by pids controller in (/.*)")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Line:
    """One record of the kernel's own."""

    sequence: int
    text: str  # ASCII: what is not printable is escaped as \\xNN


@dataclass(frozen=True, slots=True)
class Victim:
    """One process that the OOM killer has killed. Its cgroup is empty where that was not told."""

    sequence: int
    name: str  # as the kernel escapes it: printable
    pid: int
    uid: int
    virtual_bytes: int
    resident_bytes: int
    cgroup: str
    limit_cgroup: str = ""  # the one that was at its limit; empty if the host was out of memory
    # If somebody could still look: as it was called inside, and its cgroup of version 2 where the
    # log had none, which may be another one than memory's.
    container_pid: int = 0
    seen_in: str = ""


@dataclass(frozen=True, slots=True)
class ForkRejected:
    """A cgroup has met its limit of processes for the first time: that is all the kernel says."""

    sequence: int
    cgroup: str


Found = Victim | ForkRejected


def parse(record: bytes) -> Line | None:
    """One record; None for what user space wrote, and for what is none."""
    header, separator, rest = record.partition(b";")
    fields = header.split(b",")
    if not separator or len(fields) < _HEADER_FIELDS:
        return None
    priority, sequence = fields[0], fields[1]
    if not (priority.isdigit() and sequence.isdigit()) or int(priority) >> _FACILITY_SHIFT:
        return None
    # Lines that begin with a blank are the record's properties.
    text = rest.partition(b"\n")[0]
    return Line(int(sequence), text.decode("ascii", errors="backslashreplace"))


class Reader:
    """Puts together what belongs together. Feed it lines in their order."""

    def __init__(self) -> None:
        self._summary = ""
        self._group = ""

    def feed(self, line: Line) -> Found | None:
        """What this line ends, if it ends something."""
        text = line.text
        if text.startswith(_SUMMARY):
            self._summary, self._group = text, ""
            return None
        if (group := _GROUP.fullmatch(text)) is not None:
            self._group = unescape(group[1])
            return None
        if (killed := _KILLED.fullmatch(text)) is not None:
            summary, self._summary = self._summary, ""
            return self._victim(line.sequence, killed, summary)
        if (fork := _FORK.fullmatch(text)) is not None:
            return ForkRejected(line.sequence, unescape(fork[1]))
        if " invoked oom-killer: " in text:
            self._summary = self._group = ""
        return None

    def _victim(self, sequence: int, killed: re.Match[str], summary: str) -> Victim:
        pid, name, virtual, *resident, uid = killed.groups()
        own, limit = _cgroups(summary, f",task={name},pid={pid},uid={uid}")
        return Victim(
            sequence,
            name,
            int(pid),
            int(uid),
            int(virtual) * _KILOBYTE,
            sum(map(int, resident)) * _KILOBYTE,
            own or self._group,
            limit,
        )


def _cgroups(summary: str, tail: str) -> tuple[str, str]:
    """The victim's cgroup and the one at its limit, of a line that must end with `tail`."""
    if not summary.endswith(tail):
        return "", ""
    before, *paths = summary.removesuffix(tail).split(",task_memcg=")
    if len(paths) != 1:
        return "", ""
    _, *limits = before.split(",oom_memcg=")
    return unescape(paths[0]), unescape(limits[0]) if len(limits) == 1 else ""


def unescape(text: str) -> str:
    """A path as it is, from what the kernel makes printable."""
    data = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
    return os.fsdecode(data.encode("latin-1", errors="replace"))


class Log:
    """The kernel's log, from the oldest line that it still has. Raises OSError: EPERM without
    CAP_SYSLOG where kernel.dmesg_restrict is 1, ENOENT where there is none.
    """

    def __init__(self) -> None:
        self._fd = os.open(PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._reader = Reader()
        self.sequence = 0  # of the last line that was read

    def fileno(self) -> int:
        """For epoll(7)."""
        return self._fd

    def skip(self) -> None:
        """Pass over all that is there: what is new comes after the last `sequence`."""
        for record in self._records():
            line = parse(record)
            if line is not None:
                self.sequence = line.sequence

    def read(self) -> list[Found]:
        """What is new."""
        found: list[Found] = []
        for record in self._records():
            line = parse(record)
            if line is not None:
                self.sequence = line.sequence
                one = self._reader.feed(line)
                if one is not None:
                    found.append(one)
        return found

    def _records(self) -> Iterator[bytes]:
        while True:
            try:
                yield os.read(self._fd, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # overwritten before it was read; the next is the oldest that is left
            except OSError:
                return  # EAGAIN: that was all

    def close(self) -> None:
        """Let go of it."""
        with contextlib.suppress(OSError):
            os.close(self._fd)
