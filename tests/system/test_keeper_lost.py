"""The keeper ends at any moment, alone or together with lxcd: containers go on, ends and output are told as they were."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from lxcd.kernel import procfs
from lxcd.v1 import container_pb2, exec_pb2, types_pb2
from tests.system.boxes import Refused, busybox_up, defined, generation_runs, over
from tests.system.calls import IDLE, application, define, events, everything, get, idle, state
from tests.system.consistency import FEW_PREPARED
from tests.system.host import Host
from tests.system.losing import (
    TAG,
    Console,
    at_rest,
    dying_at,
    ends_with,
    go,
    gone,
    halted,
    how,
    in_order,
    kernel_tells,
    kill_both,
    kill_keeper,
    kill_trustee,
    kill_waiting_keeper,
    next_keeper,
    replace_keeper,
    running,
    settled,
    share,
    trustees,
)
from tests.system.machine import DEADLINE, until


@pytest.fixture
def host(cold_host: Host) -> Host:
    """With so few prepared children that they can be counted."""
    cold_host.config.write_text(FEW_PREPARED)
    cold_host.start_daemon()
    return cold_host


# ---- the keeper alone


def test_containers_go_on_without_their_keeper(host: Host, busybox_root: Path) -> None:
    line = share(host, "pipes", "later")
    with ExitStack() as stack:
        system, again, plain, pipes, later = (
            stack.enter_context(defined(host, config, f"{TAG}{name}"))
            for name, config in (
                ("system", over(host, busybox_root, "system")),
                ("again", over(host, busybox_root, "again")),
                *(
                    (n, application(host, busybox_root, n, line))
                    for n in ("plain", "pipes", "later")
                ),
            )
        )
        system.start()
        again.start()
        plain.start(*IDLE)
        pipes.start(*ends_with(5, "pipes"), stdio=container_pb2.STDIO_PIPES)
        later.start(*ends_with(37, "later"))
        busybox_up(system)
        busybox_up(again)
        before = {name: one.pid for name, one in everything(host.channel()).items()}
        last = events(host.channel())[-1].sequence

        old = new = host.keeper_pid
        for _ in range(3):
            new = replace_keeper(host)
            found = everything(host.channel())
            assert {name: one.pid for name, one in found.items()} == before
            assert {state(one) for one in found.values()} == {"RUNNING"}
            in_order(host, new)
        assert new != old
        told = [e.type for e in events(host.channel(), after=last) if e.type.startswith("daemon.")]
        assert told == ["daemon.keeper_lost", "daemon.keeper_found"] * 3
        assert not events(host.channel(), "container.started", "container.exited", after=last)

        assert plain.sh("echo on") == "on"
        assert system.sh("echo on") == "on"
        # How each ends later is told as it is: nobody's children, they were the first keeper's.
        go(host, "pipes")
        pipes.wait(generation=1)
        assert how(pipes) == ("code", 5, "CAUSE_SELF")
        go(host, "later")
        later.wait(generation=1)
        assert how(later) == ("code", 37, "CAUSE_SELF")
        plain.stop(kill=True)
        assert how(plain) == ("signal", 9, "CAUSE_REQUESTED")
        os.kill(again.info().pid, signal.SIGTERM)
        generation_runs(again, 2)
        assert again.info().exit.cause == types_pb2.CAUSE_REBOOT
        system.stop()
        assert how(system)[2] == "CAUSE_REQUESTED"
        plain.start(*IDLE)
        in_order(host, new)


@pytest.mark.parametrize("code", [0, 37, -9], ids=["well", "badly", "killed"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_end_at_the_same_moment_is_told_as_it_was(
    host: Host, busybox_root: Path, moment: str, code: int
) -> None:
    """The keeper has yet to look, or has told and lxcd has yet to read it."""
    line = share(host, "end")
    with defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made:
        pid = made.start(*ends_with(max(code, 0), "end")).pid
        keeper = host.keeper_pid
        assert host.daemon is not None
        with halted(host.daemon if moment == "after" else keeper):
            until(lambda: bool(running(host, "cat /mnt/end")), "it waits")
            if code < 0:
                os.kill(pid, -code)
            else:
                go(host, "end")
            until(lambda: gone(pid), "it has ended")
            if moment == "after":
                at_rest(keeper)
            kill_keeper(host, keeper)
        made.wait(generation=1)
        expected = ("signal", -code) if code < 0 else ("code", code)
        if not kernel_tells() and moment == "before":
            assert how(made) in ((*expected, "CAUSE_SELF"), ("", 0, "CAUSE_KEEPER_LOST"))
        else:
            assert how(made) == (*expected, "CAUSE_SELF")
        in_order(host, next_keeper(host, keeper))
        made.start(*IDLE)
        assert made.sh("echo on") == "on"


def test_an_exec_goes_on_without_its_keeper(host: Host, busybox_root: Path) -> None:
    line = share(host, "first", "second")
    script = (
        "cat; seq 1 20000; cat /mnt/first; seq 20001 100000; echo err >&2; cat /mnt/second;"
        " seq 100001 100010; exit 7"
    )
    with idle(host, busybox_root, f"{TAG}app", line) as made:
        request = exec_pb2.RunExecRequest(
            container=made.name, command=["/bin/sh", "-c", script], stdin=b"in\n" * 50_000
        )
        call = made.api.exec.RunExec.future(request, timeout=DEADLINE)
        for fifo in ("first", "second"):
            until(lambda fifo=fifo: bool(running(host, f"cat /mnt/{fifo}")), "it waits")  # type: ignore[misc]
            # What it reads just now would be lost; see test_keeper_adopt about that.
            at_rest(host.keeper_pid)
            replace_keeper(host)
            go(host, fifo)
        done = call.result()
        assert done.stdout == b"in\n" * 50_000 + b"".join(b"%d\n" % n for n in range(1, 100_011))
        assert done.stderr == b"err\n"
        assert done.exit.code == 7
        assert done.exit.cause == types_pb2.CAUSE_SELF
        in_order(host, host.keeper_pid)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", ["recvmsg", "sendmsg", "epoll_ctl"])
def test_an_exec_is_done_or_refused_wherever_its_keeper_dies(
    host: Host, busybox_root: Path, call: str
) -> None:
    """At each of the first of these system calls: its two halves, its streams and its end are told by and by."""
    words = ["/bin/sh", "-c", "cat; seq 1 1000; exit 7"]
    done = 0
    with idle(host, busybox_root, f"{TAG}app") as made:
        request = exec_pb2.RunExecRequest(container=made.name, command=words, stdin=b"in\n")
        for when in range(1, 13):
            keeper = host.keeper_pid
            at_rest(keeper)
            with dying_at(keeper, call, when):
                running = made.api.exec.RunExec.future(request, timeout=DEADLINE)
                error = running.exception()
                if not gone(keeper):
                    kill_keeper(host, keeper)
            if error is None:
                reply = running.result()
                whole = b"in\n" + b"".join(b"%d\n" % number for number in range(1, 1001))
                assert (reply.stdout, reply.exit.code) == (whole, 7), f"{when}: {reply.exit}"
                done += 1
            else:
                refused = Refused(error)
                assert (refused.code, refused.reason) == ("UNAVAILABLE", "KEEPER_LOST"), refused
            next_keeper(host, keeper)
        in_order(host, host.keeper_pid)
        assert made.sh("echo on") == "on"
    print(f"{done} of 12 were done")


def test_an_exec_that_ends_with_its_keeper(host: Host, busybox_root: Path) -> None:
    """All it has written is in its pipe and in the ring, and nobody has looked at its end."""
    line = share(host, "end")
    with idle(host, busybox_root, f"{TAG}app", line) as made:
        words = ["/bin/sh", "-c", "seq 1 100; cat /mnt/end; seq 101 5000; exit 3"]
        request = exec_pb2.RunExecRequest(container=made.name, command=words)
        call = made.api.exec.RunExec.future(request, timeout=DEADLINE)
        until(lambda: bool(running(host, "cat /mnt/end")), "it waits")
        keeper = host.keeper_pid
        at_rest(keeper)
        (pid,) = running(host, " ".join(words))
        with halted(keeper):
            go(host, "end")
            until(lambda: gone(pid), "it has ended")
            kill_keeper(host, keeper)
        done = call.result()
        assert done.stdout == b"".join(b"%d\n" % n for n in range(1, 5001))
        assert done.exit.code == 3


def test_not_a_line_of_a_console_is_missing(host: Host, busybox_root: Path) -> None:
    line = share(host)
    # As fast as a terminal takes it; what is said once is kept: all fits into the history.
    script = "n=0; while :; do n=$((n+1)); echo line $n; usleep 2000; done"
    with defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made:
        made.start("/bin/sh", "-c", script)
        first, second = Console(host, made.name), Console(host, made.name)
        for number in range(3):
            first.until(first.last() + 20)
            keeper = host.keeper_pid
            if number:
                kill_waiting_keeper(host, keeper)
                next_keeper(host, keeper)
            else:
                # A while without any: its terminal is full, so it waits.
                with halted(host.daemon or 0):
                    kill_waiting_keeper(host, keeper)
                    time.sleep(0.2)
            first.until(first.last() + 20)
        second.until(first.last())
        third = Console(host, made.name)
        third.until(first.last() + 10)
        for console in (first, second, third):
            console.close()


# ---- in the middle of a start


def test_starts_that_lose_their_keeper_are_done_or_undone(host: Host, busybox_root: Path) -> None:
    seed = 20_261_123
    chance = random.Random(seed)
    names = [f"{TAG}s{number}" for number in range(4)]
    for name in names:
        define(host.channel(), name, application(host, busybox_root, name))

    def start(name: str) -> Refused | None:
        with host.channel() as api:
            request = container_pb2.StartContainerRequest(name=name, command=IDLE)
            try:
                api.container.StartContainer(request, timeout=DEADLINE)
            except grpc.RpcError as error:
                return Refused(error)
        return None

    refused = 0
    for _ in range(8):
        keeper = host.keeper_pid
        with ThreadPoolExecutor(len(names)) as pool:
            begun = [pool.submit(start, name) for name in names]
            time.sleep(chance.uniform(0, 0.06))
            kill_keeper(host, keeper)
            outcomes = {n: one.result() for n, one in zip(names, begun, strict=True)}
        keeper = next_keeper(host, keeper)
        found = settled(host)
        for name, error in outcomes.items():
            assert (error is None) == (found[name] == "RUNNING"), (name, error)
            if error is not None:
                refused += 1
                assert error.reason in ("KEEPER_LOST", "START_FAILED"), error
                assert error.reason == "KEEPER_LOST" or "keeper" in error.text, error
                assert start(name) is None
        in_order(host, keeper)
        for name in names:
            with host.channel() as api:
                request = container_pb2.StopContainerRequest(name=name, kill=True)
                api.container.StopContainer(request, timeout=DEADLINE)
    print(f"{refused} of {8 * len(names)} starts were refused")


# ---- both at once


def test_both_at_once(host: Host, busybox_root: Path) -> None:
    line = share(host, "never", "later", "meanwhile", "zombie")
    with ExitStack() as stack:
        boxes = {
            name: stack.enter_context(
                defined(host, application(host, busybox_root, name, line), TAG + name)
            )
            for name in ("idle", "later", "meanwhile", "zombie")
        }
        system = stack.enter_context(defined(host, over(host, busybox_root, "sys"), f"{TAG}sys"))
        system.start()
        busybox_up(system)
        boxes["idle"].start(*ends_with(1, "never"))
        boxes["later"].start(*ends_with(37, "later"))
        boxes["meanwhile"].start(*ends_with(38, "meanwhile"))
        boxes["zombie"].start(*ends_with(39, "zombie"))
        before = {name: one.pid for name, one in everything(host.channel()).items()}
        last = events(host.channel())[-1].sequence
        keeper = host.keeper_pid

        # One that neither has seen end, though both were there.
        assert host.daemon is not None
        with halted(keeper, host.daemon):
            go(host, "zombie")
            until(lambda: gone(before[f"{TAG}zombie"]), "one has ended")
            kill_both(host, keeper)
        go(host, "meanwhile")
        until(lambda: gone(before[f"{TAG}meanwhile"]), "another has ended")
        host.start_daemon()

        found = settled(host)
        assert host.keeper_pid not in (0, keeper)
        for name, code in (("meanwhile", 38), ("zombie", 39)):
            assert found[TAG + name] == "STOPPED"
            # Nobody of us was there; the trustee was.
            assert how(boxes[name]) == ("code", code, "CAUSE_SELF")
        for name in ("idle", "later", "sys"):
            one = get(host.channel(), TAG + name)
            assert (state(one), one.pid, one.generation) == ("RUNNING", before[TAG + name], 1)
        # Those that have ended are adopted too; then their end is told.
        adopted = events(host.channel(), "container.adopted", after=last)
        assert {event.container for event in adopted} == set(before)
        in_order(host, host.keeper_pid)

        # And so it goes on.
        assert boxes["idle"].sh("echo on") == "on"
        go(host, "later")
        boxes["later"].wait(generation=1)
        assert how(boxes["later"]) == ("code", 37, "CAUSE_SELF")
        boxes["idle"].stop(kill=True)
        assert how(boxes["idle"]) == ("signal", 9, "CAUSE_REQUESTED")
        system.stop()
        assert system.info().exit.cause == types_pb2.CAUSE_REQUESTED
        for made in boxes.values():
            made.start(*IDLE)
        in_order(host, host.keeper_pid)


@pytest.mark.parametrize("stdio", ["terminal", "pipes", "none"])
def test_no_application_ends_with_both_of_them(host: Host, busybox_root: Path, stdio: str) -> None:
    """Nobody has told it to. One with a terminal must not be hung up on, one that writes must not be told that nobody reads."""
    line = share(host, "go")
    lines = (line, "lxc.console.path = none") if stdio == "none" else (line,)
    options = {"stdio": container_pb2.STDIO_PIPES} if stdio == "pipes" else {}
    with defined(host, application(host, busybox_root, "app", *lines), f"{TAG}app") as made:
        pid = made.start("/bin/sh", "-c", "cat /mnt/go; echo on; exec sleep 1000", **options).pid
        until(lambda: bool(running(host, "cat /mnt/go")), "it waits")
        kill_both(host, host.keeper_pid)
        if running(host, "cat /mnt/go"):
            go(host, "go")
        host.start_daemon()
        settled(host)
        found = made.info()
        assert (state(found), found.pid, found.generation) == ("RUNNING", pid, 1), found.exit
        assert made.sh("echo on") == "on"


def test_an_exec_of_both_leaves_nothing_behind(host: Host, busybox_root: Path) -> None:
    line = share(host, "never")
    with idle(host, busybox_root, f"{TAG}app", line) as made:
        made.stop(kill=True)
        made.start(*ends_with(0, "never"))
        words = ["/bin/sh", "-c", "trap '' HUP PIPE; while :; do sleep 1000; done"]
        request = exec_pb2.RunExecRequest(container=made.name, command=words)
        call = made.api.exec.RunExec.future(request, timeout=DEADLINE)
        until(lambda: bool(running(host, "sleep 1000")), "it runs")
        kill_both(host, host.keeper_pid)
        assert call.exception() is not None
        host.start_daemon()
        assert state(made.info()) == "RUNNING"
        # It goes on, nobody's; it ends with its container.
        made.stop(kill=True)
        in_order(host, host.keeper_pid)


# ---- a reboot from inside, which is an end that only a parent is told of as such


@pytest.mark.parametrize("lost", ["keeper", "both"])
@pytest.mark.parametrize("moment", ["meanwhile", "later"])
def test_a_reboot_after_a_loss_is_a_reboot(
    host: Host, busybox_root: Path, moment: str, lost: str
) -> None:
    with defined(host, over(host, busybox_root, "sys"), f"{TAG}sys") as made:
        pid = made.start().pid
        busybox_up(made)
        keeper = host.keeper_pid
        assert host.daemon is not None

        def reboot() -> None:
            os.kill(pid, signal.SIGTERM)
            until(lambda: gone(pid), "it has gone down")

        if lost == "both":
            kill_both(host, keeper)
            if moment == "meanwhile":
                reboot()
            host.start_daemon()
        else:
            # Lxcd looks away, or the next keeper might be there before it is down.
            with halted(host.daemon):
                kill_keeper(host, keeper)
                if moment == "meanwhile":
                    reboot()
        keeper = next_keeper(host, keeper)
        if moment == "later":
            reboot()
        generation_runs(made, 2)
        assert made.info().exit.cause == types_pb2.CAUSE_REBOOT
        busybox_up(made)
        made.stop()
        in_order(host, keeper)


# ---- the trustee


def test_a_lost_trustee_is_replaced_and_holds_everything(host: Host, busybox_root: Path) -> None:
    line = share(host, "go", "end")
    script = "cat /mnt/go; echo on; cat /mnt/end; exit 37"
    with (
        defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made,
        defined(host, over(host, busybox_root, "sys"), f"{TAG}sys") as system,
    ):
        pid = made.start("/bin/sh", "-c", script).pid
        system.start()
        busybox_up(system)
        keeper = host.keeper_pid
        for _ in range(3):
            kill_trustee(host)
            assert host.keeper_pid == keeper
            in_order(host, keeper)
        at_rest(keeper)
        # It is nobody's parent, so how who is left ends is for the kernel to say.
        kill_both(host, keeper)
        go(host, "go")
        host.start_daemon()
        settled(host)
        assert (state(made.info()), made.info().pid) == ("RUNNING", pid)
        made.shows("on")
        go(host, "end")
        made.wait(generation=1)
        expected = ("code", 37, "CAUSE_SELF")
        assert how(made) == (expected if kernel_tells() else ("", 0, "CAUSE_KEEPER_LOST"))
        # From the next keeper on it is the parent again.
        keeper = host.keeper_pid
        assert procfs.status(keeper).parent_pid in trustees(host)
        made.start(*IDLE)
        assert made.sh("echo on") == "on"
        in_order(host, keeper)


def test_all_three_at_once(host: Host, busybox_root: Path) -> None:
    """Whoever has no terminal and no pipe goes on even then."""
    line = share(host, "end")
    lines = (line, "lxc.console.path = none")
    with defined(host, application(host, busybox_root, "app", *lines), f"{TAG}app") as made:
        pid = made.start(*ends_with(3, "end")).pid
        (trustee,) = trustees(host)
        keeper = host.keeper_pid
        os.kill(keeper, signal.SIGSTOP)
        os.kill(trustee, signal.SIGKILL)
        kill_both(host, keeper)
        host.start_daemon()
        settled(host)
        assert (state(made.info()), made.info().pid) == ("RUNNING", pid)
        go(host, "end")
        made.wait(generation=1)
        in_order(host, host.keeper_pid)


def test_a_shutdown_stops_what_only_the_trustee_holds(host: Host, busybox_root: Path) -> None:
    with defined(host, application(host, busybox_root, "app"), f"{TAG}app") as made:
        pid = made.start(*IDLE).pid
        kill_both(host, host.keeper_pid)
        assert len(trustees(host)) == 1
        done = host.machine.run(
            "env",
            *(f"{name}={value}" for name, value in host.environment.items()),
            *(sys.executable, "-m", "lxcd", *host.roots, "shutdown"),
        )
        assert done.returncode == 0
        assert gone(pid)
        until(lambda: not host.machine.processes(), "all have left")
        host.start_daemon()


def test_the_trustee_holds_no_mount_of_the_host(host: Host, busybox_root: Path) -> None:
    (trustee,) = trustees(host)
    places = {mount.target for mount in procfs.mounts(trustee)}
    assert places == {mount.target for mount in procfs.mounts(host.keeper_pid)}
    assert procfs.namespace_id(trustee, "mnt") != procfs.namespace_id(host.machine.pid, "mnt")
    assert "/tmp" not in places
    with idle(host, busybox_root, f"{TAG}app"):
        # Another keeper has a tree of its own.
        replace_keeper(host)
        assert trustees(host) == [trustee]
        found = procfs.namespace_id(host.keeper_pid, "mnt")
        assert found != procfs.namespace_id(trustee, "mnt")
