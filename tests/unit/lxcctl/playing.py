"""What the fake daemon plays in a session: frames of either service, and simple commands."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lxcctl as package
from lxcctl.__main__ import dispatch
from lxcd.v1 import console_pb2, exec_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon

ROOT = Path(package.__file__).parent.parent
EVERY_BYTE = bytes(range(256))
WINDOW = 64 * 1024

STOPPED, REBOOT, KICKED, DAEMON_LEAVES, DETACHED = range(1, 6)
VIEWER, CONTROLLER = 1, 2


class Frames:
    """Makes the daemon's frames of one service."""

    def __init__(self, reply: Any) -> None:
        self._reply = reply

    def started(self, input_offset: int = 0, window: int = WINDOW, **more: Any) -> Any:
        started = {"input_offset": input_offset, "input_window_bytes": window, **more}
        return self._reply(started=started)

    def output(self, data: bytes, offset: int = 0, stream: str = "stdout") -> Any:
        return self._reply(output={"stream": stream, "offset": offset, "data": data})

    def gap(self, begin: int, end: int, stream: str = "stdout") -> Any:
        return self._reply(gap={"stream": stream, "begin_offset": begin, "end_offset": end})

    def ack(self, offset: int) -> Any:
        return self._reply(input_ack={"offset": offset})

    def role(self, role: int, by: str = "") -> Any:
        return self._reply(role={"role": role, "by": by})

    def end(self, reason: int = STOPPED, *, next_generation: int = 0, **how: Any) -> Any:
        end: dict[str, Any] = {"reason": reason}
        if reason in {STOPPED, REBOOT}:
            end["exit"] = how
        if next_generation:
            end["next_generation"] = next_generation
        return self._reply(end=end)


EXEC = Frames(exec_pb2.AttachExecResponse)
CONSOLE = Frames(console_pb2.AttachConsoleResponse)


def kinds(frames: Iterable[Any]) -> list[str]:
    """What kind of frames these are."""
    return [frame.WhichOneof("frame") for frame in frames]


def starts(daemon: FakeDaemon, method: str) -> list[Any]:
    """The first frame of every session."""
    return [frame.start for frame in daemon.asked(method) if frame.WhichOneof("frame") == "start"]


def says(frames: Frames, *said: Any) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """A session in which the daemon says this, whatever it hears."""

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield frames.started()
        yield from said

    return play


def echo(frames: Frames, **how: Any) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """A command that writes what it reads to stdout, and the same backwards to stderr."""

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield frames.started()
        typed = 0
        for frame in heard:
            if frame.WhichOneof("frame") == "input_end":
                yield frames.end(**(how or {"code": 0}))
            elif frame.WhichOneof("frame") == "input":
                yield frames.output(frame.input, typed)
                yield frames.output(frame.input[::-1], typed, "stderr")
                typed += len(frame.input)
                yield frames.ack(typed)

    return play


def client(daemon: FakeDaemon, *argv: str, **more: Any) -> subprocess.Popen[Any]:
    """lxcctl as a process of its own."""
    more.setdefault("stdout", subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, "-m", "lxcctl", *argv],
        cwd=ROOT,
        env={**os.environ, "LXCD_ADDRESS": daemon.address, **more.pop("env", {})},
        **more,
    )


@contextmanager
def standard_streams(*fds: int) -> Iterator[None]:
    """These for 0, 1 and 2."""
    saved = [os.dup(fd) for fd in range(len(fds))]
    try:
        for place, fd in enumerate(fds):
            os.dup2(fd, place)
        yield
    finally:
        for place, fd in enumerate(saved):
            os.dup2(fd, place)
            os.close(fd)


def run_with(fds: tuple[int, int, int], *argv: str) -> int:
    """lxcctl in this process with these for its standard streams; its exit status."""
    with standard_streams(*fds):
        return dispatch(list(argv))
