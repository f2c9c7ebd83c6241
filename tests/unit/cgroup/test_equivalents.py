"""The table of equivalents: the same limit in either language, on hosts of either version."""

from __future__ import annotations

import pytest

from lxcd.cgroup import equivalents, limits
from lxcd.cgroup.limits import Controllers
from tests.article import RESOURCES
from tests.unit.cgroup.hosts import (
    V1,
    V2,
    files,
    lines,
    problems,
    translated,
)

# Lines of version 1, lines of version 2 that say the same, what is written on a host of either.
SAME = [
    ("cpuset.cpus = 0-3,6", "cpuset.cpus = 0,1,2,3,6", "cpuset.cpus=0-3,6", "cpuset.cpus=0-3,6"),
    (
        "cpuset.cpus = 0-7:1/2",
        "cpuset.cpus = 0,2,4,6",
        "cpuset.cpus=0,2,4,6",
        "cpuset.cpus=0,2,4,6",
    ),
    ("cpuset.mems = 1", "cpuset.mems = N", "cpuset.mems=1", "cpuset.mems=1"),
    ("cpu.shares = 512", "cpu.weight = 50", "cpu.shares=512", "cpu.weight=50"),
    ("cpu.shares = 1024", "cpu.weight = 100", "cpu.shares=1024", "cpu.weight=100"),
    ("cpu.shares = 102400", "cpu.weight = 10000", "cpu.shares=102400", "cpu.weight=10000"),
    (
        "cpu.cfs_quota_us = 50000\ncpu.cfs_period_us = 20000",
        "cpu.max = 50000 20000",
        "cpu.cfs_period_us=20000\ncpu.cfs_quota_us=50000",
        "cpu.max=50000 20000",
    ),
    (
        "cpu.cfs_quota_us = -1\ncpu.cfs_period_us = 100000",
        "cpu.max = max 100000",
        "cpu.cfs_period_us=100000\ncpu.cfs_quota_us=-1",
        "cpu.max=max 100000",
    ),
    (
        "cpu.cfs_quota_us = 50000",
        "cpu.max = 50000",
        "cpu.cfs_quota_us=50000",
        "cpu.max=50000 100000",
    ),
    (
        "cpu.cfs_burst_us = 1000",
        "cpu.max.burst = 1000",
        "cpu.cfs_burst_us=1000",
        "cpu.max.burst=1000",
    ),
    ("cpu.idle = 1", "cpu.idle = 1", "cpu.idle=1", "cpu.idle=1"),
    (
        "cpu.uclamp.max = 50",
        "cpu.uclamp.max = 50.00",
        "cpu.uclamp.max=50.00",
        "cpu.uclamp.max=50.00",
    ),
    (
        "memory.limit_in_bytes = 256M",
        "memory.max = 268435456",
        "memory.limit_in_bytes=268435456",
        "memory.max=268435456",
    ),
    (
        "memory.limit_in_bytes = -1",
        "memory.max = max",
        "memory.limit_in_bytes=-1",
        "memory.max=max",
    ),
    (
        "memory.limit_in_bytes = 10001",
        "memory.max = 0x2711",
        "memory.limit_in_bytes=8192",
        "memory.max=8192",
    ),
    (
        "memory.memsw.limit_in_bytes = 3G\nmemory.limit_in_bytes = 1g",
        "memory.max = 1G\nmemory.swap.max = 2G",
        "memory.limit_in_bytes=1073741824\nmemory.memsw.limit_in_bytes=3221225472",
        "memory.max=1073741824\nmemory.swap.max=2147483648",
    ),
    (
        "memory.limit_in_bytes = 1M\nmemory.memsw.limit_in_bytes = 1M",
        "memory.max = 1M\nmemory.swap.max = 0",
        "memory.limit_in_bytes=1048576\nmemory.memsw.limit_in_bytes=1048576",
        "memory.max=1048576\nmemory.swap.max=0",
    ),
    (
        "memory.memsw.limit_in_bytes = -1",
        "memory.swap.max = max",
        "memory.memsw.limit_in_bytes=-1",
        "memory.swap.max=max",
    ),
    (
        "memory.soft_limit_in_bytes = 4K",
        "memory.low = 4096",
        "memory.soft_limit_in_bytes=4096",
        "memory.low=4096",
    ),
    ("pids.max = 100", "pids.max = 100", "pids.max=100", "pids.max=100"),
    ("pids.max = -1", "pids.max = max", "pids.max=max", "pids.max=max"),
    (
        "hugetlb.2MB.limit_in_bytes = 5M",
        "hugetlb.2MB.max = 5M",
        "hugetlb.2MB.limit_in_bytes=4194304",
        "hugetlb.2MB.max=4194304",
    ),
    (
        "hugetlb.1GB.rsvd.limit_in_bytes = -1",
        "hugetlb.1GB.rsvd.max = max",
        "hugetlb.1GB.rsvd.limit_in_bytes=-1",
        "hugetlb.1GB.rsvd.max=max",
    ),
    (
        (
            "blkio.throttle.read_bps_device = 8:0 1M\nblkio.throttle.write_iops_device = /dev/vda 50\n"
            "blkio.throttle.write_bps_device = 8:0 0"
        ),
        "io.max = 8:0 rbps=1048576 wbps=max\nio.max = 254:0 wiops=50",
        (
            "blkio.throttle.write_iops_device=254:0 50\nblkio.throttle.read_bps_device=8:0 1048576\n"
            "blkio.throttle.write_bps_device=8:0 0"
        ),
        "io.max=254:0 wiops=50\nio.max=8:0 rbps=1048576 wbps=max",
    ),
    ("blkio.weight = 250", "io.weight = 50", "blkio.bfq.weight=50", "io.weight=default 50"),
    (
        "blkio.bfq.weight = 50",
        "io.bfq.weight = default 50",
        "blkio.bfq.weight=50",
        "io.weight=default 50",
    ),
    (
        "blkio.weight_device = 8:0 1000",
        "io.weight = 8:0 200",
        "blkio.bfq.weight_device=8:0 200",
        "io.weight=8:0 200",
    ),
    (
        "blkio.bfq.weight_device = 8:0 default",
        "io.weight = 8:0 default",
        "blkio.bfq.weight_device=8:0 default",
        "io.weight=8:0 default",
    ),
    (
        "blkio.prio.class = idle",
        "io.prio.class = idle",
        "blkio.prio.class=idle",
        "io.prio.class=idle",
    ),
    (
        "rdma.max = mlx5_0 hca_handle=2 hca_object=max",
        "rdma.max = mlx5_0 hca_handle=2\nrdma.max = mlx5_0 hca_object=max",
        "rdma.max=mlx5_0 hca_handle=2 hca_object=max",
        "rdma.max=mlx5_0 hca_handle=2 hca_object=max",
    ),
    ("misc.max = sev 3", "misc.max = sev 3", "misc.max=sev 3", "misc.max=sev 3"),
]


@pytest.mark.parametrize(("first", "second", "on_first", "on_second"), SAME)
def test_either_language_on_either_version(
    first: str, second: str, on_first: str, on_second: str
) -> None:
    for controllers, expected in ((V1, on_first), (V2, on_second)):
        wanted = [tuple(line.split("=", 1)) for line in expected.splitlines()]
        assert files(lines(first, 1), controllers) == wanted
        assert files(lines(second, 2), controllers) == wanted
        # Both at once say the same: nothing to tell.
        assert files(lines(first, 1) + lines(second, 2), controllers) == wanted


def test_every_thing_that_both_have_is_in_the_table_above() -> None:
    both = {
        name
        for name, group in equivalents.GROUPS.items()
        if not any(isinstance(w, str) for w in group.write.values())
    }
    tried = {
        found[0].group
        for row in SAME
        for line in row[0].splitlines()
        if (found := equivalents.find(1, line.partition(" =")[0])) is not None
    }
    assert both - tried == {"cpu.uclamp.min"}


# Version, line, a value that says nothing, a word of the reason that it has no effect on the other.
ONLY = [
    (1, "cpuset.cpu_exclusive = 1", "0", "partition"),
    (1, "cpuset.mem_exclusive = 1", "0", "partition"),
    (1, "cpuset.mem_hardwall = 1", "0", "partition"),
    (1, "cpuset.memory_migrate = 0", "1", "always moves"),
    (1, "cpuset.memory_spread_page = 1", "0", "spread"),
    (1, "cpuset.memory_spread_slab = 1", "0", "spread"),
    (1, "cpuset.sched_load_balance = 0", "1", "partition"),
    (1, "cpuset.sched_relax_domain_level = 2", "-1", "counterpart"),
    (2, "cpuset.cpus.exclusive = 1-2", "", "counterpart"),
    (2, "cpuset.cpus.partition = root", "member", "counterpart"),
    (1, "cpu.rt_period_us = 500000", "1000000", "real-time"),
    (1, "cpu.rt_runtime_us = 1000", "0", "real-time"),
    (2, "memory.high = 4096", "max", "slows down"),
    (2, "memory.min = 4096", "0", "soft_limit"),
    (2, "memory.swap.high = 4096", "max", "slows down"),
    (2, "memory.zswap.max = 0", "max", "counterpart"),
    (2, "memory.zswap.writeback = 0", "1", "counterpart"),
    (2, "memory.oom.group = 1", "0", "one process"),
    (1, "memory.oom_control = 1", "0", "OOM killer"),
    (1, "memory.swappiness = 10", "", "vm.swappiness"),
    (1, "memory.use_hierarchy = 0", "1", "always counts"),
    (1, "memory.move_charge_at_immigrate = 1", "0", "never moves"),
    (1, "memory.kmem.limit_in_bytes = 4096", "-1", "memory.max"),
    (1, "memory.kmem.tcp.limit_in_bytes = 4096", "-1", "memory.max"),
    (2, "io.latency = 8:0 target=75", "8:0 target=0", "counterpart"),
    (1, "blkio.leaf_weight = 500", "", "CFQ"),
    (1, "blkio.leaf_weight_device = 8:0 500", "", "CFQ"),
    (1, "net_cls.classid = 1048577", "0", "no net_cls controller"),
    (1, "net_prio.ifpriomap = eth0 5", "", "no net_prio controller"),
    (2, "cgroup.max.depth = 3", "max", "no cgroups of version 2"),
    (2, "cgroup.max.descendants = 3", "max", "no cgroups of version 2"),
    (2, "cgroup.pressure = 0", "1", "no cgroups of version 2"),
]


@pytest.mark.parametrize(("version", "line", "idle", "reason"), ONLY)
def test_what_one_version_has_alone(version: int, line: str, idle: str, reason: str) -> None:
    own, other = (V1, V2) if version == 1 else (V2, V1)
    name, _, value = line.partition(" = ")
    assert files(lines(line, version), own) == [(name, value)]
    ((severity, origin, key, message),) = problems(lines(line, version), other)
    assert (severity, origin) == ("warning", "c:1")
    assert key == f"lxc.cgroup{'2' if version == 2 else ''}.{name}"
    assert "has no effect" in message
    assert reason in message
    assert translated(lines(line, version), other).writes == ()
    if idle:
        assert files(lines(f"{name} = {idle}", version), other) == []


def test_every_other_thing_is_in_that_table() -> None:
    alone = {
        name
        for name, group in equivalents.GROUPS.items()
        if any(isinstance(w, str) for w in group.write.values())
    }
    tried = {
        found[0].group
        for version, line, _, _ in ONLY
        if (found := equivalents.find(version, line.partition(" =")[0])) is not None
    }
    assert alone == tried


def test_the_article() -> None:
    assert files(RESOURCES, V1) == [
        ("cpuset.cpus", "0"),
        ("memory.limit_in_bytes", "268435456"),
        ("memory.memsw.limit_in_bytes", "536870912"),
        ("cpu.shares", "512"),
    ]
    assert files(RESOURCES, V2) == [
        ("cpuset.cpus", "0"),
        ("memory.max", "268435456"),
        ("cpu.weight", "50"),
        ("memory.swap.max", "268435456"),
    ]
    first = translated(RESOURCES, V2).writes[0]
    assert first == limits.Write(
        "cpuset", 2, "cpuset.cpus", "0", "lxc.cgroup.cpuset.cpus", "c:2", bound=True
    )


@pytest.mark.parametrize("nice", range(-20, 20))
def test_nice_is_shares_as_the_kernel_has_them(nice: int) -> None:
    # The ends and the middle of sched_prio_to_weight, which the steps of a quarter hit within 1 %.
    ((_, shares),) = files(f"lxc.cgroup2.cpu.weight.nice = {nice}\n", V1)
    known = {-20: 88761, -10: 9548, 0: 1024, 5: 335, 10: 110, 19: 15}
    if nice in known:
        assert abs(int(shares) - known[nice]) <= max(known[nice] // 100, 1)
    assert files(f"lxc.cgroup2.cpu.weight.nice = {nice}\n", V2) == [("cpu.weight.nice", str(nice))]


@pytest.mark.parametrize(
    ("line", "controllers", "told"),
    [
        ("lxc.cgroup.cpu.shares = 2", V2, "it would be 0.1953 here, and 1 is"),
        ("lxc.cgroup.cpu.shares = 262144", V2, "and 10000 is"),
        ("lxc.cgroup.cpu.shares = 15", V2, "and 1 is"),
        ("lxc.cgroup.cpu.shares = 0", V1, "and 2 is"),
        ("lxc.cgroup.cpu.shares = 999999", V1, "and 262144 is"),
        ("lxc.cgroup2.io.weight = 10000", V1, "and 1000 is"),
    ],
)
def test_a_weight_that_cannot_be_kept_is_told(
    line: str, controllers: Controllers, told: str
) -> None:
    found = translated(f"{line}\n", controllers)
    assert len(found.writes) == 1
    (problem,) = found.problems
    assert problem.severity == "warning"
    assert told in problem.message
