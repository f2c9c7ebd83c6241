"""What nobody should send to sessions and execs, and containers that nobody should have: each is told apart, and harms nobody else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from lxcd.v1 import console_pb2, exec_pb2
from tests.system import sessions
from tests.system.boxes import Box, Refused, defined
from tests.system.calls import application, idle, refused
from tests.system.host import Host
from tests.system.machine import DEADLINE
from tests.system.sessions import CONTROLLER, VIEWER

TOO_MUCH = (1 << 64) - 1


@pytest.fixture(scope="module")
def app(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with idle(shared_host, busybox_root, "app") as made:
        yield made


@pytest.fixture
def bystander(app: Box) -> Iterator[None]:
    """Somebody else who types into a session all the while: it is as good after as before."""
    with sessions.running(app, "/bin/cat", stdin=True, lossless=True) as found:
        other = sessions.attach(app.api, found.id, role=CONTROLLER)
        other.type(b"before\n")
        other.shows(b"before\n", "stdout")
        daemon, keeper = app.host.daemon, app.host.keeper_pid
        said = len(app.host.log_text())
        yield
        other.type(b"after\n")
        other.shows(b"before\nafter\n", "stdout")
        other.send(input_end=True)
        assert other.to_the_end().exit.code == 0
    assert (app.host.daemon, app.host.keeper_pid) == (daemon, keeper)
    assert app.host.machine.poll(daemon or 0) is None
    assert "Traceback" not in app.host.log_text()[said:]


pytestmark = pytest.mark.usefixtures("bystander")


@pytest.fixture
def cat(app: Box) -> Iterator[exec_pb2.Exec]:
    with sessions.running(app, "/bin/cat", stdin=True) as found:
        yield found


@pytest.fixture
def terminal(app: Box) -> Iterator[exec_pb2.Exec]:
    with sessions.running(app, "/bin/cat", tty=True) as found:
        yield found


# Frames


def refusal(attached: sessions.Attached) -> tuple[str, str]:
    """How a session is refused: code and reason."""
    try:
        attached.to_the_end()
    except Refused as error:
        return error.code, error.reason
    message = f"was not refused, but ended with {attached.end}"
    raise AssertionError(message)


def frames(app: Box, *given: dict[str, Any]) -> tuple[str, str]:
    """How a session with an exec is refused that begins with these frames."""
    attached = sessions.Attached(app.api.exec.AttachExec, exec_pb2.AttachExecRequest)
    for frame in given:
        attached.send(**frame)
    return refusal(attached)


OUT_OF_ORDER = ("INVALID_ARGUMENT", "FRAME_OUT_OF_ORDER")


@pytest.mark.parametrize(
    "first",
    [
        {"input": b"x"},
        {"input_end": True},
        {"resize": {"rows": 1, "columns": 1}},
        {"credit": {"stream": "stdout", "offset": 0}},
        {"role": {"role": CONTROLLER}},
        {"signal": 9},
        {"detach": {}},
        {},
    ],
    ids=lambda frame: next(iter(frame), "nothing"),
)
def test_a_session_begins_with_start(app: Box, first: dict[str, Any]) -> None:
    assert frames(app, first) == OUT_OF_ORDER
    attached = sessions.Attached(app.api.console.AttachConsole, console_pb2.AttachConsoleRequest)
    if "signal" not in first:
        attached.send(**first)
        assert refusal(attached) == OUT_OF_ORDER


def test_a_session_that_says_nothing_is_refused(app: Box) -> None:
    attached = sessions.Attached(app.api.exec.AttachExec, exec_pb2.AttachExecRequest)
    attached.end_requests()
    assert refusal(attached) == OUT_OF_ORDER


@pytest.mark.parametrize("frame", [{"start": {"id": "other"}}, {}], ids=["start", "nothing"])
def test_a_second_start_or_an_empty_frame_ends_the_session(
    app: Box, cat: exec_pb2.Exec, frame: dict[str, Any]
) -> None:
    attached = sessions.attach(app.api, cat.id, role=CONTROLLER)
    attached.send(**frame)
    assert refusal(attached) == OUT_OF_ORDER
    # Whoever comes next has control: nobody holds it.
    again = sessions.attach(app.api, cat.id, role=CONTROLLER)
    again.type(b"on\n")
    again.shows(b"on\n", "stdout").cancel()


def test_input_has_its_limits(app: Box, cat: exec_pb2.Exec) -> None:
    attached = sessions.attach(app.api, cat.id, role=CONTROLLER)
    attached.send(input=bytes(32 * 1024 + 1))
    assert refusal(attached) == ("INVALID_ARGUMENT", "FRAME_TOO_LARGE")
    with sessions.running(app, "/bin/sleep", "100000", stdin=True) as deaf:
        attached = sessions.attach(app.api, deaf.id, role=CONTROLLER)
        # A pipe, our ring, and what may be under way: then nobody waits for input_ack any more.
        for _ in range(12):
            attached.send(input=bytes(32 * 1024))
        assert refusal(attached) == ("INVALID_ARGUMENT", "INPUT_OVERFLOW")


def test_input_of_nothing_is_nothing(app: Box, cat: exec_pb2.Exec) -> None:
    attached = sessions.attach(app.api, cat.id, role=CONTROLLER)
    attached.send(input=b"")
    # Also where no more goes in for now: the pipe is full, and our ring.
    attached.send(signal=signal.SIGSTOP)
    attached.type(bytes(128 * 1024))
    attached.until(lambda: attached.acked == attached.typed)
    for _ in range(3):
        attached.send(input=b"")
        attached.send(input=bytes(10 * 1024))
    attached.send(input=b"end\n")
    attached.send(input_end=True)
    attached.send(signal=signal.SIGCONT)
    assert attached.to_the_end().exit.code == 0
    assert attached.data["stdout"] == bytes(158 * 1024) + b"end\n"


def test_nothing_is_typed_behind_the_end_of_input(app: Box) -> None:
    with sessions.running(app, "/bin/sleep", "100000", stdin=True) as found:
        attached = sessions.attach(app.api, found.id, role=CONTROLLER)
        attached.send(input_end=True)
        attached.send(input=b"x")
        assert refusal(attached) == ("INVALID_ARGUMENT", "INPUT_AFTER_END")


def test_what_has_no_input_takes_none(app: Box, terminal: exec_pb2.Exec) -> None:
    with sessions.running(app, "/bin/sleep", "100000") as found:
        attached = sessions.attach(app.api, found.id, role=CONTROLLER)
        attached.send(input=b"x")
        assert refusal(attached) == ("INVALID_ARGUMENT", "NO_INPUT")
        attached = sessions.attach(app.api, found.id, role=CONTROLLER)
        attached.send(resize={"rows": 1, "columns": 1})
        assert refusal(attached) == ("INVALID_ARGUMENT", "NOT_A_TERMINAL")
    attached = sessions.attach(app.api, terminal.id, role=CONTROLLER)
    attached.send(input_end=True)
    assert refusal(attached) == ("INVALID_ARGUMENT", "NO_END_OF_INPUT")


@pytest.mark.parametrize(
    "frame",
    [
        {"input": b"x"},
        {"input_end": True},
        {"resize": {"rows": 30, "columns": 90}},
        {"signal": 9},
    ],
    ids=lambda frame: next(iter(frame)),
)
def test_a_viewer_only_reads(app: Box, terminal: exec_pb2.Exec, frame: dict[str, Any]) -> None:
    for role in (0, VIEWER):
        attached = sessions.attach(app.api, terminal.id, role=role)
        attached.send(**frame)
        assert refusal(attached) == ("PERMISSION_DENIED", "NOT_THE_CONTROLLER")
    found = sessions.look(app.api, terminal.id)
    assert (found.size.rows, found.size.columns, found.HasField("exit")) == (24, 80, False)


def test_signals_that_are_none(app: Box, cat: exec_pb2.Exec) -> None:
    for number in (0, -1, 65, 1 << 30):
        attached = sessions.attach(app.api, cat.id, role=CONTROLLER)
        attached.send(signal=number)
        assert refusal(attached) == ("INVALID_ARGUMENT", "INVALID_SIGNAL")
        request = exec_pb2.SignalExecRequest(id=cat.id, signal=number)
        error = refused(lambda request=request: app.api.exec.SignalExec(request, timeout=DEADLINE))  # type: ignore[misc]
        assert error.reason == "INVALID_SIGNAL"


# Offsets, windows, sizes, roles, labels


@pytest.mark.parametrize("offset", [1, 1 << 63, TOO_MUCH])
def test_an_offset_beyond_the_end(app: Box, cat: exec_pb2.Exec, offset: int) -> None:
    start = {"id": cat.id, "offsets": {"stdout": offset}}
    assert frames(app, {"start": start}) == ("INVALID_ARGUMENT", "OFFSET_BEYOND_END")
    attached = sessions.attach(app.api, cat.id)
    attached.send(credit={"stream": "stdout", "offset": offset})
    assert refusal(attached) == ("INVALID_ARGUMENT", "INVALID_CREDIT")


def test_a_stream_that_is_none(app: Box, cat: exec_pb2.Exec) -> None:
    start = {"id": cat.id, "offsets": {"nosuch": 0}}
    assert frames(app, {"start": start}) == ("NOT_FOUND", "STREAM_NOT_FOUND")
    attached = sessions.attach(app.api, cat.id)
    attached.send(credit={"stream": "nosuch", "offset": 0})
    assert refusal(attached) == ("NOT_FOUND", "STREAM_NOT_FOUND")


@pytest.mark.parametrize("window", [0, (16 << 20) + 1, 1 << 63, TOO_MUCH])
def test_a_window_that_is_none(app: Box, cat: exec_pb2.Exec, window: int) -> None:
    start = {"id": cat.id, "window_bytes": window}
    assert frames(app, {"start": start}) == ("INVALID_ARGUMENT", "INVALID_WINDOW")


@pytest.mark.parametrize(
    ("rows", "columns"), [(0, 80), (24, 0), (65535, 80), (24, 65535), (32768, 1), (1 << 31, 1)]
)
def test_a_size_that_no_terminal_has(
    app: Box, terminal: exec_pb2.Exec, rows: int, columns: int
) -> None:
    size = {"rows": rows, "columns": columns}
    error = refused(lambda: sessions.create(app, "/bin/true", tty=True, size=size))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_SIZE")
    attached = sessions.attach(app.api, terminal.id, role=CONTROLLER)
    attached.send(resize=size)
    assert refusal(attached) == ("INVALID_ARGUMENT", "INVALID_SIZE")
    request = exec_pb2.ResizeExecRequest(id=terminal.id, size=size)  # type: ignore[arg-type]
    error = refused(lambda: app.api.exec.ResizeExec(request, timeout=DEADLINE))
    assert error.reason == "INVALID_SIZE"
    found = sessions.look(app.api, terminal.id)
    assert (found.size.rows, found.size.columns) == (24, 80)


def test_a_role_or_label_that_is_none(app: Box, cat: exec_pb2.Exec) -> None:
    start = {"id": cat.id, "role": 99}
    assert frames(app, {"start": start}) == ("INVALID_ARGUMENT", "INVALID_ROLE")
    for label in ("x" * 201, "a\nb", "\x1b[2J"):
        start = {"id": cat.id, "label": label}
        assert frames(app, {"start": start}) == ("INVALID_ARGUMENT", "INVALID_LABEL")
    taken = sessions.attach(app.api, cat.id, role=CONTROLLER, label="me")
    start = {"id": cat.id, "role": CONTROLLER}
    assert frames(app, {"start": start}) == ("FAILED_PRECONDITION", "CONTROL_TAKEN")
    taken.cancel()


# What is not there


def test_what_nobody_has_made(app: Box) -> None:
    for id_ in ("", "nosuch", "../app", "x" * 10_000):
        assert frames(app, {"start": {"id": id_}}) == ("NOT_FOUND", "EXEC_NOT_FOUND")
        calls: tuple[tuple[Any, Any], ...] = (
            (app.api.exec.GetExec, exec_pb2.GetExecRequest(id=id_)),
            (app.api.exec.WaitExec, exec_pb2.WaitExecRequest(id=id_)),
            (app.api.exec.SignalExec, exec_pb2.SignalExecRequest(id=id_, signal=9)),
            (app.api.exec.ResizeExec, exec_pb2.ResizeExecRequest(id=id_)),
            (app.api.exec.DeleteExec, exec_pb2.DeleteExecRequest(id=id_)),
        )
        for call, request in calls:
            error = refused(lambda call=call, request=request: call(request, timeout=DEADLINE))  # type: ignore[misc]
            assert (error.code, error.reason) == ("NOT_FOUND", "EXEC_NOT_FOUND")
    end = console_pb2.EndConsoleSessionRequest(name="app", session_id="nosuch")
    error = refused(lambda: app.api.console.EndConsoleSession(end, timeout=DEADLINE))
    assert (error.code, error.reason) == ("NOT_FOUND", "SESSION_NOT_FOUND")
    assert refused(lambda: sessions.create(app, "/bin/true", descriptors_token="no")).reason == (
        "NO_DESCRIPTORS"
    )
    for name in ("tty9", "stdin", "nosuch", "../console"):
        error = refused(lambda name=name: sessions.console(app.api, "app", terminal=name))  # type: ignore[misc]
        assert (error.code, error.reason) == ("NOT_FOUND", "STREAM_NOT_FOUND")
    error = refused(lambda: sessions.console(app.api, "app", generation=9))
    assert (error.code, error.reason) == ("NOT_FOUND", "GENERATION_GONE")


def test_a_container_that_is_stopped_or_frozen(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "still"), "still") as made:
        for attempt in (
            lambda: sessions.console(made.api, "still"),
            lambda: sessions.create(made, "/bin/true"),
        ):
            error = refused(attempt)
            assert (error.code, error.reason) == ("FAILED_PRECONDITION", "CONTAINER_NOT_RUNNING")
        made.start("/bin/sh", "-c", "while read a; do echo got $a; done")
        shared_host.ctl("freeze", "still")
        error = refused(lambda: sessions.create(made, "/bin/true"))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "CONTAINER_FROZEN")
        # Its terminal is there all the same: what is typed is read once it thaws.
        attached = sessions.console(made.api, "still", role=CONTROLLER)
        attached.type(b"it\n")
        attached.until(lambda: attached.acked == attached.typed)
        shared_host.ctl("thaw", "still")
        attached.shows(b"got it", "console").cancel()


def test_a_container_that_dies_meanwhile(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "dies"), "dies") as made:
        for round_ in range(3):
            made.start("/bin/sleep", "100000")
            kept = sessions.create(made, "/bin/sh", "-c", "echo on; exec sleep 100000")
            attached = sessions.attach(made.api, kept.id)
            attached.shows(b"on\n", "stdout")
            calls = [
                made.api.exec.CreateExec.future(
                    exec_pb2.CreateExecRequest(container="dies", command=["/bin/sleep", "100000"]),
                    timeout=DEADLINE,
                )
                for _ in range(8)
            ]
            os.kill(made.info().pid, signal.SIGKILL)
            made.wait(generation=round_ + 1)
            last = attached.to_the_end()
            assert (last.reason, last.exit.signal) == (sessions.STOPPED, signal.SIGKILL)
            for call in calls:
                try:
                    found = call.result()
                except grpc.RpcError as error:
                    why = Refused(error)
                    assert why.code == "FAILED_PRECONDITION", why
                    assert why.reason == "CONTAINER_NOT_RUNNING", why
                    continue
                wait = exec_pb2.WaitExecRequest(id=found.id)
                ended = made.api.exec.WaitExec(wait, timeout=DEADLINE)
                assert ended.exit.signal == signal.SIGKILL
                sessions.delete(made.api, found.id)
            sessions.delete(made.api, kept.id)
            assert sessions.listed(made.api, "dies") == {}


# Commands


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"command": [""]}, "INVALID_COMMAND"),
        ({"command": ["/bin/echo", "a\0b"]}, "INVALID_COMMAND"),
        ({"cwd": "/a\0b"}, "INVALID_COMMAND"),
        ({"cwd": "tmp"}, "INVALID_CWD"),
        ({"env": ["A=\0"]}, "INVALID_ENVIRONMENT"),
        ({"env": ["\0"]}, "INVALID_ENVIRONMENT"),
        ({"env": ["=x"]}, "INVALID_ENVIRONMENT"),
        ({"umask": 0o1000}, "INVALID_UMASK"),
        ({"umask": 0xFFFFFFFF}, "INVALID_UMASK"),
        ({"namespaces": ["nosuch"]}, "INVALID_NAMESPACE"),
        ({"elevate": [99]}, "INVALID_PRIVILEGE"),
        ({"elevate": [0]}, "INVALID_PRIVILEGE"),
        ({"user": "nosuch"}, "INVALID_USER"),
        ({"user": "4294967295"}, "INVALID_USER"),
        ({"user": "root:4294967295"}, "INVALID_USER"),
        ({"groups": ["nosuch"]}, "INVALID_USER"),
        ({"groups": [""]}, "INVALID_USER"),
        ({"groups": ["99999999999"]}, "INVALID_USER"),
        ({"groups": [str(number) for number in range(70_000)]}, "INVALID_USER"),
        ({"on_disconnect": 99}, "INVALID_POLICY"),
        ({"request_id": "x" * 129}, "INVALID_REQUEST_ID"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_command_that_cannot_be(app: Box, options: dict[str, Any], reason: str) -> None:
    words = options.pop("command", ["/bin/true"])
    error = refused(lambda: sessions.create(app, *words, **options))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", reason)


def test_two_megabytes_of_arguments(app: Box) -> None:
    for words in (["/bin/echo", *["x" * 1000] * 2200], ["/bin/echo", "x" * (2 << 20)]):
        error = refused(lambda words=words: sessions.create(app, *words))  # type: ignore[misc]
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "COMMAND_TOO_LONG")
        assert "E2BIG" in error.text
        assert error.metadata["errno"] == "E2BIG"
    # By its environment; and by a multitude of arguments, each of which costs a pointer besides.
    error = refused(lambda: sessions.create(app, "/bin/true", env=["A=" + "x" * 200_000]))
    assert error.reason == "COMMAND_TOO_LONG"
    error = refused(lambda: sessions.create(app, "/bin/true", *["x"] * 900_000))
    assert error.reason == "COMMAND_TOO_LONG"
    done = app.run("/bin/sh", "-c", "echo $#", "sh", *["x" * 1000] * 1500)
    assert done.stdout == b"1500\n"


def test_bytes_that_are_no_text(app: Box) -> None:
    good = exec_pb2.CreateExecRequest(
        container="app", command=["/bin/true", "AAAA"], env=["B=CCCC"]
    )
    for text in (b"AAAA", b"CCCC"):
        raw = good.SerializeToString().replace(text, b"\xff\xfe\xff\xfe")
        call: Any = app.api.channel.unary_unary("/lxcd.v1.ExecService/CreateExec")
        error = refused(lambda raw=raw, call=call: call(raw, timeout=DEADLINE))  # type: ignore[misc]
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    # lxcctl says so before it asks.
    done = app.host.ctl("exec", "app", "--", "/bin/echo", os.fsdecode(b"\xff"), check=False)
    assert done.returncode == 2
    assert "UTF-8" in done.stderr


def test_a_directory_that_is_missing(app: Box) -> None:
    error = refused(lambda: sessions.create(app, "/bin/true", cwd="/no/such"))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "CWD_NOT_FOUND")
    assert error.metadata["errno"] == "ENOENT"
    assert sessions.create(app, "/bin/true", cwd="/no/such", validate_only=True).id == ""
