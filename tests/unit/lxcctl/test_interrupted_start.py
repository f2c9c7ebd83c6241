"""Whoever presses Ctrl-C while a command is only about to begin does not leave it alone with that."""

from __future__ import annotations

import signal
import subprocess
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from lxcd.v1 import container_pb2, exec_pb2
from tests.unit.lxcctl.playing import CONSOLE, EXEC, client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon

pytestmark = pytest.mark.slow

STREAMS = [["exec", "001"], ["run", "--rm", "host"]]
TERMINALS = [["exec", "-t", "001"], ["run", "-t", "host"]]


class Slow:
    """A daemon that has begun to start something and does not say that it is there."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.asked = threading.Event()
        self.done = threading.Event()
        self._daemon = daemon
        self._signals: SimpleQueue[int] = SimpleQueue()
        daemon.on["CreateExec"] = lambda _: self._wait(exec_pb2.Exec(id="e1"))
        daemon.on["SignalExec"] = lambda r: self._take(r, exec_pb2.SignalExecResponse())
        daemon.on["AttachExec"] = lambda heard: self._play(heard, EXEC)
        daemon.on["CreateContainer"] = lambda r: iter(
            [container_pb2.CreateContainerResponse(container=container_pb2.Container(name=r.name))]
        )
        daemon.on["StartContainer"] = lambda _: self._wait(
            container_pb2.StartContainerResponse(generation=5)
        )
        daemon.on["SignalContainer"] = lambda r: self._take(
            r, container_pb2.SignalContainerResponse()
        )
        daemon.on["AttachConsole"] = lambda heard: self._play(heard, CONSOLE)

    def _wait(self, answer: Any) -> Any:
        self.asked.set()
        self.done.wait(60)
        return answer

    def _take(self, request: Any, answer: Any) -> Any:
        self._signals.put(request.signal)
        return answer

    def _play(self, heard: Iterator[Any], frames: Any) -> Iterator[Any]:
        next(heard)
        yield frames.started()
        yield frames.end(signal=self._signals.get(timeout=30))

    def sent(self) -> list[int]:
        """The signals that arrived."""
        asked = [*self._daemon.asked("SignalExec"), *self._daemon.asked("SignalContainer")]
        return [request.signal for request in asked]


@pytest.fixture
def slow(daemon: FakeDaemon) -> Iterator[Slow]:
    slow = Slow(daemon)
    yield slow
    slow.done.set()


def interrupted(process: subprocess.Popen[bytes], slow: Slow, number: signal.Signals) -> None:
    """Once it has heard of that."""
    assert slow.asked.wait(30)
    process.send_signal(number)
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"lxcctl: waiting for it to begin")


@pytest.mark.parametrize("verb", STREAMS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_begins_behind_it_is_told(
    daemon: FakeDaemon, slow: Slow, verb: list[str], number: signal.Signals
) -> None:
    """It may have begun before we heard of that, and have made up its mind what it does then."""
    argv = [*verb, "--", "x"]
    with client(daemon, *argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        interrupted(process, slow, number)
        slow.done.set()
        assert process.wait(30) == 128 + number
    assert slow.sent() == [number]


@pytest.mark.parametrize("verb", TERMINALS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_begins_behind_it_is_killed(
    daemon: FakeDaemon, slow: Slow, verb: list[str], number: signal.Signals
) -> None:
    argv = [*verb, "--", "x"]
    with client(daemon, *argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        interrupted(process, slow, number)
        slow.done.set()
        assert process.wait(30) == 128 + number
    assert slow.sent() == [signal.SIGKILL]
    assert not daemon.asked("AttachExec")
    assert not daemon.asked("AttachConsole")


@pytest.mark.parametrize("verb", [*STREAMS, *TERMINALS])
def test_a_second_one_leaves_at_once(daemon: FakeDaemon, slow: Slow, verb: list[str]) -> None:
    argv = [*verb, "--", "x"]
    with client(daemon, *argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        interrupted(process, slow, signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert slow.sent() == []
