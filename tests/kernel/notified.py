"""A service manager that keeps a keeper's descriptors for it, as systemd does: sd_notify(3), sd_listen_fds_with_names(3)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lxcd.keeper import protocol
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import procfs
from tests.kernel.keeper import PATIENCE, Connection, RunningKeeper, select_readable
from tests.kernel.left import kill

# Puts the descriptors where a service looks for them, as nobody else can say with which pid it will be.
_HAND_OVER = """\
import fcntl, os, sys
high = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 10000) for word in sys.argv[1].split(",") if word]
for place, number in enumerate(high):
    os.dup2(number, 3 + place, inheritable=True)
    os.close(number)
if "LISTEN_PID" not in os.environ:
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """It reads what it is told when a test has it do so."""

    def __init__(self, address: str) -> None:
        """`address` as in $NOTIFY_SOCKET: a path, or a name behind `@`."""
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)
        self.ready = 0
        self.stored: dict[str, int] = {}

    def read(self) -> None:
        """Take all messages that are there."""
        while True:
            try:
                data, fds = kernel_fd.receive(self.socket, 4096)
            except BlockingIOError:
                return
            words = dict(line.split("=", 1) for line in data.decode().splitlines())
            if words == {"READY": "1"}:
                self.ready += 1
                continue
            name = words.pop("FDNAME")
            if words == {"FDSTORE": "1", "FDPOLL": "0"}:
                assert name not in self.stored
                (self.stored[name],) = fds
            else:
                assert (words, fds) == ({"FDSTOREREMOVE": "1"}, [])
                if name in self.stored:
                    os.close(self.stored.pop(name))

    def until_ready(self, keeper: RunningKeeper) -> None:
        """Read until a keeper that was just started has said so."""
        end = time.monotonic() + PATIENCE
        self.read()
        while not self.ready:
            assert keeper.process.poll() is None, keeper.log()
            assert time.monotonic() < end, "it is never ready"
            select_readable(self.socket.fileno(), 0.01)
            self.read()
        assert self.ready == 1
        self.ready = 0

    def settled(self, keeper: RunningKeeper) -> dict[tuple[str, str, str], int]:
        """Once all is told: what is stored, by id, what it is, and stream or pid."""
        end = time.monotonic() + PATIENCE
        # What it could not send is sent by a timer: once it has none, it has sent all.
        while not _waits_for_ever(keeper) or select_readable(self.socket.fileno(), 0):
            assert time.monotonic() < end, "it never comes to rest"
            self.read()
        known = self.book()
        return {known[name]: number for name, number in self.stored.items() if name in known}

    def book(self) -> dict[str, tuple[str, str, str]]:
        """What the newest book says."""
        names = [name for name in self.stored if name.startswith("book")]
        found: dict[str, tuple[str, str, str]] = {}
        if not names:
            return found
        newest = self.stored[max(names, key=lambda name: int(name[4:]))]
        for line in kernel_fd.read_all(newest, 1 << 20).splitlines():
            try:
                words = json.loads(line)
            except ValueError:
                continue
            match words:
                case [name]:
                    found.pop(name, None)
                case [name, id_, _, what, detail]:
                    found[name] = (id_, what, detail)
                case _:
                    continue
        return found

    def close(self) -> None:
        self.socket.close()
        kernel_fd.close_all(list(self.stored.values()))
        self.stored.clear()


def _waits_for_ever(keeper: RunningKeeper) -> bool:
    """By the time-out that it has given to epoll_wait(2), or epoll_pwait(2)."""
    keeper.settle()
    words = procfs.read(keeper.pid, "syscall").split()
    return len(words) > 4 and int(words[4], 16) & 0xFFFFFFFF == 0xFFFFFFFF


class ManagedKeeper(RunningKeeper):
    """A keeper that was started by a service manager, with all that it has stored."""

    def __init__(
        self, directory: Path, manager: Manager, environment: dict[str, str] | None = None
    ) -> None:
        self._manager = manager
        self._environment = environment or {}
        super().__init__(directory)

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        stored = self._manager.stored
        environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "NOTIFY_SOCKET": self._manager.address,
            "LISTEN_FDS": str(len(stored)),
            "LISTEN_FDNAMES": ":".join(stored),
            **self._environment,
        }
        if not stored:
            del environment["LISTEN_FDS"], environment["LISTEN_FDNAMES"]
        interpreter = os.path.realpath(sys.executable)
        numbers = ",".join(str(number) for number in stored.values())
        return subprocess.Popen(
            [interpreter, "-I", "-S", "-c", _HAND_OVER, numbers, *command],
            env=environment,
            start_new_session=True,
            pass_fds=list(stored.values()),
        )


Start = Callable[..., ManagedKeeper]


def again(
    keeper: RunningKeeper, manager: Manager, managed: Start
) -> tuple[ManagedKeeper, Connection]:
    """Kill it; the service manager starts another."""
    manager.settled(keeper)
    kill(keeper)
    after = managed()
    return after, after.greeted()


def told_of(connection: Connection, id_: str) -> list[protocol.Answer]:
    """Up to SYNCED."""
    synced = next(n for n, t in enumerate(connection.told) if isinstance(t.answer, protocol.Synced))
    return [t.answer for t in connection.told[:synced] if getattr(t.answer, "id", "") == id_]
