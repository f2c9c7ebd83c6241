"""Killing all that is in a container's cgroups, on the host's real trees."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lxcd.cgroup import killing, tree
from lxcd.cgroup.tree import Payload
from lxcd.kernel import process, procfs

pytestmark = pytest.mark.vm

LIMIT = 300


@pytest.fixture
def payload(unique: str) -> Iterator[Payload]:
    trees = tree.find_trees()
    made = tree.plan_payload(trees, f"{unique}/payload", relative=False)
    tree.make(trees, made)
    _limit(made)
    yield made
    assert tree.remove(made) == []


def _limit(made: Payload) -> None:
    """Whatever goes wrong, the machine goes on."""
    for path in made.directories.values():
        limit = Path(path, "pids.max")
        if limit.exists():
            limit.write_text(str(LIMIT))


def _homes(made: Payload) -> list[str]:
    return [made.home(key) for key in made.directories]


def _child(homes: list[str], *, bomb: bool) -> int:
    pid, pidfd = process.clone3(0)
    if pid == 0:
        with suppress(BaseException):
            for path in homes:
                Path(path, "cgroup.procs").write_text("0")
            while not bomb:
                signal.pause()
            while True:
                # Orphans are the machine's: they end with their cgroup.
                with suppress(OSError):
                    os.fork()
        os._exit(1)
    os.close(pidfd)
    return pid


def _without_one_write(payload: Payload) -> dict[str, str]:
    """As on a host whose version 2 has no cgroup.kill, or that has no version 2."""
    return {key: path for key, path in payload.directories.items() if key}


def _versions(payload: Payload) -> list[dict[str, str]]:
    first = _without_one_write(payload)
    return [payload.directories, first] if first else [payload.directories]


def test_a_fork_bomb_ends(payload: Payload) -> None:
    for directories in _versions(payload):
        pid = _child(_homes(payload), bomb=True)
        last = list(payload.directories.values())[-1]
        while len(killing.pids(last)) < LIMIT // 3:
            os.sched_yield()
        assert killing.kill_all(directories)
        os.waitpid(pid, 0)
        assert not any(map(killing.pids, payload.directories.values()))


def test_what_is_frozen_ends(payload: Payload) -> None:
    freezer = next((path for key, path in payload.directories.items() if "freezer" in key), None)
    for directories in _versions(payload):
        pid = _child(_homes(payload), bomb=False)
        place = freezer or payload.directories[""]
        while not all(pid in killing.pids(path) for path in payload.directories.values()):
            os.sched_yield()
        if freezer is not None:
            below = f"{freezer}/below"
            os.mkdir(below)
            Path(below, "cgroup.procs").write_text(str(pid))
            Path(below, "freezer.state").write_text("FROZEN")
            Path(freezer, "freezer.state").write_text("FROZEN")
        else:
            Path(place, "cgroup.freeze").write_text("1")
        assert killing.kill_all(directories)
        os.waitpid(pid, 0)
        if freezer is not None:
            assert Path(freezer, "freezer.state").read_text() == "THAWED\n"
            os.rmdir(f"{freezer}/below")


def test_nobody_is_left_frozen(payload: Payload) -> None:
    killing.kill_once(payload.directories, still=True)
    for key, path in payload.directories.items():
        if "freezer" in key:
            assert Path(path, "freezer.state").read_text() == "THAWED\n"
    assert killing.kill_all({"": "/nonexistent", "freezer": "/nonexistent"})


def test_others_are_left_alone(payload: Payload) -> None:
    pid = _child([], bomb=False)
    try:
        assert killing.kill_all(payload.directories)
        assert procfs.status(pid).state != "Z"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
