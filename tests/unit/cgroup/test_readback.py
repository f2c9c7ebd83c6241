"""What was read back, in which order values change, and how they come back."""

from __future__ import annotations

import itertools

import pytest

from lxcd.cgroup.limits import Write
from lxcd.cgroup.readback import agrees, order, undo


def write(file: str, value: str) -> Write:
    return Write(file.partition(".")[0], 1, file, value, f"lxc.cgroup.{file}", "c:1")


@pytest.mark.parametrize(
    ("file", "value", "read", "same"),
    [
        ("cpuset.cpus", "0-1", "0,1\n", True),
        ("cpuset.cpus", "0-1", "0\n", False),
        ("cpuset.cpus", "0-1", "\n", False),
        ("cpu.shares", "512", "512\n", True),
        ("cpu.shares", "512", "1024\n", False),
        ("cpu.max", "max 100000", "max 100000\n", True),
        ("cpu.max", "50000 100000", "50000 20000\n", False),
        ("cpu.cfs_quota_us", "-1", "-1\n", True),
        ("cpu.weight.nice", "-5", "-5\n", True),
        ("cpu.uclamp.max", "50.00", "50.00\n", True),
        ("memory.limit_in_bytes", "-1", "9223372036854771712\n", True),
        ("memory.limit_in_bytes", "4096", "9223372036854771712\n", False),
        ("memory.limit_in_bytes", "4096", "4096\n", True),
        ("hugetlb.2MB.limit_in_bytes", "-1", "9223372036852678656\n", True),
        ("memory.max", "max", "max\n", True),
        ("memory.max", "max", "4096\n", False),
        ("memory.oom_control", "1", "oom_kill_disable 1\nunder_oom 0\noom_kill 0\n", True),
        ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 1\noom_kill 0\n", False),
        ("cpuset.cpus.partition", "root", "root\n", True),
        (
            "cpuset.cpus.partition",
            "root",
            "root invalid (Cpu list in cpuset.cpus not exclusive)\n",
            False,
        ),
        (
            "io.max",
            "8:0 rbps=5 wiops=max",
            "8:16 rbps=7\n8:0 rbps=5 wbps=max riops=max wiops=max\n",
            True,
        ),
        ("io.max", "8:0 rbps=5", "8:16 rbps=5 wbps=max riops=max wiops=max\n", False),
        ("io.max", "8:0 rbps=max", "", True),
        ("blkio.throttle.read_bps_device", "8:0 5", "8:0 5\n8:16 7\n", True),
        ("blkio.throttle.read_bps_device", "8:0 0", "8:16 7\n", True),
        ("blkio.throttle.read_bps_device", "8:0 0", "8:0 7\n", False),
        ("io.weight", "default 50", "default 50\n8:0 7\n", True),
        ("io.weight", "8:0 50", "default 50\n8:0 7\n", False),
        ("io.weight", "8:0 default", "default 50\n", True),
        ("blkio.bfq.weight_device", "8:0 50", "8:0 50\n", True),
        ("io.latency", "8:0 target=75", "8:0 target=75\n", True),
        ("io.latency", "8:0 target=0", "", True),
        ("net_prio.ifpriomap", "eth0 5", "lo 0\neth0 5\n", True),
        ("net_cls.classid", "1048577", "1048577\n", True),
        ("rdma.max", "mlx5_0 hca_handle=2", "mlx5_0 hca_handle=2 hca_object=max\n", True),
        ("misc.max", "sev 5", "sev 4\n", False),
    ],
)
def test_what_the_kernel_says(file: str, value: str, read: str, *, same: bool) -> None:
    assert agrees(write(file, value), read) is same


NONE = "9223372036854771712"  # as the kernel of version 1 says it
LIMITS = ("4096", "8192", "12288", NONE)
PAIRS = [
    (limit, total) for limit, total in itertools.product(LIMITS, LIMITS) if int(limit) <= int(total)
]
MEMORY = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")


@pytest.mark.parametrize(("before", "after"), list(itertools.product(PAIRS, PAIRS)))
def test_memory_never_goes_above_its_sum_on_the_way(
    before: tuple[str, str], after: tuple[str, str]
) -> None:
    current = {name: f"{value}\n" for name, value in zip(MEMORY, before, strict=True)}
    writes = [
        write(name, "-1" if value == NONE else value)
        for name, value in zip(MEMORY, after, strict=True)
    ]
    for given in (writes, writes[::-1]):
        there = order(given, current)
        for done in range(len(there) + 1):  # it may end in the midst
            live: dict[str, int] = dict(zip(MEMORY, map(int, before), strict=True))
            for one in (*there[:done], *undo(there, current)):
                live[one.file] = int(NONE) if one.value == "-1" else int(one.value)
                assert live[MEMORY[0]] <= live[MEMORY[1]]
            assert tuple(live.values()) == tuple(map(int, before))


def test_switches_go_off_first_and_on_last() -> None:
    on = [write("cpu.idle", "1"), write("cpu.shares", "5")]
    assert [one.file for one in order(on, {"cpu.idle": "0\n"})] == ["cpu.shares", "cpu.idle"]
    off = [write("cpu.shares", "5"), write("cpu.idle", "0")]
    assert [one.file for one in order(off, {"cpu.idle": "1\n"})] == ["cpu.idle", "cpu.shares"]
    part = [write("cpuset.cpus.partition", "root"), write("cpuset.cpus", "1")]
    assert [one.file for one in order(part, {})] == ["cpuset.cpus", "cpuset.cpus.partition"]


def test_a_smaller_burst_goes_before_the_quota() -> None:
    both = [write("cpu.cfs_quota_us", "5000"), write("cpu.cfs_burst_us", "1000")]
    names = [
        one.file
        for one in order(both, {"cpu.cfs_burst_us": "9000\n", "cpu.cfs_quota_us": "9000\n"})
    ]
    assert names == ["cpu.cfs_burst_us", "cpu.cfs_quota_us"]
    names = [
        one.file for one in order(both, {"cpu.cfs_burst_us": "0\n", "cpu.cfs_quota_us": "1000\n"})
    ]
    assert names == ["cpu.cfs_quota_us", "cpu.cfs_burst_us"]


@pytest.mark.parametrize(
    ("file", "value", "before", "restored"),
    [
        ("cpu.shares", "512", "1024\n", "1024"),
        ("cpu.max", "5000 10000", "max 100000\n", "max 100000"),
        ("cpuset.cpus", "0", "\n", "\n"),
        ("cpuset.cpus", "0", "0-1\n", "0-1"),
        ("cpuset.cpus.partition", "root", "root invalid (why)\n", "root"),
        ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\n", "0"),
        ("io.max", "8:0 rbps=5", "", "8:0 rbps=max"),
        (
            "io.max",
            "8:0 rbps=5 wbps=5",
            "8:0 rbps=7 wbps=max riops=9 wiops=max\n",
            "8:0 rbps=7 wbps=max",
        ),
        ("blkio.throttle.read_bps_device", "8:0 5", "8:16 3\n", "8:0 0"),
        ("blkio.throttle.read_bps_device", "8:0 5", "8:0 3\n", "8:0 3"),
        ("io.weight", "8:0 5", "default 100\n", "8:0 default"),
        ("io.weight", "default 5", "default 100\n8:0 3\n", "default 100"),
        ("blkio.bfq.weight", "5", "100\n", "100"),
        ("blkio.bfq.weight_device", "8:0 5", "8:0 3\n", "8:0 3"),
        ("io.latency", "8:0 target=5", "", "8:0 target=0"),
        ("misc.max", "sev 5", "sev max\n", "sev max"),
    ],
)
def test_what_was_there_comes_back(file: str, value: str, before: str, restored: str) -> None:
    (undone,) = undo([write(file, value)], {file: before})
    assert undone.value == restored
    assert undone.file == file


def test_what_is_not_known_is_left() -> None:
    assert undo([write("cpu.shares", "5")], {}) == ()
