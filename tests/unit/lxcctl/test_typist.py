"""One who types, from session to session: nothing goes to one that is over."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from lxcctl.attach import Attachment
from lxcctl.channel import Session
from lxcctl.keys import DetachKeys
from lxcctl.typist import Typist
from lxcd.v1 import container_pb2, exec_pb2
from tests.unit.lxcctl.playing import CONSOLE, DETACHED, EXEC, REBOOT, echo, run_with, says

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon


@pytest.fixture
def attach(daemon: FakeDaemon) -> Iterator[Callable[[], Attachment]]:
    session = Session(daemon.address, "", "table")
    types = (exec_pb2.AttachExecRequest, exec_pb2.AttachExecResponse)
    yield lambda: Attachment(session, "ExecService/AttachExec", types, lambda _: None)
    session.channel.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(write_end)
    # Behind the end, which is what the thread waits for.
    for thread in threading.enumerate():
        if thread.name == "input":
            thread.join(30)
    os.close(read_end)


def test_what_is_typed_behind_a_reboot(
    daemon: FakeDaemon, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody who waited in the life before takes it away."""
    heard: list[bytes] = []

    def play(frames: Iterator[Any]) -> Iterator[Any]:
        generation = next(frames).start.generation
        yield CONSOLE.started(generation=generation or 5)
        if generation == 0:
            yield CONSOLE.end(REBOOT, code=0, next_generation=6)
            return
        os.write(pipe[1], b"hello")
        heard.append(next(frames).input)
        yield CONSOLE.end(code=0)

    monkeypatch.setenv("LXCD_ADDRESS", daemon.address)
    daemon.on["AttachConsole"] = play
    daemon.on["WaitContainer"] = lambda _: container_pb2.WaitContainerResponse(reached=True)
    assert run_with((pipe[0], 1, 2), "console", "001") == 0
    assert heard == [b"hello"]


def test_what_comes_too_late_for_one_session_is_for_the_next(
    daemon: FakeDaemon, attach: Callable[[], Attachment], pipe: tuple[int, int]
) -> None:
    daemon.on["AttachExec"] = says(EXEC, EXEC.end(code=0))
    over = attach()
    over.run()
    typist = Typist(pipe[0])
    typist.type_into(over)
    os.write(pipe[1], b"hello")
    daemon.on["AttachExec"] = echo(EXEC)
    got = bytearray()
    present = attach()

    def shown(stream: str, data: bytes) -> None:
        if stream == "stdout":
            got.extend(data)
            present.end_input()

    present.on_output = shown
    present.on_started = lambda _: typist.type_into(present)
    assert present.run().exit.code == 0
    assert got == b"hello"


def test_keys_that_come_too_late_for_one_session_leave_the_next(
    daemon: FakeDaemon, attach: Callable[[], Attachment], pipe: tuple[int, int]
) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        assert next(heard).WhichOneof("frame") == "detach"
        yield EXEC.end(DETACHED)

    daemon.on["AttachExec"] = says(EXEC, EXEC.end(code=0))
    over = attach()
    over.run()
    typist = Typist(pipe[0], DetachKeys(b"\x01q"))
    typist.type_into(over)
    os.write(pipe[1], b"\x01q")
    daemon.on["AttachExec"] = play
    present = attach()
    present.on_started = lambda _: typist.type_into(present)
    assert present.run().reason == DETACHED


def _type_into(typist: Typist, attachment: Attachment, _frame: object) -> None:
    typist.type_into(attachment)


def test_an_end_is_an_end_for_every_session(
    daemon: FakeDaemon, attach: Callable[[], Attachment]
) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    typist = Typist(null)
    daemon.on["AttachExec"] = echo(EXEC)
    for _ in range(2):
        attachment = attach()
        attachment.on_started = partial(_type_into, typist, attachment)
        assert attachment.run().exit.code == 0
    os.close(null)


def test_nobody_waits_for_room_in_a_session_that_is_over(
    daemon: FakeDaemon, attach: Callable[[], Attachment]
) -> None:
    """It was full when it ended."""
    full = threading.Event()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started(window=1)
        assert full.wait(30)
        yield EXEC.end(code=0)

    daemon.on["AttachExec"] = play
    attachment = attach()
    counts: list[int] = []

    def type_all() -> None:
        counts.append(attachment.type(bytes(4 << 20)))
        full.set()
        counts.append(attachment.type(bytes(1 << 20)))

    thread = threading.Thread(target=type_all)
    attachment.on_started = lambda _: thread.start()
    attachment.run()
    thread.join(30)
    assert counts == [4 << 20, 0]
