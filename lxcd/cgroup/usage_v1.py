"""Version 1's files as numbers. Pure.

    cpuacct  cpuacct.usage_percpu, cpuacct.stat (in ticks, which the kernel scales to the sum)
    cpu      cpu.stat, cpu.shares, cpu.cfs_quota_us, cpu.cfs_period_us
    cpuset   cpuset.effective_cpus
    memory   memory.usage_in_bytes and its like, memory.stat: `total_` is with cgroups below
    pids     as in version 2
    blkio    blkio.throttle.io_service_bytes_recursive, blkio.throttle.io_serviced_recursive

Documentation/admin-guide/cgroup-v1 of the kernel tells what they mean.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from lxcd.cgroup.usage import Cpu, Io, Memory, less, limit, number, valued, word

if TYPE_CHECKING:
    from lxcd.cgroup.usage import Text

_TICK_USEC = 1_000_000 // os.sysconf("SC_CLK_TCK")
# No limit is the largest number of whole pages, whatever the page's size: PAGE_COUNTER_MAX.
_NO_LIMIT = (1 << 63) - (1 << 20)
_WEIGHT_MOST = 10_000


def cpu(
    per_cpu: Text,
    stat: Text,
    throttling: Text,
    shares: Text,
    quota: Text,
    period: Text,
    effective_cpus: Text,
) -> Cpu:
    """Controllers cpuacct, cpu and cpuset."""
    each: list[int] = []
    if per_cpu is not None:
        each = [int(part) for part in per_cpu.split() if part.isdigit()]
    user, system = valued(stat, b"\nuser ", b"\nsystem ")
    periods, throttled, throttled_nsec = valued(
        throttling, b"\nnr_periods ", b"\nnr_throttled ", b"\nthrottled_time "
    )
    allowed = limit(quota)
    return Cpu(
        # What cpuacct.usage is, too: the sum of each (cpuusage_read in kernel/sched/cpuacct.c).
        usage_usec=sum(each) // 1000 if each else None,
        user_usec=None if user is None else user * _TICK_USEC,
        system_usec=None if system is None else system * _TICK_USEC,
        periods=periods,
        throttled_periods=throttled,
        throttled_usec=None if throttled_nsec is None else throttled_nsec // 1000,
        per_cpu_usage_usec=tuple(nsec // 1000 for nsec in each),
        quota_usec=allowed,
        period_usec=None if allowed is None else number(period),
        weight=weight(number(shares)),
        effective_cpus=word(effective_cpus),
    )


def weight(shares: int | None) -> int | None:
    """`cpu.shares` in version 2's scale, where 1024 are 100."""
    if shares is None:
        return None
    return min(max((shares * 100 + 512) // 1024, 1), _WEIGHT_MOST)


def memory(
    usage: Text, peak: Text, stat: Text, kernel: Text, hits: Text, oom_control: Text
) -> Memory:
    """Controller memory.

    Limits are of memory.stat, which needs no file more: the lowest of its own and those above it.
    """
    used = number(usage)
    anon, file, shmem, inactive, swap, faults, major, most, most_of_both = valued(
        stat,
        b"\ntotal_rss ",
        b"\ntotal_cache ",
        b"\ntotal_shmem ",
        b"\ntotal_inactive_file ",
        b"\ntotal_swap ",
        b"\ntotal_pgfault ",
        b"\ntotal_pgmajfault ",
        b"\nhierarchical_memory_limit ",
        b"\nhierarchical_memsw_limit ",
    )
    bounded = most_of_both is not None and most_of_both < _NO_LIMIT
    return Memory(
        usage_bytes=used,
        working_set_bytes=less(used, inactive),
        peak_bytes=number(peak),
        limit_bytes=most if most is not None and most < _NO_LIMIT else None,
        anon_bytes=anon,
        file_bytes=file,
        kernel_bytes=number(kernel),
        shmem_bytes=shmem,
        swap_usage_bytes=swap,
        # Of memory and swap together, and so of swap alone what memory does not have.
        swap_limit_bytes=less(most_of_both, most) if bounded else None,
        page_faults=faults,
        major_page_faults=major,
        limit_hits=number(hits),
        oom_kills=valued(oom_control, b"\noom_kill ")[0],
    )


def io(size: Text, operations: Text) -> tuple[Io, ...]:
    """Controller blkio: `MAJOR:MINOR Read|Write|… NUMBER` in each line."""
    found: dict[tuple[int, int], Io] = {}
    for text, unit in ((size, "bytes"), (operations, "operations")):
        for line in (text or b"").splitlines():
            words = line.split()
            if len(words) != 3 or words[1] not in (b"Read", b"Write"):  # noqa: PLR2004
                continue
            try:
                major, minor = map(int, words[0].split(b":"))
                value = int(words[2])
            except ValueError:
                continue
            one = found.get((major, minor)) or Io(major, minor)
            change = {f"{words[1].decode().lower()}_{unit}": value}
            found[major, minor] = replace(one, **change)  # type: ignore[arg-type]  # all are numbers
    return tuple(found.values())
