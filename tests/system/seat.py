"""Somebody at a terminal: a shell on a pseudo-terminal of its own, and the screen that it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import shlex
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import pexpect
import pyte
from pexpect import fdpexpect

from tests.system import ledger
from tests.system.host import Host
from tests.system.machine import DEADLINE

PROMPT = "seat$ "


class Seat:
    """Type commands, look at the screen. `close` at the end."""

    def __init__(self, host: Host, rows: int = 24, columns: int = 80) -> None:
        environment: Any = {
            **host.environment,
            "PS1": PROMPT,
            "TERM": "linux",
            # Nothing of the tester's own shell.
            "ENV": "",
        }
        self._host = host
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        # Not pexpect's own fork: gRPC, which this process has, does not survive one.
        self._master, slave = pty.openpty()
        self._set_size(rows, columns)
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "/bin/sh", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
        )
        os.close(slave)
        self._child = fdpexpect.fdspawn(self._master, timeout=DEADLINE)
        self.prompts()

    def run(self, *arguments: str) -> None:
        """Start lxcctl."""
        self.type(shlex.join(self._host.ctl_argv(*arguments)) + "\r")

    def type(self, text: str | bytes) -> None:
        """As a person, or a paste: what comes meanwhile is taken."""
        data = text.encode() if isinstance(text, str) else text
        os.set_blocking(self._master, False)
        view = memoryview(data)
        end = time.monotonic() + DEADLINE
        while view:
            assert time.monotonic() < end, "nobody takes what is typed"
            try:
                view = view[os.write(self._master, view) :]
            except BlockingIOError:
                self.look(0.05)

    def look(self, seconds: float = 0.2) -> None:
        """Take what comes, if anything does."""
        try:
            data: Any = self._child.read_nonblocking(1 << 16, timeout=seconds)
        except pexpect.TIMEOUT:
            return
        self._stream.feed(data)

    @property
    def text(self) -> str:
        """The screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, holds: Callable[[], bool], what: str) -> Self:
        """Look until this holds."""
        end = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < end, f"still not so: {what}; the screen:\n{self.text}"
            self.look()
        return self

    def shows(self, text: str) -> Self:
        """Look until it stands on the screen."""
        return self.until(lambda: text in self.text, f"it shows {text!r}")

    def prompts(self) -> Self:
        """Look until the shell is ready again."""
        return self.until(
            lambda: (
                self.screen.display[self.screen.cursor.y].startswith(PROMPT)
                and self.screen.cursor.x == len(PROMPT)
            ),
            "the shell asks for more",
        )

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size."""
        self.screen.resize(rows, columns)
        self._set_size(rows, columns)

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def modes(self) -> list[Any]:
        """termios(3) of it."""
        return termios.tcgetattr(self._master)

    @property
    def is_raw(self) -> bool:
        """Somebody has made it so."""
        return not self.modes()[3] & termios.ICANON

    def client(self, program: str = "lxcctl") -> int:
        """The pid of the lxcctl that runs, or of another program."""
        found = [
            each.pid for each in ledger.descendants(self._shell.pid) if program in each.command
        ]
        return found[0]

    def close(self) -> None:
        """Hang up."""
        below = ledger.descendants(self._shell.pid)
        self._child.close()
        self._shell.kill()
        self._shell.wait()
        for each in below:
            with suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
