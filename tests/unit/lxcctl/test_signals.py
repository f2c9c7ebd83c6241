"""Signals that a thread takes: which, and who acts on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from lxcctl.signals import FORWARDED, SignalThread
from lxcd.v1 import exec_pb2
from tests.unit.lxcctl.playing import EXEC, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon


@pytest.mark.slow
def test_what_is_ignored_stays_ignored(daemon: FakeDaemon) -> None:
    """As nohup has it, or a shell for a job in the background."""
    over = threading.Event()

    def take(_request: Any) -> Any:
        over.set()
        return exec_pb2.SignalExecResponse()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        yield EXEC.output(b"ready\n")
        over.wait(30)
        yield EXEC.end(code=0)

    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
    daemon.on["SignalExec"] = take
    daemon.on["AttachExec"] = play
    script = "trap '' HUP INT; exec \"$@\""
    with subprocess.Popen(
        ["sh", "-c", script, "sh", sys.executable, "-m", "lxcctl", "exec", "001", "x"],
        cwd=ROOT,
        env={**os.environ, "LXCD_ADDRESS": daemon.address},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        assert process.wait(30) == 0
    # Of several that are there, the lowest comes first: the others would be here by now.
    assert [request.signal for request in daemon.asked("SignalExec")] == [signal.SIGTERM]


def test_all_of_them_may_be_ignored() -> None:
    acted: SimpleQueue[int] = SimpleQueue()
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in FORWARDED}
    try:
        with SignalThread(FORWARDED, acted.put):
            os.kill(os.getpid(), signal.SIGTERM)
            assert not [thread for thread in threading.enumerate() if thread.name == "signals"]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert acted.empty()
