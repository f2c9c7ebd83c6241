"""Translated limits on the host's real trees: what the kernel takes, and what it says then."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from lxcd.cgroup import facts, tree
from lxcd.cgroup.limits import Controllers, Write, translate
from lxcd.cgroup.readback import agrees, order, undo
from lxcd.cgroup.tree import Payload, Trees
from lxcd.config.loader import load
from lxcd.config.model import CgroupSetting

# Of both languages, so that something is translated on every host.
SAMPLE = """\
lxc.cgroup.cpuset.cpus = 0
lxc.cgroup.cpuset.mems = 0
lxc.cgroup.cpu.shares = 512
lxc.cgroup2.cpu.max = 50000 20000
lxc.cgroup.cpu.cfs_burst_us = 1000
lxc.cgroup.memory.limit_in_bytes = 268435456
lxc.cgroup.memory.memsw.limit_in_bytes = 512M
lxc.cgroup2.memory.low = 10001
lxc.cgroup2.pids.max = 77
lxc.cgroup2.hugetlb.2MB.max = 5M
lxc.cgroup.blkio.weight = 250
"""
OTHERS = """\
lxc.cgroup.cpuset.cpus = 0
lxc.cgroup2.cpu.weight.nice = 5
lxc.cgroup.cpu.cfs_quota_us = -1
lxc.cgroup2.memory.max = 1G
lxc.cgroup2.memory.swap.max = 0
lxc.cgroup2.pids.max = max
lxc.cgroup.hugetlb.2MB.limit_in_bytes = -1
lxc.cgroup2.io.weight = 100
"""


@pytest.fixture(scope="module")
def trees() -> Trees:
    return tree.find_trees()


@pytest.fixture
def payload(trees: Trees, unique: str) -> Iterator[Payload]:
    made = tree.plan_payload(trees, unique, relative=False)
    tree.make(trees, made)
    yield made
    assert tree.remove(made) == []


@pytest.fixture
def controllers(trees: Trees, payload: Payload) -> Controllers:
    assert payload.made
    return facts.controllers(trees)


def path(trees: Trees, payload: Payload, write: Write) -> str:
    (own,) = [
        one
        for one in trees.hierarchies
        if one.version == write.version
        and (one.version == 2 or write.controller in one.options.split(","))
    ]
    return f"{payload.directories[own.key]}/{write.file}"


def lines(text: str) -> tuple[CgroupSetting, ...]:
    config, _ = load(text.encode(), "c")
    assert config.problems == ()
    return config.cgroups


def put(trees: Trees, payload: Payload, writes: tuple[Write, ...]) -> None:
    for one in writes:
        with open(path(trees, payload, one), "w", encoding="ascii") as file:
            file.write(one.value)
        assert agrees(one, look(trees, payload, one)), one


def look(trees: Trees, payload: Payload, write: Write) -> str:
    with open(path(trees, payload, write), encoding="ascii") as file:
        return file.read()


def translated(text: str, controllers: Controllers) -> tuple[Write, ...]:
    """Translate; of every controller that there is something must be written."""
    found = translate(lines(text), controllers, facts.host())
    assert [one for one in found.problems if one.severity == "error"] == []
    wanted = {found.group(1) for found in re.finditer(r"cgroup2?\.(\w+)\.", text)}
    wanted |= {"io"} if "blkio" in wanted else {"blkio"} if "io" in wanted else set()
    there = {
        name for name in wanted & controllers.versions.keys() if _has_weights(name, controllers)
    }
    assert {one.controller for one in found.writes} == there
    return found.writes


def _has_weights(name: str, controllers: Controllers) -> bool:
    """Not every kernel has a scheduler with weights."""
    return name not in ("io", "blkio") or "weight" in " ".join(controllers.files[name])


def test_the_controllers_are_where_they_are(
    trees: Trees, controllers: Controllers, payload: Payload
) -> None:
    assert {"cpu", "memory", "pids"} <= controllers.versions.keys()
    for one in trees.hierarchies:
        for name in one.options.split(",") if one.version == 1 else ():
            if "=" not in name:
                assert controllers.versions[name] == 1
                assert f"{name}." in " ".join(controllers.files[name])
    for name, files in controllers.files.items():
        found = Write(name, controllers.versions[name], next(iter(files)), "", "", "")
        assert files <= set(os.listdir(os.path.dirname(path(trees, payload, found))))


def test_every_translated_limit_is_taken(
    trees: Trees, payload: Payload, controllers: Controllers
) -> None:
    writes = translated(SAMPLE, controllers)
    before = {one.file: look(trees, payload, one) for one in writes}
    assert {one.controller for one in writes} >= {"cpu", "cpuset", "memory", "pids"}
    put(trees, payload, writes)

    # Over to others, in an order that the kernel takes; and back.
    now = {one.file: look(trees, payload, one) for one in writes}
    others = translated(OTHERS, controllers)
    now |= {one.file: look(trees, payload, one) for one in others}
    ordered = order(others, now)
    put(trees, payload, ordered)
    put(trees, payload, undo(ordered, now))
    assert {one.file: look(trees, payload, one) for one in writes} == {
        one.file: now[one.file] for one in writes
    }
    # That each says what it said is looked at there; no limit has two spellings (hugetlb.*.max).
    put(trees, payload, undo(writes, before))


@pytest.mark.parametrize(
    "steps", [("1G 2G", "3G 4G", "1M 1M", "-1 -1", "64M 64M", "64M -1", "1M 2M")]
)
def test_memory_and_sum_in_every_direction(
    trees: Trees, payload: Payload, controllers: Controllers, steps: tuple[str, ...]
) -> None:
    for step in steps:
        limit, total = step.split()
        writes = translated(
            f"lxc.cgroup.memory.limit_in_bytes = {limit}\nlxc.cgroup.memory.memsw.limit_in_bytes = {total}\n",
            controllers,
        )
        put(trees, payload, order(writes, {one.file: look(trees, payload, one) for one in writes}))


def test_what_kernel_and_translation_both_refuse(
    trees: Trees, payload: Payload, controllers: Controllers
) -> None:
    """The errors that are told beforehand are those of the kernel."""
    host = facts.host()
    absent = max(host.cpus) + 1
    for line in (f"cpuset.cpus = {absent}", "pids.max = 4194305", "pids.max = few"):
        name, _, value = line.partition(" = ")
        setting = CgroupSetting(
            1 if controllers.versions[name.partition(".")[0]] == 1 else 2, name, value, "c:1"
        )
        found = translate([setting], controllers, host)
        assert [one.severity for one in found.problems] == ["error"]
        write = Write(name.partition(".")[0], setting.version, name, value, "", "")
        if (
            setting.version == 1 or name != "cpuset.cpus"
        ):  # version 2 takes it, and uses what there is
            with (
                pytest.raises(OSError, match=r".") as refused,
                open(path(trees, payload, write), "w", encoding="ascii") as file,
            ):
                file.write(value)
            assert refused.value.errno
