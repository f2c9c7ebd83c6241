"""Stages `exec`, `stream` and `flood`: a command joins a running container; many bytes come out of
one; a console writes as fast as it can.
"""

from __future__ import annotations

import os
import queue
import select
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from contrib.benchmark.commands import DEADLINE_SECONDS, BenchError
from contrib.benchmark.containers import TRUE
from contrib.benchmark.figures import LXCCTL, LXCD, MILLISECONDS, STOCK, Figure, in_turn
from lxcd.v1 import console_pb2, exec_pb2, stream_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.benchmark.containers import Kind
    from contrib.benchmark.daemon import Daemon
    from contrib.benchmark.stock import Stock

_MILLION = 1e6
_BIG = "/big"
# One file that is read so often: a single one of that size would not fit into the page cache.
READ_BIG = ("cat", *[_BIG] * 16)
_CREDIT_BYTES = 64 * 1024
# An init that waits to be told to write to its console.
_FLOODER = """\
#!/bin/sh
stty raw -echo
while read -r word < "$1"; do cat /flood; done
"""


class Contestant(Protocol):
    """One way to do what a stage is about."""

    what: str  # its row

    def do(self) -> int:
        """Once; nanoseconds."""
        ...


class LxcdExec:
    """RunExec on a channel that is open already."""

    what = LXCD

    def __init__(self, daemon: Daemon, name: str) -> None:
        self._client = daemon.client
        self._name = name

    def do(self) -> int:
        """See Contestant."""
        begin = time.perf_counter_ns()
        reply = self._client.exec(exec_pb2.RunExecRequest(container=self._name, command=[TRUE]))
        spent = time.perf_counter_ns() - begin
        if reply.exit.WhichOneof("how") != "code" or reply.exit.code != 0:
            raise BenchError(f"{TRUE} under lxcd ended with {reply.exit}")
        return spent


class LxcctlExec:
    """`lxcctl exec`, its output to /dev/null."""

    what = f"{LXCCTL} exec"

    def __init__(self, daemon: Daemon, name: str, *command: str) -> None:
        self._daemon = daemon
        self._arguments = ("exec", name, "--", *command)

    def do(self) -> int:
        """See Contestant."""
        return self._daemon.lxcctl(*self._arguments, silent=True)


class StockExec:
    """`lxc-attach`, its output to /dev/null."""

    what = STOCK

    def __init__(self, stock: Stock, name: str, *command: str) -> None:
        self._stock = stock
        self._name = name
        self._command = command

    def do(self) -> int:
        """See Contestant."""
        return self._stock.attach(self._name, *self._command)


class LxcdFlood:
    """One viewer of the console, on a channel that is open already."""

    what = LXCD

    def __init__(self, daemon: Daemon, name: str, trigger: Path, count: int) -> None:
        self._client = daemon.client
        self._name = name
        self._trigger = trigger
        self._count = count

    def do(self) -> int:
        """See Contestant."""
        frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
        start = console_pb2.AttachConsoleStart(name=self._name, live_only=True)
        frames.put(console_pb2.AttachConsoleRequest(start=start))
        call = self._client.attach_console(iter(frames.get, None))
        try:
            return self._view(call, frames)
        finally:
            frames.put(None)
            call.cancel()

    def _view(self, call: Iterator[Any], frames: queue.SimpleQueue[Any]) -> int:
        begin = seen = told = 0
        for frame in call:
            match frame.WhichOneof("frame"):
                case "started":
                    begin = time.perf_counter_ns()
                    self._trigger.write_bytes(b"\n")
                case "output":
                    seen += len(frame.output.data)
                    offset = frame.output.offset + len(frame.output.data)
                    if offset - told >= _CREDIT_BYTES:
                        told = offset
                        credit = stream_pb2.Credit(stream=frame.output.stream, offset=offset)
                        frames.put(console_pb2.AttachConsoleRequest(credit=credit))
                    if seen >= self._count:
                        return time.perf_counter_ns() - begin
                case "gap":
                    raise BenchError("the only viewer of a console has lost something")
                case _:
                    continue
        raise BenchError(f"a console has ended after {seen} of {self._count} bytes: {frame}")


class StockFlood:
    """`lxc-console` on a pseudo-terminal."""

    what = STOCK

    def __init__(self, stock: Stock, name: str, trigger: Path, count: int) -> None:
        self._stock = stock
        self._name = name
        self._trigger = trigger
        self._count = count

    def do(self) -> int:
        """See Contestant."""
        master, slave = os.openpty()
        pid = self._stock.console(self._name, os.ttyname(slave))
        try:
            # It says how it is left, once it is there.
            _read(master, 1)
            time.sleep(0.2)
            begin = time.perf_counter_ns()
            self._trigger.write_bytes(b"\n")
            _read(master, self._count)
            return time.perf_counter_ns() - begin
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os.close(master)
            os.close(slave)


def _read(fd: int, count: int) -> None:
    """Read at least so much from a terminal."""
    end = time.monotonic() + DEADLINE_SECONDS
    while count > 0:
        if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
            raise BenchError(f"{count} bytes of a console do not come")
        count -= len(os.read(fd, 65536))


def flooder(trigger: Path) -> tuple[str, str]:
    """What an init has to be whose console is flooded when that fifo is written to."""
    return "/flooder", f"/{trigger.name}"


def make_files(kind: Kind, stream_bytes: int, flood_bytes: int) -> tuple[Path, Path]:
    """What is read inside; and two fifos that begin floods: each container listens to its own."""
    root = kind.rootfs
    with open(f"{root}{_BIG}", "wb") as big:
        big.truncate(stream_bytes // READ_BIG.count(_BIG))
    with open(f"{root}/flood", "wb") as flood:
        flood.truncate(flood_bytes)
    program = root / "flooder"
    program.write_text(_FLOODER)
    program.chmod(0o755)
    triggers = root / "go.lxcd", root / "go.stock"
    for trigger in triggers:
        with suppress(FileExistsError):
            os.mkfifo(trigger)
    return triggers


def taking_turns(
    stage: str, config: str, contestants: list[Contestant], rounds: int, pause_seconds: float
) -> list[Figure]:
    """Each once in every round, with a pause before each; and once before, for nothing."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in contestants:
        each.do()
    for number in range(rounds):
        for each in in_turn(contestants, number):
            time.sleep(pause_seconds)
            found[each.what].append(each.do() / _MILLION)
    return [
        Figure(stage, config, what, MILLISECONDS, tuple(values)) for what, values in found.items()
    ]
