"""What is said and what is obeyed while somebody types through a terminal, or without one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from lxcd.v1 import exec_pb2
from tests.unit.lxcctl.playing import CONSOLE, EXEC, VIEWER, client, says

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon

pytestmark = pytest.mark.slow


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_notes_on_a_raw_terminal_begin_at_the_left(
    daemon: FakeDaemon, pty: tuple[int, int]
) -> None:
    master, slave = pty
    daemon.on["AttachConsole"] = says(
        CONSOLE,
        CONSOLE.gap(0, 9, "console"),
        CONSOLE.role(VIEWER, "bob\nhere"),
        CONSOLE.output(b"cut\r\nend", 9, "console"),
        CONSOLE.end(code=0),
    )
    argv = ["console", "001"]
    with client(daemon, *argv, stdin=slave, stdout=slave, stderr=slave) as process:
        assert process.wait(30) == 0
    assert os.read(master, 1000).split(b"\r\n") == [
        b"lxcctl: connected to console of 001; Ctrl-a q leaves",
        b"lxcctl: 9 bytes of console are lost: we were too slow",
        b"lxcctl: bob",
        b"here has taken control; you only watch now",
        b"endlxcctl: 001 has stopped: 0 -",
        b"",
    ]


def test_who_has_no_terminal_is_suspended_all_the_same(daemon: FakeDaemon) -> None:
    over = threading.Event()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        yield EXEC.output(b"ready\n", stream="terminal")
        over.wait(30)
        yield EXEC.end(code=0)

    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
    daemon.on["AttachExec"] = play
    with client(daemon, "exec", "-t", "001", "x", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTSTP)
        changed = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert changed is not None
        assert (changed.si_code, changed.si_status) == (os.CLD_STOPPED, signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        over.set()
        assert process.wait(30) == 0
    # Not hung up.
    assert not daemon.asked("SignalExec")
