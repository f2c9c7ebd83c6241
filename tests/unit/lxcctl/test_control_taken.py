"""Control that somebody else has taken: nothing that happens here reaches the command any more."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from lxcd.v1 import container_pb2, exec_pb2
from tests.unit.lxcctl.playing import (
    CONSOLE,
    CONTROLLER,
    DETACHED,
    EXEC,
    REBOOT,
    VIEWER,
    client,
    kinds,
    starts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal


@pytest.fixture
def robbing(daemon: FakeDaemon) -> FakeDaemon:
    """Control is taken from whoever comes."""

    def play(heard: Iterator[Any], frames: Any) -> Iterator[Any]:
        next(heard)
        yield frames.started()
        yield frames.role(VIEWER, "bob")
        for frame in heard:
            if frame.WhichOneof("frame") == "detach":
                yield frames.end(DETACHED)

    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
    daemon.on["SignalExec"] = lambda _: exec_pb2.SignalExecResponse()
    daemon.on["AttachExec"] = lambda heard: play(heard, EXEC)
    daemon.on["StartContainer"] = lambda _: container_pb2.StartContainerResponse(generation=5)
    daemon.on["SignalContainer"] = lambda _: container_pb2.SignalContainerResponse()
    daemon.on["AttachConsole"] = lambda heard: play(heard, CONSOLE)
    return daemon


def until_robbed(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line == b"lxcctl: bob has taken control; you only watch now\n"


@pytest.mark.slow
@pytest.mark.parametrize("verb", [["exec", "001"], ["exec", "-t", "001"], ["run", "--rm", "host"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signals_are_not_passed_on(
    robbing: FakeDaemon, verb: list[str], number: signal.Signals
) -> None:
    argv = [*verb, "--", "x"]
    with client(robbing, *argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until_robbed(process)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert not robbing.asked("SignalExec")
    assert not robbing.asked("SignalContainer")


@pytest.mark.slow
def test_only_the_keys_that_leave_are_obeyed(robbing: FakeDaemon) -> None:
    master, slave = os.openpty()
    argv = ["attach", "e1"]
    with client(robbing, *argv, stdin=slave, stdout=slave, stderr=subprocess.PIPE) as process:
        until_robbed(process)
        process.send_signal(signal.SIGWINCH)
        os.write(master, b"never sent\x01q")
        assert process.wait(30) == 0
    os.close(slave)
    os.close(master)
    assert kinds(robbing.asked("AttachExec")) == ["start", "detach"]


def test_who_was_robbed_watches_the_next_life_too(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        first = next(heard).start.generation == 0
        yield CONSOLE.started(generation=5 if first else 6)
        if first:
            yield CONSOLE.role(VIEWER, "bob")
            yield CONSOLE.end(REBOOT, code=0, next_generation=6)
        else:
            yield CONSOLE.end(code=0)

    daemon.on["AttachConsole"] = play
    daemon.on["WaitContainer"] = lambda _: container_pb2.WaitContainerResponse(reached=True)
    assert lxcctl("console", "001", "--steal").status == 0
    asked = [(start.role, start.steal) for start in starts(daemon, "AttachConsole")]
    assert asked == [(CONTROLLER, True), (VIEWER, False)]


@pytest.mark.parametrize(
    ("argv", "method"),
    [(["console", "001"], "AttachConsole"), (["attach", "e1"], "AttachExec")],
)
def test_who_comes_second_is_told_what_helps(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal], argv: list[str], method: str
) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield from ()
        raise refusal("FAILED_PRECONDITION", "bob has control", "CONTROL_TAKEN")

    daemon.on[method] = play
    result = lxcctl(*argv)
    assert result.status == 4
    assert result.err == (
        "lxcctl: bob has control\n"
        "  console and attach: --steal takes control, --read-only only watches\n"
    )
