"""console, start --console: what is asked, what is said, and one life after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from lxcd.v1 import console_pb2, container_pb2, stream_pb2, types_pb2
from tests.unit.lxcctl.playing import (
    CONSOLE,
    CONTROLLER,
    DETACHED,
    KICKED,
    REBOOT,
    VIEWER,
    kinds,
    says,
    starts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal


def shown(data: bytes, offset: int = 0) -> Any:
    return CONSOLE.output(data, offset, "console")


def session_of(start: Any) -> Any:
    """What is asked, without who asks."""
    assert start.label
    start.ClearField("label")
    return start


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        ([], {"terminal": "console", "role": CONTROLLER}),
        (["--tty", "3"], {"terminal": "tty3", "role": CONTROLLER}),
        (["--tty", "0"], {"terminal": "console", "role": CONTROLLER}),
        (["--read-only"], {"terminal": "console", "role": VIEWER}),
        (["--read-only", "--steal"], {"terminal": "console", "role": VIEWER}),
        (["--steal"], {"terminal": "console", "role": CONTROLLER, "steal": True}),
        (["--no-replay"], {"terminal": "console", "role": CONTROLLER, "live_only": True}),
    ],
)
def test_what_is_asked(
    daemon: FakeDaemon, lxcctl: Lxcctl, argv: list[str], asked: dict[str, Any]
) -> None:
    daemon.on["AttachConsole"] = says(CONSOLE, shown(b"login: "), CONSOLE.end(DETACHED))
    result = lxcctl("--lxcpath", "/p", "console", "001", *argv)
    assert (result.status, result.out, result.err) == (0, "login: ", "")
    (start,) = starts(daemon, "AttachConsole")
    # What is typed comes from a file here: no terminal, no size.
    assert session_of(start) == console_pb2.AttachConsoleStart(name="001", lxcpath="/p", **asked)


def test_what_is_typed(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield CONSOLE.started()
        typed = b""
        # A terminal has no end of input: it goes on behind what there was.
        while len(typed) < len(b"a\x01qb"):
            typed += next(heard).input
        yield shown(typed)
        yield CONSOLE.end(code=0)

    daemon.on["AttachConsole"] = play
    # Keys leave a terminal only: in a file they are bytes like all others.
    assert lxcctl("console", "001", stdin=b"a\x01qb").raw == b"a\x01qb"


def test_who_only_watches_types_nothing(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    heard_all: list[str] = []

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield CONSOLE.started()
        yield shown(b"x")
        yield CONSOLE.end(code=0)
        heard_all.extend(kinds(heard))

    daemon.on["AttachConsole"] = play
    lxcctl("console", "001", "--read-only", stdin=b"never sent")
    assert heard_all == ["credit"]


def test_it_says_how_the_container_ended(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["AttachConsole"] = says(CONSOLE, CONSOLE.end(signal=9, cause=types_pb2.CAUSE_OOM))
    result = lxcctl("console", "001")
    assert (result.status, result.err) == (0, "lxcctl: 001 has stopped: SIGKILL OOM\n")


def test_somebody_ends_the_session(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["AttachConsole"] = says(CONSOLE, shown(b"x"), CONSOLE.end(KICKED))
    result = lxcctl("console", "001")
    assert (result.status, result.out) == (1, "x")
    assert result.err == "lxcctl: somebody has ended this session\n"


@pytest.mark.parametrize(
    ("by", "who"), [("bob@there:7", "bob@there:7"), ("", "somebody"), ("\x1b[2J", "\\x1b[2J")]
)
def test_control_is_taken(daemon: FakeDaemon, lxcctl: Lxcctl, by: str, who: str) -> None:
    daemon.on["AttachConsole"] = says(
        CONSOLE, CONSOLE.role(VIEWER, by), shown(b"x"), CONSOLE.end(DETACHED)
    )
    result = lxcctl("console", "001")
    assert (result.status, result.out) == (0, "x")
    assert result.err == f"lxcctl: {who} has taken control; you only watch now\n"


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        ("NOT_FOUND", "CONTAINER_NOT_FOUND", 3),
        ("FAILED_PRECONDITION", "CONTROL_TAKEN", 4),
        ("FAILED_PRECONDITION", "NOT_RUNNING", 4),
        ("PERMISSION_DENIED", "NOT_YOURS", 5),
    ],
)
def test_what_is_refused(
    daemon: FakeDaemon,
    lxcctl: Lxcctl,
    refusal: type[Refusal],
    code: str,
    reason: str,
    status: int,
) -> None:
    def play(_heard: Iterator[Any]) -> Iterator[Any]:
        yield from ()
        raise refusal(code, "why not", reason)

    daemon.on["AttachConsole"] = play
    result = lxcctl("console", "001")
    assert result.status == status
    assert result.err.splitlines()[0] == "lxcctl: why not"


def test_nobody_is_there(lxcctl: Lxcctl) -> None:
    assert lxcctl("console", "001").status == 69


@pytest.mark.parametrize("keys", ["hyper-a", "a b c d e f g h i"])
def test_wrong_detach_keys(daemon: FakeDaemon, lxcctl: Lxcctl, keys: str) -> None:
    assert lxcctl("console", "001", "--detach-keys", keys).status == 2
    assert not daemon.requests


# ---- one life after the other


class Lives:
    """Plays a container that reboots: generation 5, then 6."""

    def __init__(self, daemon: FakeDaemon, refusal: type[Refusal] | None = None) -> None:
        self._refusal = refusal
        self.waited = False
        daemon.on["AttachConsole"] = self._play
        daemon.on["WaitContainer"] = self._wait

    def _wait(self, request: Any) -> Any:
        assert list(request.states) == [types_pb2.STATE_RUNNING]
        self.waited = True
        return container_pb2.WaitContainerResponse(reached=True, state=types_pb2.STATE_RUNNING)

    def _play(self, heard: Iterator[Any]) -> Iterator[Any]:
        start = next(heard).start
        if not self.waited:
            assert start.generation in {0, 5}
            at = start.offsets.get("console", 0)
            yield CONSOLE.started(generation=5)
            if self._refusal is not None and not at:
                yield shown(b"first", 0)
                raise self._refusal("UNAVAILABLE", "Socket closed")
            yield shown(b"first"[at:], at)
            yield CONSOLE.end(REBOOT, code=0, next_generation=6)
        else:
            # From its first byte on, whatever was asked of the life before.
            assert (start.generation, dict(start.offsets), start.live_only) == (6, {}, False)
            yield CONSOLE.started(generation=6)
            yield shown(b"second")
            yield CONSOLE.end(code=7)


@pytest.mark.parametrize("argv", [[], ["--no-replay"], ["--read-only"]])
def test_a_reboot_is_followed(daemon: FakeDaemon, lxcctl: Lxcctl, argv: list[str]) -> None:
    Lives(daemon)
    result = lxcctl("console", "001", *argv)
    assert (result.status, result.out) == (0, "firstsecond")
    assert result.err == "lxcctl: 001 reboots\nlxcctl: 001 has stopped: 7 -\n"


def test_a_session_is_resumed_in_its_generation(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    Lives(daemon, refusal)
    assert lxcctl("console", "001").out == "firstsecond"
    asked = [(s.generation, dict(s.offsets)) for s in starts(daemon, "AttachConsole")]
    assert asked == [(0, {}), (5, {"console": 5}), (6, {})]


def test_who_was_robbed_does_not_rob_back(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        start = next(heard).start
        yield CONSOLE.started()
        if not start.offsets:
            yield shown(b"x")
            yield CONSOLE.role(VIEWER, "bob")
            raise refusal("UNAVAILABLE", "Socket closed")
        yield CONSOLE.end(code=0)

    daemon.on["AttachConsole"] = play
    lxcctl("console", "001", "--steal")
    asked = [(s.role, s.steal) for s in starts(daemon, "AttachConsole")]
    assert asked == [(CONTROLLER, True), (VIEWER, False)]


# ---- start --console


@pytest.fixture
def starting(daemon: FakeDaemon) -> FakeDaemon:
    daemon.on["StartContainer"] = lambda _: container_pb2.StartContainerResponse(
        pid=9, generation=5
    )
    return daemon


@pytest.mark.parametrize(("end", "status"), [({"code": 7}, 7), ({"signal": 15}, 143), ({}, 1)])
def test_start_and_stay(
    starting: FakeDaemon, lxcctl: Lxcctl, end: dict[str, int], status: int
) -> None:
    starting.on["AttachConsole"] = says(CONSOLE, shown(b"booting"), CONSOLE.end(**end))
    result = lxcctl("start", "001", "--console")
    assert (result.status, result.out, result.err) == (status, "booting", "")
    (start,) = starts(starting, "AttachConsole")
    # From the first byte on, of the life that was begun.
    assert session_of(start) == console_pb2.AttachConsoleStart(
        name="001",
        terminal="console",
        generation=5,
        role=stream_pb2.SESSION_ROLE_CONTROLLER,
    )


def test_start_and_leave(starting: FakeDaemon, lxcctl: Lxcctl) -> None:
    starting.on["AttachConsole"] = says(CONSOLE, CONSOLE.end(DETACHED))
    assert lxcctl("start", "001", "--console").status == 0


def test_start_that_fails_shows_no_console(
    starting: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def start(_request: Any) -> None:
        raise refusal("FAILED_PRECONDITION", "001 is running", "ALREADY_RUNNING")

    starting.on["StartContainer"] = start
    result = lxcctl("start", "001", "--console")
    assert (result.status, result.err) == (4, "lxcctl: 001 is running\n")
    assert not starting.asked("AttachConsole")


def test_start_shows_one_console(starting: FakeDaemon, lxcctl: Lxcctl) -> None:
    result = lxcctl("start", "001", "002", "--console")
    assert result.status == 2
    assert not starting.requests
