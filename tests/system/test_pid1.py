"""PID 1 of application containers: what it costs, what one can do to it from inside, what it passes on."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lxcd.kernel.native import images
from lxcd.v1 import container_pb2, types_pb2
from tests.system.boxes import IDMAP, KERNEL_MOUNTS, Box, defined, over
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

_SLEEP = ("/bin/sleep", "1000")
# Those that nobody can wait for, the C library's own, the one about children, and the one that ends the listener.
_NOT_FORWARDED = {signal.SIGKILL, signal.SIGSTOP, 32, 33, signal.SIGCHLD, signal.SIGTERM}
_PROGRAM = bytes.fromhex(images.IMAGES["pid1"][os.uname().machine])
_DAC_OVERRIDE, _DAC_READ_SEARCH, _KILL, _SYS_PTRACE = 1, 2, 5, 19

# Says the number of each signal. No shell: a trap of one that comes just before `wait` is late.
_LISTENER = """\
import os, signal
every = signal.valid_signals()
signal.pthread_sigmask(signal.SIG_BLOCK, every)
print("ready.", flush=True)
number = 0
while number != signal.SIGTERM:
    number = signal.sigwaitinfo(every).si_signo
    print(f"got {number}.", flush=True)
os._exit(6)
"""


def _private_kb(pid: int) -> int:
    """Memory that nobody shares with it."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    )
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _send(made: Box, number: int) -> None:
    request = container_pb2.SignalContainerRequest(name=made.name, signal=number)
    made.api.container.SignalContainer(request, timeout=DEADLINE)


def test_it_costs_next_to_nothing(shared_host: Host) -> None:
    with ExitStack() as stack:
        application = stack.enter_context(defined(shared_host, "", "application"))
        application.start(*_SLEEP)
        idle = stack.enter_context(defined(shared_host, "", "idle"))
        idle.start()
        # What a fork shares with the keeper is its own as soon as that one works.
        for number in range(8):
            stack.enter_context(defined(shared_host, "", f"other-{number}")).start(*_SLEEP)
        for made in (application, idle):
            assert _private_kb(made.info().pid) <= 200
            assert made.sh("true") == ""


def test_ps_shows_the_command_whatever_it_is(shared_host: Host) -> None:
    words = ("/bin/sleep", "1000", "0" * 5000, "two words", "äöü")
    with defined(shared_host, "", "titled") as made:
        made.start("/bin/sh", "-c", "exec sleep 1000", *words)
        shown = ["lxc-init", "--", "/bin/sh", "-c", "exec sleep 1000", *words]
        pid = made.info().pid
        assert Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0") == shown
        inside = made.run("cat", "/proc/1/cmdline", "/proc/1/comm").stdout.decode()
        assert inside == "\0".join(shown) + "\0lxc-init\n"


def test_signals_reach_the_command_and_nothing_from_inside_does(shared_host: Host) -> None:
    numbers = [number for number in range(1, 65) if number not in _NOT_FORWARDED]
    with defined(shared_host, "", "listener") as made:
        made.start("/usr/bin/python3", "-c", _LISTENER)
        made.shows("ready.")
        made.sh(f"for n in {' '.join(map(str, numbers))}; do kill -$n 1; done")
        # One that still waits there would be one with the next of its number, and from inside.
        pid = made.info().pid
        until(lambda: int(_status(pid)["ShdPnd"], 16) == 0, "it has taken them")
        for number in (*numbers, signal.SIGTERM):
            _send(made, number)
            made.shows(f"got {number}.")
        assert made.wait().exit.code == 6
        heard = [int(word) for word in re.findall(r"got (\d+)\.", made.log().decode())]
        assert heard == [*numbers, signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGABRT, signal.SIGUSR1])
def test_a_forwarded_signal_that_kills_the_command_is_its_status(
    shared_host: Host, number: int
) -> None:
    with defined(shared_host, "", "mortal") as made:
        made.start(*_SLEEP)
        _send(made, number)
        assert made.wait().exit.code == 128 + number


# from inside


@pytest.fixture
def privileged(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    """An application of the host's own root, with all its rights."""
    with defined(
        shared_host, over(shared_host, busybox_root, "priv") + KERNEL_MOUNTS, "priv"
    ) as made:
        made.start(*_SLEEP)
        yield made


@pytest.mark.parametrize(
    "attempt",
    [
        "echo x > /proc/1/exe",
        "echo x >> /proc/1/exe",
        "dd if=/dev/zero of=/proc/1/exe bs=1 count=8 conv=notrunc",
        "truncate -s 0 /proc/1/exe",
        "chmod 0 /proc/1/exe",
        "mount -o bind /bin/busybox /proc/1/exe",
        'for link in /proc/1/map_files/*; do (echo x >> "$link") && exit 0; done; exit 1',
        "exec 3< /proc/1/exe; echo x > /proc/self/fd/3",
    ],
)
def test_no_privileged_container_writes_the_program(
    privileged: Box, shared_host: Host, attempt: str
) -> None:
    pid = privileged.info().pid
    # It can be read there: this container could do more to the host than that.
    assert privileged.run("/bin/cat", "/proc/1/exe").stdout == _PROGRAM
    privileged.fails(attempt)
    assert Path(f"/proc/{pid}/exe").read_bytes() == _PROGRAM
    with defined(shared_host, "", "next") as made:
        made.start(*_SLEEP)
        assert Path(f"/proc/{made.info().pid}/exe").read_bytes() == _PROGRAM


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        ("", ()),
        ("lxc.cap.drop = sys_ptrace\n", (_SYS_PTRACE,)),
        ("lxc.cap.drop = sys_ptrace kill\nlxc.no_new_privs = 1\n", (_SYS_PTRACE, _KILL)),
        ("lxc.no_new_privs = 1\n", ()),
    ],
    ids=["all", "dropped", "dropped-nnp", "nnp"],
)
@pytest.mark.parametrize("idmap", ["", IDMAP], ids=["privileged", "mapped"])
def test_it_has_no_right_that_its_container_lacks(
    shared_host: Host, busybox_root: Path, idmap: str, lines: str, missing: tuple[int, ...]
) -> None:
    config = over(shared_host, busybox_root, "rights") + KERNEL_MOUNTS + idmap + lines
    with defined(shared_host, config, "rights") as made:
        made.start(*_SLEEP)
        pid = made.info().pid
        (command,) = _children(pid)
        found, of_command = _status(pid), _status(command)
        sets = {name: int(found[name], 16) for name in found if name.startswith("Cap")}
        bounding = sets["CapBnd"]
        assert bounding == int(of_command["CapBnd"], 16)
        assert not any(bounding >> number & 1 for number in missing)
        assert sets["CapInh"] == sets["CapAmb"] == 0
        assert sets["CapEff"] == sets["CapPrm"]
        # Under no_new_privs an exec gives nothing back, and it does not want these.
        readers = 1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH
        limited = "no_new_privs" in lines
        assert found["NoNewPrivs"] == of_command["NoNewPrivs"] == str(int(limited))
        assert sets["CapPrm"] == (bounding & ~readers if limited else bounding)
        assert found["Uid"] == of_command["Uid"]


@pytest.mark.parametrize("idmap", ["", IDMAP], ids=["privileged", "mapped"])
def test_it_cannot_be_traced_without_the_right_to_trace_the_host_s(
    shared_host: Host, busybox_root: Path, idmap: str
) -> None:
    # The other two may read what a tracer may read: may_access_mm() in the kernel.
    drop = "" if idmap else "lxc.cap.drop = sys_ptrace sys_admin perfmon\n"
    config = over(shared_host, busybox_root, "traced") + KERNEL_MOUNTS + idmap + drop
    with defined(shared_host, config, "traced") as made:
        made.start(*_SLEEP)
        for name in ("mem", "environ", "exe", "maps", "syscall"):
            done = made.run("/bin/sh", "-c", f"exec 3< /proc/1/{name} && head -c 1 <&3")
            assert done.exit.code != 0, name
        # Another process of the same rights lets itself be looked at.
        command = made.sh("pidof sleep").split()[-1]
        assert made.sh(f"head -c 4 /proc/{command}/environ | wc -c") == "4"


# with the pid namespace of somebody else


def test_in_the_host_s_pid_namespace_it_reaps_its_own_and_signals_nobody_else(
    shared_host: Host, busybox_root: Path
) -> None:
    config = over(shared_host, busybox_root, "kept") + KERNEL_MOUNTS
    with defined(shared_host, config + "lxc.namespace.keep = pid\n", "kept") as made:
        # An orphan of it is the keeper's; the status is the command's all the same.
        made.start(
            "/bin/sh", "-c", "(sleep 1 &); trap 'exit 6' USR1; echo ready; " + "sleep 1000 & wait"
        )
        made.shows("ready")
        pid, keeper = made.info().pid, shared_host.keeper_pid
        assert Path(f"/proc/{pid}/comm").read_text() == "lxc-init\n"
        assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
        assert _private_kb(pid) <= 200
        assert len(_children(pid)) == 1
        # Whoever sends it: no one is outside here.
        os.kill(pid, signal.SIGUSR1)
        assert made.wait().exit.code == 6
        until(lambda: made.info().state == types_pb2.STATE_STOPPED, "it is stopped")
        assert shared_host.keeper_pid == keeper


# with orphans


@pytest.mark.slow
def test_two_thousand_orphans_leave_no_zombie(shared_host: Host) -> None:
    script = "n=0; while [ $n -lt 2000 ]; do (: & :) & n=$((n + 1)); done; wait"
    with defined(shared_host, "", "family") as made:
        made.start(*_SLEEP)
        pid = made.info().pid
        made.sh(script)
        until(lambda: len(_children(pid)) == 1, "only the command is left below PID 1")
