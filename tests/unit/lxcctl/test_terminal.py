"""The caller's terminal, a real one: raw while somebody types through it, and put back however
that ends.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from lxcctl.terminal import RawTerminal, _as_stty
from lxcd.v1 import exec_pb2
from tests.unit.lxcctl.playing import CONSOLE, DETACHED, EXEC, ROOT, VIEWER, client, says, starts

if TYPE_CHECKING:
    from tests.unit.lxcctl.conftest import FakeDaemon

DEADLINE = 30.0


class Pty:
    """What a terminal program has: the caller sits at `master`."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.size(24, 80)
        attributes = termios.tcgetattr(self.slave)
        # Not what a new one has, so that putting back is more than making it new.
        attributes[0] |= termios.IXANY
        attributes[3] &= ~termios.ECHOCTL
        attributes[6][termios.VERASE] = b"\x08"
        termios.tcsetattr(self.slave, termios.TCSANOW, attributes)
        self.before = self.attributes
        self.seen = b""

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)

    @property
    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    @property
    def is_raw(self) -> bool:
        _, output, _, local, *_ = self.attributes
        cooked = termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN
        return not (local & cooked or output & termios.OPOST)

    def size(self, rows: int, columns: int) -> None:
        packed = struct.pack("4H", rows, columns, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, packed)

    def type(self, data: bytes) -> None:
        assert os.write(self.master, data) == len(data)

    def holds_line(self) -> None:
        """Wait until a typed line is there to be read: the kernel carries it over in its own time, as the mode is then."""
        assert select.select([self.slave], [], [], DEADLINE)[0]

    def shows(self, text: bytes) -> None:
        """Wait until this has been shown."""
        while text not in self.seen:
            self.seen += os.read(self.master, 1000)


@pytest.fixture
def pty() -> Iterator[Pty]:
    made = Pty()
    yield made
    made.close()


def test_raw_and_put_back(pty: Pty) -> None:
    with RawTerminal(pty.slave) as terminal:
        assert pty.is_raw
        terminal.end()
        assert pty.attributes == pty.before
        terminal.begin()
        assert pty.is_raw
    assert pty.attributes == pty.before


def test_put_back_after_an_exception(pty: Pty) -> None:
    def fail() -> None:
        with RawTerminal(pty.slave):
            assert pty.is_raw
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert pty.attributes == pty.before


def _children() -> str:
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:
        return file.read()


def test_nobody_is_left_behind(pty: Pty) -> None:
    for _ in range(3):
        with RawTerminal(pty.slave):
            pass
    assert _children() == ""


def test_whoever_leaves_early_leaves_nobody_behind_either(pty: Pty) -> None:
    with RawTerminal(pty.slave) as terminal:
        assert _children()
        for _ in range(2):
            terminal.leave()
            assert pty.attributes == pty.before
            assert _children() == ""
        # The shell has it again: nobody puts it back once more.
        changed = pty.attributes
        changed[3] &= ~termios.ECHO
        termios.tcsetattr(pty.slave, termios.TCSANOW, changed)
    assert pty.attributes == changed


def test_what_was_typed_ahead_is_not_thrown_away(pty: Pty) -> None:
    pty.type(b"typed ahead\r")
    pty.holds_line()
    with RawTerminal(pty.slave):
        pty.type(b"x")
        data = b""
        while not data.endswith(b"x"):
            data += os.read(pty.slave, 100)
    assert data == b"typed ahead\nx"


def test_sizes(pty: Pty) -> None:
    terminal = RawTerminal(pty.slave)
    assert terminal.size == (24, 80)
    pty.size(50, 132)
    assert terminal.size == (50, 132)
    pty.size(0, 0)
    assert terminal.size == (24, 80)


def test_what_stty_makes_of_it(pty: Pty) -> None:
    """What is saved for the guard is what stty(1) itself would save."""
    words = subprocess.run(
        ["/bin/stty", "-g"], stdin=pty.slave, capture_output=True, text=True, check=True
    )
    assert _as_stty(pty.before) == words.stdout.strip()


@pytest.mark.slow
def test_put_back_when_we_are_killed(pty: Pty) -> None:
    program = (
        "import os, signal; from lxcctl.terminal import RawTerminal\n"
        "with RawTerminal(0): os.write(1, b'raw'); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=pty.slave,
        stdout=pty.slave,
        start_new_session=True,
    ) as process:
        pty.shows(b"raw")
        assert pty.is_raw
        process.kill()
    put_back(pty)


def put_back(pty: Pty) -> None:
    """Wait until the terminal is as it was."""
    deadline = time.monotonic() + DEADLINE
    while pty.attributes != pty.before:
        assert time.monotonic() < deadline, pty.attributes
        time.sleep(0.005)


# ---- the whole of lxcctl on it


class Shown:
    """Plays a terminal: `frames` is what it hears, behind the start."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.frames: SimpleQueue[Any] = SimpleQueue()
        self.say: SimpleQueue[Any] = SimpleQueue()
        daemon.on["AttachConsole"] = lambda heard: self._play(heard, CONSOLE)
        daemon.on["AttachExec"] = lambda heard: self._play(heard, EXEC)
        daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1", tty=True)

    def _play(self, heard: Iterator[Any], frames: Any) -> Iterator[Any]:
        next(heard)
        yield frames.started(generation=5) if frames is CONSOLE else frames.started()
        yield frames.output(b"ready\r\n", 0, "console")
        for frame in heard:
            kind = frame.WhichOneof("frame")
            if kind == "detach":
                yield frames.end(DETACHED)
            elif kind != "credit":
                self.frames.put(frame)
            while not self.say.empty():
                yield self.say.get()

    def hears(self, kind: str) -> Any:
        """The next frame, which is of this kind: what is in it."""
        frame = self.frames.get(timeout=DEADLINE)
        assert frame.WhichOneof("frame") == kind
        return getattr(frame, kind)

    def hears_typed(self, data: bytes) -> None:
        typed = b""
        while len(typed) < len(data):
            typed += self.hears("input")
        assert typed == data


@pytest.fixture
def shown(daemon: FakeDaemon) -> Shown:
    return Shown(daemon)


def at(pty: Pty, daemon: FakeDaemon, *argv: str) -> subprocess.Popen[bytes]:
    """lxcctl at a terminal, by the time it shows something."""
    process = client(
        daemon, *argv, stdin=pty.slave, stdout=pty.slave, stderr=pty.slave, start_new_session=True
    )
    pty.shows(b"ready")
    assert pty.is_raw
    return process


@pytest.mark.slow
def test_typing_and_leaving(pty: Pty, daemon: FakeDaemon, shown: Shown) -> None:
    pty.size(40, 100)
    with at(pty, daemon, "console", "001") as process:
        (start,) = starts(daemon, "AttachConsole")
        assert (start.size.rows, start.size.columns) == (40, 100)
        # Every byte, those that a terminal would obey, too.
        pty.type(b"ls\r\x03\x1a\x1c\x04\x11\x13\xff")
        shown.hears_typed(b"ls\r\x03\x1a\x1c\x04\x11\x13\xff")
        pty.type(b"\x01\x01\x01")
        pty.type(b"x\x01q")
        shown.hears_typed(b"\x01\x01x")
        assert process.wait(DEADLINE) == 0
    assert pty.attributes == pty.before
    assert b"Ctrl-a q leaves" in pty.seen


@pytest.mark.slow
def test_a_new_size(pty: Pty, daemon: FakeDaemon, shown: Shown) -> None:
    with at(pty, daemon, "console", "001") as process:
        pty.size(50, 132)
        process.send_signal(signal.SIGWINCH)
        resize = shown.hears("resize")
        assert (resize.rows, resize.columns) == (50, 132)
        pty.type(b"\x01q")
        assert process.wait(DEADLINE) == 0


@pytest.mark.slow
def test_suspended_and_continued(pty: Pty, daemon: FakeDaemon, shown: Shown) -> None:
    with at(pty, daemon, "console", "001") as process:
        process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        suspended = pty.attributes
        pty.size(30, 90)
        process.send_signal(signal.SIGCONT)
        # Others have used the terminal meanwhile: it is told its size.
        resize = shown.hears("resize")
        assert (resize.rows, resize.columns) == (30, 90)
        assert pty.is_raw
        pty.type(b"\x01q")
        assert process.wait(DEADLINE) == 0
    assert suspended == pty.attributes == pty.before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_what_ends_us_puts_it_back(
    pty: Pty, daemon: FakeDaemon, shown: Shown, number: signal.Signals
) -> None:
    with at(pty, daemon, "console", "001") as process:
        process.send_signal(number)
        assert process.wait(DEADLINE) == 128 + number
    assert pty.attributes == pty.before


@pytest.mark.slow
def test_killed(pty: Pty, daemon: FakeDaemon, shown: Shown) -> None:
    with at(pty, daemon, "console", "001") as process:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(DEADLINE) == -signal.SIGKILL
    put_back(pty)


@pytest.mark.slow
def test_leaving_while_the_daemon_is_away(pty: Pty, daemon: FakeDaemon, shown: Shown) -> None:
    with at(pty, daemon, "console", "001") as process:
        daemon.stop()
        pty.shows(b"lost the daemon, waiting for it to come back\r\n")
        assert pty.is_raw
        pty.type(b"nobody takes this\x01q")
        assert process.wait(DEADLINE) == 0
    assert pty.attributes == pty.before


@pytest.mark.slow
def test_notes_on_a_raw_terminal_begin_at_its_left(
    pty: Pty, daemon: FakeDaemon, shown: Shown
) -> None:
    with at(pty, daemon, "console", "001") as process:
        shown.say.put(CONSOLE.role(VIEWER, "bob"))
        pty.type(b"x")
        pty.shows(b"lxcctl: bob has taken control; you only watch now\r\n")
        # Who only watches can still leave.
        pty.type(b"never sent\x01q")
        assert process.wait(DEADLINE) == 0
    shown.hears_typed(b"x")
    assert shown.frames.empty()


@pytest.mark.slow
def test_a_hang_up_of_an_exec_on_a_terminal(pty: Pty, daemon: FakeDaemon, shown: Shown) -> None:
    daemon.on["SignalExec"] = lambda _: exec_pb2.SignalExecResponse()
    pty.size(40, 100)
    with at(pty, daemon, "exec", "001", "--", "vi") as process:
        (create,) = daemon.asked("CreateExec")
        assert (create.tty, create.size.rows, create.size.columns) == (True, 40, 100)
        # No key leaves an exec, if none is asked for.
        pty.type(b"\x01q")
        shown.hears_typed(b"\x01q")
        process.send_signal(signal.SIGHUP)
        assert process.wait(DEADLINE) == 128 + signal.SIGHUP
    assert daemon.asked("SignalExec") == [exec_pb2.SignalExecRequest(id="e1", signal=1)]
    assert pty.attributes == pty.before


@pytest.mark.slow
def test_messages_that_are_sent_elsewhere(pty: Pty, daemon: FakeDaemon) -> None:
    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
    daemon.on["AttachExec"] = says(EXEC, EXEC.output(b"bad", 0, "stderr"), EXEC.end(code=0))
    streams = {"stdin": pty.slave, "stdout": pty.slave, "stderr": subprocess.PIPE}
    for command, has_terminal in ((["--", "make"], False), ([], True), (["-t", "--", "vi"], True)):
        with client(daemon, "exec", "001", *command, **streams) as process:
            _, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, err) == (0, b"bad")
        assert daemon.asked("CreateExec")[-1].tty == has_terminal
    assert pty.attributes == pty.before


# Leads a session on a terminal that stops whoever writes there from the background, runs a command
# in the background, and says when that has stopped or ended.
_SHELL = """
import os, subprocess, sys, termios
attributes = termios.tcgetattr(0)
attributes[3] |= termios.TOSTOP
termios.tcsetattr(0, termios.TCSANOW, attributes)
job = subprocess.Popen(sys.argv[1:], process_group=0)
_, status = os.waitpid(job.pid, os.WUNTRACED)
job.returncode = 0
sys.exit(99 if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv", [["console", "001"], ["exec", "001", "--", "make"], ["exec", "001"]]
)
def test_in_the_background_nobody_is_stopped(pty: Pty, daemon: FakeDaemon, argv: list[str]) -> None:
    daemon.on["CreateExec"] = lambda _: exec_pb2.Exec(id="e1")
    streams = {"console": ("console", CONSOLE), "exec": ("stdout", EXEC)}
    stream, frames = streams[argv[0]]
    daemon.on["AttachConsole"] = daemon.on["AttachExec"] = says(
        frames, frames.output(b"ready\r\n", 0, stream), frames.end(code=0)
    )
    with subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-c", _SHELL, sys.executable, "-m", "lxcctl", *argv],
        cwd=ROOT,
        env={**os.environ, "LXCD_ADDRESS": daemon.address},
        stdin=pty.slave,
        stdout=pty.slave,
        stderr=pty.slave,
    ) as shell:
        assert shell.wait(DEADLINE) == 0
    pty.shows(b"ready")
    for request in daemon.asked("CreateExec"):
        assert not request.tty
    assert not pty.is_raw


@pytest.mark.slow
def test_an_exec_that_is_left_running(pty: Pty, daemon: FakeDaemon, shown: Shown) -> None:
    with at(pty, daemon, "exec", "--detach-keys", "^]", "001", "--", "vi") as process:
        pty.type(b"\x01q\x1d")
        assert process.wait(DEADLINE) == 0
        pty.shows(b"lxcctl: left e1 running; back with: lxcctl attach e1")
    shown.hears_typed(b"\x01q")
    assert pty.attributes == pty.before
