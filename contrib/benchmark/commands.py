"""Processes that the benchmark starts: how long they take, how they end. No shell, no terminal,
nothing inherited.

posix_spawn(3) and not fork(2): the benchmark has gRPC's threads and tens of megabytes, whose
copying would be measured.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

# Nobody measures with it: only a hang lasts as long.
DEADLINE_SECONDS = 60.0
_TAIL_CHARACTERS = 2000


class BenchError(Exception):
    """The run cannot go on; the text says why."""


class CommandFailed(BenchError):  # noqa: N818  that it did is what happened
    """A command did not end with 0; `said` is the last line that it wrote."""

    def __init__(self, argv: tuple[str, ...], status: int, output: str) -> None:
        output = output.strip()
        self.said = output.rpartition("\n")[2] or f"it ended with {status}"
        super().__init__(f"{' '.join(argv)} ended with {status}: {output[-_TAIL_CHARACTERS:]}")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    nanoseconds: int  # from before the spawn until its end was known
    status: int  # exit code, or minus the signal
    output: str  # both streams


class Commands:
    """Runs commands in one environment, their output in one directory."""

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        self.environment = environment
        self._log = directory / "output"

    def find(self, name: str) -> str:
        """Absolute path of a program; empty if there is none."""
        return shutil.which(name, path=self.environment["PATH"]) or ""

    def run(self, *argv: str, check: bool = True, silent: bool = False) -> Finished:
        """Run it to its end. BenchError if that is not 0, or does not come. `silent`: its output
        goes to the null device.
        """
        if not argv[0]:
            raise BenchError(f"a program is not there that would do: {' '.join(argv[1:])}")
        self._log.write_bytes(b"")
        log = os.devnull if silent else str(self._log)
        begin = time.perf_counter_ns()
        pid = self.spawn(argv, log, truncate=True)
        status = _wait(pid, argv)
        spent = time.perf_counter_ns() - begin
        output = self._log.read_text(errors="replace")
        if check and status != 0:
            raise CommandFailed(argv, status, output)
        return Finished(spent, status, output)

    def spawn(self, argv: tuple[str, ...], log: str, *, truncate: bool = False) -> int:
        """Start it, its output in `log`, and do not wait."""
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if truncate else os.O_APPEND)
        return self._spawn(
            argv, [(os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
        )

    def spawn_on(self, terminal: str, *argv: str) -> int:
        """Start it on a terminal, which becomes its controlling one."""
        actions = [(os.POSIX_SPAWN_OPEN, number, terminal, os.O_RDWR, 0) for number in range(3)]
        return self._spawn(argv, [*actions])

    def converse(self, *argv: str) -> Conversation:
        """Start it with pipes to its standard input and from its standard output."""
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        try:
            pid = self._spawn(
                argv,
                [
                    (os.POSIX_SPAWN_DUP2, theirs_in, 0),
                    (os.POSIX_SPAWN_DUP2, theirs_out, 1),
                    (
                        os.POSIX_SPAWN_OPEN,
                        2,
                        str(self._log),
                        os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
                        0o600,
                    ),
                ],
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        return Conversation(pid, argv, ours_in, ours_out, self._log)

    def _spawn(
        self, argv: tuple[str, ...], actions: list[tuple[int, ...] | tuple[int, int, str, int, int]]
    ) -> int:
        null = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
        return os.posix_spawn(
            argv[0],
            argv,
            self.environment,
            # Pipes take the place of the null device where there are some.
            file_actions=[null, *actions],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT],
        )


class Conversation:
    """A process that prints lines, and ends when its standard input does."""

    def __init__(self, pid: int, argv: tuple[str, ...], source: int, sink: int, log: Path) -> None:
        self._pid = pid
        self._argv = argv
        self._lines = os.fdopen(source)
        self._sink = sink
        self._log = log

    def read(self, count: int) -> list[str]:
        """As many lines. BenchError if it ends before."""
        lines = [self._lines.readline() for _ in range(count)]
        if not all(lines):
            complaint = self._log.read_text(errors="replace").strip()
            raise BenchError(f"{self._argv[0]} printed too little: {complaint}")
        return lines

    def end(self) -> None:
        """Close its standard input and wait for it."""
        with suppress(OSError):
            os.close(self._sink)
        status = _wait(self._pid, self._argv)
        self._lines.close()
        if status != 0:
            raise CommandFailed(self._argv, status, self._log.read_text(errors="replace"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def await_end(pid: int, what: str) -> None:
    """Wait until a process is gone that need not be our child. It may be gone already."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if not select.select([pidfd], [], [], DEADLINE_SECONDS)[0]:
                raise BenchError(f"{what} (pid {pid}) does not end")
        finally:
            os.close(pidfd)


def _wait(pid: int, argv: tuple[str, ...]) -> int:
    """How our child ended, as soon as it did."""
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], DEADLINE_SECONDS)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise BenchError(f"{' '.join(argv)} did not end within {DEADLINE_SECONDS:.0f} s")
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
