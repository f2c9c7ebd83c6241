"""Somebody who sits at a terminal: types, and waits for what appears."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import termios
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from contrib.walkthrough.figures import Broken

if TYPE_CHECKING:
    from contrib.benchmark.commands import Commands

_SIZE = struct.pack("HHHH", 40, 120, 0, 0)
# Sequences that move or colour, and what asks the terminal for its name: nobody reads them.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b\].*?(?:\x07|\x1b\\)|\r")


class Terminal:
    """A terminal with one command on it. `with` ends that command."""

    def __init__(self, commands: Commands, patience_seconds: float, *argv: str) -> None:
        self._patience = patience_seconds
        self._argv = argv
        self._master, slave = os.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, _SIZE)
            self.device = os.ttyname(slave)
            self.pid = commands.spawn_on(self.device, *argv)
        finally:
            os.close(slave)
        self._status: int | None = None
        self._seen = ""
        self._mark = 0

    @property
    def text(self) -> str:
        """All that has appeared and was read, for people."""
        return _CONTROL.sub("", self._seen)

    def type(self, line: str) -> None:
        """A line, with the return key."""
        os.write(self._master, f"{line}\r".encode())

    def expect(self, *texts: str) -> str:
        """Wait until one of these has appeared since the last time; what appeared, up to it."""
        end = time.monotonic() + self._patience
        while True:
            fresh = self.text[self._mark :]
            places = [fresh.find(text) + len(text) for text in texts if text in fresh]
            if places:
                self._mark += min(places)
                return fresh[: min(places)]
            if not self._read(end):
                raise Broken(f"{self._name} never showed {' or '.join(texts)!r}, but: {fresh}")

    def wait(self) -> int:
        """Wait for the end of the command, reading what it shows; its exit status."""
        end = time.monotonic() + self._patience
        while self._read(end):
            pass
        while self._status is None:
            self._reap()
            if time.monotonic() > end:
                raise Broken(f"{self._name} does not end; it showed: {self.text}")
            time.sleep(0.005)
        return self._status

    def read_all(self) -> str:
        """What is there already, without waiting for more."""
        while select.select([self._master], [], [], 0)[0] and self._read(time.monotonic() + 1):
            pass
        return self.text

    def runs(self) -> bool:
        """Whether the command has not ended."""
        self._reap()
        return self._status is None

    @property
    def _name(self) -> str:
        return " ".join(self._argv)

    def _reap(self) -> None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)

    def _read(self, end: float) -> bool:
        """Take what comes next; False if nothing does, or nobody is there any more."""
        left = max(0.0, end - time.monotonic())
        if not select.select([self._master], [], [], left)[0]:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # EIO: the last of them has closed it
            return False
        self._seen += data.decode(errors="replace")
        return True

    def close(self) -> None:
        """Hang up, and wait for the command."""
        os.close(self._master)
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
            self._status = -9

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
