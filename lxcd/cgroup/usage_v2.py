"""Version 2's files as numbers. Pure.

    cpu.stat, cpu.max, cpu.weight, cpuset.cpus.effective
    memory.current and its like, memory.stat, memory.events
    pids.current, pids.peak, pids.max, pids.events: version 1 has them, too
    io.stat, and KIND.pressure of each

Documentation/admin-guide/cgroup-v2.rst of the kernel tells what they mean.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from lxcd.cgroup.usage import (
    Cpu,
    Io,
    Memory,
    Pids,
    Pressure,
    Share,
    less,
    limit,
    number,
    valued,
    word,
)

if TYPE_CHECKING:
    from lxcd.cgroup.usage import Text

_PRESSURE = re.compile(
    rb"^(some|full) avg10=(\d+\.\d+) avg60=(\d+\.\d+) avg300=(\d+\.\d+) total=(\d+)$", re.MULTILINE
)


def cpu(stat: Text, most: Text, weight: Text, effective_cpus: Text) -> Cpu:
    """Controllers cpu and cpuset; without them cpu.stat has the first three numbers all the
    same.
    """
    usage, user, system, periods, throttled, throttled_usec = valued(
        stat,
        b"\nusage_usec ",
        b"\nuser_usec ",
        b"\nsystem_usec ",
        b"\nnr_periods ",
        b"\nnr_throttled ",
        b"\nthrottled_usec ",
    )
    quota, _, period = (most or b"").partition(b" ")
    allowed = limit(quota)
    return Cpu(
        usage_usec=usage,
        user_usec=user,
        system_usec=system,
        periods=periods,
        throttled_periods=throttled,
        throttled_usec=throttled_usec,
        quota_usec=allowed,
        period_usec=None if allowed is None else number(period),
        weight=number(weight),
        effective_cpus=word(effective_cpus),
    )


def memory(
    usage: Text,
    peak: Text,
    most: Text,
    stat: Text,
    swap: Text,
    most_swap: Text,
    events: Text,
) -> Memory:
    """Controller memory."""
    used = number(usage)
    anon, file, kernel, shmem, inactive, faults, major = valued(
        stat,
        b"\nanon ",
        b"\nfile ",
        b"\nkernel ",
        b"\nshmem ",
        b"\ninactive_file ",
        b"\npgfault ",
        b"\npgmajfault ",
    )
    hits, oom, kills = valued(events, b"\nmax ", b"\noom ", b"\noom_kill ")
    return Memory(
        usage_bytes=used,
        working_set_bytes=less(used, inactive),
        peak_bytes=number(peak),
        limit_bytes=limit(most),
        anon_bytes=anon,
        file_bytes=file,
        kernel_bytes=kernel,
        shmem_bytes=shmem,
        swap_usage_bytes=number(swap),
        swap_limit_bytes=limit(most_swap),
        page_faults=faults,
        major_page_faults=major,
        limit_hits=hits,
        oom_events=oom,
        oom_kills=kills,
    )


def pids(current: Text, peak: Text, most: Text, events: Text, processes: int | None) -> Pids:
    """Controller pids, of either version."""
    return Pids(
        current=number(current),
        peak=number(peak),
        limit=limit(most),
        limit_hits=valued(events, b"\nmax ")[0],
        processes=processes,
    )


def io(stat: Text) -> tuple[Io, ...]:
    """Controller io: `MAJOR:MINOR rbytes=NUMBER …` in each line."""
    found: list[Io] = []
    for line in (stat or b"").splitlines():
        device, _, rest = line.partition(b" ")
        pairs = {key: value for key, _, value in (part.partition(b"=") for part in rest.split())}
        try:
            major, minor = map(int, device.split(b":"))
            one = Io(
                major,
                minor,
                read_bytes=int(pairs[b"rbytes"]),
                write_bytes=int(pairs[b"wbytes"]),
                read_operations=int(pairs[b"rios"]),
                write_operations=int(pairs[b"wios"]),
            )
        except (KeyError, ValueError):
            # A device that it has not used yet may be there without a number.
            continue
        found.append(one)
    return tuple(found)


@lru_cache(maxsize=4096)
def pressure(text: Text) -> Pressure | None:
    """KIND.pressure; None where the kernel does not count it, or was told not to.

    Remembered: of most containers, most of the time, it says the same.
    """
    shares = {
        kind: Share(float(ten), float(sixty), float(three_hundred), int(total))
        for kind, ten, sixty, three_hundred, total in _PRESSURE.findall(text or b"")
    }
    some = shares.get(b"some")
    return None if some is None else Pressure(some, shares.get(b"full"))
