"""What lxcd and a child of the keeper say to each other while the child becomes a container: the
closed list.

One SOCK_SEQPACKET pair per child, made by lxcd. The child owns nothing but its end: when lxcd is
gone it reads EOF and ends, so a start never goes on half decided.

    lxcd → child    SPEC        how many bytes, and the layout; a memfd with the calls
                                (`calls.py`), and a second one into which the child writes where it
                                is (`step_of`)
                    FDS         descriptors, as many as fit (scm(7): at most 253), and the place of
                                each; whether more follow
                    GO          walk on behind the barrier: the answer to REACHED, or ahead of it
    child → lxcd    PREPARED    sits in its namespaces and cgroups, and waits for SPEC; with a
                                socket of rtnetlink if it has a network of its own
                    REACHED     stands at a barrier
                    FAILED      a call failed: which one, errno, and what the kernel says of it
                    EXECUTING   all is done, exec(2) is next: then EOF, or FAILED

Numbers of 32 bits, as this machine has them; what else a child says is told by its `Program`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from lxcd.kernel import fd as kernel_fd

if TYPE_CHECKING:
    import socket

    from lxcd.container.calls import Program

MESSAGE_LIMIT = 64 * 1024
_SPEC, _FDS, _GO = 1, 2, 3
_LAYOUT = 1  # of the calls: to be counted on when that changes, as a keeper may be older
_REPORT = struct.Struct("=IIiI")


class _Kind(IntEnum):
    """Of reports."""

    PREPARED = 1
    REACHED = 2
    FAILED = 3
    EXECUTING = 4


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


def decode(data: bytes, program: Program) -> Report:
    """A message of a child that walks `program`. ValueError for what no child of ours says."""
    if len(data) < _REPORT.size:
        raise ValueError(f"not a report: {data[:100]!r}")
    kind, call, error, length = _REPORT.unpack_from(data)
    words = data[_REPORT.size :]
    if length != len(words) or error < 0:
        raise ValueError(f"not a report: {data[:100]!r}")
    match kind:
        case _Kind.PREPARED:
            return Prepared()
        case _Kind.REACHED:
            return Reached(program.barrier(call))
        case _Kind.FAILED:
            return program.failure(call, error, _lines(words))
        case _Kind.EXECUTING:
            return Executing()
        case _:
            raise ValueError(f"not a report: {data[:100]!r}")


def _lines(words: bytes) -> str:
    """What a file system that is being configured has said: `e text`, line by line."""
    lines = words.decode(errors="replace").splitlines()
    return "; ".join(line[2:].strip() for line in lines if line)


def send_spec(channel: socket.socket, memfd: int, size: int, progress: int = -1) -> None:
    """Hand the calls over; the child has them before its descriptors are opened. The caller keeps
    its own copies.
    """
    fds = [memfd] if progress < 0 else [memfd, progress]
    kernel_fd.send(channel, struct.pack("=4I", _SPEC, size, _LAYOUT, 0), fds)


def send_fds(channel: socket.socket, fds: list[int]) -> None:
    """The descriptors that the calls name; -1 for one that there is not. The caller keeps its own
    copies.
    """
    places = [place for place, number in enumerate(fds) if number >= 0]
    for start in range(0, max(len(places), 1), kernel_fd.MAX_FDS):
        batch = places[start : start + kernel_fd.MAX_FDS]
        more = start + len(batch) < len(places)
        data = struct.pack(f"={2 + len(batch)}I", _FDS, more, *batch)
        kernel_fd.send(channel, data, [fds[place] for place in batch])


def step_of(progress: int) -> int:
    """The index of the step that a child was at when it ended; -1 before the first."""
    data = os.pread(progress, 4, 0)
    return int.from_bytes(data, "little") - 1 if data else -1


def send_go(channel: socket.socket) -> None:
    """Let the child walk on."""
    kernel_fd.send(channel, struct.pack("=4I", _GO, 0, 0, 0))
