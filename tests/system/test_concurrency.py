"""Several at once, and callers that go away in the middle: one after the other, and always to an end."""

from __future__ import annotations

import glob
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from lxcd.v1 import container_pb2, types_pb2
from tests.system.boxes import Refused, defined
from tests.system.calls import (
    IDLE,
    application,
    define,
    events,
    everything,
    get,
    idle,
    refused,
    seconds,
    state,
)
from tests.system.host import Api, Host
from tests.system.machine import DEADLINE, until

# What one operation may find because another one was first; never INTERNAL, UNKNOWN, UNAVAILABLE.
_IN_ORDER = {"FAILED_PRECONDITION", "NOT_FOUND", "ALREADY_EXISTS", "ABORTED"}
_STUBBORN = ("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 100000; done")


def _start(name: str) -> container_pb2.StartContainerRequest:
    return container_pb2.StartContainerRequest(name=name, command=IDLE)


def test_of_two_starts_at_once_exactly_one_succeeds(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "twice"), "twice") as made:
        for generation in range(1, 11):
            calls = [
                made.api.container.StartContainer.future(_start("twice"), timeout=DEADLINE)
                for _ in range(4)
            ]
            outcomes = [call.exception() for call in calls]
            assert outcomes.count(None) == 1
            wrong = [Refused(error) for error in outcomes if error is not None]
            assert {error.reason for error in wrong} == {"CONTAINER_RUNNING"}
            assert {error.code for error in wrong} == {"FAILED_PRECONDITION"}
            assert made.info().generation == generation
            made.stop(kill=True)


def test_a_start_of_what_runs_and_a_delete_of_it_are_a_wrong_state(
    shared_host: Host, busybox_root: Path
) -> None:
    with idle(shared_host, busybox_root, "up") as made:
        for words in (("start", "up"), ("delete", "up"), ("rename", "up", "down"), ("thaw", "up")):
            done = shared_host.ctl(*words, check=False)
            assert (done.returncode, done.stdout) == (4, ""), words
            assert "RUNNING" in done.stderr, words
        assert made.info().generation == 1
        assert made.sh("echo on") == "on"


def test_a_stop_during_a_start_leaves_it_stopped(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "race"), "race") as made:
        for _ in range(10):
            start = made.api.container.StartContainer.future(_start("race"), timeout=DEADLINE)
            made.wait(types_pb2.STATE_STARTING, types_pb2.STATE_RUNNING)
            made.stop(kill=True)
            start.result()
            assert state(made.info()) == "STOPPED"


def test_a_stop_whose_caller_gave_up_can_be_asked_for_again(
    shared_host: Host, busybox_root: Path
) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "deaf"), "deaf") as made:
        made.start(*_STUBBORN)
        made.shows("ready")
        request = container_pb2.StopContainerRequest(name="deaf")
        call = made.api.container.StopContainer.future(request, timeout=DEADLINE)
        made.wait(types_pb2.STATE_STOPPING)
        call.cancel()
        # The container goes on or ends; what must not be is that nobody can end it any more.
        last = container_pb2.StopContainerRequest(name="deaf", kill=True)
        made.api.container.StopContainer(last, timeout=20)
        assert state(made.info()) == "STOPPED"


def test_a_stop_that_may_not_kill_leaves_it_running(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "deaf2"), "deaf2") as made:
        made.start(*_STUBBORN)
        made.shows("ready")
        error = refused(lambda: made.stop(no_kill=True, timeout=seconds(0.2)))
        assert error.code == "DEADLINE_EXCEEDED"
        assert state(made.info()) == "RUNNING"
        reply = made.stop(timeout=seconds(0.2))
        assert reply.killed
        assert reply.exit.cause == types_pb2.CAUSE_REQUESTED


def test_a_start_whose_caller_gave_up_leaves_nothing_half_done(
    shared_host: Host, busybox_root: Path
) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "gave-up"), "gave-up") as made:
        for _ in range(10):
            call = made.api.container.StartContainer.future(_start("gave-up"), timeout=DEADLINE)
            made.wait(types_pb2.STATE_STARTING, types_pb2.STATE_RUNNING)
            call.cancel()
            made.wait(types_pb2.STATE_STOPPED, types_pb2.STATE_RUNNING)
            if state(made.info()) == "RUNNING":
                made.stop(kill=True)
        until(lambda: _cgroups("gave-up") == [], f"no cgroup is left, as {_cgroups('gave-up')}", 30)
        made.start(*IDLE)
        assert made.sh("echo on") == "on"


def _cgroups(name: str) -> list[str]:
    return glob.glob(f"/sys/fs/cgroup/**/lxc.payload.{name}*", recursive=True)


def test_looking_at_containers_for_the_first_time_does_not_make_them_twice(
    host: Host, busybox_root: Path
) -> None:
    names = [f"c{number:02}" for number in range(40)]
    api = host.channel()
    for name in names:
        define(api, name, application(host, busybox_root, name))
    for _ in range(3):
        # A daemon which has seen none of them yet.
        host.kill_daemon()
        host.start_daemon()

        def look(_: int) -> None:
            with Api(host.address) as mine:
                for _ in range(10):
                    assert sorted(everything(mine)) == names

        def start(name: str) -> int:
            return int(api.container.StartContainer(_start(name), timeout=DEADLINE).pid)

        with ThreadPoolExecutor(8) as pool:
            looking = pool.map(look, range(4))
            pids = dict(zip(names[:12], pool.map(start, names[:12]), strict=True))
            list(looking)
        found = everything(api)
        for name, pid in pids.items():
            assert (state(found[name]), found[name].pid) == ("RUNNING", pid), name
        for name in pids:
            request = container_pb2.StopContainerRequest(name=name, kill=True)
            api.container.StopContainer(request, timeout=DEADLINE)


class _Mixed:
    """Operations in a random order that is the same in every run."""

    def __init__(self, host: Host, configs: dict[str, str]) -> None:
        self.host, self.configs = host, configs
        self.unexpected: list[str] = []

    def one(self, seed: int) -> None:
        """Do one of them."""
        chance = random.Random(seed)
        name = chance.choice(sorted(self.configs))
        with Api(self.host.address) as api:
            verbs: list[Any] = [
                lambda: api.container.StartContainer(_start(name), timeout=DEADLINE),
                lambda: api.container.StopContainer(
                    container_pb2.StopContainerRequest(name=name, kill=True), timeout=DEADLINE
                ),
                lambda: api.container.RestartContainer(
                    container_pb2.RestartContainerRequest(name=name, kill=True), timeout=DEADLINE
                ),
                lambda: api.container.FreezeContainer(
                    container_pb2.FreezeContainerRequest(name=name), timeout=DEADLINE
                ),
                lambda: api.container.ThawContainer(
                    container_pb2.ThawContainerRequest(name=name), timeout=DEADLINE
                ),
                lambda: api.container.DeleteContainer(
                    container_pb2.DeleteContainerRequest(name=name, force=True), timeout=DEADLINE
                ),
                lambda: define(api, name, self.configs[name]),
                lambda: everything(api),
                lambda: get(api, name),
            ]
            try:
                chance.choice(verbs)()
            except grpc.RpcError as error:
                wrong = Refused(error)
                if wrong.code not in _IN_ORDER:
                    self.unexpected.append(str(wrong))


@pytest.mark.parametrize(
    ("containers", "operations"),
    [(1, 30), (10, 120), pytest.param(30, 3000, marks=pytest.mark.long)],
)
def test_operations_at_once_end_in_a_consistent_state(
    host: Host, busybox_root: Path, containers: int, operations: int
) -> None:
    names = [f"m{number}" for number in range(containers)]
    configs = {name: application(host, busybox_root, name) for name in names}
    api = host.channel()
    for name, config in configs.items():
        define(api, name, config)
    mixed = _Mixed(host, configs)
    with ThreadPoolExecutor(30) as pool:
        list(pool.map(mixed.one, range(operations)))
    assert mixed.unexpected == []
    found = everything(api)
    for name, one in found.items():
        assert state(one) in ("STOPPED", "RUNNING", "FROZEN"), name
        assert (state(one) == "STOPPED") == (one.pid == 0)
        assert all(Path(path).is_dir() for path in one.cgroups.values())
    numbers = [event.sequence for event in events(api)]
    assert numbers == list(range(1, len(numbers) + 1))
    # No life was begun before the one before had ended.
    for name in names:
        alive = False
        for event in events(api, "container.started", "container.exited", names=(name,)):
            assert alive == (event.type == "container.exited"), (name, event)
            alive = not alive
        assert alive == bool(name in found and found[name].pid)
    for name in found:
        request = container_pb2.DeleteContainerRequest(name=name, force=True)
        api.container.DeleteContainer(request, timeout=DEADLINE)
    assert everything(api) == {}
