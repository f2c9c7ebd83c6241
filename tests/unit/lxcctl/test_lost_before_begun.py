"""A daemon that goes away between the start of a command and the first frame of its session."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from lxcctl.attach import Attachment
from lxcctl.channel import Patience, Session
from lxcd.v1 import container_pb2, exec_pb2
from tests.unit.lxcctl.playing import CONSOLE, EXEC, Frames, client, starts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "FIRST", 0.0)


def breaks_once(frames: Frames, refusal: type[Refusal]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    connections: list[Any] = []

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        connections.append(next(heard).start)
        if len(connections) == 1:
            raise refusal("UNAVAILABLE", "Socket closed")
        yield frames.started()
        yield frames.end(code=7)

    return play


@pytest.fixture
def breaking(daemon: FakeDaemon, refusal: type[Refusal]) -> FakeDaemon:
    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
    daemon.on["AttachExec"] = breaks_once(EXEC, refusal)
    daemon.on["StartContainer"] = lambda _: container_pb2.StartContainerResponse(generation=5)
    daemon.on["AttachConsole"] = breaks_once(CONSOLE, refusal)
    return daemon


@pytest.mark.parametrize(
    ("argv", "method"),
    [
        (["exec", "001", "x"], "AttachExec"),
        (["exec", "-t", "001", "x"], "AttachExec"),
        (["run", "--rm", "host", "--", "x"], "AttachConsole"),
        (["run", "--rm", "-t", "host", "--", "x"], "AttachConsole"),
        (["start", "001", "--console"], "AttachConsole"),
    ],
)
def test_what_was_begun_is_gone_back_to(
    breaking: FakeDaemon, lxcctl: Lxcctl, argv: list[str], method: str
) -> None:
    assert lxcctl(*argv).status == 7
    first, second = starts(breaking, method)
    assert first == second


@pytest.mark.parametrize(("argv"), [["attach", "e1"], ["console", "001"]])
def test_what_may_not_be_there_is_not_waited_for(
    breaking: FakeDaemon, lxcctl: Lxcctl, argv: list[str]
) -> None:
    assert lxcctl(*argv).status == 69


@pytest.mark.slow
def test_keys_leave_also_while_nothing_has_begun(
    breaking: FakeDaemon, refusal: type[Refusal]
) -> None:
    """The terminal is raw: there is no other way."""

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield from ()
        raise refusal("UNAVAILABLE", "Socket closed")

    breaking.on["AttachExec"] = play
    master, slave = os.openpty()
    argv = ["exec", "--detach-keys", "^A q", "001", "x"]
    with client(breaking, *argv, stdin=slave, stdout=slave, stderr=slave) as process:
        os.write(master, b"\x01q")
        assert process.wait(30) == 0
    os.close(slave)
    os.close(master)
    (create,) = breaking.asked("CreateExec")
    assert create.tty


def test_a_size_that_changed_while_the_daemon_was_away(
    daemon: FakeDaemon, refusal: type[Refusal]
) -> None:
    sizes: list[tuple[int, int]] = []

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        again = bool(next(heard).start.offsets)
        yield EXEC.started()
        if not again:
            yield EXEC.output(b"x", 0, "terminal")
            raise refusal("UNAVAILABLE", "Socket closed")
        resize = next(heard).resize
        sizes.append((resize.rows, resize.columns))
        yield EXEC.end(code=0)

    daemon.on["AttachExec"] = play
    session = Session(daemon.address, "", "table")
    types = (exec_pb2.AttachExecRequest, exec_pb2.AttachExecResponse)
    attachment: Attachment

    def start(_message: Any) -> None:
        # Between two connections.
        if attachment.offsets:
            attachment.resize(30, 100)
            attachment.resize(40, 120)

    attachment = Attachment(session, "ExecService/AttachExec", types, start)
    assert attachment.run().exit.code == 0
    session.channel.close()
    assert sizes == [(40, 120)]
