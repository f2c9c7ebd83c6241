"""logs and events: streams that survive a restart of the daemon."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import TYPE_CHECKING

import pytest

from lxcd.v1 import console_pb2, container_pb2, event_pb2, host_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal

EVERY_BYTE = bytes(range(256))


def part(data: bytes, offset: int = 0, **more: Any) -> Any:
    return console_pb2.ReadConsoleLogResponse(
        stream="console", generation=5, offset=offset, data=data, **more
    )


def test_logs_are_raw(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ReadConsoleLog"] = lambda _: iter([part(EVERY_BYTE), part(b"x", 256)])
    result = lxcctl("logs", "001")
    assert result.raw == EVERY_BYTE + b"x"
    assert result.err == ""


@pytest.mark.parametrize(
    ("argv", "request_"),
    [
        ([], {}),
        (["--tail", "5"], {"tail_lines": 5}),
        (["--tail", "0"], {"tail_lines": 0}),
        (["--bytes", "5"], {"tail_bytes": 5}),
        (["--stream", "tty1"], {"stream": "tty1"}),
    ],
)
def test_logs_what_is_asked(
    daemon: FakeDaemon, lxcctl: Lxcctl, argv: list[str], request_: dict[str, Any]
) -> None:
    daemon.on["ReadConsoleLog"] = lambda _: iter([])
    assert lxcctl("logs", "001", *argv).status == 0
    (request,) = daemon.asked("ReadConsoleLog")
    assert request == console_pb2.ReadConsoleLogRequest(name="001", **request_)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2023-11-14T22:13:20Z", 1_700_000_000 * 10**9),
        ("2023-11-14T22:13:20.5Z", 1_700_000_000 * 10**9 + 5 * 10**8),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_logs_since_a_time(daemon: FakeDaemon, lxcctl: Lxcctl, text: str, nanoseconds: int) -> None:
    daemon.on["ReadConsoleLog"] = lambda _: iter([part(b"x")])
    assert lxcctl("logs", "001", "--since", text).out == "x"
    (request,) = daemon.asked("ReadConsoleLog")
    assert request.WhichOneof("from") == "since"
    assert request.since.ToNanoseconds() == nanoseconds


def test_logs_since_so_long_ago(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ReadConsoleLog"] = lambda _: iter([])
    before = time.time_ns()
    lxcctl("logs", "001", "--since", "10m")
    after = time.time_ns()
    (request,) = daemon.asked("ReadConsoleLog")
    assert before <= request.since.ToNanoseconds() + 600 * 10**9 <= after


@pytest.mark.parametrize("text", ["yesterday", "", "-1", "2023-13-01"])
def test_logs_since_no_time(daemon: FakeDaemon, lxcctl: Lxcctl, text: str) -> None:
    result = lxcctl("logs", "001", f"--since={text}")
    assert (result.status, "not a time" in result.err) == (2, True)
    assert not daemon.requests


def test_logs_follow_since_resumes_by_offset(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def read(request: Any) -> Iterator[Any]:
        if request.WhichOneof("from") == "since":
            yield part(b"abc", 10)
            raise refusal("UNAVAILABLE", "Socket closed")
        assert request.offsets["console"] == 13
        yield console_pb2.ReadConsoleLogResponse(exit=types_pb2.Exit(code=0))

    daemon.on["ReadConsoleLog"] = read
    daemon.on["GetContainer"] = lambda _: container_pb2.Container(name="001", generation=5)
    assert lxcctl("logs", "001", "--follow", "--since", "1h").out == "abc"
    assert len(daemon.asked("ReadConsoleLog")) == 2


def test_logs_tell_a_gap(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ReadConsoleLog"] = lambda _: iter([part(b"x", 100, gap_bytes=100)])
    result = lxcctl("logs", "001")
    assert (result.status, result.out) == (0, "x")
    assert result.err == "lxcctl: 100 bytes are lost\n"


def test_logs_follow_resumes(daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]) -> None:
    def read(request: Any) -> Iterator[Any]:
        assert request.generation == 5
        if request.WhichOneof("from") == "tail_lines":
            yield part(b"abc", 10)
            raise refusal("UNAVAILABLE", "Socket closed")
        assert request.offsets["console"] == 13
        yield part(b"def", 13)
        yield console_pb2.ReadConsoleLogResponse(exit=types_pb2.Exit(code=0))

    daemon.on["ReadConsoleLog"] = read
    daemon.on["GetContainer"] = lambda _: container_pb2.Container(name="001", generation=5)
    result = lxcctl("logs", "001", "--follow", "--tail", "3")
    assert (result.status, result.out, result.err) == (0, "abcdef", "")


def test_logs_without_follow_do_not_wait_for_a_daemon(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def read(_request: Any) -> Iterator[Any]:
        yield part(b"abc")
        raise refusal("UNAVAILABLE", "Socket closed")

    daemon.on["ReadConsoleLog"] = read
    result = lxcctl("logs", "001")
    assert (result.status, result.out) == (69, "abc")
    assert "lost the daemon" in result.err


def event(sequence: int, **fields: Any) -> Any:
    message = event_pb2.Event(
        sequence=sequence, type="container.exited", container="001", generation=2, **fields
    )
    message.time.seconds = 1_700_000_000
    return message


def test_events_of_the_past(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    def page(request: Any) -> Any:
        assert list(request.containers) == ["001"]
        assert list(request.types) == ["container.*"]
        if not request.page_token:
            return event_pb2.ListEventsResponse(
                events=[event(1, state=types_pb2.STATE_STOPPED)], next_page_token="x"
            )
        end = types_pb2.Exit(code=0, cause=types_pb2.CAUSE_SELF)
        return event_pb2.ListEventsResponse(events=[event(2, exit=end, message="bye\x1b\n")])

    daemon.on["ListEvents"] = page
    argv = ("events", "001", "--type", "container.*", "--since", "10m", "--after", "0")
    assert lxcctl(*argv).out == (
        "2023-11-14T22:13:20Z 1 container.exited 001 STOPPED\n"
        "2023-11-14T22:13:20Z 2 container.exited 001 0 SELF bye\\x1b\\n\n"
    )
    assert daemon.asked("ListEvents")[0].since.seconds > 1_700_000_000
    lines = lxcctl(*argv, "--format", "json").out.splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == [1, 2]
    assert json.loads(lines[1])["exit"]["cause"] == "SELF"
    rows = list(csv.DictReader(io.StringIO(lxcctl(*argv, "--format", "csv").out)))
    assert list(rows[0])[:4] == ["sequence", "time", "type", "container"]
    assert [row["message"] for row in rows] == ["", "bye\x1b\n"]
    assert lxcctl(*argv, "--format", "yaml").out.startswith("- sequence: 1\n  time: ")


@pytest.mark.parametrize("follow", [False, True])
def test_events_that_are_asked_for(daemon: FakeDaemon, lxcctl: Lxcctl, *, follow: bool) -> None:
    daemon.on["ListEvents"] = lambda _: event_pb2.ListEventsResponse()
    daemon.on["StreamEvents"] = lambda _: iter([])
    daemon.on["GetHost"] = lambda _: host_pb2.GetHostResponse()
    argv = ["--lxcpath", "/a", "events", "--type", "a.*", "--exclude", "a.b", "--exclude", "a.c"]
    assert lxcctl(*argv, *(["--follow"] if follow else [])).status == 0
    (request,) = daemon.asked("StreamEvents" if follow else "ListEvents")
    assert list(request.types) == ["a.*"]
    assert list(request.exclude_types) == ["a.b", "a.c"]
    assert list(request.lxcpaths) == ["/a"]


def test_events_follow_resumes_by_number(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def stream(request: Any) -> Iterator[Any]:
        if request.after_sequence == 7:
            assert not request.HasField("since")
            yield event_pb2.StreamEventsResponse(event=event(8))
            raise refusal("UNAVAILABLE", "Socket closed")
        assert request.after_sequence == 8
        yield event_pb2.StreamEventsResponse(event=event(12), lost=3)

    daemon.on["GetHost"] = lambda _: host_pb2.GetHostResponse()
    daemon.on["StreamEvents"] = stream
    result = lxcctl("events", "--follow", "--after", "7", "--format", "json")
    assert result.status == 0
    assert [json.loads(line)["sequence"] for line in result.out.splitlines()] == [8, 12]
    assert result.err == "lxcctl: 3 events are lost\n"


def test_events_from_now_on_miss_nothing_while_the_daemon_is_away(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    answers = iter([True, False])

    def stream(request: Any) -> Iterator[Any]:
        assert request.HasField("since") != next(answers)
        if not request.HasField("since"):
            raise refusal("UNAVAILABLE", "Socket closed")
        yield event_pb2.StreamEventsResponse(event=event(1))

    daemon.on["GetHost"] = lambda _: host_pb2.GetHostResponse()
    daemon.on["StreamEvents"] = stream
    result = lxcctl("events", "--follow")
    assert (result.status, result.out.count("\n")) == (0, 1)
