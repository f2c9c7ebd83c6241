"""No keeper can be started, or there is no room for what it writes: containers go on, what needs one says so, and all recovers by itself."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lxcd.v1 import container_pb2, types_pb2
from tests.system.boxes import Refused, defined
from tests.system.calls import IDLE, application, events, idle, refused, state
from tests.system.consistency import FEW_PREPARED
from tests.system.host import Host
from tests.system.losing import (
    TAG,
    Console,
    attempt,
    ends_with,
    go,
    gone,
    how,
    in_order,
    kill_keeper,
    kill_waiting_keeper,
    mostly_long,
    package,
    running,
    share,
)
from tests.system.machine import until

# ---- it cannot be started


def _unreadable(path: Path) -> Callable[[], None]:
    aside = path.with_name("aside")
    path.rename(aside)
    return lambda: _put_back(aside, path)


def _put_back(aside: Path, path: Path) -> None:
    aside.rename(path)


def _with_text(path: Path, text: str) -> Callable[[], None]:
    before = path.read_text()
    path.write_text(text)
    return lambda: _write(path, before)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


# In a copy of the package, from which lxcd has been started: what is done to it, and returns how it is repaired.
BREAKS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "no launcher": lambda top: _unreadable(top / "keeper/launcher.py"),
    "a broken launcher": lambda top: _with_text(top / "keeper/launcher.py", "raise OSError(5)\n"),
    "a launcher that leaves": lambda top: _with_text(
        top / "keeper/launcher.py", "def main(arguments): pass\n"
    ),
    "no keeper": lambda top: _unreadable(top / "keeper/__main__.py"),
    "a broken keeper": lambda top: _with_text(top / "keeper/__main__.py", "not Python\n"),
    "a keeper that leaves": lambda top: _with_text(
        top / "keeper/__main__.py", "def main(arguments): return 0\n"
    ),
    "a keeper that dies": lambda top: _with_text(
        top / "keeper/__main__.py",
        "import os\ndef main(arguments): os.kill(os.getpid(), 9)\n",
    ),
    "no package": _unreadable,
}


def _with_line(path: Path, line: str, other: str) -> Callable[[], None]:
    before = path.read_text()
    assert line in before, path
    return _with_text(path, before.replace(line, other))


# Who starts something takes this for the interpreter.
_INTERPRETER = "interpreter = os.path.realpath(sys.executable)"
# The same for the first keeper of all, and how lxcd says it.
_WHY = "no keeper can be started: "
_SILENT = ("a launcher that leaves", "a keeper that leaves", "a keeper that dies")
AT_FIRST: dict[str, tuple[Callable[[Path], Callable[[], None]], str]] = {
    **{kind: (act, _WHY) for kind, act in BREAKS.items() if kind != "no package"},
    **{kind: (BREAKS[kind], f"{_WHY}it has not said why") for kind in _SILENT},
    "no interpreter for the launcher": (
        lambda top: _with_line(
            top / "supervisor/launch.py", _INTERPRETER, "interpreter = '/not/there'"
        ),
        f"no keeper can be started: {os.strerror(errno.ENOENT)}",
    ),
    "no program for the launcher": (
        lambda top: _with_line(
            top / "supervisor/launch.py", _INTERPRETER, "interpreter = '/etc/passwd'"
        ),
        f"no keeper can be started: {os.strerror(errno.EACCES)}",
    ),
    "no interpreter for the keeper": (
        lambda top: _with_line(top / "keeper/trust.py", _INTERPRETER, "interpreter = '/not/there'"),
        _WHY,
    ),
}


# A trustee that waits for its first keeper longer than any test: one that leaves has not just waited in vain.
_PATIENT = (
    "keeper/trustee.py",
    lambda text: text.replace("_FIRST_MS = 10_000", "_FIRST_MS = 100_000_000"),
)


@pytest.mark.parametrize(
    "kind",
    mostly_long(
        AT_FIRST,
        "a broken launcher",
        "a keeper that dies",
        "no interpreter for the launcher",
        "no interpreter for the keeper",
    ),
)
def test_without_its_first_keeper_lxcd_does_not_come_up(cold_host: Host, kind: str) -> None:
    host, (act, text) = cold_host, AT_FIRST[kind]
    repair = act(package(host, "copy", _PATIENT) / "lxcd")
    done = attempt(host)
    assert done is not None, "it serves"
    message = done.is_one_message()
    assert message.startswith(text)
    assert ("not said why" in message) == ("not said why" in text)
    until(lambda: not host.machine.processes(), "nobody has stayed")
    # It has left nothing that is in the way.
    repair()
    host.start_daemon()
    assert host.keeper_pid > 0


@pytest.mark.parametrize("kind", mostly_long(BREAKS, "no launcher", "a keeper that dies"))
def test_a_keeper_that_cannot_be_started(cold_host: Host, busybox_root: Path, kind: str) -> None:
    host = cold_host
    host.config.write_text(FEW_PREPARED)
    top = package(host, "copy") / "lxcd"
    host.start_daemon()
    line = share(host, "end", "later")
    with ExitStack() as stack:
        ending, later, talker, new = (
            stack.enter_context(
                defined(host, application(host, busybox_root, name, line), TAG + name)
            )
            for name in ("ending", "later", "talker", "new")
        )
        ending.start(*ends_with(37, "end"))
        later.start(*ends_with(38, "later"), stdio=container_pb2.STDIO_PIPES)
        talker.start(
            "/bin/sh", "-c", "n=0; while :; do n=$((n+1)); echo line $n; usleep 10000; done"
        )
        pids = {made.name: made.info().pid for made in (later, talker)}
        until(lambda: bool(running(host, "cat /mnt/end")), "it waits")
        console = Console(host, talker.name)
        console.until(5)
        keeper = host.keeper_pid
        in_order(host, keeper)
        repair = BREAKS[kind](top)
        try:
            kill_waiting_keeper(host, keeper)
            until(lambda: bool(events(host.channel(), "daemon.keeper_lost")), "lxcd has noticed it")
            # lxcd itself tells how one ends.
            go(host, "end")
            ending.wait(generation=1)
            assert how(ending) == ("code", 37, "CAUSE_SELF")
            _is_refused(refused(lambda: new.start(*IDLE)))
            _is_refused(refused(lambda: talker.run("/bin/echo", "in")))
            assert state(new.info()) == "STOPPED"
            host.ctl("list")
            # It does not try without end: what it says about it is little.
            until(lambda: "no keeper: " in host.log_text(), "it says that it has tried")
            assert host.log_text().count("no keeper: ") < 100, host.log_text()
        finally:
            repair()
        until(lambda: _has_keeper(host, keeper), "there is a keeper again")
        assert {made.name: made.info().pid for made in (later, talker)} == pids
        console.until(console.last() + 20)
        console.close()
        assert new.start(*IDLE).pid > 0
        assert talker.sh("echo on") == "on"
        go(host, "later")
        later.wait(generation=1)
        assert how(later) == ("code", 38, "CAUSE_SELF")
        talker.stop(kill=True)
        assert how(talker) == ("signal", 9, "CAUSE_REQUESTED")
        in_order(host, host.keeper_pid)


def _is_refused(error: Refused) -> None:
    assert (error.code, error.reason) == ("UNAVAILABLE", "KEEPER_LOST"), error
    assert "keeper" in error.text, error


def _has_keeper(host: Host, old: int) -> bool:
    pid = host.keeper_pid
    return pid not in (0, old) and not gone(pid) and bool(_found(host))


def _found(host: Host) -> list[object]:
    return list(events(host.channel(), "daemon.keeper_found"))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_keepers_that_never_come_up_do_not_pile_up(cold_host: Host, busybox_root: Path) -> None:
    host = cold_host
    top = package(host, "copy") / "lxcd"
    host.start_daemon()
    with idle(host, busybox_root, f"{TAG}app") as made:
        pid, keeper = made.info().pid, host.keeper_pid
        hangs = "import time\ndef main(arguments): time.sleep(100000)\n"
        repair = _with_text(top / "keeper/launcher.py", hangs)
        try:
            kill_keeper(host, keeper)
            # It is given up, and another is tried.
            until(lambda: host.log_text().count("no keeper") > 1, "it has tried again", 120)
            launchers = [line for line in host.machine.processes() if "keeper.launcher" in line]
            assert len(launchers) <= 1, launchers
            _is_refused(refused(lambda: made.run("/bin/echo", "in")))
        finally:
            repair()
        until(lambda: _has_keeper(host, keeper), "there is a keeper again", 120)
        assert made.info().pid == pid
        assert made.sh("echo on") == "on"
        in_order(host, host.keeper_pid)


def test_stops_work_without_a_keeper(cold_host: Host, busybox_root: Path) -> None:
    host = cold_host
    top = package(host, "copy") / "lxcd"
    host.start_daemon()
    with ExitStack() as stack:
        boxes = [
            stack.enter_context(defined(host, application(host, busybox_root, n), TAG + n))
            for n in ("one", "two")
        ]
        for made in boxes:
            made.start(*IDLE)
        keeper = host.keeper_pid
        repair = BREAKS["a broken launcher"](top)
        try:
            kill_keeper(host, keeper)
            until(lambda: bool(events(host.channel(), "daemon.keeper_lost")), "it is noticed")
            boxes[0].stop(kill=True)
            assert how(boxes[0]) == ("signal", 9, "CAUSE_REQUESTED")
            boxes[1].stop()
            assert boxes[1].info().exit.cause == types_pb2.CAUSE_REQUESTED
            host.ctl("freeze", boxes[0].name, check=False)
            boxes[1].delete()
        finally:
            repair()
        until(lambda: _has_keeper(host, keeper), "there is a keeper again")
        boxes[0].start(*IDLE)
        in_order(host, host.keeper_pid)


def test_lxcd_without_a_keeper_ends_in_order(cold_host: Host, busybox_root: Path) -> None:
    """And the next one, which can start one, finds what goes on."""
    host = cold_host
    top = package(host, "copy") / "lxcd"
    host.start_daemon()
    line = share(host, "end")
    with defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made:
        pid = made.start(*ends_with(37, "end")).pid
        keeper = host.keeper_pid
        repair = BREAKS["a broken keeper"](top)
        try:
            kill_keeper(host, keeper)
            until(lambda: bool(events(host.channel(), "daemon.keeper_lost")), "it is noticed")
            assert host.stop_daemon() == 0
        finally:
            repair()
        host.start_daemon()
        assert (state(made.info()), made.info().pid) == ("RUNNING", pid)
        go(host, "end")
        made.wait(generation=1)
        assert how(made) == ("code", 37, "CAUSE_SELF")


# ---- there is no room


@contextmanager
def small(host: Host) -> Iterator[Path]:
    """The private part of the runtime directory on a small disk, for lxcd alone; the disk as the test sees it."""
    private = host.run_dir / "private"
    private.mkdir(exist_ok=True)
    run = host.machine.run
    run("mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", str(private))
    disk = Path(f"/proc/{host.machine.pid}/root{private}")
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    try:
        yield disk
    finally:
        (disk / "filler").unlink(missing_ok=True)
        if host.daemon is None:
            host.start_daemon()
        host.shutdown()
        # Its keeper and the trustee leave by themselves, and have files open there.
        until(lambda: not host.machine.processes(), "all have left")
        run("umount", str(private))


def fill(disk: Path, pages: int) -> None:
    """Take all but so many pages of it."""
    (disk / "filler").unlink(missing_ok=True)
    page = os.sysconf("SC_PAGESIZE")
    with open(disk / "filler", "wb", buffering=0) as file:
        while (free := os.statvfs(disk).f_bfree) > pages:
            try:
                file.write(bytes(page * min(free - pages, 64)))
            except OSError:
                return


def no_room(call: Callable[[], object]) -> bool:
    """Whether it was refused for that. It may succeed: what it wanted to write may have fitted."""
    wrong = None
    try:
        call()
    except Refused as error:
        wrong = error
    assert wrong is None or wrong.code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"), wrong
    return wrong is not None


@pytest.mark.long
@pytest.mark.timeout(300)
def test_no_room_at_each_write(cold_host: Host, busybox_root: Path) -> None:
    """With less and less room: starts, ends, a lost keeper, a lost lxcd, both. Nothing stops, nothing that is there is lost."""
    host = cold_host
    with small(host) as disk:
        line = share(host, "never", "end")
        with (
            defined(host, application(host, busybox_root, "old", line), f"{TAG}old") as old,
            defined(host, application(host, busybox_root, "new", line), f"{TAG}new") as new,
        ):
            pid = old.start(*ends_with(99, "never")).pid
            for pages in (12, 8, 6, 5, 4, 3, 2, 1, 0):
                fill(disk, pages)
                started = not no_room(lambda: new.start(*ends_with(37, "end")))
                keeper = host.keeper_pid
                fill(disk, pages)
                kill_keeper(host, keeper)
                until(lambda keeper=keeper: host.keeper_pid not in (0, keeper), "another")  # type: ignore[misc]
                assert old.sh("echo on") == "on"
                if started:
                    fill(disk, pages)
                    go(host, "end")
                    new.wait(types_pb2.STATE_STOPPED)
                    assert how(new) == ("code", 37, "CAUSE_SELF")
                fill(disk, pages)
                host.kill_daemon()
                host.start_daemon()
                assert (state(old.info()), old.info().pid) == ("RUNNING", pid)
                assert state(new.info()) == "STOPPED"
                assert old.sh("echo on") == "on"
                if started:
                    assert how(new) == ("code", 37, "CAUSE_SELF")
            (disk / "filler").unlink()
            new.start(*IDLE)
            assert new.sh("echo on") == "on"
            new.stop(kill=True)
            in_order(host, host.keeper_pid)
            assert "Traceback" not in host.log_text()


def test_an_end_with_no_room_and_no_lxcd(cold_host: Host, busybox_root: Path) -> None:
    """The keeper cannot write it down: it remembers it, and it must not end of that itself."""
    host = cold_host
    with small(host) as disk:
        line = share(host, "end", "never")
        with (
            defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made,
            defined(host, application(host, busybox_root, "other", line), f"{TAG}other") as other,
        ):
            pid = made.start(*ends_with(37, "end")).pid
            kept = other.start(*ends_with(99, "never")).pid
            keeper = host.keeper_pid
            fill(disk, 0)
            host.kill_daemon()
            go(host, "end")
            until(lambda: gone(pid), "it has ended")
            host.start_daemon()
            assert host.keeper_pid == keeper
            made.wait(generation=1)
            assert how(made) == ("code", 37, "CAUSE_SELF")
            assert other.info().pid == kept


def test_both_are_killed_with_no_room(cold_host: Host, busybox_root: Path) -> None:
    host = cold_host
    with small(host) as disk:
        line = share(host, "never")
        with defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made:
            pid = made.start(*ends_with(99, "never")).pid
            keeper = host.keeper_pid
            fill(disk, 0)
            os.kill(keeper, signal.SIGSTOP)
            host.kill_daemon()
            os.kill(keeper, signal.SIGKILL)
            until(lambda: gone(keeper), "the keeper is gone")
            host.start_daemon()
            assert (state(made.info()), made.info().pid) == ("RUNNING", pid)
            assert made.sh("echo on") == "on"
            (disk / "filler").unlink()
            made.stop(kill=True)
            assert how(made) == ("signal", 9, "CAUSE_REQUESTED")


def test_a_chatty_keeper_with_no_room(cold_host: Host, busybox_root: Path) -> None:
    """What it has to say goes into its log, which is full: that must cost nobody anything."""
    host = cold_host
    with small(host) as disk:
        with defined(host, application(host, busybox_root, "app"), f"{TAG}app") as made:
            pid = made.start(*IDLE).pid
            keeper = host.keeper_pid
            fill(disk, 0)
            host.kill_daemon()
            try:
                _say_garbage(disk / "keeper.sock", 300)
            finally:
                host.start_daemon()
            assert host.keeper_pid == keeper
            assert made.info().pid == pid
            assert made.sh("echo on") == "on"


def _say_garbage(path: Path, times: int) -> None:
    for _ in range(times):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(path))
            connection.send(b"garbage")
            while connection.recv(1 << 16):
                continue
