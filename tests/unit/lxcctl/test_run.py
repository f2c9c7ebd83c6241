"""run: create, start, follow, leave with the command's status; and what survives a restart."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lxcctl as package
from lxcctl.commands.run import random_name
from lxcd.v1 import console_pb2, container_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal

ROOT = Path(package.__file__).parent.parent
EVERY_BYTE = bytes(range(256))


def part(data: bytes, offset: int = 0, stream: str = "stdout", **more: Any) -> Any:
    return console_pb2.ReadConsoleLogResponse(
        stream=stream, generation=5, offset=offset, data=data, **more
    )


def ended(**end: Any) -> Any:
    return console_pb2.ReadConsoleLogResponse(generation=5, exit=types_pb2.Exit(**end))


def client(daemon: FakeDaemon, *argv: str, **more: Any) -> Any:
    """lxcctl as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "lxcctl", *argv],
        cwd=ROOT,
        env={**os.environ, "LXCD_ADDRESS": daemon.address},
        stdout=subprocess.PIPE,
        **more,
    )


@pytest.fixture
def running(daemon: FakeDaemon) -> Any:
    daemon.on["CreateContainer"] = lambda r: iter(
        [container_pb2.CreateContainerResponse(container=container_pb2.Container(name=r.name))]
    )
    daemon.on["StartContainer"] = lambda _: container_pb2.StartContainerResponse(
        pid=9, generation=5
    )
    return daemon


def test_create_and_start(running: FakeDaemon, lxcctl: Lxcctl, tmp_path: Path) -> None:
    config = tmp_path / "c"
    config.write_text("lxc.x = 1\n")
    running.on["ReadConsoleLog"] = lambda _: iter([part(b"hi\n"), ended(code=0)])
    result = lxcctl(
        "run", "host", "--name", "001", "-s", "lxc.a=b", "--config", str(config), "--", "echo", "hi"
    )
    assert (result.status, result.out, result.err) == (0, "hi\n", "")
    assert [method for method, _ in running.requests] == [
        "CreateContainer",
        "StartContainer",
        "ReadConsoleLog",
    ]
    create, start, read = (request for _, request in running.requests)
    assert create == container_pb2.CreateContainerRequest(
        name="001",
        image="host",
        config_text="lxc.x = 1\n",
        config_origin=str(config),
        define=[types_pb2.ConfigItem(key="lxc.a", value="b")],
    )
    assert start == container_pb2.StartContainerRequest(
        name="001", command=["echo", "hi"], stdio=container_pb2.STDIO_PIPES
    )
    assert read == console_pb2.ReadConsoleLogRequest(
        name="001", stream="output", offset=0, follow=True, generation=5
    )


def test_rm_defines_nothing(running: FakeDaemon, lxcctl: Lxcctl) -> None:
    running.on["ReadConsoleLog"] = lambda _: iter([ended(code=3)])
    result = lxcctl("run", "host", "--rm", "-s", "lxc.a=b", "--", "false")
    assert result.status == 3
    assert not running.asked("CreateContainer")
    (start,) = running.asked("StartContainer")
    assert re.fullmatch(r"host-[a-z0-9]{6}", start.name)
    assert start.ephemeral
    assert start.image == "host"
    assert start.define[0].key == "lxc.a"


def test_bytes_and_streams(running: FakeDaemon, lxcctl: Lxcctl) -> None:
    running.on["ReadConsoleLog"] = lambda _: iter(
        [part(EVERY_BYTE), part(EVERY_BYTE[::-1], 256, "stderr"), ended(code=0)]
    )
    result = lxcctl("run", "host", "--", "x")
    assert result.raw == EVERY_BYTE
    assert result.raw_err == EVERY_BYTE[::-1]


@pytest.mark.parametrize(("end", "status"), [({"code": 42}, 42), ({"signal": 9}, 137), ({}, 1)])
def test_status_of_the_command(
    running: FakeDaemon, lxcctl: Lxcctl, end: dict[str, Any], status: int
) -> None:
    running.on["ReadConsoleLog"] = lambda _: iter([ended(**end)])
    assert lxcctl("run", "host", "--rm", "--", "x").status == status


def test_output_that_ends_before_the_container(running: FakeDaemon, lxcctl: Lxcctl) -> None:
    running.on["ReadConsoleLog"] = lambda _: iter([part(b"x")])
    running.on["WaitContainer"] = lambda _: container_pb2.WaitContainerResponse(
        reached=True, exit=types_pb2.Exit(code=4)
    )
    assert lxcctl("run", "host", "--", "x").status == 4
    assert running.asked("WaitContainer")[0].generation == 5


@pytest.mark.parametrize("code", ["UNAVAILABLE", "CANCELLED"])
def test_resumes_by_offset_and_generation(
    running: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal], code: str
) -> None:
    data = b"0123456789"

    def read(request: Any) -> Iterator[Any]:
        at = request.offsets["stdout"]
        yield part(data[at : at + 4], at)
        if at < 8:
            raise refusal(code, "Socket closed")
        yield ended(code=0)

    running.on["ReadConsoleLog"] = read
    result = lxcctl("run", "host", "--rm", "--", "x")
    assert (result.status, result.out, result.err) == (0, "0123456789", "")
    asked = running.asked("ReadConsoleLog")
    assert [request.offsets["stdout"] for request in asked] == [0, 4, 8]
    assert {request.generation for request in asked} == {5}


def test_other_errors_end_it(running: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]) -> None:
    def read(_request: Any) -> Iterator[Any]:
        yield part(b"x")
        raise refusal("INTERNAL", "our mistake", "INTERNAL")

    running.on["ReadConsoleLog"] = read
    result = lxcctl("run", "host", "--rm", "--", "x")
    assert (result.status, result.out) == (1, "x")
    assert result.err == "lxcctl: our mistake\n"


@pytest.mark.slow
def test_a_daemon_that_is_really_restarted(running: FakeDaemon) -> None:
    # In a process of its own, so that what gRPC's core has to say about it would be seen, too.
    data = b"before after"
    reading, gone = threading.Event(), threading.Event()

    def first(_request: Any) -> Iterator[Any]:
        yield part(data[:7])
        reading.set()
        gone.wait(30)

    def second(request: Any) -> Iterator[Any]:
        yield part(data[request.offsets["stdout"] :], request.offsets["stdout"])
        yield ended(code=6)

    running.on["ReadConsoleLog"] = first
    with client(running, "run", "host", "--rm", "--", "x", stderr=subprocess.PIPE) as process:
        assert reading.wait(30)
        assert process.stdout.read(7) == data[:7]
        stopped = running.server.stop(None)
        running.on["ReadConsoleLog"] = second
        gone.set()
        stopped.wait()
        running.path.unlink(missing_ok=True)
        running.start()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (6, data[7:], b"")
    assert [request.offsets["stdout"] for request in running.asked("ReadConsoleLog")] == [0, 7]


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
    running.on["ReadConsoleLog"] = lambda _: iter([part(b"x", 9, gap_bytes=9), ended(code=0)])
    result = lxcctl("run", "host", "--", "x")
    assert "9 bytes" in result.err
    assert result.out == "x"


def test_signals_of_this_process_are_as_before(running: FakeDaemon, lxcctl: Lxcctl) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    running.on["ReadConsoleLog"] = lambda _: iter([ended(code=0)])
    lxcctl("run", "host", "--", "x")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert not [t for t in threading.enumerate() if t.name == "signals"]


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

    def read(_request: Any) -> Iterator[Any]:
        yield part(b"ready\n")
        over.wait(30)
        yield ended(signal=passed[-1])

    running.on["SignalContainer"] = take
    running.on["ReadConsoleLog"] = read
    with client(running, "run", "host", "--name", "001", "--", "x") as process:
        assert process.stdout.readline() == b"ready\n"
        for number in sent:
            process.send_signal(number)
            assert arrived.acquire(timeout=30)
        assert process.wait(30) == status
    asked = running.asked("SignalContainer")
    assert [request.signal for request in asked] == passed
    assert {request.name for request in asked} == {"001"}
