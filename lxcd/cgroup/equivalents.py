"""Which file of version 1 says the same as which file of version 2, and by what formula.

Sources: the kernel's Documentation/admin-guide/cgroup-v1/*.rst, cgroup-v2.rst and
scheduler/sched-bwc.rst; kernel/sched/core.c for weights; block/bfq-cgroup.c for defaults; crun(1)
"CGROUP v2", runc's libcontainer and systemd's src/core/cgroup.c for what others do.

    version 1                         version 2                formula, from 1 to 2
    cpuset.cpus, .mems                the same                 equal
    cpu.shares (1024)                 cpu.weight (100)         shares * 100 / 1024
                                      cpu.weight.nice          1024 / 1.25^nice shares
    cpu.cfs_quota_us, .cfs_period_us  cpu.max                  QUOTA PERIOD; -1 is max
    cpu.cfs_burst_us                  cpu.max.burst            equal
    cpu.idle, cpu.uclamp.*            the same                 equal
    memory.limit_in_bytes             memory.max               equal; -1 is max
    memory.memsw.limit_in_bytes       memory.swap.max          memsw - limit
    memory.soft_limit_in_bytes        memory.low               equal
    pids.max, rdma.max, misc.max      the same                 equal
    hugetlb.SIZE.limit_in_bytes       hugetlb.SIZE.max         equal; .rsvd also
    blkio.throttle.read_bps_device …  io.max                   rbps wbps riops wiops; 0 is max
    blkio.weight (500)                io.weight (100)          weight * 100 / 500
    blkio.bfq.weight (100)            io.bfq.weight (100)      equal; the same as io.weight
    blkio.weight_device               io.weight, io.bfq.weight as above, by device
    blkio.prio.class                  io.prio.class            equal

**Weights keep ratios and defaults, not ranges.** A weight means nothing by itself: it is compared
with those beside it. So 512 and 1024 shares must become weights of 1:2, and the default the
default, or a container without the key gets less or more than its due. That is systemd's formula,
and the kernel's own (cpu.weight is kept as shares). runc before 1.3.2 and crun before 1.23 map the
range onto the range, 1 + (shares - 2) * 9999 / 262142: 1024 becomes 39. Their later formula,
quadratic in log2(shares), maps 2, 1024 and 262144 well; but 512 : 1024 : 2048 becomes 59 : 100 :
174, so that the same two containers divide the CPU otherwise than on version 1. The price: more
than 102400 shares, and fewer than 10, have no weight of their own. That is warned about.
blkio.weight of CFQ is by 500, and BFQ's by 100, hence the 5; crun takes the number as it is, and
so moves it against the default.

**Swap.** Version 1 limits the sum, version 2 the swap alone. Either needs the memory limit.

**Soft limit.** Version 1 reclaims first from groups that are above it when the host is short of
memory, which is to say that what is below is spared: memory.low. memory.high slows the group down
though nobody is in need. So crun and runc have it, too.

**What stops a start** when the host has no controller for it: limits on memory, pids and the cpus
that may be used. They are what protects the host and the neighbours from the container; it must not
run unbounded because a kernel was built otherwise. All else says how what is there is shared, or
is a hint: a warning. What limits nothing (`max`, a default) is not missed at all.

**Only in one version**: each has its reason in the table below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from lxcd.cgroup import amounts, formulas
from lxcd.cgroup.amounts import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lxcd.cgroup.amounts import Host
    from lxcd.cgroup.formulas import Around, Parts, Said, Written


@dataclass(frozen=True, slots=True)
class File:
    """One file of one version; `name` is a pattern."""

    version: int
    name: str
    group: str
    read: Callable[[str, re.Match[str], Host], Iterable[Said]]


@dataclass(frozen=True, slots=True)
class Group:
    """One thing that is limited."""

    # By version, how it is written (key, parts, surroundings), or why it cannot be.
    write: Mapping[int, Callable[[str, Parts, Around], Written] | str]
    controller: str = ""  # of both; else `blkio` and `io`
    bound: bool = False  # to be without it is not safe
    # What says nothing, so that nothing is missed.
    idle: frozenset[Value] = field(default_factory=lambda: frozenset[Value]({None}))

    def controller_of(self, version: int) -> str:
        """Name the controller that has it."""
        return self.controller or ("blkio" if version == 1 else "io")


def _alike(name: str, controller: str, *, bound: bool = False, idle: Value = None) -> Group:
    write = partial(formulas.same, name)
    return Group({1: write, 2: write}, controller, bound, frozenset({None, idle}))


def _only(version: int, name: str, why: str, idle: Value = None) -> Group:
    write = partial(formulas.same, name)
    return Group(
        {version: write, 3 - version: why}, name.split(".", maxsplit=1)[0], idle=frozenset({idle})
    )


def _memory(first: str, second: str, *, bound: bool = False, idle: Value = None) -> Group:
    return Group(
        {1: partial(formulas.in_bytes, "-1", first), 2: partial(formulas.in_bytes, "max", second)},
        "memory",
        bound,
        frozenset({None, idle}),
    )


def _memory_only(version: int, name: str, why: str, idle: Value = None) -> Group:
    write = partial(formulas.in_bytes, "-1" if version == 1 else "max", name)
    return Group({version: write, 3 - version: why}, "memory", idle=frozenset({idle}))


_flag = formulas.value_by(amounts.one_of("0", "1"))
_byte = formulas.value_by(amounts.byte_count)
_CPUSETS = "version 2 has no cpusets that exclude others but partitions (cpuset.cpus.partition)"
_SPREAD = "version 2 cannot spread pages over the nodes of a cpuset"
_REAL_TIME = "version 2 does not divide real-time (cgroup-v2.rst, CPU)"
_KERNEL_MEMORY = "memory of the kernel counts with all other in version 2: memory.max"
_NET = "version 2 has no such controller: its kernel wants nftables or BPF to look at the cgroup"
_CFQ = "leaf weights ended with the CFQ scheduler"
_SWAPPINESS = "version 2 has it for the whole host alone: sysctl vm.swappiness"
_HIGH = "version 1 has no limit that slows down instead of killing"
_OPEN = "version 1 has no counterpart"

# In this order they are put together: swap needs the limit of memory.
GROUPS: dict[str, Group] = {
    "cpuset.cpus": _alike("cpuset.cpus", "cpuset", bound=True),
    "cpuset.mems": _alike("cpuset.mems", "cpuset", bound=True),
    "cpuset.cpu_exclusive": _only(1, "cpuset.cpu_exclusive", _CPUSETS, "0"),
    "cpuset.mem_exclusive": _only(1, "cpuset.mem_exclusive", _CPUSETS, "0"),
    "cpuset.mem_hardwall": _only(1, "cpuset.mem_hardwall", _CPUSETS, "0"),
    "cpuset.memory_migrate": _only(
        1, "cpuset.memory_migrate", "version 2 always moves the pages along", "1"
    ),
    "cpuset.memory_spread_page": _only(1, "cpuset.memory_spread_page", _SPREAD, "0"),
    "cpuset.memory_spread_slab": _only(1, "cpuset.memory_spread_slab", _SPREAD, "0"),
    "cpuset.sched_load_balance": _only(1, "cpuset.sched_load_balance", _CPUSETS, "1"),
    "cpuset.sched_relax_domain_level": _only(
        1, "cpuset.sched_relax_domain_level", "version 2 has no counterpart", "-1"
    ),
    "cpuset.cpus.exclusive": _only(2, "cpuset.cpus.exclusive", _OPEN),
    "cpuset.cpus.partition": _only(2, "cpuset.cpus.partition", _OPEN, "member"),
    "cpu.bandwidth": Group({1: formulas.as_quota, 2: formulas.as_cpu_max}, "cpu"),
    "cpu.burst": Group(
        {1: partial(formulas.same, "cpu.cfs_burst_us"), 2: partial(formulas.same, "cpu.max.burst")},
        "cpu",
        idle=frozenset({None, 0}),
    ),
    "cpu.weight": Group(
        {1: formulas.as_shares, 2: formulas.as_weight}, "cpu", idle=frozenset({Fraction(1)})
    ),
    "cpu.idle": _alike("cpu.idle", "cpu", idle="0"),
    "cpu.uclamp.min": _alike("cpu.uclamp.min", "cpu", idle="0.00"),
    "cpu.uclamp.max": _alike("cpu.uclamp.max", "cpu", idle="max"),
    "cpu.rt_period_us": _only(1, "cpu.rt_period_us", _REAL_TIME, 1_000_000),
    "cpu.rt_runtime_us": _only(1, "cpu.rt_runtime_us", _REAL_TIME, 0),
    "memory.limit": _memory("memory.limit_in_bytes", "memory.max", bound=True),
    "memory.swap": Group({1: formulas.as_memsw, 2: formulas.as_swap}, "memory"),
    "memory.low": _memory("memory.soft_limit_in_bytes", "memory.low", idle=0),
    "memory.high": _memory_only(2, "memory.high", _HIGH),
    "memory.min": _memory_only(
        2, "memory.min", "version 1 guarantees no memory; memory.soft_limit_in_bytes is near", 0
    ),
    "memory.swap.high": _memory_only(2, "memory.swap.high", _HIGH),
    "memory.zswap.max": _memory_only(2, "memory.zswap.max", _OPEN),
    "memory.zswap.writeback": _only(2, "memory.zswap.writeback", _OPEN, "1"),
    "memory.oom.group": _only(2, "memory.oom.group", "version 1 kills one process alone", "0"),
    "memory.oom_control": _only(
        1, "memory.oom_control", "version 2 cannot do without the OOM killer", "0"
    ),
    "memory.swappiness": _only(1, "memory.swappiness", _SWAPPINESS),
    "memory.use_hierarchy": _only(
        1, "memory.use_hierarchy", "version 2 always counts what is below", "1"
    ),
    "memory.move_charge_at_immigrate": _only(
        1, "memory.move_charge_at_immigrate", "version 2 never moves charges", "0"
    ),
    "memory.kmem": _memory_only(1, "memory.kmem.limit_in_bytes", _KERNEL_MEMORY),
    "memory.kmem.tcp": _memory_only(1, "memory.kmem.tcp.limit_in_bytes", _KERNEL_MEMORY),
    "pids.max": _alike("pids.max", "pids", bound=True),
    "hugetlb": Group(
        {
            1: partial(formulas.as_huge_pages, "limit_in_bytes", "-1"),
            2: partial(formulas.as_huge_pages, "max", "max"),
        },
        "hugetlb",
    ),
    "io.max": Group({1: formulas.as_throttle, 2: formulas.as_io_max}),
    "io.weight": Group(
        {1: partial(formulas.as_io_weight, 1), 2: partial(formulas.as_io_weight, 2)},
        idle=frozenset({Fraction(1), "default"}),
    ),
    "io.prio.class": Group(
        {1: partial(formulas.same, "blkio.prio.class"), 2: partial(formulas.same, "io.prio.class")},
        idle=frozenset({"no-change"}),
    ),
    "io.latency": Group({1: _OPEN, 2: formulas.as_latency}, idle=frozenset({0})),
    "blkio.leaf_weight": Group({1: partial(formulas.same, "blkio.leaf_weight"), 2: _CFQ}),
    "blkio.leaf_weight_device": Group(
        {1: partial(formulas.same, "blkio.leaf_weight_device"), 2: _CFQ}
    ),
    "net_cls.classid": _only(1, "net_cls.classid", _NET, 0),
    "net_prio.ifpriomap": _only(1, "net_prio.ifpriomap", _NET),
    "rdma.max": Group(
        {1: partial(formulas.as_pairs, "rdma.max"), 2: partial(formulas.as_pairs, "rdma.max")},
        "rdma",
    ),
    "misc.max": _alike("misc.max", "misc"),
    "cgroup.max.depth": _only(2, "cgroup.max.depth", _OPEN),
    "cgroup.max.descendants": _only(2, "cgroup.max.descendants", _OPEN),
    "cgroup.pressure": _only(2, "cgroup.pressure", _OPEN, "1"),
}

_DOMAIN_LEVELS = (-1, 5)
_MOST_PIDS = 1 << 22  # PID_MAX_LIMIT
_SIZE = r"([0-9]+[KMG]B(?:\.rsvd)?)"
FILES: tuple[File, ...] = (
    *(File(version, "cpuset.cpus", "cpuset.cpus", formulas.cpus) for version in (1, 2)),
    *(File(version, "cpuset.mems", "cpuset.mems", formulas.nodes) for version in (1, 2)),
    *(
        File(1, name, name, _flag)
        for name in (
            *("cpuset.cpu_exclusive", "cpuset.mem_exclusive", "cpuset.mem_hardwall"),
            *("cpuset.memory_migrate", "cpuset.memory_spread_page", "cpuset.memory_spread_slab"),
            *("cpuset.sched_load_balance", "memory.oom_control", "memory.use_hierarchy"),
        )
    ),
    File(
        1,
        "cpuset.sched_relax_domain_level",
        "cpuset.sched_relax_domain_level",
        formulas.value_by(lambda text: str(amounts.whole(text, *_DOMAIN_LEVELS))),
    ),
    File(2, "cpuset.cpus.exclusive", "cpuset.cpus.exclusive", formulas.cpus),
    File(
        2,
        "cpuset.cpus.partition",
        "cpuset.cpus.partition",
        formulas.value_by(amounts.one_of("member", "root", "isolated")),
    ),
    File(1, "cpu.shares", "cpu.weight", formulas.value_by(formulas.shares)),
    File(2, "cpu.weight", "cpu.weight", formulas.value_by(formulas.weight)),
    File(2, "cpu.weight.nice", "cpu.weight", formulas.value_by(formulas.nice)),
    File(1, "cpu.cfs_quota_us", "cpu.bandwidth", formulas.value_by(formulas.quota, "quota")),
    File(1, "cpu.cfs_period_us", "cpu.bandwidth", formulas.value_by(formulas.period, "period")),
    File(2, "cpu.max", "cpu.bandwidth", formulas.cpu_max),
    File(
        1,
        "cpu.cfs_burst_us",
        "cpu.burst",
        formulas.value_by(amounts.number(0, formulas.LONGEST_USEC)),
    ),
    File(
        2, "cpu.max.burst", "cpu.burst", formulas.value_by(amounts.number(0, formulas.LONGEST_USEC))
    ),
    File(
        1, "cpu.rt_period_us", "cpu.rt_period_us", formulas.value_by(amounts.number(1, 2**31 - 1))
    ),
    File(
        1,
        "cpu.rt_runtime_us",
        "cpu.rt_runtime_us",
        formulas.value_by(amounts.number(-1, 2**31 - 1)),
    ),
    *(File(version, "cpu.idle", "cpu.idle", _flag) for version in (1, 2)),
    *(
        File(version, name, name, formulas.value_by(amounts.percentage))
        for version in (1, 2)
        for name in ("cpu.uclamp.min", "cpu.uclamp.max")
    ),
    File(1, "memory.limit_in_bytes", "memory.limit", formulas.value_by(formulas.memory_max)),
    File(2, "memory.max", "memory.limit", formulas.value_by(formulas.memory_max)),
    File(
        1,
        "memory.memsw.limit_in_bytes",
        "memory.swap",
        formulas.value_by(amounts.byte_count, "total"),
    ),
    File(2, "memory.swap.max", "memory.swap", formulas.value_by(amounts.byte_count, "swap")),
    File(1, "memory.soft_limit_in_bytes", "memory.low", _byte),
    *(
        File(2, name, name, _byte)
        for name in (
            "memory.low",
            "memory.high",
            "memory.min",
            "memory.swap.high",
            "memory.zswap.max",
        )
    ),
    *(File(2, name, name, _flag) for name in ("memory.oom.group", "memory.zswap.writeback")),
    File(1, "memory.swappiness", "memory.swappiness", formulas.value_by(amounts.number(0, 200))),
    File(
        1,
        "memory.move_charge_at_immigrate",
        "memory.move_charge_at_immigrate",
        formulas.value_by(amounts.one_of("0", "1", "2", "3")),
    ),
    File(1, "memory.kmem.limit_in_bytes", "memory.kmem", _byte),
    File(1, "memory.kmem.tcp.limit_in_bytes", "memory.kmem.tcp", _byte),
    *(
        File(version, "pids.max", "pids.max", formulas.value_by(amounts.count(0, _MOST_PIDS)))
        for version in (1, 2)
    ),
    File(1, rf"hugetlb\.{_SIZE}\.limit_in_bytes", "hugetlb", formulas.huge_pages),
    File(2, rf"hugetlb\.{_SIZE}\.max", "hugetlb", formulas.huge_pages),
    File(1, r"blkio\.throttle\.((?:read|write)_(?:bps|iops))_device", "io.max", formulas.throttle),
    File(2, "io.max", "io.max", formulas.io_max),
    File(
        1, "blkio.weight", "io.weight", partial(formulas.io_weight, 10, 1000, formulas.CFQ_WEIGHT)
    ),
    File(
        1,
        "blkio.weight_device",
        "io.weight",
        partial(formulas.io_weight, 10, 1000, formulas.CFQ_WEIGHT),
    ),
    File(1, "blkio.bfq.weight", "io.weight", partial(formulas.io_weight, 1, 1000, formulas.WEIGHT)),
    File(
        1,
        "blkio.bfq.weight_device",
        "io.weight",
        partial(formulas.io_weight, 1, 1000, formulas.WEIGHT),
    ),
    File(2, "io.weight", "io.weight", partial(formulas.io_weight, 1, 10000, formulas.WEIGHT)),
    File(2, "io.bfq.weight", "io.weight", partial(formulas.io_weight, 1, 1000, formulas.WEIGHT)),
    *(
        File(
            version,
            name,
            "io.prio.class",
            formulas.value_by(
                amounts.one_of("no-change", "promote-to-rt", "restrict-to-be", "idle", "none-to-rt")
            ),
        )
        for version, name in ((1, "blkio.prio.class"), (2, "io.prio.class"))
    ),
    File(2, "io.latency", "io.latency", formulas.latency),
    File(1, "blkio.leaf_weight", "blkio.leaf_weight", formulas.value_by(amounts.number(10, 1000))),
    File(
        1,
        "blkio.leaf_weight_device",
        "blkio.leaf_weight_device",
        partial(formulas.io_weight, 10, 1000, 1),
    ),
    File(1, "net_cls.classid", "net_cls.classid", formulas.value_by(amounts.number(0, 2**32 - 1))),
    File(1, "net_prio.ifpriomap", "net_prio.ifpriomap", formulas.by_word),
    *(File(version, "rdma.max", "rdma.max", formulas.rdma) for version in (1, 2)),
    *(File(version, "misc.max", "misc.max", formulas.by_word) for version in (1, 2)),
    *(
        File(2, name, name, formulas.value_by(amounts.count(0, 2**31 - 1)))
        for name in ("cgroup.max.depth", "cgroup.max.descendants")
    ),
    File(2, "cgroup.pressure", "cgroup.pressure", _flag),
)
_EXACT = {(one.version, one.name): one for one in FILES if "\\" not in one.name}
_PATTERNS = tuple((one, re.compile(one.name)) for one in FILES if "\\" in one.name)
_WHOLE = re.compile(".*", re.DOTALL)


def find(version: int, name: str) -> tuple[File, re.Match[str]] | None:
    """Find the row of a file."""
    exact = _EXACT.get((version, name))
    if exact is not None:
        found = _WHOLE.match(name)
        return (exact, found) if found else None
    for row, pattern in _PATTERNS:
        found = pattern.fullmatch(name)
        if row.version == version and found:
            return row, found
    return None


def known_names() -> list[str]:
    """Return the names that are not patterns, of both versions."""
    return list(dict.fromkeys(name for _, name in _EXACT))
