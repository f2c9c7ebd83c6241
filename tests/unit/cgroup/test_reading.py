"""Which file is read of which tree, and which is not read again: trees of plain files stand for the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lxcd.cgroup import reading
from lxcd.cgroup.reading import Earlier, Reading
from lxcd.cgroup.tree import Hierarchy, Trees
from lxcd.cgroup.usage import Cpu, Pids, Usage

V1 = {
    "cpu,cpuacct": {
        "cpuacct.usage_percpu": "1000000 2000000 \n",
        "cpuacct.stat": "user 1\nsystem 2\n",
        "cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n",
        "cpu.shares": "1024\n",
        "cpu.cfs_quota_us": "-1\n",
    },
    "cpuset": {"cpuset.effective_cpus": "0-1\n"},
    "pids": {
        "pids.current": "3\n",
        "pids.peak": "4\n",
        "pids.max": "max\n",
        "pids.events": "max 0\n",
        "cgroup.procs": "10\n11\n",
    },
    "": {"cpu.stat": "usage_usec 7\n", "cpu.pressure": ""},
}
V2 = {
    "": {
        "cpu.stat": "usage_usec 3000\nuser_usec 1000\nsystem_usec 2000\n",
        "cpu.max": "max 100000\n",
        "cpu.weight": "100\n",
        "cpuset.cpus.effective": "0-1\n",
        "memory.current": "4096\n",
        "pids.current": "3\n",
        "pids.peak": "4\n",
        "pids.max": "max\n",
        "pids.events": "max 0\n",
        "cgroup.procs": "10\n",
        "inner/cgroup.procs": "11\n12\n",
        "inner/deeper/cgroup.procs": "13\n",
        "io.stat": "0:1 rbytes=1 wbytes=0 rios=1 wios=0\n",
    }
}


class Box:
    """One container's directories in trees below a directory of the test's."""

    def __init__(self, root: Path, files: dict[str, dict[str, str]]) -> None:
        hierarchies: list[Hierarchy] = []
        self.directories: dict[str, str] = {}
        for key, texts in files.items():
            mount = root / (key or "unified")
            own = self.directories[key] = str(mount / "lxc.payload.box")
            hierarchies.append(Hierarchy(str(mount), 1 if key else 2, key))
            for name, text in texts.items():
                path = Path(own) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        self.trees = Trees(tuple(hierarchies))

    def read(
        self, earlier: Earlier | None = None, *, limits_now: bool = True
    ) -> tuple[Usage, Earlier]:
        with Reading(self.trees) as now:
            return now.usage(self.directories, earlier, limits_now=limits_now)

    def write(self, key: str, name: str, text: str) -> None:
        (Path(self.directories[key]) / name).write_text(text)


def test_a_controller_is_read_in_the_tree_that_has_it(tmp_path: Path) -> None:
    usage, _ = Box(tmp_path, V1).read()
    assert usage.cpu == Cpu(
        usage_usec=3000,
        user_usec=10_000,
        system_usec=20_000,
        periods=0,
        throttled_periods=0,
        throttled_usec=0,
        per_cpu_usage_usec=(1000, 2000),
        weight=100,
        effective_cpus="0-1",
    )
    assert usage.pids == Pids(current=3, peak=4, limit=None, limit_hits=0, processes=2)
    assert usage.memory.usage_bytes is None


def test_version_2_with_cgroups_below(tmp_path: Path) -> None:
    usage, _ = Box(tmp_path, V2).read()
    assert (usage.cpu.usage_usec, usage.cpu.weight, usage.cpu.effective_cpus) == (3000, 100, "0-1")
    assert usage.memory.usage_bytes == 4096
    assert usage.pids.processes == 4
    # No such device: its number is all that is known.
    assert [(one.major, one.minor, one.device) for one in usage.io] == [(0, 1, "")]


def test_a_container_that_is_gone_has_nothing(tmp_path: Path) -> None:
    box = Box(tmp_path, V1)
    for key in box.directories:
        box.directories[key] += "-gone"
    assert box.read()[0] == Usage()


def test_who_makes_too_many_cgroups_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path, V2)
    monkeypatch.setattr(reading, "_DIRECTORIES_MOST", 3)
    assert box.read()[0].pids.processes == 4
    monkeypatch.setattr(reading, "_DIRECTORIES_MOST", 2)
    assert box.read()[0].pids.processes is None


def test_where_no_task_has_run_its_counters_are_not_read_again(tmp_path: Path) -> None:
    box = Box(tmp_path, V1)
    _, earlier = box.read()
    box.write("pids", "pids.current", "5\n")
    box.write("pids", "cgroup.procs", "10\n11\n12\n")
    box.write("cpu,cpuacct", "cpu.shares", "512\n")
    usage, kept = box.read(earlier, limits_now=False)
    assert (usage.pids.current, usage.pids.processes, usage.cpu.weight) == (3, 2, 100)
    assert kept is earlier
    usage, _ = box.read(earlier)
    assert (usage.pids.current, usage.pids.processes, usage.cpu.weight) == (3, 2, 50)


def test_where_one_has_run_they_are_and_limits_still_are_not(tmp_path: Path) -> None:
    box = Box(tmp_path, V1)
    _, earlier = box.read()
    box.write("cpu,cpuacct", "cpuacct.usage_percpu", "1000000 2000001 \n")
    box.write("pids", "pids.current", "5\n")
    box.write("pids", "cgroup.procs", "10\n11\n12\n")
    box.write("cpu,cpuacct", "cpu.shares", "512\n")
    usage, again = box.read(earlier, limits_now=False)
    assert (usage.pids.current, usage.pids.processes, usage.cpu.weight) == (5, 3, 100)
    # What was not read has not become younger.
    assert again.time == earlier.time
    assert again.texts.keys() == earlier.texts.keys()


def test_what_is_too_old_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(tmp_path, V1)
    _, earlier = box.read()
    box.write("pids", "pids.current", "5\n")
    box.write("cpu,cpuacct", "cpu.shares", "512\n")
    monkeypatch.setattr(reading, "EARLIER_SECONDS", 0.0)
    usage, again = box.read(earlier, limits_now=False)
    assert (usage.pids.current, usage.cpu.weight) == (5, 50)
    assert again.time > earlier.time


def test_one_task_is_one_process(tmp_path: Path) -> None:
    box = Box(tmp_path, V1)
    box.write("pids", "pids.current", "1\n")
    os.unlink(f"{box.directories['pids']}/cgroup.procs")
    assert box.read()[0].pids.processes == 1


def test_a_long_file_is_read_to_its_end(tmp_path: Path) -> None:
    box = Box(tmp_path, V1)
    box.write("pids", "cgroup.procs", "".join(f"{pid}\n" for pid in range(100_000)))
    assert box.read()[0].pids.processes == 100_000
