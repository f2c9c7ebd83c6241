"""Children that are programs of their own, in namespaces of their own, against the real kernel."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc, process, procfs, spawn
from tests.kernel.forked import in_child
from tests.kernel.keeper import PATIENCE, wait_readable
from tests.kernel.walked import child, load

NAMES = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
ALL = sum(process.NAMESPACES[name] for name in NAMES)
_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def opened(path: str) -> kernel_fd.Fd:
    """A program."""
    return kernel_fd.Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def ended(pidfd: int) -> int:
    """Reap it: its exit status, negative for a signal."""
    wait_readable(pidfd)
    found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def told(*words: str, flags: int = 0, fds: tuple[int, ...] = ()) -> str:
    """What a program says, the first word, made by a process with one thread."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    usual = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    with opened(words[0]) as program:
        _, pidfd = spawn.spawn(flags, program.fileno(), [*words], [*fds])
    os.dup2(usual, 1)
    os.close(usual)
    with open(reader, "rb") as file:
        said = file.read().decode()
    assert ended(pidfd) == 0, said
    return said


@contextmanager
def sleeping(flags: int = 0, fds: tuple[int, ...] = ()) -> Iterator[int]:
    """The pid of one that only waits."""
    with opened("/bin/sleep") as program:
        pid, pidfd = spawn.spawn(flags, program.fileno(), ["sleep", "1000"], [*fds])
    try:
        yield pid
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert ended(pidfd) == -signal.SIGKILL


def namespaces(pid: int | str) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMES}


def fields(pid: int | str) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    lines = procfs.read(pid, "status").decode().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def signals(pid: int | str) -> dict[str, int]:
    found = fields(pid)
    return {name: int(found[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd")}


def capabilities(pid: int | str) -> dict[str, int]:
    found = fields(pid)
    return {name: int(found[name], 16) for name in _SETS}


def descriptors(pid: int | str = "self") -> set[int]:
    """The open ones; of ourselves without the one that looks."""
    found = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    if pid == "self":
        found = {number for number in found if _is_open(number)}
    return found


def _is_open(number: int) -> bool:
    with suppress(OSError):
        return fcntl.fcntl(number, fcntl.F_GETFD) >= 0
    return False


def children() -> str:
    return procfs.read("self", f"task/{os.getpid()}/children").decode()


# ---- what it is


@pytest.mark.parametrize("name", [*NAMES, ""])
def test_it_has_the_namespaces_that_were_asked_for_and_no_others(name: str) -> None:
    own = namespaces("self")
    with sleeping(process.NAMESPACES[name] if name else 0) as pid:
        found = namespaces(pid)
    assert {one for one in NAMES if found[one] != own[one]} == ({name} if name else set())


def test_all_of_them_at_once() -> None:
    own = namespaces("self")
    with sleeping(ALL) as pid:
        found = namespaces(pid)
        assert procfs.status(pid).pids == (pid, 1)
    assert [name for name in NAMES if found[name] == own[name]] == []


def test_the_pid_and_the_pidfd_are_of_a_child_of_ours() -> None:
    with opened("/bin/cat") as program:
        pid, pidfd = spawn.spawn(0, program.fileno(), ["cat"], [])
    try:
        assert process.pidfd_pid(pidfd) == pid
        assert procfs.status(pid).parent_pid == os.getpid()
        assert fcntl.fcntl(pidfd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        ended(pidfd)


def test_it_is_the_program_already_when_we_go_on() -> None:
    for _ in range(50):
        with sleeping() as pid:
            assert os.path.realpath("/bin/sleep") == os.readlink(f"/proc/{pid}/exe")


def test_our_memory_is_ours_again() -> None:
    def act() -> list[object]:
        before = [str(number) for number in range(10_000)]
        with opened("/bin/true") as program:
            pids = []
            for _ in range(20):
                pid, pidfd = spawn.spawn(ALL, program.fileno(), ["true"], [])
                pids.append(pid)
                assert ended(pidfd) == 0
        return [len(set(pids)), before == [str(number) for number in range(10_000)]]

    assert in_child(act) == [20, True]


def test_its_words_are_its_argv_and_its_environment_is_empty() -> None:
    def act() -> list[str]:
        os.environ["OURS"] = "not its"
        script = 'printf "%s|" "$0" "$@"; tr "\\0" "|" </proc/self/environ'
        return [
            told("/bin/sh", "-c", script, "name", "", "two words", "\xe4"),
            told("/bin/cat", "/proc/self/environ"),
        ]

    # A shell makes some variables of its own, and hands them on.
    first, second = in_child(act)
    assert first.startswith("name||two words|\xe4|")
    assert "OURS" not in first
    assert second == ""


def test_only_named_descriptors_are_open_in_it() -> None:
    def act() -> list[object]:
        # What whoever started the tests has left open.
        kernel_fd.close_range(3, flags=kernel_fd.CLOSE_RANGE_CLOEXEC)
        numbers = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(12)]
        named = (numbers[7], numbers[2], numbers[2], numbers[11])
        with sleeping(fds=named) as pid:
            some = _settles_at(pid, {0, 1, 2, *named})
        with sleeping() as pid:
            none = _settles_at(pid, {0, 1, 2})
        with child(ALL) as walker:
            walks = _settles_at(walker.pid, set(range(6)))
        # The flag was the child's.
        flags = {fcntl.fcntl(number, fcntl.F_GETFD) for number in numbers}
        return [some, none, walks, [*flags]]

    assert in_child(act) == [True, True, True, [fcntl.FD_CLOEXEC]]


def _settles_at(pid: int, wanted: set[int]) -> bool:
    """A program opens its libraries first; a walker closes what it has handed over."""
    end = time.monotonic() + PATIENCE
    while descriptors(pid) != wanted:
        if time.monotonic() > end:
            return False
    return True


def test_it_is_in_our_session_and_has_our_files_and_limits() -> None:
    with sleeping() as pid:
        assert os.getsid(pid) == os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == os.getcwd()
        assert procfs.read(pid, "limits") == procfs.read("self", "limits")


@pytest.mark.parametrize("flags", [0, ALL])
def test_what_protects_us_from_the_oom_killer_does_not_protect_it(flags: int) -> None:
    def act() -> list[str]:
        # The keeper's is lower; a higher one can be had, and left again, without a capability.
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
        with sleeping() as other, child(flags) as walker:
            pids = ("self", other, walker.pid)
            return [procfs.read(pid, "oom_score_adj").decode().strip() for pid in pids]

    assert in_child(act) == ["500", "500", "0"]


# ---- signals


def test_what_we_block_stays_blocked_and_nothing_else() -> None:
    def act() -> list[object]:
        blocked = {signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMAX}
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        before = signals("self")
        with sleeping():
            pass
        with pytest.raises(OSError, match="Invalid"):
            spawn.spawn(0xFF, 0, ["nothing"], [])
        with pytest.raises(OSError, match="Bad file"):
            spawn.spawn(0, 1000, ["nothing"], [])
        return [before == signals("self"), signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked]

    assert in_child(act) == [True, True]


def test_a_signal_of_ours_waits_until_the_child_is_a_program() -> None:
    def act() -> list[int]:
        arrived: list[int] = []
        signal.signal(signal.SIGALRM, lambda *_: arrived.append(os.getpid()))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        end = time.monotonic() + PATIENCE
        with opened("/bin/true") as program:
            while len(arrived) < 30:
                assert time.monotonic() < end
                _, pidfd = spawn.spawn(0, program.fileno(), ["true"], [])
                assert ended(pidfd) == 0
        signal.setitimer(signal.ITIMER_REAL, 0)
        return [*{pid - os.getpid() for pid in arrived}]

    assert in_child(act) == [0]


@pytest.mark.parametrize("flags", [0, ALL])
def test_a_walker_blocks_ignores_and_catches_nothing(flags: int) -> None:
    def act() -> dict[str, int]:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        for number in (signal.SIGPIPE, signal.SIGUSR1, signal.SIGINT, signal.SIGRTMAX):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        with child(flags) as walker:
            return signals(walker.pid)

    assert in_child(act) == dict.fromkeys(("SigBlk", "SigIgn", "SigCgt", "SigPnd"), 0)


# ---- rights


@pytest.mark.parametrize("flags", [0, ALL & ~process.CLONE_NEWUSER, process.CLONE_NEWUSER, ALL])
def test_a_walker_may_all_and_hands_nothing_on(flags: int) -> None:
    own = capabilities("self")
    with child(flags) as walker:
        found = capabilities(walker.pid)
        who = fields(walker.pid)["Uid"].split()
    # Who is in a user namespace of its own may all that there is.
    every = (1 << os.sysconf("SC_LONG_BIT")) - 1
    last = int(procfs.read("sys/kernel", "cap_last_cap"))
    full = every >> (63 - last) if flags & process.CLONE_NEWUSER else own["CapPrm"]
    assert found["CapPrm"] == found["CapEff"] == full
    assert found["CapInh"] == found["CapAmb"] == 0
    assert who == ["0"] * 4


def test_nor_what_its_parent_hands_on() -> None:
    def act() -> list[int]:
        script = "grep -E '^Cap[IA]' /proc/self/status"
        _raise_ambient(12)
        both = told("/bin/sh", "-c", script).split()
        with child() as walker:
            found = capabilities(walker.pid)
        return [int(both[1], 16), int(both[3], 16), found["CapInh"], found["CapAmb"]]

    assert in_child(act) == [1 << 12, 1 << 12, 0, 0]


def _raise_ambient(number: int) -> None:
    import ctypes  # noqa: PLC0415

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[2] |= 1 << number
    assert libc.capset(header, sets) == 0
    process.prctl(47, 2, number)


def test_only_an_exec_in_a_user_namespace_finds_ambient_ones() -> None:
    def act() -> list[str]:
        script = "grep -E '^Cap[IA]' /proc/self/status"
        return [told("/bin/sh", "-c", script), told("/bin/sh", "-c", script, flags=ALL)]

    outside, inside = in_child(act)
    assert {int(word, 16) for word in outside.split()[1::2]} == {0}
    assert 0 not in {int(word, 16) for word in inside.split()[1::2]}


def test_nobody_may_look_into_a_walker() -> None:
    """Not even the same user, who may look into all else that is his."""

    def act() -> list[str]:
        load()
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        # What changes its ids is not dumpable, and what execs is again.
        with sleeping() as other, child() as walker:
            found: list[str] = []
            for pid in (other, walker.pid):
                try:
                    found.append(os.readlink(f"/proc/{pid}/exe"))
                except OSError as error:
                    found.append(str(error.errno))
            return found

    assert in_child(act) == [os.path.realpath("/bin/sleep"), "13"]


# ---- failures


def test_flags_that_the_kernel_does_not_take() -> None:
    before, brood = descriptors(), children()
    with opened("/bin/true") as program, pytest.raises(OSError, match="Invalid") as caught:
        spawn.spawn(0xFF, program.fileno(), ["true"], [])
    assert libc.syscall_of(caught.value) == "clone3"
    assert (descriptors(), children()) == (before, brood)


@pytest.mark.parametrize("flags", [0, ALL])
def test_a_program_that_is_none(flags: int) -> None:
    before, brood = descriptors(), children()
    with kernel_fd.Fd(kernel_fd.sealed_program("nonsense", b"nonsense")) as program:
        for _ in range(20):
            with pytest.raises(OSError, match="Exec format") as caught:
                spawn.spawn(flags, program.fileno(), ["nonsense"], [])
            assert libc.syscall_of(caught.value) == "execveat"
    assert (descriptors(), children()) == (before, brood)


def test_a_program_that_nobody_has_opened() -> None:
    before, brood = descriptors(), children()
    with pytest.raises(OSError, match="Bad file") as caught:
        spawn.spawn(0, 1000, ["nothing"], [])
    assert libc.syscall_of(caught.value) == "execveat"
    assert (descriptors(), children()) == (before, brood)


def test_words_that_do_not_fit() -> None:
    before, brood = descriptors(), children()
    with opened("/bin/true") as program, pytest.raises(OSError, match="too long"):
        spawn.spawn(ALL, program.fileno(), ["true", "x" * (1 << 20)], [])
    assert (descriptors(), children()) == (before, brood)


def test_a_machine_without_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "_spawn", None)
    with pytest.raises(PermissionError) as caught:
        spawn.spawn(0, 0, ["nothing"], [])
    assert libc.syscall_of(caught.value) == "mmap"
    monkeypatch.setattr(spawn, "_CODE", spawn._map(None))
    with pytest.raises(OSError, match="not implemented"):
        spawn.spawn(0, 0, ["nothing"], [])


# ---- many


def test_many_leave_neither_descriptors_nor_memory() -> None:
    def act() -> list[object]:
        with (
            opened("/bin/true") as program,
            kernel_fd.Fd(kernel_fd.sealed_program("nonsense", b"nonsense")) as nonsense,
        ):

            def some(count: int) -> None:
                for _ in range(count):
                    _, pidfd = spawn.spawn(ALL, program.fileno(), ["true", "x" * 1000], [0, 1])
                    assert ended(pidfd) == 0
                    with suppress(OSError):
                        spawn.spawn(0, nonsense.fileno(), ["nonsense"], [])
                    with suppress(OSError):
                        spawn.spawn(0xFF, nonsense.fileno(), ["nonsense"], [])

            some(20)
            before = descriptors(), _memory(), children()
            some(200)
            after = descriptors(), _memory(), children()
        return [before[0] == after[0], after[1] - before[1], after[2]]

    same, grown_kb, left = in_child(act)
    assert same
    assert left == ""
    assert grown_kb < 200


def _memory() -> int:
    """In kB: what is ours, resident or not."""
    found = fields("self")
    return int(found["VmData"].split()[0]) + int(found["RssAnon"].split()[0])
