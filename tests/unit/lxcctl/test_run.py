"""run: create, start, follow, leave with the command's status; and what survives a restart."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from lxcctl.commands.run import random_name
from lxcd.v1 import container_pb2, types_pb2
from tests.unit.lxcctl.playing import (
    CONSOLE,
    CONTROLLER,
    DAEMON_LEAVES,
    DETACHED,
    EVERY_BYTE,
    KICKED,
    client,
    echo,
    says,
    starts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal


@pytest.fixture
def running(daemon: FakeDaemon) -> Any:
    daemon.on["CreateContainer"] = lambda r: iter(
        [container_pb2.CreateContainerResponse(container=container_pb2.Container(name=r.name))]
    )
    daemon.on["StartContainer"] = lambda _: container_pb2.StartContainerResponse(
        pid=9, generation=5
    )
    daemon.on["AttachConsole"] = echo(CONSOLE)
    return daemon


def test_create_and_start(running: FakeDaemon, lxcctl: Lxcctl, tmp_path: Path) -> None:
    config = tmp_path / "c"
    config.write_text("lxc.x = 1\n")
    running.on["AttachConsole"] = says(CONSOLE, CONSOLE.output(b"hi\n"), CONSOLE.end(code=0))
    result = lxcctl(
        "run", "host", "--name", "001", "-s", "lxc.a=b", "--config", str(config), "--", "echo", "hi"
    )
    assert (result.status, result.out, result.err) == (0, "hi\n", "")
    (create,), (start,) = running.asked("CreateContainer"), running.asked("StartContainer")
    assert [method for method, _ in running.requests[:3]] == [
        "CreateContainer",
        "StartContainer",
        "AttachConsole",
    ]
    assert create == container_pb2.CreateContainerRequest(
        name="001",
        image="host",
        config_text="lxc.x = 1\n",
        config_origin=str(config),
        define=[types_pb2.ConfigItem(key="lxc.a", value="b")],
    )
    assert start == container_pb2.StartContainerRequest(
        name="001", command=["echo", "hi"], stdio=container_pb2.STDIO_PIPES, stdin=True
    )
    (attach,) = starts(running, "AttachConsole")
    assert (attach.name, attach.terminal, attach.generation) == ("001", "output", 5)
    # What it has written before we came is ours as well, and it waits for us.
    assert (attach.role, attach.lossless) == (CONTROLLER, True)
    assert attach.WhichOneof("from") is None


def test_rm_defines_nothing(running: FakeDaemon, lxcctl: Lxcctl) -> None:
    running.on["AttachConsole"] = says(CONSOLE, CONSOLE.end(code=3))
    result = lxcctl("run", "host", "--rm", "-s", "lxc.a=b", "--", "false")
    assert result.status == 3
    assert not running.asked("CreateContainer")
    (start,) = running.asked("StartContainer")
    assert re.fullmatch(r"host-[a-z0-9]{6}", start.name)
    assert start.ephemeral
    assert start.image == "host"
    assert start.define[0].key == "lxc.a"


def test_bytes_and_streams(running: FakeDaemon, lxcctl: Lxcctl) -> None:
    result = lxcctl("run", "host", "--", "x", stdin=EVERY_BYTE)
    assert result.status == 0
    assert result.raw == EVERY_BYTE
    assert result.raw_err == EVERY_BYTE[::-1]


@pytest.mark.parametrize("end", [{"code": 42}, {"signal": 9}, {}])
def test_status_of_the_command(running: FakeDaemon, lxcctl: Lxcctl, end: dict[str, Any]) -> None:
    running.on["AttachConsole"] = says(CONSOLE, CONSOLE.end(**end))
    expected = end.get("code", 128 + end["signal"] if "signal" in end else 1)
    assert lxcctl("run", "host", "--rm", "--", "x").status == expected


@pytest.mark.parametrize("reason", [KICKED, DETACHED])
def test_a_session_that_ends_before_the_container(
    running: FakeDaemon, lxcctl: Lxcctl, reason: int
) -> None:
    running.on["AttachConsole"] = says(CONSOLE, CONSOLE.output(b"x"), CONSOLE.end(reason))
    result = lxcctl("run", "host", "--", "x")
    assert (result.status, result.out) == (1, "x")
    assert "the container goes on" in result.err


@pytest.mark.parametrize("how", ["UNAVAILABLE", "CANCELLED", "DAEMON_LEAVES", "OK"])
def test_resumes_by_offset_and_generation(
    running: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal], how: str
) -> None:
    data = b"0123456789"

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        at = next(heard).start.offsets.get("stdout", 0)
        yield CONSOLE.started()
        yield CONSOLE.output(data[at : at + 4], at)
        if at == 8:
            yield CONSOLE.end(code=0)
        elif how == "DAEMON_LEAVES":
            yield CONSOLE.end(DAEMON_LEAVES)
        elif how != "OK":
            raise refusal(how, "Socket closed")

    running.on["AttachConsole"] = play
    result = lxcctl("run", "host", "--rm", "--", "x")
    assert (result.status, result.out, result.err) == (0, "0123456789", "")
    asked = starts(running, "AttachConsole")
    assert [start.offsets["stdout"] for start in asked] == [0, 4, 8]
    assert {start.generation for start in asked} == {5}


def test_other_errors_end_it(running: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield CONSOLE.started()
        yield CONSOLE.output(b"x")
        raise refusal("INTERNAL", "our mistake", "INTERNAL")

    running.on["AttachConsole"] = play
    result = lxcctl("run", "host", "--rm", "--", "x")
    assert (result.status, result.out) == (1, "x")
    assert result.err == "lxcctl: our mistake\n"


@pytest.mark.slow
def test_a_daemon_that_is_really_restarted(running: FakeDaemon) -> None:
    # In a process of its own, so that what gRPC's core has to say about it would be seen, too.
    data = b"before after"
    gone = threading.Event()

    def first(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield CONSOLE.started()
        yield CONSOLE.output(data[:7])
        gone.wait(30)

    def second(heard: Iterator[Any]) -> Iterator[Any]:
        at = next(heard).start.offsets.get("stdout", 0)
        yield CONSOLE.started()
        yield CONSOLE.output(data[at:], at)
        yield CONSOLE.end(code=6)

    running.on["AttachConsole"] = first
    with client(
        running, "run", "host", "--rm", "--", "x", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(7) == data[:7]
        stopped = running.server.stop(None)
        running.on["AttachConsole"] = second
        gone.set()
        stopped.wait()
        running.path.unlink(missing_ok=True)
        running.start()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (6, data[7:], b"")
    assert [start.offsets["stdout"] for start in starts(running, "AttachConsole")] == [0, 7]


def test_failed_start(running: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]) -> None:
    def start(_request: Any) -> None:
        raise refusal("FAILED_PRECONDITION", "did not start", "START_FAILED", step="exec")

    running.on["StartContainer"] = start
    result = lxcctl("run", "host", "--name", "001", "--", "x")
    assert result.status == 1
    assert result.err.splitlines() == [
        "lxcctl: 001: did not start",
        "  failed at step exec",
        "  lxcctl plan 001 shows every step",
    ]


def test_lost_output_is_told(running: FakeDaemon, lxcctl: Lxcctl) -> None:
    running.on["AttachConsole"] = says(
        CONSOLE, CONSOLE.gap(0, 9), CONSOLE.output(b"x", 9), CONSOLE.end(code=0)
    )
    result = lxcctl("run", "host", "--", "x")
    assert "9 bytes" in result.err
    assert result.out == "x"


def test_signals_of_this_process_are_as_before(running: FakeDaemon, lxcctl: Lxcctl) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    running.on["AttachConsole"] = says(CONSOLE, CONSOLE.end(code=0))
    lxcctl("run", "host", "--", "x")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert not [t for t in threading.enumerate() if t.name == "signals"]


def test_on_a_terminal(
    running: FakeDaemon, lxcctl: Lxcctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "vt100")
    running.on["AttachConsole"] = says(
        CONSOLE, CONSOLE.output(b"$ ", stream="console"), CONSOLE.end(code=7)
    )
    result = lxcctl("run", "host", "--name", "001", "-t", "--", "sh")
    assert (result.status, result.out) == (7, "$ ")
    (start,) = running.asked("StartContainer")
    assert start.define == [types_pb2.ConfigItem(key="lxc.environment", value="TERM=vt100")]
    assert start.stdio != container_pb2.STDIO_PIPES
    (attach,) = starts(running, "AttachConsole")
    assert (attach.terminal, attach.generation, attach.role) == ("console", 5, CONTROLLER)
    running.on["AttachConsole"] = says(CONSOLE, CONSOLE.end(DETACHED))
    result = lxcctl("run", "host", "--name", "001", "-t", "--", "sh")
    assert result.status == 0
    assert result.err == "lxcctl: left 001 running; back with: lxcctl console 001\n"


@pytest.mark.parametrize("keys", ["hyper-a", "a b c d e f g h i"])
def test_wrong_detach_keys_are_told_before_anything_is_done(
    running: FakeDaemon, lxcctl: Lxcctl, keys: str
) -> None:
    result = lxcctl("run", "host", "-t", "--detach-keys", keys, "--", "sh")
    assert result.status == 2
    assert not running.requests


@pytest.mark.parametrize(
    ("image", "prefix"),
    [("host", "host"), ("docker.io/a:b", "docker.io-a-b"), ("///", "run"), ("ü", "run")],
)
def test_random_names(image: str, prefix: str) -> None:
    name = random_name(image)
    assert re.fullmatch(re.escape(prefix) + r"-[a-z0-9]{6}", name)
    assert name != random_name(image)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "passed", "status"),
    [
        ([signal.SIGTERM], [signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT], [signal.SIGINT, signal.SIGKILL], 137),
    ],
)
def test_signals_are_passed_on(
    running: FakeDaemon, sent: list[signal.Signals], passed: list[signal.Signals], status: int
) -> None:
    arrived = threading.Semaphore(0)
    over = threading.Event()

    def take(request: Any) -> Any:
        if request.signal == passed[-1]:
            over.set()
        arrived.release()
        return container_pb2.SignalContainerResponse()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield CONSOLE.started()
        yield CONSOLE.output(b"ready\n")
        over.wait(30)
        yield CONSOLE.end(signal=passed[-1])

    running.on["SignalContainer"] = take
    running.on["AttachConsole"] = play
    with client(
        running, "run", "host", "--name", "001", "--", "x", stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for number in sent:
            process.send_signal(number)
            assert arrived.acquire(timeout=30)
        assert process.wait(30) == status
    asked = running.asked("SignalContainer")
    assert [request.signal for request in asked] == passed
    assert {request.name for request in asked} == {"001"}
