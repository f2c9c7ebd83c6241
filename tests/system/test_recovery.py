"""lxcd may end at any moment: containers go on, and the next lxcd finds everything as it is."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import container_pb2, exec_pb2, host_pb2, types_pb2
from tests.system.boxes import Box, busybox_up, defined, generation_runs, over
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
from tests.system.host import Host
from tests.system.losing import go, gone, share, writing_end
from tests.system.machine import DEADLINE, until
from tests.system.wires import nic, script

ENDINGS: dict[str, Callable[[Host], Any]] = {"kill": Host.kill_daemon, "term": Host.stop_daemon}
either_ending = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS.keys())


def _start(host: Host, name: str, root: Path, line: str, *command: str) -> int:
    api = host.channel()
    define(api, name, application(host, root, name, line))
    request = container_pb2.StartContainerRequest(name=name, command=command)
    return int(api.container.StartContainer(request, timeout=DEADLINE).pid)


@either_ending
def test_twenty_containers_go_on_without_the_daemon(
    host: Host, busybox_root: Path, end: Callable[[Host], Any]
) -> None:
    line = share(host, "end")
    script = "echo before; cat /mnt/end; exit 37"
    names = [f"{number:03}" for number in range(20)]
    pids = {name: _start(host, name, busybox_root, line, *IDLE) for name in names[2:]}
    ending = _start(host, names[0], busybox_root, line, "/bin/sh", "-c", script)
    with defined(host, over(host, busybox_root, names[1]), names[1]) as system:
        pids[names[1]] = system.start().pid
        busybox_up(system)
        first_keeper = host.keeper_pid
        last = events(system.api)[-1].sequence

        end(host)
        killed = time.time()
        go(host, "end")
        # Not before it is reaped: as a zombie it waits for the keeper, which takes the time then.
        until(lambda: not os.path.exists(f"/proc/{ending}"), "the one has ended")
        restarted = time.time()
        assert not any(gone(pid) for pid in pids.values())
        host.start_daemon()

        api = host.channel()
        assert host.keeper_pid == first_keeper
        assert api.container.WaitContainer(
            container_pb2.WaitContainerRequest(name=names[0], generation=1), timeout=DEADLINE
        ).reached
        found = everything(api)
        assert sorted(found) == names
        over_ = found.pop(names[0])
        assert (state(over_), over_.exit.code, over_.exit.cause) == (
            "STOPPED",
            37,
            types_pb2.CAUSE_SELF,
        )
        assert killed <= over_.exit.time.ToNanoseconds() / 1e9 <= restarted
        for name, one in found.items():
            assert (state(one), one.pid, one.generation) == ("RUNNING", pids[name], 1), name
        assert not events(api, "container.started", after=last)
        assert len(events(api, "container.exited", after=last)) == 1
        assert host.ctl("logs", names[0]).stdout == "before\r\n"
        assert "busybox is up" in host.ctl("logs", names[1]).stdout
        assert host.ctl("exec", names[5], "--", "echo", "in").stdout == "in\n"
        host.ctl("stop", "--kill", names[5])
        host.ctl("start", names[5], "--", *IDLE)
        assert get(api, names[5]).generation == 2


@either_ending
def test_the_end_that_came_meanwhile_is_told_as_it_was(
    host: Host, busybox_root: Path, end: Callable[[Host], Any]
) -> None:
    line = share(host, "self")
    pid = _start(host, "signalled", busybox_root, line, *IDLE)
    with (
        defined(host, over(host, busybox_root, "off"), "off") as off,
        defined(host, over(host, busybox_root, "again"), "again") as again,
    ):
        off.start()
        again.start()
        busybox_up(off)
        busybox_up(again)
        off_pid, again_pid = off.info().pid, again.info().pid
        end(host)
        os.kill(pid, signal.SIGKILL)
        # What busybox's own `poweroff` and `reboot` send to its init.
        os.kill(off_pid, signal.SIGUSR2)
        os.kill(again_pid, signal.SIGTERM)
        until(lambda: all(map(gone, (pid, off_pid, again_pid))), "all three have ended")
        host.start_daemon()
        generation_runs(again, 2)
        assert again.info().exit.cause == types_pb2.CAUSE_REBOOT
        assert again.info().pid != again_pid
        off.wait(generation=1)
        assert off.info().exit.cause == types_pb2.CAUSE_SELF
        assert off.info().exit.WhichOneof("how") == "code"
        api = host.channel()
        request = container_pb2.WaitContainerRequest(name="signalled", generation=1)
        assert api.container.WaitContainer(request, timeout=DEADLINE).reached
        killed = get(api, "signalled").exit
        assert (killed.signal, killed.cause) == (signal.SIGKILL, types_pb2.CAUSE_SELF)
        assert not get(api, "signalled").exit.oom_killed


@either_ending
def test_a_reboot_from_inside_is_not_lost_between_two_lives(
    host: Host, busybox_root: Path, end: Callable[[Host], Any]
) -> None:
    with defined(host, over(host, busybox_root, "again"), "again") as again:
        pid = again.start().pid
        busybox_up(again)
        again.run("reboot")
        until(
            lambda: bool(events(again.api, "container.exited", names=("again",))),
            "the first life is over",
        )
        end(host)
        host.start_daemon()
        generation_runs(again, 2)
        assert again.info().exit.cause == types_pb2.CAUSE_REBOOT
        assert again.info().pid != pid


@pytest.mark.parametrize("system", [True, False], ids=["init", "application"])
@pytest.mark.parametrize("away", [True, False], ids=["away", "there"])
def test_the_kernels_want_of_memory_is_named(
    host: Host,
    busybox_root: Path,
    system: bool,  # noqa: FBT001
    away: bool,  # noqa: FBT001
) -> None:
    line = share(host, "eat")
    with defined(host, application(host, busybox_root, "eater", line), "eater") as made:
        # All of a block is in memory at once.
        pid = made.start(
            "/bin/sh",
            "-c",
            "cat /mnt/eat; exec dd if=/dev/zero of=/dev/null bs=100M count=1",
            system=system,
        ).pid
        cgroups = made.info().cgroups
        # Not by a key of the configuration: who set the limit does not matter here.
        if "memory" in cgroups:
            Path(cgroups["memory"], "memory.limit_in_bytes").write_text("32M")
        else:
            Path(cgroups["unified"], "memory.max").write_text("32M")
        if away:
            host.kill_daemon()
        go(host, "eat")
        until(lambda: gone(pid), "it has eaten all")
        if away:
            host.start_daemon()
        made.wait(generation=1)
        how = made.info().exit
        assert how.cause == types_pb2.CAUSE_OOM, how
        assert how.oom_killed


def test_a_frozen_container_is_still_frozen_afterwards(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "cold") as made:
        host.ctl("freeze", "cold")
        host.kill_daemon()
        host.start_daemon()
        assert state(made.info()) == "FROZEN"
        host.ctl("thaw", "cold")
        assert made.sh("echo on") == "on"


@either_ending
def test_a_stop_that_was_asked_for_is_told_so_by_the_next_daemon(
    host: Host, busybox_root: Path, end: Callable[[Host], Any]
) -> None:
    line = share(host, "end")
    script = "trap 'cat /mnt/end; exit 3' TERM; echo ready; while :; do sleep 1; done"
    with defined(host, application(host, busybox_root, "slow", line), "slow") as made:
        pid = made.start("/bin/sh", "-c", script).pid
        made.shows("ready")
        request = container_pb2.StopContainerRequest(name="slow")
        call = made.api.container.StopContainer.future(request, timeout=DEADLINE)
        # It is not only STOPPING: the signal has come.
        held = writing_end(host, "end")
        end(host)
        assert call.exception() is not None
        os.close(held)
        until(lambda: gone(pid), "it has ended")
        host.start_daemon()
        made.wait(generation=1)
        assert made.info().exit.cause == types_pb2.CAUSE_REQUESTED


def test_an_exec_whose_daemon_died_neither_holds_the_keeper_nor_itself(
    host: Host, busybox_root: Path
) -> None:
    line = share(host, "begin", "end")
    with idle(host, busybox_root, "app", line) as made:
        # What is left in the background writes for ever, faster than anybody reads.
        words = ["/bin/sh", "-c", "cat /mnt/begin; yes & cat /mnt/end"]
        request = exec_pb2.RunExecRequest(container="app", command=words)
        call = made.api.exec.RunExec.future(request, timeout=DEADLINE)
        until(lambda: any("/mnt/begin" in p.command for p in _processes(made)), "it has begun")
        host.kill_daemon()
        assert call.exception() is not None
        go(host, "begin")
        host.start_daemon()
        go(host, "end")
        assert made.run("/bin/echo", "in").stdout == b"in\n"


def _processes(made: Box) -> list[container_pb2.Process]:
    request = container_pb2.ListProcessesRequest(names=[made.name])
    return list(made.api.container.ListProcesses(request, timeout=DEADLINE).processes)


# The end of everything


def test_the_keeper_leaves_by_itself_when_there_is_nothing_to_keep(
    host: Host, busybox_root: Path
) -> None:
    with idle(host, busybox_root, "app"):
        pass
    keeper = os.pidfd_open(host.keeper_pid)
    try:
        host.kill_daemon()
        assert select.select([keeper], [], [], DEADLINE)[0], "the keeper stays"
    finally:
        os.close(keeper)
    until(lambda: not host.machine.processes(), "it was reaped")


def test_the_keeper_stays_with_a_container(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "app") as made:
        keeper = host.keeper_pid
        host.kill_daemon()
        assert any(line.startswith(f"{keeper} ") for line in host.machine.processes())
        host.start_daemon()
        assert host.keeper_pid == keeper
        assert made.sh("echo on") == "on"


def test_shutdown_stops_all_in_order_and_both_processes_leave(
    host: Host, busybox_root: Path
) -> None:
    api = host.channel()
    for name, order in (("last", 1), ("middle", 5), ("first", 9)):
        line = f"lxc.start.order = {order}"
        define(api, name, application(host, busybox_root, name, line))
        request = container_pb2.StartContainerRequest(name=name, command=IDLE)
        api.container.StartContainer(request, timeout=DEADLINE)
    pidfds = [os.pidfd_open(pid) for pid in (host.daemon, host.keeper_pid) if pid is not None]
    host.shutdown()
    assert sorted(select.select(pidfds, [], [], 0)[0]) == sorted(pidfds)
    for pidfd in pidfds:
        os.close(pidfd)
    until(lambda: not host.machine.processes(), "both were reaped")
    host.start_daemon()
    ended = [event.container for event in events(host.channel(), "container.exited")]
    assert ended == ["first", "middle", "last"]


def test_a_drain_that_stays_leaves_a_daemon_that_works(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "app") as made:
        reply = made.api.host.Drain(host_pb2.DrainRequest(), timeout=DEADLINE * 2)
        assert list(reply.stopped) == ["app"]
        made.start(*IDLE)
        assert made.sh("echo on") == "on"


def test_a_drain_waits_for_what_is_being_started_and_lets_nothing_else(
    host: Host, busybox_root: Path
) -> None:
    go, noted = host.root / "go", host.root / "noted"
    os.mkfifo(go)
    program = script(host, "waits", f": > {noted}; read line < {go}")
    slow = application(host, busybox_root, "slow") + nic(f"script.up = {program}")
    with (
        defined(host, slow, "slow") as coming,
        defined(host, application(host, busybox_root, "other"), "other") as other,
        idle(host, busybox_root, "up") as up,
    ):
        request = container_pb2.StartContainerRequest(name="slow", command=IDLE)
        start = coming.api.container.StartContainer.future(request, timeout=DEADLINE)
        until(noted.exists, "it is being started")
        drain = up.api.host.Drain.future(host_pb2.DrainRequest(), timeout=DEADLINE * 2)
        up.wait(types_pb2.STATE_STOPPED)
        error = refused(lambda: other.start(*IDLE))
        assert (error.code, error.reason) == ("UNAVAILABLE", "DRAINING")
        go.write_bytes(b"\n")
        start.result()
        assert list(drain.result().stopped) == ["slow", "up"]
        assert [state(one.info()) for one in (coming, other, up)] == ["STOPPED"] * 3
        other.start(*IDLE)
        assert other.sh("echo on") == "on"


# Two of them


def _second(host: Host, *flags: str) -> subprocess.CompletedProcess[str]:
    argv = [host.ctl_argv()[0], "-m", "lxcd", *host.roots, *flags]
    return subprocess.run(
        argv,
        env=host.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


def test_a_second_daemon_on_the_same_runtime_directory_refuses(
    host: Host, busybox_root: Path
) -> None:
    with idle(host, busybox_root, "app") as made:
        before = made.known()
        done = _second(host)
        assert done.returncode == 1
        assert f"pid {host.daemon}" in done.stderr
        assert "Traceback" not in done.stderr
        assert made.info() == before
        assert made.sh("echo on") == "on"


def test_a_second_daemon_on_the_same_socket_refuses_and_harms_nothing(
    host: Host, busybox_root: Path
) -> None:
    other = host.root / "other"
    for name in ("run", "state", "lxcpath"):
        (other / name).mkdir(parents=True)
    with idle(host, busybox_root, "app") as made:
        before = made.known()
        flags = [
            *("--runtime-dir", str(other / "run"), "--state-dir", str(other / "state")),
            *("--lxcpath", str(other / "lxcpath"), "--listen", host.address),
        ]
        done = _second(host, *flags)
        assert done.returncode == 1
        assert str(host.socket) in done.stderr
        assert "Traceback" not in done.stderr
        assert made.info() == before
        assert host.ctl("list", "-1").stdout == "app\n"
        request = container_pb2.WaitContainerRequest(name="app", timeout=seconds(0))
        assert not made.api.container.WaitContainer(request, timeout=DEADLINE).reached


def test_another_daemons_work_in_the_same_lxcpath_is_not_swept(host: Host) -> None:
    # The names that lxcd gives to what it makes; but it is not this daemon's.
    begun = host.lxcpath / ".box.lxcd-creating"
    host.kill_daemon()
    begun.mkdir()
    (begun / "config").touch()
    host.start_daemon()
    assert begun.is_dir()
