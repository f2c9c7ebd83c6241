"""The caller's own streams become the command's: what goes as it is, what is copied, what never
leaves.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from lxcd.v1 import container_pb2, exec_pb2
from tests.unit.lxcctl.playing import CONSOLE, EVERY_BYTE, EXEC, echo, run_with, starts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.unit.lxcctl.conftest import FakeDaemon, FakeSide


@pytest.fixture(autouse=True)
def _address(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXCD_ADDRESS", daemon.address)


@contextmanager
def opened(*paths: str | Path) -> Iterator[list[int]]:
    """Descriptors of files, to read and write."""
    fds = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in paths]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def same(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


class Command:
    """Plays a command that got the descriptors: `act` has them for its own, and closes them."""

    def __init__(self, daemon: FakeDaemon, side: FakeSide, act: Callable[..., None]) -> None:
        self._side = side
        self._act = act
        daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
        daemon.on["AttachExec"] = lambda heard: self._play(heard, EXEC)
        daemon.on["CreateContainer"] = lambda r: iter(
            [container_pb2.CreateContainerResponse(container=container_pb2.Container(name=r.name))]
        )
        daemon.on["StartContainer"] = lambda _: container_pb2.StartContainerResponse(generation=5)
        daemon.on["AttachConsole"] = lambda heard: self._play(heard, CONSOLE)

    def _play(self, heard: Iterator[Any], frames: Any) -> Iterator[Any]:
        next(heard)
        yield frames.started()
        self._act(*self._side.handed.get(timeout=30))
        yield frames.end(code=3)


def close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("verb", [["exec", "001"], ["run", "host"]])
def test_files_are_copied_through_pipes(
    daemon: FakeDaemon, side: FakeSide, tmp_path: Path, verb: list[str]
) -> None:
    data = EVERY_BYTE * 4000
    (tmp_path / "in").write_bytes(data)
    kinds: list[int] = []

    def act(stdin: int, stdout: int, stderr: int) -> None:
        kinds.extend(stat.S_IFMT(os.fstat(fd).st_mode) for fd in (stdin, stdout, stderr))
        assert not same(stdout, stderr)
        got = read_all(stdin)
        with os.fdopen(stdout, "wb") as out, os.fdopen(stderr, "wb") as err:
            out.write(got)
            err.write(got[::-1])

    Command(daemon, side, act)
    with opened(tmp_path / "in", tmp_path / "out", tmp_path / "err") as (in_, out, err):
        assert run_with((in_, out, err), *verb, "--", "x") == 3
    # No file of the host enters a container.
    assert kinds == [stat.S_IFIFO] * 3
    assert (tmp_path / "out").read_bytes() == data
    assert (tmp_path / "err").read_bytes() == data[::-1]
    assert side.asked == [{"streams": ["stdin", "stdout", "stderr"]}]


def test_the_token_is_named_in_the_call(daemon: FakeDaemon, side: FakeSide, tmp_path: Path) -> None:
    Command(daemon, side, close)
    with opened(tmp_path / "in", tmp_path / "out") as (in_, out):
        run_with((in_, out, out), "exec", "001", "--", "x")
        run_with((in_, out, out), "run", "host", "--", "x")
    (create,), (start,) = daemon.asked("CreateExec"), daemon.asked("StartContainer")
    assert (create.descriptors_token, create.stdin) == ("t0ken", False)
    assert (start.descriptors_token, start.stdin) == ("t0ken", False)
    # Somebody is there all the same: to see it end, and to be seen.
    assert [s.role for m in ("AttachExec", "AttachConsole") for s in starts(daemon, m)] == [2, 2]


def test_one_file_for_both_outputs_is_one_pipe(
    daemon: FakeDaemon, side: FakeSide, tmp_path: Path
) -> None:
    def act(stdin: int, stdout: int, stderr: int) -> None:
        assert same(stdout, stderr)
        for number in range(1000):
            os.write((stdout, stderr)[number % 2], b"%d\n" % number)
        close(stdin, stdout, stderr)

    Command(daemon, side, act)
    with opened(tmp_path / "in", tmp_path / "out") as (in_, out):
        assert run_with((in_, out, out), "exec", "001", "--", "x") == 3
    # They stay in order.
    assert (tmp_path / "out").read_bytes() == b"".join(b"%d\n" % n for n in range(1000))


def test_pipes_sockets_and_null_go_as_they_are(daemon: FakeDaemon, side: FakeSide) -> None:
    read_end, write_end = os.pipe()
    one, other = socket.socketpair()
    null = os.open(os.devnull, os.O_RDWR)
    found: list[bool] = []

    def act(stdin: int, stdout: int, stderr: int) -> None:
        found.extend([same(stdin, null), same(stdout, write_end), same(stderr, one.fileno())])
        os.write(stdout, b"to the pipe")
        os.write(stderr, b"to the socket")
        close(stdin, stdout, stderr)

    Command(daemon, side, act)
    status = run_with((null, write_end, one.fileno()), "exec", "001", "--", "x")
    close(null, write_end)
    one.close()
    assert (status, found) == (3, [True] * 3)
    # Nobody holds them any more, here: their readers see an end.
    assert read_all(read_end) == b"to the pipe"
    with other:
        assert other.recv(100) == b"to the socket"
        assert other.recv(100) == b""


def test_a_terminal_never_leaves(daemon: FakeDaemon, side: FakeSide) -> None:
    master, slave = os.openpty()
    found: list[bool] = []

    def act(stdin: int, stdout: int, stderr: int) -> None:
        found.extend(os.isatty(fd) for fd in (stdin, stdout, stderr))
        os.write(stdout, b"hello")
        close(stdin, stdout, stderr)

    Command(daemon, side, act)
    assert run_with((slave, slave, slave), "exec", "-T", "001", "--", "x") == 3
    assert found == [False] * 3
    assert os.read(master, 100) == b"hello"
    close(master, slave)


def test_a_child_that_lives_on_is_not_waited_for(
    daemon: FakeDaemon, side: FakeSide, tmp_path: Path
) -> None:
    kept: list[int] = []

    def act(stdin: int, stdout: int, stderr: int) -> None:
        os.write(stdout, b"before the end")
        kept.append(os.dup(stdout))
        close(stdin, stdout, stderr)

    Command(daemon, side, act)
    with opened(tmp_path / "in", tmp_path / "out") as (in_, out):
        assert run_with((in_, out, out), "exec", "001", "--", "x") == 3
    assert (tmp_path / "out").read_bytes() == b"before the end"
    # It is told that nobody reads.
    with pytest.raises(BrokenPipeError):
        os.write(kept[0], b"x")
    close(*kept)


def test_a_command_that_does_not_read_all_of_its_input(
    daemon: FakeDaemon, side: FakeSide, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(bytes(1 << 20))
    read: list[int] = []

    def act(stdin: int, stdout: int, stderr: int) -> None:
        read.append(len(os.read(stdin, 10)))
        close(stdin, stdout, stderr)

    Command(daemon, side, act)
    with opened(tmp_path / "in", tmp_path / "out") as (in_, out):
        assert run_with((in_, out, out), "exec", "001", "--", "head", "-c", "10") == 3
    assert read == [10]
    assert not [t for t in threading.enumerate() if t.name == "copy" and t.is_alive() and joined(t)]


def joined(thread: threading.Thread) -> bool:
    """Whether it goes on, given time."""
    thread.join(30)
    return thread.is_alive()


def test_what_the_side_socket_refuses(
    daemon: FakeDaemon, side: FakeSide, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    side.answer = {"reason": "UNSAFE_DESCRIPTOR", "message": "stdin is no pipe"}
    with opened(tmp_path / "in", tmp_path / "out") as (in_, out):
        assert run_with((in_, out, 2), "exec", "001", "--", "x") == 2
    assert not daemon.requests
    assert capfd.readouterr().err == "lxcctl: stdin is no pipe\n"


def test_streamed_asks_nobody(daemon: FakeDaemon, side: FakeSide, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"hello")
    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
    daemon.on["AttachExec"] = echo(EXEC)
    with opened(tmp_path / "in", tmp_path / "out", tmp_path / "err") as (in_, out, err):
        assert run_with((in_, out, err), "exec", "--streamed", "001", "--", "cat") == 0
    assert (tmp_path / "out").read_bytes() == b"hello"
    assert side.asked == []
    (create,) = daemon.asked("CreateExec")
    assert (create.descriptors_token, create.stdin) == ("", True)
