"""What lxcd and a child of the keeper say to each other while the child becomes a container: the
closed list.

One SOCK_SEQPACKET pair per child, made by lxcd. The child owns nothing but its end: when lxcd is
gone it reads EOF and ends, so a start never goes on half decided.

    lxcd → child    SPEC        the steps, in a memfd; with a second one the child writes into it
                                where it is (`step_of`)
                    FDS         how many descriptors there are and which of them are missing, and
                                as many as fit (scm(7): at most 253); more follow with MORE
                    GO          walk on behind the barrier: the answer to REACHED, or ahead of it
    child → lxcd    PREPARED    sits in its namespaces and cgroups, and waits for SPEC
                    REACHED     stands at a barrier
                    FAILED      a step failed: index, step, system call, errno, text
                    EXECUTING   all steps are done, exec(2) is next: then EOF, or FAILED
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import Any

from lxcd.kernel import fd as kernel_fd

MESSAGE_LIMIT = 64 * 1024
SPEC_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Prepared:
    """The child waits for its Spec."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The child stands at a barrier and waits for GO."""

    barrier: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A step failed; the child ends. `index` is -1 for a failure outside of the steps."""

    index: int
    step: str
    syscall: str
    errno: int
    text: str


@dataclass(frozen=True, slots=True)
class Executing:
    """Every step is done; what follows is exec(2) and, if that worked, EOF."""


Report = Prepared | Reached | Failed | Executing
_REPORTS: dict[str, type[Report]] = {
    kind.__name__: kind for kind in (Prepared, Reached, Failed, Executing)
}


def encode(report: Report) -> bytes:
    """One report as a message."""
    return json.dumps(
        [type(report).__name__, {name: getattr(report, name) for name in report.__slots__}]
    ).encode()


def decode(data: bytes) -> Report:
    """A message as a report. ValueError for what no child of ours says."""
    try:
        name, fields = json.loads(data)
        return _REPORTS[name](**fields)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"not a report: {data[:100]!r}") from error


def send_spec(channel: socket.socket, memfd: int, progress: int = -1) -> None:
    """Lxcd's side: hand the Spec over; the child reads it while its descriptors are being opened.
    The caller keeps its own copies.
    """
    kernel_fd.send(channel, b'["SPEC"]', [memfd] if progress < 0 else [memfd, progress])


def send_fds(channel: socket.socket, fds: list[int]) -> None:
    """Lxcd's side: the descriptors that the Spec names; -1 for one that there is not. The caller
    keeps its own copies.
    """
    missing = [place for place, number in enumerate(fds) if number < 0]
    there = [number for number in fds if number >= 0]
    first = json.dumps(["FDS", len(fds), missing]).encode()
    kernel_fd.send(channel, first, there[: kernel_fd.MAX_FDS])
    for start in range(kernel_fd.MAX_FDS, len(there), kernel_fd.MAX_FDS):
        kernel_fd.send(channel, b'["MORE"]', there[start : start + kernel_fd.MAX_FDS])


def step_of(progress: int) -> int:
    """Lxcd's side: the index of the step that a child was at when it ended; -1 before the first."""
    data = os.pread(progress, 4, 0)
    return int.from_bytes(data, "little") - 1 if data else -1


def send_go(channel: socket.socket) -> None:
    """Lxcd's side: let the child walk on."""
    kernel_fd.send(channel, b'["GO"]')


class ChildEnd:
    """The child's side. Every method ends the process when lxcd has gone: there is nobody to
    tell.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._progress = -1

    def fileno(self) -> int:
        """Its descriptor: what stays open until the exec."""
        return self._channel.fileno()

    def receive_spec(self) -> bytes:
        """Wait for SPEC: the Spec's text."""
        words, fds = self._receive()
        if words[0] != "SPEC" or not fds:
            os._exit(1)
        text = kernel_fd.read_all(fds[0], SPEC_LIMIT)
        os.close(fds[0])
        if len(fds) > 1:
            self._progress = fds[1]
        return text

    def receive_fds(self) -> list[int]:
        """Wait for FDS: the descriptors, owned by the caller; -1 for those that are missing."""
        words, there = self._receive()
        if words[0] != "FDS":
            os._exit(1)
        count, missing = words[1], set(words[2])
        while len(there) + len(missing) < count:
            _, more = self._receive()
            there.extend(more)
        found = iter(there)
        return [-1 if place in missing else next(found) for place in range(count)]

    def note(self, index: int) -> None:
        """Leave word of where we are, for those who find us dead."""
        if self._progress >= 0:
            os.pwrite(self._progress, (index + 1).to_bytes(4, "little"), 0)

    def wait_at(self, barrier: str) -> None:
        """Report the barrier and wait for GO, unless that is here already."""
        if not self._has_message():
            self.say(Reached(barrier))
        words, _ = self._receive()
        if words[0] != "GO":
            os._exit(1)

    def say(self, report: Report) -> None:
        """Send one report."""
        try:
            kernel_fd.send(self._channel, encode(report))
        except OSError:
            os._exit(1)

    def _has_message(self) -> bool:
        try:
            return bool(self._channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def _receive(self) -> tuple[list[Any], list[int]]:
        try:
            data, fds = kernel_fd.receive(self._channel, MESSAGE_LIMIT)
        except OSError:
            os._exit(1)
        if not data:
            os._exit(1)
        words: list[Any] = json.loads(data)
        return words, fds
