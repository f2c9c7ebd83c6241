"""One container's cgroups on the host's real trees, by names that nobody else has."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from lxcd.cgroup import killing, tree
from lxcd.cgroup.tree import Payload, Trees
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import process, procfs

pytestmark = pytest.mark.vm(short=True)


@pytest.fixture(scope="module")
def trees() -> Trees:
    found = tree.find_trees()
    assert found.layout != "none"
    return found


@pytest.fixture
def payload(trees: Trees, unique: str) -> Iterator[Payload]:
    made = tree.plan_payload(trees, f"{unique}/payload", relative=False)
    tree.make(trees, made)
    yield made
    assert tree.remove(made) == []
    assert not [path for path in made.made if os.path.exists(path)]


def sleeper(payload: Payload, trees: Trees, below: str = "") -> int:
    """A process in all of them, which waits to be killed."""
    directory, procs = tree.open_unified(trees, payload), tree.open_procs(trees, payload)
    kernel_fd.close_all([directory] if directory >= 0 else [])
    kernel_fd.close_all(procs)
    pid, pidfd = process.clone3(0)
    if pid == 0:
        while True:
            signal.pause()
    os.close(pidfd)
    try:
        _move(pid, payload, below)
    except OSError:
        end(pid)
        raise
    return pid


def _move(pid: int, payload: Payload, below: str) -> None:
    for path in map(payload.home, payload.directories):
        place = f"{path}{below}" if os.path.isdir(f"{path}{below}") else path
        with open(f"{place}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(pid))


def end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_made_in_every_tree(trees: Trees, payload: Payload) -> None:
    assert set(payload.directories) == {hierarchy.key for hierarchy in trees.hierarchies}
    assert all(os.path.isdir(path) for path in payload.directories.values())
    # Parents first, and each of them once.
    homes = {key for key, path in payload.directories.items() if payload.home(key) != path}
    made = 2 * len(trees.hierarchies) + len(homes)
    assert len(set(payload.made)) == len(payload.made) == made
    # What it could write to is not where its limits are.
    unified = trees.unified
    assert homes == ({""} if unified and trees.hides_limits(unified) else set())


@pytest.mark.usefixtures("payload")
def test_the_next_one_gets_a_number(trees: Trees, unique: str) -> None:
    assert tree.choose(trees, f"{unique}/payload", relative=False) == [f"{unique}/payload-1"]


def test_a_process_in_it(trees: Trees, payload: Payload) -> None:
    pid = sleeper(payload, trees)
    try:
        found = procfs.cgroups(pid)
        for hierarchy in trees.hierarchies:
            path = payload.home(hierarchy.key)
            assert found[hierarchy.key] == path.removeprefix(hierarchy.mountpoint)
            assert killing.pids(path) == [pid]
    finally:
        end(pid)


def test_remove_takes_what_is_below(trees: Trees, unique: str) -> None:
    made = tree.plan_payload(trees, unique, relative=False)
    tree.make(trees, made)
    pid = sleeper(made, trees)
    for path in map(made.home, made.directories):
        os.mkdir(f"{path}/below")
    end(pid)
    assert tree.remove(made) == []
    assert tree.remove(made) == []


def test_delegation(trees: Trees, payload: Payload) -> None:
    tree.delegate(trees, payload, 1234, 2345)
    for hierarchy in trees.hierarchies:
        path = payload.home(hierarchy.key)
        ours = hierarchy.version == 2 or "name=" in hierarchy.options
        assert (os.stat(path).st_uid == 1234) == ours
        assert (os.stat(f"{path}/cgroup.procs").st_gid == 2345) == ours
        for name in os.listdir(path):
            if name.startswith(("memory.", "pids.", "cpu.", "devices.")):
                given = ours and name in ("memory.oom.group", "memory.reclaim")
                assert (os.stat(f"{path}/{name}").st_uid == 0) != given
        if path != payload.directories[hierarchy.key]:
            # Its limits stay the host's.
            assert os.stat(payload.directories[hierarchy.key]).st_uid == 0


def test_a_join_of_an_init_that_is_gone_leaks_no_descriptor(trees: Trees, payload: Payload) -> None:
    if trees.unified is None:
        return  # only version 2 is asked where init sits
    before = len(os.listdir("/proc/self/fd"))
    cgroup, procs = tree.open_for_join(trees, payload, 2**22 + 1)
    for number in (cgroup, *procs):
        os.close(number)
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_of_a_spawn_that_fails_are_closed(trees: Trees, unique: str) -> None:
    made = tree.plan_payload(trees, unique, relative=False)
    tree.make(trees, made)
    try:
        # The last of version 1 that is opened, or the one of version 2.
        first = [hierarchy for hierarchy in trees.hierarchies if hierarchy.version == 1]
        last = (first or trees.hierarchies)[-1]
        opens = tree.open_procs if first else tree.open_unified
        os.rmdir(made.home(last.key))
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=r"."):
            opens(trees, made)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        assert tree.remove(made) == []


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x0c", "\x1c", "\u0085", "\u2028"])
def test_a_cgroup_cannot_pretend_to_be_another(
    trees: Trees, payload: Payload, unique: str, separator: str
) -> None:
    """The kernel allows every character but a newline; whoever is root inside names his cgroups as he likes."""
    delegated = next(h for h in trees.hierarchies if h.version == 2 or "name=" in h.options)
    own = payload.home(delegated.key)
    below = f"/x{separator}0::/{unique}-victim"
    os.makedirs(own + below)
    pid = sleeper(payload, trees, below)
    try:
        found = procfs.cgroups(pid)
        assert found[delegated.key] == own.removeprefix(delegated.mountpoint) + below
        assert set(found) == {hierarchy.key for hierarchy in trees.hierarchies}
    finally:
        end(pid)
