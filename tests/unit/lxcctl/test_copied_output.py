"""What a command wrote and could not be written here is no success."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from lxcctl import streams
from lxcd.v1 import exec_pb2
from tests.unit.lxcctl.playing import EXEC, run_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.unit.lxcctl.conftest import FakeDaemon, FakeSide


@pytest.fixture
def command(
    daemon: FakeDaemon, side: FakeSide, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[int, int, int], None]], None]:
    """Plays a command that does this with its own descriptors, and ends well."""
    monkeypatch.setenv("LXCD_ADDRESS", daemon.address)
    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")

    def plays(act: Callable[[int, int, int], None]) -> None:
        def play(heard: Iterator[Any]) -> Iterator[Any]:
            next(heard)
            yield EXEC.started()
            fds = side.handed.get(timeout=30)
            act(*fds)
            for fd in fds:
                os.close(fd)
            yield EXEC.end(code=0)

        daemon.on["AttachExec"] = play

    return plays


def writes(stdin: int, stdout: int, stderr: int) -> None:
    del stdin
    # If the first is refused the second would be a broken pipe, where both are one.
    os.write(stdout, b"hello")
    if not os.path.sameopenfile(stdout, stderr):
        os.write(stderr, b" ")


def reads(stdin: int, stdout: int, stderr: int) -> None:
    del stdout, stderr
    os.read(stdin, 1)


def test_a_full_disk(command: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    command(writes)
    full = os.open("/dev/full", os.O_WRONLY)
    assert run_with((0, full, 2), "exec", "001", "x") == 1
    assert capfd.readouterr().err == " lxcctl: standard output: No space left on device\n"
    assert run_with((0, 1, full), "exec", "001", "x") == 1
    os.close(full)


def test_input_that_cannot_be_read(
    command: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command(reads)
    directory = os.open(tmp_path, os.O_RDONLY)
    assert run_with((directory, 1, 2), "exec", "001", "x") == 1
    os.close(directory)
    assert capfd.readouterr().err == "lxcctl: standard input: Is a directory\n"


def test_input_that_was_opened_for_writing_is_none(
    command: Callable[..., None], tmp_path: Path
) -> None:
    command(reads)
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    assert run_with((file, 1, 2), "exec", "001", "x") == 0
    os.close(file)


def test_a_reader_that_has_gone() -> None:
    read_end, write_end = os.pipe()
    source, theirs = os.pipe()
    os.close(read_end)
    copy = streams._Copy(1, source, write_end)
    copy.start()
    os.write(theirs, b"x")
    copy.finish()
    with pytest.raises(BrokenPipeError):
        copy.check()
    for fd in (write_end, theirs):
        os.close(fd)


def test_a_terminal_that_has_hung_up(command: Callable[..., None]) -> None:
    command(writes)
    master, slave = os.openpty()
    os.close(master)
    assert run_with((0, slave, slave), "exec", "001", "x") == 0
    os.close(slave)
