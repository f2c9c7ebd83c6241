"""`top` on a terminal: keys, what it shows, and that the terminal is as it was afterwards."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pyte
import pytest

from lxcd.v1 import stats_pb2
from tests.unit.lxcctl.measuring import MEGA, Measured, stats
from tests.unit.lxcctl.playing import ROOT, client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal

pytestmark = pytest.mark.slow
DEADLINE = 60.0
# The other screen of an xterm: begun, and left again.
ALTERNATE, BACK = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """A pseudo-terminal with `top` on it."""

    def __init__(self, daemon: FakeDaemon, *argv: str, rows: int = 24, columns: int = 100) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        # Both ends stay open: a terminal outlives what runs on it.
        self._master, self._slave = os.openpty()
        self.resize(rows, columns)
        self.before = self.modes()
        self.process = subprocess.Popen(
            # It is told of a new size only by a terminal that controls it.
            ["setsid", "--ctty", sys.executable, "-m", "lxcctl", "top", *argv],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=ROOT,
            env={**os.environ, "LXCD_ADDRESS": daemon.address, "TERM": "xterm"},
        )

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._master)

    def resize(self, rows: int, columns: int) -> None:
        self.screen.resize(rows, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def look(self) -> None:
        if select.select((self._master,), (), (), 0.05)[0]:
            data = os.read(self._master, 1 << 16)
            self.written += data
            self._stream.feed(data)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def names(self) -> list[str]:
        """Of the containers that are shown, in their order."""
        return [line.split()[0] for line in self.lines[3:] if line]

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < end, "\n".join(self.lines)
            self.look()

    def shows(self, text: str) -> None:
        self.until(lambda: any(text in line for line in self.lines))

    def ends(self, status: int) -> None:
        """It ends so, and the terminal is as it was."""
        self.until(lambda: self.process.poll() is not None)
        while select.select((self._master,), (), (), 0)[0]:
            self.look()
        assert self.process.returncode == status
        assert self.modes() == self.before
        assert self.written.count(ALTERNATE) == self.written.count(BACK)
        # The cursor is seen again.
        assert self.written.rfind(b"\x1b[?25l") < self.written.rfind(b"\x1b[?25h")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def measured(daemon: FakeDaemon, refusal: type[Refusal]) -> Iterator[Measured]:
    found = Measured(
        daemon,
        refusal("UNAVAILABLE", "Socket closed"),
        {"name": "idle", "cpu": 0.01, "memory": 200 * MEGA},
        {"name": "busy", "cpu": 1.5, "memory": 10 * MEGA},
        {"name": "calm", "cpu": 0.25, "memory": 100 * MEGA},
    )
    yield found
    found.end()


@pytest.fixture
def terminal(
    daemon: FakeDaemon, measured: Measured, request: pytest.FixtureRequest
) -> Iterator[Terminal]:
    found = Terminal(daemon, *getattr(request, "param", ()))
    found.shows("busy")
    yield found
    found.close()


def test_rates_come_with_the_second_sample(terminal: Terminal, measured: Measured) -> None:
    measured.tick()
    terminal.shows("150")
    assert terminal.names == ["busy", "calm", "idle"]
    assert terminal.lines[0].startswith("containers: 3   CPU: 176%   memory: 310M   pids: 15")
    assert terminal.modes()[3] & termios.ICANON == 0
    terminal.type("q")
    terminal.ends(0)


def test_keys_sort(terminal: Terminal, measured: Measured) -> None:
    measured.tick()
    terminal.shows("150")
    for keys, order in (
        ("m", ["idle", "calm", "busy"]),
        ("n", ["busy", "calm", "idle"]),
        ("r", ["idle", "calm", "busy"]),
        ("c", ["busy", "calm", "idle"]),
        ("c", ["idle", "calm", "busy"]),
    ):
        terminal.type(keys)
        terminal.until(lambda order=order: terminal.names == order)  # type: ignore[misc]
    terminal.type("q")
    terminal.ends(0)


def test_filter_details_and_help(terminal: Terminal) -> None:
    terminal.type("/al")
    terminal.shows("names that contain: al_")
    terminal.until(lambda: terminal.names == ["calm"])
    terminal.type("\r\r")
    terminal.shows("calm   RUNNING   generation 1")
    terminal.shows("eth0   in")
    # A lone Esc, which is not the beginning of another key.
    terminal.type("\x1b")
    terminal.shows("1 of 3 contain 'al'")
    terminal.type("h")
    terminal.shows("any key goes back")
    terminal.type(" \x1b")
    terminal.until(lambda: len(terminal.names) == 3)
    terminal.type("q")
    terminal.ends(0)


def test_another_interval_is_another_stream(
    terminal: Terminal, daemon: FakeDaemon, measured: Measured
) -> None:
    def asked() -> int:
        requests = daemon.asked("StreamStats")
        return requests[-1].interval.ToMilliseconds() if requests else 0

    terminal.type("+")
    terminal.shows("every 2s")
    terminal.until(lambda: asked() == 2000)
    measured.tick()
    terminal.shows("150")
    terminal.type("---")
    terminal.shows("every 0.2s")
    terminal.until(lambda: asked() == 200)
    terminal.type("q")
    terminal.ends(0)


def test_many_are_scrolled_through(daemon: FakeDaemon, measured: Measured) -> None:
    measured.containers = [{"name": f"c{number:03}"} for number in range(500)]
    terminal = Terminal(daemon, "--sort", "name")
    try:
        terminal.until(lambda: terminal.names == [f"c{n:03}" for n in range(21)])
        terminal.type("\x1b[6~" * 3)
        terminal.until(lambda: "c060" in terminal.names)
        terminal.type("\x1bOB" * 100)
        terminal.until(lambda: terminal.names[-1] == "c160")
        terminal.type("\x1bOF")
        terminal.until(lambda: terminal.names[-1] == "c499")
        terminal.type("\x1bOH")
        terminal.until(lambda: terminal.names[0] == "c000")
        terminal.resize(10, 60)
        terminal.until(lambda: terminal.names == [f"c{n:03}" for n in range(7)])
        terminal.resize(30, 120)
        terminal.until(lambda: terminal.names == [f"c{n:03}" for n in range(27)])
        terminal.resize(2, 5)
        terminal.resize(24, 100)
        terminal.until(lambda: len(terminal.names) == 21)
        terminal.type("q")
        terminal.ends(0)
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGHUP, -signal.SIGHUP),
        (signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_it(terminal: Terminal, number: signal.Signals, status: int) -> None:
    terminal.process.send_signal(number)
    terminal.ends(status)


def test_it_is_suspended_and_goes_on(terminal: Terminal, measured: Measured) -> None:
    terminal.process.send_signal(signal.SIGTSTP)
    changed = os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert changed is not None
    assert (changed.si_code, changed.si_status) == (os.CLD_STOPPED, signal.SIGSTOP)
    assert terminal.modes() == terminal.before
    terminal.until(lambda: terminal.written.count(BACK) == 1)
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until(lambda: terminal.written.count(ALTERNATE) == 2)
    measured.tick()
    terminal.shows("150")
    assert terminal.modes()[3] & termios.ICANON == 0
    terminal.type("q")
    terminal.ends(0)


def test_the_daemon_goes_away_and_comes_back(
    terminal: Terminal, daemon: FakeDaemon, measured: Measured
) -> None:
    measured.tick()
    terminal.shows("150")
    measured.end()
    terminal.shows("lost the daemon, waiting for it to come back")
    daemon.stop()
    # What was known is still there, and the keys do what they do.
    terminal.type("n")
    terminal.type("r")
    terminal.until(lambda: terminal.names == ["idle", "calm", "busy"])
    measured.over = False
    daemon.start()
    terminal.shows("by name, reversed")
    terminal.type("q")
    terminal.ends(0)


def test_without_a_daemon_it_still_leaves(
    terminal: Terminal, daemon: FakeDaemon, measured: Measured
) -> None:
    measured.end()
    # Before it stops: whoever connects while it does may wait long for the first word of it.
    terminal.shows("lost the daemon")
    daemon.stop()
    terminal.type("q")
    terminal.ends(0)


def test_an_error_comes_after_the_screen(
    terminal: Terminal, daemon: FakeDaemon, measured: Measured, refusal: type[Refusal]
) -> None:
    def refuse(_request: Any) -> None:
        raise refusal("PERMISSION_DENIED", "not \x1b[31mthis", "DENIED")

    daemon.on["StreamStats"] = refuse
    terminal.type("+")
    terminal.ends(5)
    assert terminal.written[terminal.written.rfind(BACK) :].endswith(
        b"lxcctl: not \\x1b[31mthis\r\n"
    )


def test_nothing_of_a_container_is_obeyed(daemon: FakeDaemon, measured: Measured) -> None:
    evil = stats("evil\x1b]0;x\x07")
    evil.network.add(interface="\x1b[2Jeth")
    daemon.on["GetStats"] = lambda _: stats_pb2.GetStatsResponse(stats=[evil])
    daemon.on["StreamStats"] = lambda _: iter([stats_pb2.StreamStatsResponse(stats=[evil])] * 2)
    terminal = Terminal(daemon)
    try:
        # The stream ends by itself, which is told.
        terminal.ends(1)
        assert b"the daemon has ended the samples" in terminal.written
        assert b"\x1b]0;x" not in terminal.written
    finally:
        terminal.close()


@pytest.mark.parametrize("name", ["dumb", "no-such-terminal", ""])
def test_a_terminal_that_is_none(daemon: FakeDaemon, measured: Measured, name: str) -> None:
    master, slave = os.openpty()
    with client(
        daemon, "top", stdin=slave, stdout=slave, stderr=subprocess.PIPE, env={"TERM": name}
    ) as process:
        _, err = process.communicate(timeout=DEADLINE)
    os.close(master)
    os.close(slave)
    assert process.returncode == 1
    assert err.startswith(f"lxcctl: top: TERM={name}: ".encode())
    assert b"--batch" in err
    assert err.count(b"\n") == 1


def test_without_a_terminal(lxcctl: Lxcctl) -> None:
    result = lxcctl("top")
    assert (result.status, result.out) == (1, "")
    assert "not a terminal (top --batch writes lines)" in result.err


def test_a_terminal_that_is_hung_up(daemon: FakeDaemon, measured: Measured) -> None:
    master, slave = os.openpty()
    with client(
        daemon, "top", stdin=slave, stdout=slave, stderr=slave, env={"TERM": "xterm"}
    ) as process:
        os.close(slave)
        os.read(master, 1)
        os.close(master)
        assert process.wait(DEADLINE) == -signal.SIGHUP
