"""Between two lives of lxcd the world has moved: another process has an init's number, or the clock was set back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxcd.kernel import procfs
from lxcd.v1 import container_pb2, event_pb2, types_pb2
from tests.system.boxes import Box, defined
from tests.system.calls import IDLE, application, events, refused, seconds, state
from tests.system.consistency import FEW_PREPARED
from tests.system.host import Host
from tests.system.losing import (
    TAG,
    ends_with,
    go,
    gone,
    how,
    in_order,
    kill_both,
    package,
    running,
    settled,
    share,
)
from tests.system.machine import DEADLINE, until

# Has this number, says so, writes down every signal that can be noticed, and waits. clone3(2) with `set_tid`: only a process with
# one thread may do that from Python.
_STRANGER = """\
import ctypes, os, signal, struct, sys
pid, log = int(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
libc = ctypes.CDLL(None, use_errno=True)
tid = (ctypes.c_int * 1)(pid)
arguments = struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(tid), 1, 0)
buffer = ctypes.create_string_buffer(arguments)
found = libc.syscall(ctypes.c_long(435), buffer, ctypes.c_size_t(len(arguments)))
if found < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
if found > 0:
    os.waitpid(found, 0)
    sys.exit(0)
def note(number, _):
    os.write(log, b"%d\\n" % number)
for number in set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33}:
    signal.signal(number, note)
sys.stdout.write(f"{os.getpid()}\\n")
sys.stdout.flush()
while True:
    signal.pause()
"""


@contextmanager
def stranger(pid: int, log: Path) -> Iterator[None]:
    """A process of ours with this number, which nobody else has."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _STRANGER, str(pid), str(log)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        told = parent.stdout.readline().strip()
        assert told == str(pid), parent.stderr.read()
        pidfd = os.pidfd_open(pid)
        try:
            yield
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            parent.wait(DEADLINE)


@pytest.mark.parametrize("lost", ["both", "keeper later"])
def test_a_stranger_with_the_number_of_an_init(
    cold_host: Host, busybox_root: Path, lost: str
) -> None:
    """It is not adopted, not stopped with the container, not signalled, not moved."""
    host = cold_host
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    line = share(host, "never")
    log = host.root / "signals"
    with (
        defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made,
        defined(host, application(host, busybox_root, "other", line), f"{TAG}other") as other,
    ):
        pid = made.start(*ends_with(1, "never")).pid
        kept = other.start(*ends_with(1, "never")).pid
        started = procfs.start_time(pid)
        if lost == "both":
            kill_both(host, host.keeper_pid)
        else:
            # lxcd is not there to see the end, and its keeper's journal is lost with the keeper.
            host.kill_daemon()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{pid}"), "its number is free")
        if lost != "both":
            (keeper,) = running_keepers(host)
            os.kill(keeper, signal.SIGKILL)
            until(lambda: gone(keeper), "the keeper is gone")
            (host.run_dir / "private/exits.journal").write_bytes(b"")
        with stranger(pid, log):
            assert procfs.start_time(pid) != started
            cgroups = procfs.cgroups(pid)
            host.start_daemon()
            assert settled(host) == {made.name: "STOPPED", other.name: "RUNNING"}
            # The trustee was its parent when it ended with both gone, and has told: its end is adopted.
            known = lost == "both"
            assert how(made) == (
                ("signal", 9, "CAUSE_SELF") if known else ("", 0, "CAUSE_KEEPER_LOST")
            )
            (told,) = events(host.channel(), "container.exited")
            words = "SIGKILL, SELF" if known else "status not known, KEEPER_LOST"
            assert (told.container, told.message) == (made.name, words)
            assert made.info().pid == 0
            assert other.info().pid == kept
            adopted = events(host.channel(), "container.adopted")
            names = {made.name, other.name} if known else {other.name}
            assert {event.container for event in adopted} == names
            error = refused(lambda: made.stop(kill=True))
            assert error.code == "FAILED_PRECONDITION", error
            error = refused(lambda: made.run("/bin/echo", "in"))
            assert error.code == "FAILED_PRECONDITION", error
            assert made.start(*IDLE).pid != pid
            assert made.sh("echo on") == "on"
            made.stop(kill=True)
            made.delete()
            host.kill_daemon()
            host.start_daemon()
            in_order(host, host.keeper_pid)
            assert procfs.status(pid).state == "S"
            assert procfs.cgroups(pid) == cgroups
            assert log.read_bytes() == b""


def running_keepers(host: Host) -> list[int]:
    found = [int(line.split()[0]) for line in host.machine.processes() if "--runtime-dir" in line]
    return [pid for pid in found if procfs.status(pid).comm == "lxcd-keeper" and _is_loop(pid)]


def _is_loop(pid: int) -> bool:
    """Not one that it has forked: those are its children."""
    parent = procfs.status(pid).parent_pid
    return procfs.status(parent).comm != "lxcd-keeper"


# ---- the clock


_CLOCK = """

import time as _time

_real = _time.time_ns


def _now() -> int:
    with open(__file__[: -len("__init__.py")] + "clock") as file:
        return _real() + int(file.read() or 0)


_time.time_ns = _now
_time.time = lambda: _now() / 1e9
"""
DAY = 86_400.0


class Clock:
    """lxcd's and its keeper's, which are started from a copy of the package; nobody else's."""

    def __init__(self, host: Host) -> None:
        self._file = host.root / "clocked/lxcd/clock"
        package(host, "clocked", ("__init__.py", lambda text: text + _CLOCK))
        self.ahead = 0.0
        self.set(0)

    def set(self, ahead: float) -> None:
        """So many seconds before ours."""
        self.ahead = ahead
        new = self._file.with_name("clock.new")
        new.write_text(str(round(ahead * 1e9)))
        new.rename(self._file)

    def now(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clocked(cold_host: Host) -> tuple[Host, Clock]:
    cold_host.config.write_text(FEW_PREPARED)
    clock = Clock(cold_host)
    cold_host.start_daemon()
    return cold_host, clock


Clocked = tuple[Host, Clock]


def _told_at(made: Box) -> float:
    return made.info().exit.time.ToNanoseconds() / 1e9


@pytest.mark.parametrize(
    "ahead",
    [-400 * DAY, *(pytest.param(by, marks=pytest.mark.long) for by in (-60.0, 60.0, 400 * DAY))],
)
@pytest.mark.parametrize("lost", ["lxcd", "both"])
def test_the_clock_was_set_while_nobody_looked(
    clocked: Clocked, busybox_root: Path, lost: str, ahead: float
) -> None:
    """Containers were started in what is the future now, or long ago: they are who they are."""
    host, clock = clocked
    line = share(host, "meanwhile", "later")
    with (
        defined(host, application(host, busybox_root, "one", line), f"{TAG}one") as one,
        defined(host, application(host, busybox_root, "two", line), f"{TAG}two") as two,
    ):
        one.start(*ends_with(36, "meanwhile"))
        kept = two.start(*ends_with(37, "later")).pid
        until(lambda: bool(running(host, "cat /mnt/meanwhile")), "it waits")
        before = [event.sequence for event in events(host.channel())]
        if lost == "lxcd":
            host.kill_daemon()
            clock.set(ahead)
            earliest = clock.now()
            pid = running(host, "cat /mnt/meanwhile")
            go(host, "meanwhile")
            until(lambda: not running(host, "cat /mnt/meanwhile"), f"{pid} has ended")
        else:
            kill_both(host, host.keeper_pid)
            clock.set(ahead)
            earliest = clock.now()
        host.start_daemon()
        assert (state(two.info()), two.info().pid) == ("RUNNING", kept)
        if lost == "both":
            assert state(one.info()) == "RUNNING"
            go(host, "meanwhile")
        one.wait(generation=1)
        assert how(one) == ("code", 36, "CAUSE_SELF")
        assert earliest <= _told_at(one) <= clock.now()
        go(host, "later")
        two.wait(generation=1)
        assert how(two) == ("code", 37, "CAUSE_SELF")
        assert earliest <= _told_at(two) <= clock.now()
        _events_are_in_order(host, before)
        host.ctl("list")
        host.ctl("info", one.name)
        one.start(*IDLE)
        assert one.sh("echo on") == "on"
        in_order(host, host.keeper_pid)


def _events_are_in_order(host: Host, before: list[int]) -> None:
    """By number, whatever their times say; who follows them gets them so."""
    found = events(host.channel())
    numbers = [event.sequence for event in found]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers[: len(before)] == before
    request = event_pb2.StreamEventsRequest(after_sequence=before[-1])
    call = host.channel().event.StreamEvents(request, timeout=DEADLINE)
    followed = [next(call).event.sequence for _ in numbers[len(before) :]]
    call.cancel()
    assert followed == numbers[len(before) :]


@pytest.mark.parametrize("ahead", [-DAY, pytest.param(DAY, marks=pytest.mark.long)])
def test_the_clock_is_set_while_somebody_waits(
    clocked: Clocked, busybox_root: Path, ahead: float
) -> None:
    """Waits are as long as they were asked to be: neither over at once, nor a day long."""
    host, clock = clocked
    script = "trap '' TERM; echo ready; while :; do sleep 100000; done"
    with defined(host, application(host, busybox_root, "app"), f"{TAG}app") as made:
        made.start("/bin/sh", "-c", script)
        made.shows("ready")
        begun = time.monotonic()
        request = container_pb2.WaitContainerRequest(
            name=made.name, states=[types_pb2.STATE_STOPPED], timeout=seconds(1.5)
        )
        call = made.api.container.WaitContainer.future(request, timeout=DEADLINE)
        clock.set(ahead)
        assert not call.result().reached
        assert time.monotonic() - begun >= 1.5

        begun = time.monotonic()
        # Long enough for it to be seen stopping, and for the clock to be set meanwhile.
        stop = container_pb2.StopContainerRequest(name=made.name, timeout=seconds(5))
        stopping = made.api.container.StopContainer.future(stop, timeout=DEADLINE)
        made.wait(types_pb2.STATE_STOPPING)
        clock.set(-ahead)
        reply = stopping.result()
        assert reply.killed
        assert time.monotonic() - begun >= 5
        clock.set(ahead)

        made.start(*IDLE)
        begun = time.monotonic()
        assert made.run("/bin/sleep", "1000", timeout=seconds(1.5)).timed_out
        assert time.monotonic() - begun >= 1.5
        assert made.sh("echo on") == "on"
        _events_are_in_order(host, [1])


def test_a_keeper_is_replaced_while_the_clock_goes_back(
    clocked: Clocked, busybox_root: Path
) -> None:
    host, clock = clocked
    line = share(host, "end")
    with defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made:
        pid = made.start(*ends_with(37, "end")).pid
        for step in (-DAY, -2 * DAY, DAY):
            keeper = host.keeper_pid
            clock.set(step)
            os.kill(keeper, signal.SIGKILL)
            until(lambda keeper=keeper: host.keeper_pid not in (0, keeper), "another keeper")  # type: ignore[misc]
            assert made.info().pid == pid
            assert made.sh("echo on") == "on"
        earliest = clock.now()
        go(host, "end")
        made.wait(generation=1)
        assert how(made) == ("code", 37, "CAUSE_SELF")
        assert earliest <= _told_at(made) <= clock.now()
        in_order(host, host.keeper_pid)
