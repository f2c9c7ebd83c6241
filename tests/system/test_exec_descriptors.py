"""The side socket: a caller's own descriptors for a command, and everything that is not taken there."""

from __future__ import annotations

import array
import json
import os
import pty
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import exec_pb2
from tests.system import sessions
from tests.system.boxes import Box
from tests.system.calls import idle, refused
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

NAMES = ["stdin", "stdout", "stderr"]


@pytest.fixture(scope="module")
def app(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with idle(shared_host, busybox_root, "app") as made:
        yield made


def connect(host: Host) -> socket.socket:
    side = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    side.connect(str(host.run_dir / "side.sock"))
    side.settimeout(DEADLINE)
    return side


def say(host: Host, message: bytes, *fds: int) -> dict[str, str]:
    """One message, and its answer; {} if it hangs up."""
    with connect(host) as side:
        socket.send_fds(side, [message], list(fds))
        answer = side.recv(4096)
    found: dict[str, str] = json.loads(answer) if answer else {}
    return found


def hand_over(host: Host, *fds: int, names: list[str] | None = None) -> str:
    """A token for these."""
    text = json.dumps({"streams": NAMES[: len(fds)] if names is None else names})
    return say(host, text.encode(), *fds)["token"]


@contextmanager
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """Two pipes: read and write end of each."""
    with ExitStack() as stack:
        ends = (*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC))
        for number in ends:
            stack.callback(_close, number)
        yield ends


def _close(number: int) -> None:
    # Some are closed by the test itself.
    with suppress(OSError):
        os.close(number)


def give_back(app: Box, token: str) -> None:
    """Use a token up for nothing."""
    error = refused(lambda: sessions.create(app, "", descriptors_token=token))
    assert error.reason == "INVALID_COMMAND"


def test_a_command_gets_what_was_handed_over_and_nothing_else(app: Box) -> None:
    with pipes() as (read, write, back, out):
        token = hand_over(app.host, read, out, out)
        script = "cat; echo err >&2; ls /proc/$$/fd; true"
        with sessions.running(app, "/bin/sh", "-c", script, descriptors_token=token) as found:
            assert not found.streams
            _close(out)
            _close(read)
            os.write(write, b"through\n")
            _close(write)
            with open(back, "rb", closefd=False) as file:
                lines = file.read().decode().splitlines()
            assert lines == ["through", "err", "0", "1", "2"]
            wait = exec_pb2.WaitExecRequest(id=found.id)
            assert app.api.exec.WaitExec(wait, timeout=DEADLINE).exit.code == 0


def test_some_may_be_handed_over_and_the_others_be_ours(app: Box) -> None:
    with pipes() as (read, write, back, out):
        token = hand_over(app.host, out, names=["stderr"])
        with sessions.running(
            app, "/bin/sh", "-c", "cat; echo err >&2", stdin=True, descriptors_token=token
        ) as found:
            assert {stream.name for stream in found.streams} == {"stdout"}
            attached = sessions.attach(app.api, found.id, role=sessions.CONTROLLER)
            attached.type(b"in\n")
            attached.send(input_end=True)
            assert attached.to_the_end().exit.code == 0
            assert attached.data == {"stdout": b"in\n"}
        _close(out)
        assert os.read(back, 100) == b"err\n"
        del read, write


def test_a_token_is_good_once_and_for_a_command_without_a_terminal(app: Box) -> None:
    with pipes() as (_, _, back, out):
        token = hand_over(app.host, out, names=["stdout"])
        error = refused(
            lambda: sessions.create(app, "/bin/true", tty=True, descriptors_token=token)
        )
        assert error.reason == "DESCRIPTORS_WITH_TTY"
        for _ in range(2):
            error = refused(lambda: sessions.create(app, "/bin/true", descriptors_token=token))
            assert (error.code, error.reason) == ("NOT_FOUND", "NO_DESCRIPTORS")
        _close(out)
        # Nobody holds it any more.
        assert os.read(back, 1) == b""
        assert refused(
            lambda: sessions.create(app, "/bin/true", descriptors_token="x" * 100_000)
        ).reason == ("NO_DESCRIPTORS")


@contextmanager
def harmful(kind: str) -> Iterator[int]:
    """A descriptor that may not enter a container."""
    with ExitStack() as stack:
        if kind == "terminal":
            number, other = pty.openpty()
            stack.callback(os.close, other)
        elif kind == "file":
            number = os.dup(stack.enter_context(tempfile.TemporaryFile()).fileno())
        else:
            paths = {"directory": "/", "zero": "/dev/zero", "tun": "/dev/ptmx", "proc": "/proc/1"}
            number = (
                os.memfd_create("x")
                if kind == "memfd"
                else os.pidfd_open(os.getpid())
                if kind == "pidfd"
                else os.eventfd(0)
                if kind == "eventfd"
                else os.open(paths[kind], os.O_RDONLY | os.O_NOCTTY)
            )
        stack.callback(os.close, number)
        yield number


@pytest.mark.parametrize(
    "kind", ["file", "terminal", "directory", "zero", "tun", "proc", "memfd", "pidfd", "eventfd"]
)
def test_what_may_not_enter_a_container(app: Box, kind: str) -> None:
    with pipes() as (read, _, _, out), harmful(kind) as number:
        text = json.dumps({"streams": NAMES}).encode()
        for fds in ((number, out, out), (read, number, out), (read, out, number)):
            answer = say(app.host, text, *fds)
            assert answer["reason"] == "UNSAFE_DESCRIPTOR", answer
        until(lambda: not _holds(app.host, read), "lxcd has let go of them")


def _open(host: Host) -> list[str]:
    """What lxcd has open."""
    found: list[str] = []
    for name in os.listdir(f"/proc/{host.daemon}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{host.daemon}/fd/{name}"))
    return found


def _holds(host: Host, *fds: int) -> bool:
    """Whether lxcd has one of these pipes open."""
    # Both ends have one inode.
    return any(f"pipe:[{os.fstat(number).st_ino}]" in _open(host) for number in fds)


def _sockets(host: Host) -> int:
    return sum(link.startswith("socket:") for link in _open(host))


@pytest.mark.parametrize(
    "message",
    [
        b"x",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"null",
        b'{"streams": null}',
        b'{"streams": 7}',
        b'{"streams": "stdin"}',
        b'{"streams": ["nosuch"]}',
        b'{"streams": [["stdin"]]}',
        b'{"streams": ["stdin"',
        b"[" * 4000,
        b'{"streams": ["stdin"]}' + b" " * 100_000,
    ],
    ids=lambda message: repr(message[:24]),
)
def test_garbage_is_told_apart(app: Box, message: bytes) -> None:
    with pipes() as (read, _, _, _):
        for fds in ((), (read,)):
            assert say(app.host, message, *fds)["reason"] == "BAD_MESSAGE"
        until(lambda: not _holds(app.host, read), "lxcd has let go of it")


def test_descriptors_that_are_too_many_or_too_few(app: Box) -> None:
    text = json.dumps({"streams": NAMES}).encode()
    twice = json.dumps({"streams": ["stdin", "stdin"]}).encode()
    with pipes() as (read, _, _, _):
        assert say(app.host, text)["reason"] == "INVALID_DESCRIPTORS"
        assert say(app.host, text, read)["reason"] == "INVALID_DESCRIPTORS"
        assert say(app.host, text, *[read] * 4)["reason"] == "INVALID_DESCRIPTORS"
        assert say(app.host, text, *[read] * 253)["reason"] == "INVALID_DESCRIPTORS"
        assert say(app.host, twice, read, read)["reason"] == "INVALID_DESCRIPTORS"
        until(lambda: not _holds(app.host, read), "lxcd has let go of them")


def test_one_user_holds_so_many_and_no_more(app: Box) -> None:
    text = json.dumps({"streams": ["stdin"]}).encode()
    with pipes() as (read, _, _, _):
        tokens: list[str] = []
        while "token" in (answer := say(app.host, text, read)):
            tokens.append(answer["token"])
        assert len(tokens) == 64
        assert len(set(tokens)) == 64
        assert answer["reason"] == "TOO_MANY_DESCRIPTORS"
        for token in tokens:
            give_back(app, token)
        give_back(app, hand_over(app.host, read))
        until(lambda: not _holds(app.host, read), "lxcd has let go of them")


def test_a_crowd_at_the_side_socket_stops_nobody(app: Box) -> None:
    before = _sockets(app.host)
    with ExitStack() as stack:
        crowd = [stack.enter_context(closing(connect(app.host))) for _ in range(300)]
        until(lambda: _sockets(app.host) >= before + 200, "lxcd has heard them")
        # lxcctl does without.
        done = app.host.ctl_bytes("exec", "app", "--", "/bin/cat", input=b"through")
        assert done.stdout == b"through"
        # Some say a lot and never listen.
        for side in crowd[:20]:
            side.setblocking(False)
            _flood(side)
        assert app.sh("echo on") == "on"
    until(lambda: _sockets(app.host) < before + 50, "lxcd has let go of them")
    with pipes() as (read, _, _, _):
        give_back(app, hand_over(app.host, read))


def _flood(side: socket.socket) -> None:
    with suppress(OSError):
        for _ in range(1000):
            side.send(b"x")


def test_rights_without_a_message_and_hanging_up_leave_nothing(app: Box) -> None:
    with pipes() as (read, _, _, _):
        rights: list[Any] = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read] * 9))]
        for _ in range(20):
            with connect(app.host) as side:
                side.sendmsg([b"x"], rights)
        with connect(app.host) as side:
            side.sendmsg([b""], rights)
        until(lambda: not _holds(app.host, read), "lxcd has let go of them")


@pytest.mark.slow
def test_a_token_is_good_for_half_a_minute(app: Box) -> None:
    with pipes() as (_, _, back, out):
        token = hand_over(app.host, out, names=["stdout"])
        _close(out)
        # What expires is closed: that is waited for, not time.
        assert os.read(back, 1) == b""
        error = refused(lambda: sessions.create(app, "/bin/true", descriptors_token=token))
        assert (error.code, error.reason) == ("NOT_FOUND", "NO_DESCRIPTORS")


def test_what_is_refused_lets_go_of_what_was_handed_over(shared_host: Host) -> None:
    """Or `$(lxcctl exec nobody true)` would wait for the end of its pipe until lxcd forgets it."""
    read_end, write_end = os.pipe()
    try:
        done = subprocess.run(
            shared_host.ctl_argv("exec", "nobody", "--", "true"),
            env=shared_host.environment,
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=subprocess.PIPE,
            check=False,
            timeout=DEADLINE,
        )
        assert done.returncode == 3
        handed = f"pipe:[{os.fstat(write_end).st_ino}]"
        held: set[str] = set()
        for link in Path(f"/proc/{shared_host.daemon}/fd").iterdir():
            with suppress(FileNotFoundError):
                held.add(os.readlink(link))
        assert handed not in held
    finally:
        os.close(read_end)
        os.close(write_end)
