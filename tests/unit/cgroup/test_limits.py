"""What counts of many lines, what is told of those that do not, and that nothing raises."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.cgroup import equivalents
from lxcd.cgroup.limits import Controllers, translate
from lxcd.cgroup.readback import agrees
from lxcd.config.model import CgroupSetting
from tests.unit.cgroup.hosts import (
    HOST,
    NAMES_1,
    NAMES_2,
    NONE,
    V1,
    V2,
    files,
    lines,
    problems,
    translated,
)

STEADY = settings(deadline=None, derandomize=True, database=None)

BAD = [
    ("lxc.cgroup.cpuset.cpus = 0-8", "cpu 8 does not exist: this host has 0-7"),
    ("lxc.cgroup2.cpuset.cpus = 3-1", "a range that is none"),
    ("lxc.cgroup2.cpuset.cpus = 0;1", "is not a number or a range"),
    ("lxc.cgroup2.cpuset.cpus = 99999999", "is not a number or a range"),
    ("lxc.cgroup.cpuset.cpus = 0-9999999", "beyond"),
    ("lxc.cgroup.cpuset.cpus = 0:0/0", "a range that is none"),
    ("lxc.cgroup.cpuset.cpus = ,", "names no cpu"),
    ("lxc.cgroup.cpuset.mems = 0-3", "memory node 2-3 does not exist: this host has 0-1"),
    ("lxc.cgroup.cpu.shares = many", "not a whole number"),
    ("lxc.cgroup.cpu.shares = -1", "not between"),
    ("lxc.cgroup2.cpu.weight = 0", "not between 1 and 10000"),
    ("lxc.cgroup2.cpu.weight = 010", "octal"),
    ("lxc.cgroup2.cpu.weight.nice = 20", "not between -20 and 19"),
    ("lxc.cgroup2.cpu.max = 999", "not between 1000"),
    ("lxc.cgroup2.cpu.max = 1000 1", "not between 1000 and 1000000"),
    ("lxc.cgroup2.cpu.max = 1000 1000 1000", "QUOTA PERIOD"),
    ("lxc.cgroup.cpu.cfs_period_us = 0", "not between 1000 and 1000000"),
    ("lxc.cgroup2.cpu.uclamp.min = 101", "percentage"),
    ("lxc.cgroup.memory.limit_in_bytes = 1.5G", "not a number of bytes"),
    ("lxc.cgroup.memory.limit_in_bytes = 256MB", "not a number of bytes"),
    ("lxc.cgroup2.memory.max = 0", "without memory"),
    ("lxc.cgroup.memory.memsw.limit_in_bytes = 1G", "needs memory.limit_in_bytes"),
    ("lxc.cgroup.pids.max = 4194305", "not between 0 and 4194304"),
    ("lxc.cgroup.memory.swappiness = 201", "not between 0 and 200"),
    ("lxc.cgroup.memory.oom_control = 2", "none of: 0 1"),
    ("lxc.cgroup2.cpuset.cpus.partition = yes", "none of: member root isolated"),
    ("lxc.cgroup2.io.max = 8:0 1", "not of the form"),
    ("lxc.cgroup2.io.max = 8:0 rbps=1", "at least 2"),
    ("lxc.cgroup2.io.max = 8:0 rbs=5", "none of: rbps"),
    ("lxc.cgroup2.io.max = sda rbps=5", "not a block device"),
    ("lxc.cgroup2.io.max = /dev/sdz rbps=5", "not a block device of this host"),
    ("lxc.cgroup.blkio.throttle.read_bps_device = 8:0", "not of the form"),
    ("lxc.cgroup.blkio.weight = 9", "not between 10 and 1000"),
    ("lxc.cgroup2.io.latency = 8:0 goal=1", "target="),
    ("lxc.cgroup2.memory.maxx = 1G", "memory.max?"),
    ("lxc.cgroup.memory.limit_in_byte = 1G", "memory.limit_in_bytes?"),
    (
        "lxc.cgroup.memori.limit_in_bytes = 1G",
        "memori is not a controller of cgroups; is it memory.limit_in_bytes?",
    ),
    ("lxc.cgroup.pid.max = 1", "pids.max?"),
]


@pytest.mark.parametrize("controllers", [V1, V2])
@pytest.mark.parametrize(("line", "told"), BAD)
def test_what_cannot_be_is_an_error_with_its_line(
    line: str, told: str, controllers: Controllers
) -> None:
    name = line.partition(" =")[0]
    known = Controllers(
        controllers.versions, {"memory": frozenset({"memory.max", "memory.limit_in_bytes"})}
    )
    ((severity, origin, key, message),) = problems(f"\n{line}\n", known)
    assert (severity, origin, key) == ("error", "c:2", name)
    assert told in message
    assert translated(f"{line}\n", known).writes == ()


@pytest.mark.parametrize("controllers", [V1, V2])
def test_memory_and_swap_below_memory(controllers: Controllers) -> None:
    text = "lxc.cgroup.memory.limit_in_bytes = 2G\nlxc.cgroup.memory.memsw.limit_in_bytes = 1G\n"
    ((severity, origin, _, message),) = problems(text, controllers)
    assert (severity, origin) == ("error", "c:2")
    assert "below the limit of memory" in message


def test_swap_alone_has_no_counterpart() -> None:
    assert files("lxc.cgroup2.memory.swap.max = 0\n", V2) == [("memory.swap.max", "0")]
    ((severity, _, _, message),) = problems("lxc.cgroup2.memory.swap.max = 0\n", V1)
    assert severity == "warning"
    assert "only together with memory.max" in message


def test_one_mistake_is_one_error() -> None:
    text = "lxc.cgroup.memory.limit_in_bytes = x\nlxc.cgroup.memory.memsw.limit_in_bytes = 1G\n"
    assert [origin for _, origin, _, _ in problems(text, V2)] == ["c:1"]


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("lxc.cgroup.memory.limit_in_bytes = 1G", "error"),
        ("lxc.cgroup2.memory.max = 1G", "error"),
        ("lxc.cgroup.pids.max = 5", "error"),
        ("lxc.cgroup.cpuset.cpus = 0", "error"),
        ("lxc.cgroup2.memory.high = 1G", "warning"),
        ("lxc.cgroup.cpu.shares = 5", "warning"),
        ("lxc.cgroup.blkio.weight = 50", "warning"),
        ("lxc.cgroup2.io.max = 8:0 rbps=50", "warning"),
        ("lxc.cgroup.bfqio.weight = 50", "warning"),
        ("lxc.cgroup.cpuacct.thing = 50", "warning"),
        ("lxc.cgroup2.cgroup.max.depth = 5", "warning"),
    ],
)
def test_a_host_without_controllers(line: str, severity: str) -> None:
    ((found, origin, _, message),) = problems(f"{line}\n", NONE)
    assert (found, origin) == (severity, "c:1")
    assert "controller" in message or "no cgroups of version 2" in message


def test_no_limit_is_not_missed() -> None:
    text = "lxc.cgroup.memory.limit_in_bytes = -1\nlxc.cgroup2.pids.max = max\nlxc.cgroup.cpu.shares = 1024\n"
    assert files(text, NONE) == []


def test_the_last_line_counts() -> None:
    text = "lxc.cgroup2.memory.max = 1G\nlxc.cgroup2.memory.max = 2M\nlxc.cgroup2.cpu.max = 5000 10000\nlxc.cgroup2.cpu.max = 9000\n"
    assert files(text, V2) == [("cpu.max", "9000 10000"), ("memory.max", "2097152")]
    text = "lxc.cgroup2.cpu.weight = 5\nlxc.cgroup2.cpu.weight.nice = 0\n"
    assert files(text, V2) == [("cpu.weight.nice", "0")]
    assert files(text, V1) == [("cpu.shares", "1024")]


def test_the_language_of_the_host_counts() -> None:
    text = "lxc.cgroup2.memory.max = 1G\nlxc.cgroup.memory.limit_in_bytes = 4096\n"
    for controllers, value, loser in ((V1, "4096", "c:1"), (V2, "1073741824", "c:2")):
        found = translated(text, controllers)
        assert [one.value for one in found.writes] == [value]
        (problem,) = found.problems
        assert (problem.severity, problem.origin) == ("warning", loser)
        assert "says otherwise" in problem.message


def test_words_of_lxcd_toml_count_less() -> None:
    sugar = "memory: memory.max = 4096\nswap: memory.swap.max = 8192\npids: pids.max = 5"
    found = translated("lxc.cgroup.memory.limit_in_bytes = 1M\n", V1, sugar)
    assert [(one.file, one.value, one.key, one.origin) for one in found.writes] == [
        ("memory.limit_in_bytes", "1048576", "lxc.cgroup.memory.limit_in_bytes", "c:1"),
        ("memory.memsw.limit_in_bytes", "1056768", "limits.swap", "lxcd.toml: limits.swap"),
        ("pids.max", "5", "limits.pids", "lxcd.toml: limits.pids"),
    ]
    (problem,) = found.problems
    assert (problem.severity, problem.key) == ("warning", "limits.memory")
    assert "lxc.cgroup.memory.limit_in_bytes (c:1) counts" in problem.message


@pytest.mark.parametrize(
    "name", ["freezer.state = FROZEN", "cgroup.freeze = 1", "cgroup.procs = 0", "cgroup.kill = 1"]
)
def test_what_is_no_limit(name: str) -> None:
    version = 1 if name.startswith("freezer") else 2
    ((severity, _, _, message),) = problems(lines(name, version), V2)
    assert severity == "warning"
    assert "has no effect" in message


@pytest.mark.parametrize("name", ["freezer.state = THAWED", "cgroup.freeze = 0"])
def test_not_frozen_is_what_it_is(name: str) -> None:
    assert files(lines(name, 1 if name.startswith("freezer") else 2), V1) == []


@pytest.mark.parametrize(
    "name", ["../x.y", "memory/../x.max", "memory..max", "memory", "memory.max\n"]
)
def test_no_name_leads_elsewhere(name: str) -> None:
    found = translate([CgroupSetting(2, name, "1", "o")], V2, HOST)
    assert found.writes == ()
    assert [p.severity for p in found.problems] == ["error"]


def test_what_this_kernel_has_not() -> None:
    known = Controllers(
        dict.fromkeys(NAMES_2, 2), {"memory": frozenset({"memory.max", "memory.newer"})}
    )
    text = (
        "lxc.cgroup2.memory.max = 1M\nlxc.cgroup2.memory.swap.max = 1M\n"
        "lxc.cgroup2.memory.newer = a\nlxc.cgroup2.memory.newer = b\nlxc.cgroup2.memory.newest = c\n"
    )
    found = translated(text, known)
    assert [(one.file, one.value) for one in found.writes] == [
        ("memory.max", "1048576"),
        ("memory.newer", "b"),
    ]
    assert sorted((p.severity, p.origin) for p in found.problems) == [
        ("warning", "c:2"),
        ("warning", "c:5"),
    ]
    known = Controllers(dict.fromkeys(NAMES_2, 2), {"memory": frozenset({"memory.low"})})
    assert [p.severity for p in translated("lxc.cgroup2.memory.max = 1M\n", known).problems] == [
        "error"
    ]


def test_weights_go_to_every_file_that_has_them() -> None:
    both = Controllers(dict.fromkeys(NAMES_2, 2), {"io": frozenset({"io.weight", "io.bfq.weight"})})
    assert files("lxc.cgroup.blkio.weight = 1000\n", both) == [
        ("io.weight", "default 200"),
        ("io.bfq.weight", "default 200"),
    ]
    old = Controllers(dict.fromkeys(NAMES_1, 1), {"blkio": frozenset({"blkio.weight"})})
    assert files("lxc.cgroup2.io.weight = 50\n", old) == [("blkio.weight", "250")]
    neither = Controllers(dict.fromkeys(NAMES_2, 2), {"io": frozenset({"io.max"})})
    ((severity, _, _, message),) = problems("lxc.cgroup2.io.weight = 50\n", neither)
    assert severity == "warning"
    assert "this kernel has no io.weight" in message


@STEADY
@given(st.lists(st.integers(10, 102400), min_size=2, max_size=2))
def test_weights_keep_their_ratio(pair: list[int]) -> None:
    """There and back again, as far as what is not told."""
    there = [translated(f"lxc.cgroup.cpu.shares = {one}\n", V2) for one in pair]
    if any(one.problems for one in there):
        return
    weights = [int(one.writes[0].value) for one in there]
    back = [translated(f"lxc.cgroup2.cpu.weight = {one}\n", V1).writes[0].value for one in weights]
    wanted = Fraction(pair[0], pair[1])
    assert abs(Fraction(weights[0], weights[1]) / wanted - 1) < Fraction(11, 100)
    assert abs(Fraction(int(back[0]), int(back[1])) / wanted - 1) < Fraction(16, 100)


NAMES = st.one_of(
    st.sampled_from([row.name for row in equivalents.FILES if "\\" not in row.name]),
    st.sampled_from(
        ["hugetlb.2MB.max", "hugetlb.1GB.limit_in_bytes", "blkio.throttle.read_bps_device"]
    ),
    st.text(max_size=20),
)
VALUES = st.one_of(
    st.integers(-2, 2**65).map(str),
    st.sampled_from(
        [
            "max",
            "-1",
            "1G",
            "0-3",
            "8:0 1000",
            "8:0 rbps=5 wbps=max",
            "default 5",
            "50000 100000",
            "root",
        ]
    ),
    st.from_regex(r"[0-9:=a-z, -]{0,12}", fullmatch=True),
    st.text(max_size=12),
)
SETTINGS = st.lists(
    st.builds(CgroupSetting, st.sampled_from([1, 2]), NAMES, VALUES, st.just("c:1")), max_size=8
)


@STEADY
@given(SETTINGS, SETTINGS, st.sampled_from([V1, V2, NONE]))
def test_nothing_raises_and_all_goes_where_it_belongs(
    given_settings: list[CgroupSetting], sugar: list[CgroupSetting], controllers: Controllers
) -> None:
    found = translate(given_settings, controllers, HOST, sugar=sugar)
    for one in found.writes:
        assert one.file.startswith(f"{one.controller}.")
        assert controllers.versions[one.controller] == one.version
        assert equivalents.find(one.version, one.file) is not None or one.file in {
            s.name for s in given_settings + sugar
        }
        assert agrees(one, one.value)
        assert "\n" not in one.value


@STEADY
@given(SETTINGS, st.sampled_from([V1, V2]))
def test_what_is_written_is_its_own_translation(
    given_settings: list[CgroupSetting], controllers: Controllers
) -> None:
    once = translate(given_settings, controllers, HOST).writes
    again = translate(
        [CgroupSetting(2 if one.version == 2 else 1, one.file, one.value, "c:1") for one in once],
        controllers,
        HOST,
    )
    assert [(one.file, one.value) for one in again.writes] == [
        (one.file, one.value) for one in once
    ]
