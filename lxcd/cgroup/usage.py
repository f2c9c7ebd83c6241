"""What a container uses, as one sample of its cgroups' counters tells. Pure.

The same fields whichever version counts them: `usage_v1.py` and `usage_v2.py` make them of the
kernel's files. None is what this kernel does not count, or what is not limited.
"""

from __future__ import annotations

from dataclasses import dataclass

# What a file holds; None if there is none.
Text = bytes | None


@dataclass(frozen=True, slots=True)
class Cpu:
    """Time of processors."""

    usage_usec: int | None = None
    user_usec: int | None = None
    system_usec: int | None = None
    # Of a quota: periods that have gone by, those in which it had to wait, and for how long.
    periods: int | None = None
    throttled_periods: int | None = None
    throttled_usec: int | None = None
    per_cpu_usage_usec: tuple[int, ...] = ()  # version 1 alone counts it
    quota_usec: int | None = None  # None without one; then there is no period either
    period_usec: int | None = None
    weight: int | None = None  # in version 2's scale
    effective_cpus: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory. Limits are None where there is none."""

    usage_bytes: int | None = None
    working_set_bytes: int | None = None  # without page cache that can go at once
    peak_bytes: int | None = None
    limit_bytes: int | None = None
    anon_bytes: int | None = None
    file_bytes: int | None = None
    kernel_bytes: int | None = None
    shmem_bytes: int | None = None
    swap_usage_bytes: int | None = None
    swap_limit_bytes: int | None = None  # of swap alone
    page_faults: int | None = None
    major_page_faults: int | None = None
    limit_hits: int | None = None
    oom_events: int | None = None  # version 2 alone counts them
    oom_kills: int | None = None


@dataclass(frozen=True, slots=True)
class Pids:
    """Tasks, and processes."""

    current: int | None = None
    peak: int | None = None
    limit: int | None = None  # None without one
    limit_hits: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class Io:
    """What went to a block device and came from it."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    read_operations: int = 0
    write_operations: int = 0
    device: str = ""  # below /dev


@dataclass(frozen=True, slots=True)
class Share:
    """Of time in which some, or all, tasks waited: Documentation/accounting/psi.rst."""

    avg10_percent: float
    avg60_percent: float
    avg300_percent: float
    total_usec: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """Of one resource."""

    some: Share
    full: Share | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """One sample."""

    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    pids: Pids = Pids()
    io: tuple[Io, ...] = ()
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None


def number(text: Text) -> int | None:
    """A file with one number in it."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return None


def limit(text: Text) -> int | None:
    """The same where `max`, or a negative number, is none at all."""
    found = number(text)
    return None if found is None or found < 0 else found


def word(text: Text) -> str:
    """A file with one word in it; empty if there is none."""
    return "" if text is None else text.decode(errors="replace").strip()


def valued(text: Text, *keys: bytes) -> list[int | None]:
    """Of a file with `KEY NUMBER` in each line: the numbers of these keys, each of which is given
    with the newline before it and the space behind it; None of one that is not there.

    Searched for, and not split into all its words: of fifty lines ten are wanted.
    """
    if text is None:
        return [None] * len(keys)
    lines = b"\n" + text
    find = lines.find
    found: list[int | None] = []
    for key in keys:
        begin = find(key)
        if begin < 0:
            found.append(None)
            continue
        begin += len(key)
        end = find(b"\n", begin)
        try:
            found.append(int(lines[begin:end] if end >= 0 else lines[begin:]))
        except ValueError:
            found.append(None)
    return found


def less(whole: int | None, part: int | None) -> int | None:
    """What is left; both were read at slightly different moments."""
    return None if whole is None or part is None else max(0, whole - part)
