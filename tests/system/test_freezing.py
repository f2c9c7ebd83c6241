"""Containers that are frozen: what waits, what is refused, and what ends them all the same. On both versions."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lxcd.v1 import container_pb2 as pb
from lxcd.v1 import stats_pb2, types_pb2
from tests.stuck import stuck
from tests.system import sessions
from tests.system.boxes import Box, defined
from tests.system.calls import application, events, get, idle, refused
from tests.system.consistency import VERSION_1
from tests.system.host import Host
from tests.system.limits import waiting
from tests.system.machine import DEADLINE, until

pytestmark = pytest.mark.vm

FROZEN, RUNNING = types_pb2.STATE_FROZEN, types_pb2.STATE_RUNNING


# A host with version 2 alone is that already.
HOSTS = ["all", "second"] if VERSION_1 else ["all"]


@pytest.fixture(params=HOSTS, scope="module")
def freezer(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host with the freezer of version 1 beside version 2, and one with version 2 alone."""
    host = Host(("unified",) if request.param == "second" else ())
    host.config.write_text("prepared_max = 0\n")
    try:
        host.start_daemon()
        yield host
    finally:
        host.close()


@pytest.fixture
def shared_host(freezer: Host) -> Host:
    """Under the name by which the ledger knows that it outlives a test."""
    return freezer


def freeze(made: Box) -> None:
    made.host.ctl("freeze", made.name)
    assert made.info().state == FROZEN


def thaw(made: Box) -> None:
    made.host.ctl("thaw", made.name)
    assert made.info().state == RUNNING


def send(made: Box, number: int) -> None:
    request = pb.SignalContainerRequest(name=made.name, signal=number)
    made.api.container.SignalContainer(request, timeout=DEADLINE)


def frozen(made: Box) -> bool:
    """What the kernel says."""
    cgroups = made.info().cgroups
    if "freezer" in cgroups:
        return Path(cgroups["freezer"], "freezer.state").read_text() == "FROZEN\n"
    return "frozen 1" in Path(cgroups["unified"], "cgroup.events").read_text()


def homes(made: Box) -> list[str]:
    """The cgroups in which its processes begin."""
    tops = made.info().cgroups.values()
    inner = {top: f"{top}/inner" for top in tops}
    return [inner[top] if os.path.exists(inner[top]) else top for top in tops]


def test_what_joined_freezes_too(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "cold") as made:
        for tty in (False, True):
            script = "while :; do usleep 1000; done"
            found = sessions.create(made, "/bin/sh", "-c", script, tty=tty)
            freeze(made)
            assert frozen(made)
            used = _used(found.pid)
            # Another container's whole life: time enough for many turns.
            shared_host.ctl("run", "host", "--rm", "--", "true")
            assert _used(found.pid) == used
            thaw(made)
            assert not frozen(made)
            until(partial(_goes_on, found.pid, used), "it goes on")
            sessions.delete(made.api, found.id)


def _goes_on(pid: int, used: tuple[str, ...]) -> bool:
    return _used(pid) != used


def _used(pid: int) -> tuple[str, ...]:
    """Time of a cpu, as proc(5) counts it, and how often it was switched to."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    switched = [line for line in status if "ctxt_switches" in line]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (*fields[11:13], *switched)


def test_commands_are_refused_and_attached_ones_wait(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "cold") as made:
        found = sessions.create(made, "/bin/cat", stdin=True)
        attached = sessions.attach(made.api, found.id, role=sessions.CONTROLLER)
        freeze(made)
        error = refused(lambda: made.run("/bin/true"))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "CONTAINER_FROZEN")
        assert shared_host.ctl("exec", "cold", "--", "true", check=False).returncode == 4
        attached.type(b"said\n")
        again = sessions.attach(made.api, found.id, role=sessions.VIEWER)
        again.cancel()
        assert not attached.data
        thaw(made)
        attached.shows(b"said\n", "stdout")
        attached.send(input_end=True)
        assert attached.to_the_end().exit.code == 0


def test_a_console_that_is_frozen_can_be_attached_to(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "cold"), "cold") as made:
        made.start("/bin/sh", "-c", "while read x; do echo heard $x; done", system=True)
        freeze(made)
        attached = sessions.console(made.api, "cold", role=sessions.CONTROLLER)
        attached.type(b"what\n")
        assert len(sessions.with_console(made)) == 1
        thaw(made)
        attached.shows(b"heard what", "console")
        freeze(made)
        attached.send(detach={})
        attached.to_the_end()
        assert not sessions.with_console(made)
        assert b"heard what" in made.log()


def test_a_signal_waits_for_the_thaw(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "cold"), "cold") as made:
        script = "trap 'echo heard' USR1; echo ready; while :; do sleep 0.01; done"
        made.start("/bin/sh", "-c", script, system=True)
        made.shows("ready")
        freeze(made)
        shared_host.ctl("signal", "cold", "USR1")
        shared_host.ctl("run", "host", "--rm", "--", "true")
        assert b"heard" not in made.log()
        assert made.info().state == FROZEN
        thaw(made)
        made.shows("heard")


@pytest.mark.parametrize("by", ["signal", "stop", "delete"])
def test_a_frozen_container_can_be_killed(shared_host: Host, busybox_root: Path, by: str) -> None:
    with idle(shared_host, busybox_root, "cold") as made:
        sessions.create(made, "/bin/sleep", "77777")
        cgroups = list(made.info().cgroups.values())
        freeze(made)
        if by == "signal":
            send(made, signal.SIGKILL)
            made.wait()
            assert made.info().exit.signal == signal.SIGKILL
        elif by == "stop":
            assert made.stop(kill=True).killed
        else:
            shared_host.ctl("delete", "--force", "cold")
        assert not [path for path in cgroups if os.path.exists(path)]
        until(
            lambda: not any("77777" in line for line in shared_host.machine.processes()),
            "what had joined is gone",
        )


def test_a_clean_stop_thaws(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "cold"), "cold") as made:
        script = "trap 'echo bye; exit 7' USR1; echo ready; while :; do sleep 0.01; done"
        made.start("/bin/sh", "-c", script, system=True)
        made.shows("ready")
        freeze(made)
        answer = made.stop()
        assert (answer.killed, answer.exit.code) == (False, 7)
        assert b"bye" in made.log()
        states = [
            types_pb2.State.Name(event.state).removeprefix("STATE_")
            for event in events(made.api, "container.state", names=("cold",))
        ]
        assert states[-4:] == ["FREEZING", "FROZEN", "STOPPING", "STOPPED"]


def test_a_stop_that_init_ignores_leaves_it_running(shared_host: Host, busybox_root: Path) -> None:
    """Thawed, as it was asked to do something."""
    with defined(shared_host, application(shared_host, busybox_root, "cold"), "cold") as made:
        made.start("/bin/sh", "-c", "trap '' TERM PWR; echo ready; sleep 100000", system=True)
        made.shows("ready")
        freeze(made)
        done = shared_host.ctl("stop", "--no-kill", "--timeout", "0.2", "cold", check=False)
        assert done.returncode == 1
        assert made.info().state == RUNNING
        assert not frozen(made)
        assert made.sh("echo on") == "on"


def test_what_is_frozen_stays_so_without_lxcd(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "cold") as made, idle(shared_host, busybox_root, "warm"):
        freeze(made)
        shared_host.kill_daemon()
        shared_host.start_daemon()
        assert made.info().state == FROZEN
        assert get(made.api, "warm").state == RUNNING
        assert frozen(made)
        assert refused(lambda: made.run("/bin/true")).reason == "CONTAINER_FROZEN"
        thaw(made)
        assert made.sh("echo on") == "on"
        # What somebody else has thawed meanwhile runs.
        freeze(made)
        cgroups = made.info().cgroups
        shared_host.kill_daemon()
        if "freezer" in cgroups:
            Path(cgroups["freezer"], "freezer.state").write_text("THAWED")
        else:
            Path(cgroups["unified"], "cgroup.freeze").write_text("0")
        shared_host.start_daemon()
        assert made.info().state == RUNNING


def test_what_a_frozen_container_uses_is_told(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "cold") as made:
        request = stats_pb2.GetStatsRequest(names=["cold"])
        before = made.api.stats.GetStats(request, timeout=DEADLINE).stats[0]
        freeze(made)
        one, two = (made.api.stats.GetStats(request, timeout=DEADLINE).stats[0] for _ in range(2))
        assert one.name == "cold"
        assert one.pids.processes == two.pids.processes == before.pids.processes > 0
        assert one.cpu.usage_usec == two.cpu.usage_usec
        assert shared_host.ctl("stats", "cold").stdout.count("cold") == 1
        listed = shared_host.ctl("ps", "cold").stdout
        assert "sleep" in listed


def test_limits_of_what_is_frozen_can_be_changed(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "cold") as made:
        freeze(made)
        key = "lxc.cgroup.devices.deny"
        shared_host.ctl("config", "set", "--live-only", "cold", key, "c 1:7 rwm")
        thaw(made)
        assert "not permitted" in made.sh("dd if=/dev/full of=/dev/null count=0 2>&1; true")


def test_waiting_for_frost(shared_host: Host, busybox_root: Path) -> None:
    script = "cat /mnt/0; exit 3"
    with waiting(shared_host, busybox_root, "cold", script) as made:
        freeze(made)
        made.wait(FROZEN)
        shared_host.ctl("freeze", "cold")
        assert len(events(made.api, "container.state", names=("cold",))) >= 3
        thaw(made)
        made.wait(RUNNING)
        made.stop(kill=True)


@pytest.mark.long
def test_what_cannot_be_frozen_goes_on(shared_host: Host, busybox_root: Path) -> None:
    """One that waits for a file system is among them: after half a minute all go on."""
    with idle(shared_host, busybox_root, "cold") as made, stuck(homes(made)):
        done = shared_host.ctl("freeze", "cold", check=False)
        assert done.returncode == 1
        assert "not frozen in" in done.stderr
        assert made.info().state == RUNNING
        assert not frozen(made)
        assert made.sh("echo on") == "on"
        assert [event.state for event in events(made.api, "container.state", names=("cold",))][
            -2:
        ] == [types_pb2.STATE_FREEZING, RUNNING]
