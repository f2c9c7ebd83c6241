"""Word from the kernel about limits: version 1 on the host's own tree, version 2 on files like its own."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lxcd.cgroup import counters, tree
from lxcd.cgroup.tree import Payload
from lxcd.cgroup.watch import Watch
from lxcd.kernel import process

pytestmark = pytest.mark.vm

LIMIT_BYTES = 16 << 20
EVENTS = "low 0\nhigh {high}\nmax {max}\noom 0\noom_kill {kills}\noom_group_kill 0\n"


@pytest.fixture
def watch() -> Iterator[Watch]:
    before = len(os.listdir("/proc/self/fd"))
    made = Watch()
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before


def rung(watch: Watch) -> set[int]:
    """What it tells, once it tells something."""
    ready, _, _ = select.select([watch], [], [], 60)
    assert ready
    return watch.take()


@pytest.fixture
def second(tmp_path: Path) -> Payload:
    for name in ("memory.events", "memory.swap.events"):
        (tmp_path / name).write_text(EVENTS.format(high=1, max=2, kills=3))
    (tmp_path / "pids.events").write_text("max 4\n")
    (tmp_path / "pids.events.local").write_text("max 0\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "pids.max").write_text("7\n")
    return Payload({"": str(tmp_path)}, ())


def test_version_2(watch: Watch, second: Payload, tmp_path: Path) -> None:
    hits = {"pids": 4, "memory": 2, "memory_high": 1, "memory_swap": 2}
    assert counters.read(second) == counters.Counts(3, hits)
    assert counters.limit(second, "memory") is None
    assert counters.limit(second, "pids") == 7
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1, 4):
        assert watch.add(number, second if number == 2 else Payload({}, ())) == ""
    # No descriptor of its own.
    assert len(os.listdir("/proc/self/fd")) == before
    assert watch.take() == set()
    (tmp_path / "memory.events").write_text(EVENTS.format(high=1, max=2, kills=4))
    assert rung(watch) == {2}
    assert watch.take() == set()
    (tmp_path / "pids.events").write_text("max 5\n")
    assert rung(watch) == {2}
    watch.remove(2)
    (tmp_path / "pids.events").write_text("max 6\n")
    assert watch.take() == set()


def test_rejected_forks_that_are_counted_where_they_were(second: Payload, tmp_path: Path) -> None:
    """As Linux did on version 2 until 6.11, and does on version 1."""
    below = tmp_path / "inner" / "service"
    below.mkdir(parents=True)
    (tmp_path / "inner" / "pids.events").write_text("max 20\n")
    (below / "pids.events").write_text("max 100\n")
    assert (counters.read(second).hits["pids"], counters.read(second).pids_silent) == (4, False)
    (tmp_path / "pids.events.local").unlink()
    assert (counters.read(second).hits["pids"], counters.read(second).pids_silent) == (124, True)


def test_what_is_not_there_counts_nothing(watch: Watch, tmp_path: Path) -> None:
    gone = Payload({"memory": str(tmp_path / "gone"), "": str(tmp_path / "none")}, ())
    assert counters.read(gone) == counters.Counts(pids_silent=True)
    assert "gone" in watch.add(1, gone)
    watch.remove(1)
    watch.remove(1)


def test_nonsense_counts_nothing(second: Payload, tmp_path: Path) -> None:
    for name in os.listdir(tmp_path):
        (tmp_path / name).write_bytes(b"\xff nonsense\n\n")
    assert counters.read(second) == counters.Counts()
    assert counters.limit(second, "pids") is None


@pytest.fixture
def payload(unique: str) -> Iterator[Payload]:
    made = tree.plan_payload(tree.find_trees(), unique, relative=False)
    tree.make(tree.find_trees(), made)
    yield made
    assert tree.remove(made) == []


def eat(payload: Payload) -> None:
    """A process in it takes memory until it is killed."""
    pid, pidfd = process.clone3(0)
    if pid == 0:
        with suppress(BaseException):
            for path in map(payload.home, payload.directories):
                Path(path, "cgroup.procs").write_text("0")
            taken = []
            while True:
                taken.append(bytearray(b"x") * (1 << 20))
        os._exit(1)
    os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_the_kernel_of_this_host(watch: Watch, payload: Payload) -> None:
    place = counters.place(payload, "memory")
    name = "memory.limit_in_bytes" if place.version == 1 else "memory.max"
    Path(place.path, name).write_text(str(LIMIT_BYTES))
    before = counters.read(payload)
    assert (before.killed, counters.limit(payload, "memory")) == (0, LIMIT_BYTES)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert watch.add(5, payload) == ""
    assert len(os.listdir("/proc/self/fd")) == descriptors + (place.version == 1)
    eat(payload)
    assert rung(watch) == {5}
    after = counters.read(payload)
    assert after.killed == 1
    assert after.hits["memory"] > before.hits["memory"]
    watch.take()
    watch.remove(5)
    assert len(os.listdir("/proc/self/fd")) == descriptors
