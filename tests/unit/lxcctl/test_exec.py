"""exec, attach, execs: bytes in, bytes out, the command's own status; and what is left running."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from lxcctl.commands import exec as module
from lxcd.v1 import exec_pb2, stream_pb2, types_pb2
from tests.unit.lxcctl.playing import (
    CONTROLLER,
    DETACHED,
    EVERY_BYTE,
    EXEC,
    KICKED,
    ROOT,
    VIEWER,
    client,
    echo,
    kinds,
    says,
    starts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal


@pytest.fixture
def creating(daemon: FakeDaemon) -> FakeDaemon:
    daemon.on["CreateExec"] = lambda request: exec_pb2.Exec(id="e1", container=request.container)
    daemon.on["AttachExec"] = echo(EXEC)
    return daemon


def test_every_byte_passes(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    result = lxcctl("exec", "001", "cat", stdin=EVERY_BYTE)
    assert result.status == 0
    assert result.raw == EVERY_BYTE
    assert result.raw_err == EVERY_BYTE[::-1]


def test_what_is_asked(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    lxcctl(
        "exec", "001", "--user", "bob:staff", "--cwd", "/tmp", "--env", "A=b c", "--env", "B=",
        "--group", "wheel", "--group", "7", "--umask", "27", "--namespace", "net,PID",
        "--namespace", "uts", "--elevate", "cgroup|security", "ls", "--env", "x",
    )  # fmt: skip
    (request,) = creating.asked("CreateExec")
    assert request == exec_pb2.CreateExecRequest(
        container="001",
        command=["ls", "--env", "x"],
        env=["A=b c", "B="],
        user="bob:staff",
        cwd="/tmp",
        groups=["wheel", "7"],
        umask=0o27,
        namespaces=["net", "pid", "uts"],
        elevate=[exec_pb2.PRIVILEGE_CGROUP, exec_pb2.PRIVILEGE_SECURITY],
        stdin=True,
        lossless=True,
        delete_on_exit=True,
        on_disconnect=exec_pb2.DISCONNECT_POLICY_KILL,
    )
    (start,) = starts(creating, "AttachExec")
    assert (start.id, start.role) == ("e1", CONTROLLER)
    assert re.fullmatch(rf"\S+@\S+:{os.getpid()}", start.label)


def test_without_a_command_it_is_the_users_shell(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    assert lxcctl("exec", "001", "--user", "bob", stdin=b"id\n").raw == b"id\n"
    (request,) = creating.asked("CreateExec")
    assert (list(request.command), request.user) == ([], "bob")


def test_privileges_are_those_of_the_api() -> None:
    words = [value.name for value in exec_pb2.Privilege.DESCRIPTOR.values]
    assert words[1:] == [f"PRIVILEGE_{word.upper()}" for word in module._PRIVILEGES]
    assert module._privileges("all") == list(exec_pb2.Privilege.values())[1:]


def test_umask_zero_is_not_the_default(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    lxcctl("exec", "001", "--umask", "0", "x")
    lxcctl("exec", "001", "x")
    zero, default = creating.asked("CreateExec")
    assert zero.HasField("umask")
    assert not default.HasField("umask")


def test_environment_from_here(
    creating: FakeDaemon, lxcctl: Lxcctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "a=b c")
    lxcctl("exec", "001", "--env", "FROM_HERE", "x")
    lxcctl("exec", "001", "--keep-env", "--env", "FROM_HERE=other", "x")
    one, all_ = creating.asked("CreateExec")
    assert list(one.env) == ["FROM_HERE=a=b c"]
    # What is asked for by name stands behind, and so wins.
    assert "FROM_HERE=a=b c" in all_.env
    assert all_.env[-1] == "FROM_HERE=other"
    monkeypatch.delenv("FROM_HERE")
    result = lxcctl("exec", "001", "--env", "FROM_HERE", "x")
    assert (result.status, "FROM_HERE is not set here" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ({"code": 0}, 0),
        ({"code": 7}, 7),
        ({"code": 126}, 126),
        ({"code": 127}, 127),
        ({"code": 255}, 255),
        ({"signal": 9}, 137),
        ({"signal": 15}, 143),
        ({}, 1),
    ],
)
def test_status(creating: FakeDaemon, lxcctl: Lxcctl, end: dict[str, Any], status: int) -> None:
    creating.on["AttachExec"] = says(EXEC, EXEC.end(**end))
    assert lxcctl("exec", "001", "x").status == status


def test_a_command_that_takes_too_long_is_killed(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    killed = threading.Event()

    def take(_request: Any) -> Any:
        killed.set()
        return exec_pb2.SignalExecResponse()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        assert killed.wait(30)
        yield EXEC.end(signal=9)

    creating.on["SignalExec"] = take
    creating.on["AttachExec"] = play
    result = lxcctl("exec", "001", "--timeout", "10ms", "x")
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            # It must have its answer before the daemon goes.
            thread.join()
    assert result.status == 137
    assert "--timeout" in result.err
    assert creating.asked("SignalExec") == [exec_pb2.SignalExecRequest(id="e1", signal=9)]


def test_not_found_is_not_the_command_s_status(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def create(_request: Any) -> None:
        raise refusal("NOT_FOUND", "no container 001", "NOT_FOUND")

    daemon.on["CreateExec"] = create
    result = lxcctl("exec", "001", "x")
    assert (result.status, result.err) == (3, "lxcctl: no container 001\n")


def test_megabytes(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    data = EVERY_BYTE * 32768
    result = lxcctl("exec", "001", "cat", stdin=data)
    assert result.raw == data
    assert len(result.raw_err) == len(data)


def test_somebody_ends_the_session(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    creating.on["AttachExec"] = says(EXEC, EXEC.output(b"x"), EXEC.end(KICKED))
    result = lxcctl("exec", "001", "x")
    assert (result.status, result.out) == (1, "x")
    assert result.err == "lxcctl: somebody has ended this session\n"


def test_lost_output_is_told(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    creating.on["AttachExec"] = says(
        EXEC, EXEC.gap(0, 9), EXEC.output(b"x", 9), EXEC.gap(4, 6, "stderr"), EXEC.end(code=0)
    )
    result = lxcctl("exec", "001", "x")
    assert result.out == "x"
    assert result.err == (
        "lxcctl: 9 bytes of stdout are lost: we were too slow\n"
        "lxcctl: 2 bytes of stderr are lost: we were too slow\n"
    )


def test_detached(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    result = lxcctl("exec", "001", "--detach", "--", "sleep", "9")
    assert (result.status, result.out, result.err) == (0, "e1\n", "")
    (request,) = creating.asked("CreateExec")
    # Nobody types to it, nobody has to read, and nobody's leaving ends it.
    assert request == exec_pb2.CreateExecRequest(container="001", command=["sleep", "9"])
    assert not creating.asked("AttachExec")


@pytest.mark.parametrize("extra", [[], ["--env", "TERM=vt52"]])
def test_a_terminal_is_asked_for(
    creating: FakeDaemon, lxcctl: Lxcctl, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    monkeypatch.setenv("TERM", "vt100")
    creating.on["AttachExec"] = says(
        EXEC, EXEC.output(b"hi\r\n", stream="terminal"), EXEC.end(code=4)
    )
    result = lxcctl("exec", "-t", "001", *extra, "--", "sh")
    assert (result.status, result.out) == (4, "hi\r\n")
    (request,) = creating.asked("CreateExec")
    assert request.tty
    assert not request.stdin
    assert (request.size.rows, request.size.columns) == (24, 80)
    assert list(request.env) == [extra[1] if extra else "TERM=vt100"]


@pytest.mark.slow
def test_closed_standard_input(creating: FakeDaemon) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "lxcctl", "exec", "001", "cat"],
        cwd=ROOT,
        env={**os.environ, "LXCD_ADDRESS": creating.address},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.slow
def test_a_command_whose_output_nobody_reads_is_told(creating: FakeDaemon) -> None:
    over = threading.Event()

    def take(_request: Any) -> Any:
        over.set()
        return exec_pb2.SignalExecResponse()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        yield EXEC.output(b"x")
        over.wait(30)

    creating.on["SignalExec"] = take
    creating.on["AttachExec"] = play
    read_end, write_end = os.pipe()
    os.close(read_end)
    with client(creating, "exec", "--streamed", "001", "yes", stdout=write_end) as process:
        os.close(write_end)
        assert process.wait(30) == 141
    assert creating.asked("SignalExec") == [exec_pb2.SignalExecRequest(id="e1", signal=13)]


@pytest.mark.slow
def test_signals_are_passed_on(creating: FakeDaemon) -> None:
    arrived = threading.Semaphore(0)
    over = threading.Event()

    def take(request: Any) -> Any:
        if request.signal == signal.SIGKILL:
            over.set()
        arrived.release()
        return exec_pb2.SignalExecResponse()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        yield EXEC.output(b"ready\n")
        over.wait(30)
        yield EXEC.end(signal=9)

    creating.on["SignalExec"] = take
    creating.on["AttachExec"] = play
    with client(creating, "exec", "001", "x", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGINT):
            process.send_signal(number)
            assert arrived.acquire(timeout=30)
        assert process.wait(30) == 137
    # Whoever insists on SIGINT means SIGKILL.
    asked = [request.signal for request in creating.asked("SignalExec")]
    assert asked == [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL]


# ---- those that run on


def test_attach(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    result = lxcctl("attach", "e1", stdin=b"hello")
    assert (result.status, result.out) == (0, "hello")
    (start,) = starts(creating, "AttachExec")
    assert start.label
    start.label = ""
    assert start == exec_pb2.AttachExecStart(
        id="e1", role=stream_pb2.SESSION_ROLE_CONTROLLER, lossless=True
    )


@pytest.mark.parametrize("reason", ["NO_INPUT", "INPUT_AFTER_END"])
@pytest.mark.parametrize("typed", [b"", b"hello"])
def test_attach_to_what_has_no_input(
    creating: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal], reason: str, typed: bytes
) -> None:
    """That is told to whoever types, and nothing to whoever has nothing to type."""

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        start = next(heard).start
        yield EXEC.started()
        if start.role == CONTROLLER:
            next(heard)
            raise refusal("INVALID_ARGUMENT", "it has no input", reason)
        yield EXEC.output(b"x")
        yield EXEC.end(code=5)

    creating.on["AttachExec"] = play
    result = lxcctl("attach", "e1", stdin=typed)
    if typed:
        assert result.status == 2
        assert result.err.startswith("lxcctl: it has no input\n")
    else:
        assert (result.status, result.out, result.err) == (5, "x", "")


def test_attach_only_to_watch(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    creating.on["AttachExec"] = says(EXEC, EXEC.output(b"x", 7), EXEC.end(code=5))
    result = lxcctl("attach", "e1", "--read-only", "--no-replay", stdin=b"never sent")
    assert (result.status, result.out) == (5, "x")
    (start,) = starts(creating, "AttachExec")
    assert (start.role, start.live_only, start.steal) == (VIEWER, True, False)
    assert "input" not in kinds(creating.asked("AttachExec"))


def test_attach_steals_once(creating: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        start = next(heard).start
        yield EXEC.started()
        if not start.offsets:
            yield EXEC.output(b"abc")
            raise refusal("UNAVAILABLE", "Socket closed")
        yield EXEC.end(code=0)

    creating.on["AttachExec"] = play
    assert lxcctl("attach", "e1", "--steal").out == "abc"
    first, second = starts(creating, "AttachExec")
    assert (first.steal, second.steal) == (True, False)
    assert second.offsets == {"stdout": 3}


def test_attach_that_leaves(creating: FakeDaemon, lxcctl: Lxcctl) -> None:
    creating.on["AttachExec"] = says(EXEC, EXEC.end(DETACHED))
    result = lxcctl("attach", "e1")
    assert result.status == 0
    assert result.err == "lxcctl: left e1 running; back with: lxcctl attach e1\n"


def test_attach_to_what_is_gone(
    creating: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        yield from ()
        raise refusal("NOT_FOUND", "no exec e1", "EXEC_NOT_FOUND")

    creating.on["AttachExec"] = play
    result = lxcctl("attach", "e1")
    assert (result.status, result.err) == (3, "lxcctl: no exec e1\n")


EXECS = [
    exec_pb2.Exec(id="e1", container="001", pid=77, command=["sleep", "9"]),
    exec_pb2.Exec(
        id="e2",
        container="002",
        command=["sh", "-c", "\x1b[2J"],
        exit=types_pb2.Exit(code=3, cause=types_pb2.CAUSE_SELF),
        sessions=[{"id": "s1"}],  # type: ignore[list-item]
    ),
]


@pytest.fixture
def listing(daemon: FakeDaemon) -> FakeDaemon:
    """One a page."""

    def page(request: Any) -> Any:
        at = int(request.page_token or 0)
        more = str(at + 1) if at + 1 < len(EXECS) else ""
        return exec_pb2.ListExecsResponse(execs=[EXECS[at]], next_page_token=more)

    daemon.on["ListExecs"] = page
    return daemon


def test_execs_as_a_table(listing: FakeDaemon, lxcctl: Lxcctl) -> None:
    lines = lxcctl("execs").out.splitlines()
    assert [line.split() for line in lines] == [
        ["ID", "CONTAINER", "PID", "ENDED", "SESSIONS", "COMMAND"],
        ["e1", "001", "77", "-", "0", "sleep", "9"],
        ["e2", "002", "-", "3", "SELF", "1", "sh", "-c", "\\x1b[2J"],
    ]


def test_execs_for_programs(listing: FakeDaemon, lxcctl: Lxcctl) -> None:
    found = json.loads(lxcctl("execs", "001", "--format", "json").out)
    assert [each["id"] for each in found] == ["e1", "e2"]
    assert found[0]["exit"] is None
    assert found[1]["exit"]["code"] == 3
    assert found[1]["command"] == ["sh", "-c", "\x1b[2J"]
    assert {request.container for request in listing.asked("ListExecs")} == {"001"}
    rows = list(csv.DictReader(io.StringIO(lxcctl("execs", "--format", "csv").out)))
    assert [(row["id"], row["container"], row["pid"]) for row in rows] == [
        ("e1", "001", "77"),
        ("e2", "002", "0"),
    ]


def test_execs_are_ended_and_forgotten(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["DeleteExec"] = lambda _: exec_pb2.DeleteExecResponse()
    assert lxcctl("execs", "--kill", "e1", "--delete", "e2", "--delete", "e3").status == 0
    assert daemon.asked("DeleteExec") == [
        exec_pb2.DeleteExecRequest(id="e1", force=True),
        exec_pb2.DeleteExecRequest(id="e2"),
        exec_pb2.DeleteExecRequest(id="e3"),
    ]
