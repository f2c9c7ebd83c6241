"""What a file of a cgroup says after it was written, in which order values are written to a cgroup
that has some, and how what was there comes back. Pure.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from lxcd.cgroup import amounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lxcd.cgroup.limits import Write

# Files with a line for each device, or whatever else its first word names.
_KEYED = re.compile(
    r"io\.(max|latency)|blkio\.throttle\..*|blkio\.(bfq\.|leaf_)?weight_device"
    r"|net_prio\.ifpriomap|rdma\.max|misc\.max|dmem\.(max|min|low)|io\.(bfq\.)?weight"
)
_LISTS = ("cpuset.cpus", "cpuset.mems", "cpuset.cpus.exclusive")
_WEIGHTS = re.compile(r"io\.(bfq\.)?weight|blkio\.(bfq\.|leaf_)?weight_device")
_LIMIT, _SUM = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
_BURSTS = ("cpu.cfs_burst_us", "cpu.max.burst")
# While these are on, others cannot be written: switched off first, and on last.
_SWITCHES = {"cpu.idle": "0", "cpuset.cpus.partition": "member"}
_EXCLUSIVE = ("cpuset.cpu_exclusive", "cpuset.mem_exclusive")
_NO_LIMIT = "max"
# What a directory has that was just made.
_UNLIMITED = {
    "blkio.bfq.weight": "100",
    "blkio.weight": "500",
    "cpu.cfs_burst_us": "0",
    "cpu.cfs_period_us": "100000",
    "cpu.cfs_quota_us": "-1",
    "cpu.idle": "0",
    "cpu.max": "max 100000",
    "cpu.max.burst": "0",
    "cpu.shares": "1024",
    "cpu.weight": "100",
    "cpu.weight.nice": "0",
    "memory.high": _NO_LIMIT,
    "memory.limit_in_bytes": "-1",
    "memory.low": "0",
    "memory.max": _NO_LIMIT,
    "memory.memsw.limit_in_bytes": "-1",
    "memory.min": "0",
    "memory.oom.group": "0",
    "memory.oom_control": "0",
    "memory.soft_limit_in_bytes": "-1",
    "memory.swap.high": _NO_LIMIT,
    "memory.swap.max": _NO_LIMIT,
    "pids.max": _NO_LIMIT,
}


def agrees(write: Write, read: str) -> bool:
    """Tell whether the file, of which `read` is the text, says what was written."""
    if write.file in _LISTS:
        return _list(read) == _list(write.value)
    if write.file == "memory.oom_control":
        return _oom_control(read) == write.value
    if _KEYED.fullmatch(write.file):
        key, wanted = _line(write.file, write.value)
        has = _keyed(write.file, read).get(key, {})
        return all(has.get(part, _absent(write.file)) == value for part, value in wanted.items())
    return [_word(one) for one in read.split()] == [_word(one) for one in write.value.split()]


def order(writes: Iterable[Write], current: Mapping[str, str]) -> tuple[Write, ...]:
    """Put writes in an order that the kernel takes in a cgroup of which the files say `current`.

    Version 1 wants memory.memsw.limit_in_bytes never below memory.limit_in_bytes: what grows first,
    grows first. A burst may not be above the quota, so a smaller one comes before that.
    """
    writes = tuple(writes)
    sums = [write for write in writes if write.file == _SUM]
    raised = any(_amount(one.value) > _amount(current[_SUM]) for one in sums if _SUM in current)

    def place(write: Write) -> int:
        if write.file in _SWITCHES or write.file in _EXCLUSIVE:
            off = write.value == _SWITCHES.get(write.file, "0")
            return 0 if off else 9
        if write.file in _BURSTS:
            smaller = _amount(write.value) < _amount(current.get(write.file, "0"))
            return 1 if smaller else 8
        if write.file == _SUM:
            return 2 if raised else 4
        return 3

    return tuple(sorted(writes, key=place))


def undo(writes: Iterable[Write], before: Mapping[str, str]) -> tuple[Write, ...]:
    """Return what writes back what the files said `before`, in the order that fits if `writes` were
    carried out in theirs, all or some; a file of which nothing is known is left as it is.
    """
    undone: list[Write] = []
    for write in reversed(tuple(writes)):
        if write.file in before:
            value = _restored(write, before[write.file])
            undone.append(replace(write, value=value))
    return tuple(undone)


def unlimited(write: Write) -> str | None:
    """Return what to write for there to be no such limit; None if no value says that."""
    if write.file in _UNLIMITED:
        return _UNLIMITED[write.file]
    if re.fullmatch(r"hugetlb\..*\.max", write.file):
        return _NO_LIMIT
    if re.fullmatch(r"hugetlb\..*\.limit_in_bytes", write.file):
        return "-1"
    return _restored(write, "") if _KEYED.fullmatch(write.file) else None


def _restored(write: Write, read: str) -> str:
    if write.file == "memory.oom_control":
        return _oom_control(read)
    if write.file == "cpuset.cpus.partition":
        return (read.split() or ["member"])[0]
    if not _KEYED.fullmatch(write.file):
        # An empty list is written as a line: a write of nothing at all does nothing.
        return " ".join(read.split()) or "\n"
    key, wanted = _line(write.file, write.value)
    has = _keyed(write.file, read).get(key, {})
    parts = {part: has.get(part, _absent(write.file)) for part in wanted}
    if "" in parts:
        # A weight of a device that has none of its own is `default`; a limit of version 1 is 0.
        value = "0" if parts[""] == _NO_LIMIT and _is_throttle(write.file) else parts[""]
        return f"{key} {value}".strip()
    return " ".join([key, *(f"{part}={value}" for part, value in parts.items())])


def _keyed(file: str, read: str) -> dict[str, dict[str, str]]:
    return dict(_line(file, line) for line in read.splitlines() if line.strip())


def _line(file: str, line: str) -> tuple[str, dict[str, str]]:
    """Read one line: its key, and its values by name."""
    words = line.split()
    if len(words) == 1:
        words = ["default", *words] if _WEIGHTS.fullmatch(file) else ["", *words]
    key, *values = words or [""]
    parts: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        parts[name if equals else ""] = _limit(file, _word(text if equals else value))
    return key, parts


def _limit(file: str, word: str) -> str:
    return _NO_LIMIT if _is_throttle(file) and word == "0" else word


def _absent(file: str) -> str:
    """Say what it means that a device has no line."""
    if _WEIGHTS.fullmatch(file):
        return "default"
    return "0" if file == "io.latency" else _NO_LIMIT


def _is_throttle(file: str) -> bool:
    return file.startswith("blkio.throttle.")


def _list(text: str) -> frozenset[int] | str:
    try:
        return amounts.number_set(text, 0)
    except ValueError:
        return text


def _oom_control(read: str) -> str:
    words = read.split()
    return words[words.index("oom_kill_disable") + 1] if "oom_kill_disable" in words[:-1] else read


def _word(text: str) -> str:
    """Bring numbers to one form."""
    try:
        if re.fullmatch(r"[0-9]+\.[0-9]+", text, re.ASCII):
            return f"{float(text):.2f}"
        number = amounts.byte_count(text)
    except ValueError:
        return text
    return _NO_LIMIT if number is None else str(number)


def _amount(text: str) -> float:
    word = _word(text.strip())
    return float(word) if word.isdecimal() else float("inf")
