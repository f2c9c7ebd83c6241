"""How often a container has met its limits, and how many of it the OOM killer has killed.

                 version 2                          version 1
    killed       memory.events oom_kill             memory.oom_control oom_kill (Linux 4.13)
    memory       memory.events max                  memory.failcnt
    memory_high  memory.events high                 -
    memory_swap  memory.swap.events max             memory.memsw.failcnt
    pids         pids.events max                    pids.events max, summed up

Version 2 counts what happens below, too. Version 1 counts kills where the process is, so in a
cgroup that the container has made below its own they are not in here. Rejected forks both counted
where the process is, and told nobody above (version 2 until Linux 6.11, which has
pids.events.local): they are summed up here.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd.kernel import directory
from lxcd.kernel.fd import Fd

if TYPE_CHECKING:
    from lxcd.cgroup.tree import Payload

# What version 1 says instead of "no limit" is near this, and depends on the page size.
_NO_LIMIT_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the cgroup was made. None: this kernel does not count kills."""

    killed: int | None = None
    hits: dict[str, int] = field(default_factory=dict[str, int])
    pids_silent: bool = False  # nobody is told when rejected forks become more


@dataclass(frozen=True, slots=True)
class Place:
    """A container's directory for one controller; an empty path where the host has none."""

    path: str = ""
    version: int = 2


def place(payload: Payload, controller: str) -> Place:
    """Where a controller is, for this container."""
    for key, path in payload.directories.items():
        if controller in key.split(","):
            return Place(path, 1)
    return Place(payload.directories.get("", ""))


def read(payload: Payload) -> Counts:
    """As they are now; what cannot be read is left out."""
    memory, pids = place(payload, "memory"), place(payload, "pids")
    silent = bool(pids.path) and not os.path.exists(f"{pids.path}/pids.events.local")
    rejected = _rejected(pids.path) if silent else _words(f"{pids.path}/pids.events").get("max")
    found: dict[str, int | None] = {"pids": rejected}
    if memory.version == 1:
        killed = _words(f"{memory.path}/memory.oom_control").get("oom_kill")
        found["memory"] = _number(f"{memory.path}/memory.failcnt")
        found["memory_swap"] = _number(f"{memory.path}/memory.memsw.failcnt")
    else:
        events = _words(f"{memory.path}/memory.events")
        killed = events.get("oom_kill")
        found["memory"], found["memory_high"] = events.get("max"), events.get("high")
        found["memory_swap"] = _words(f"{memory.path}/memory.swap.events").get("max")
    hits = {name: value for name, value in found.items() if value is not None}
    return Counts(killed, hits, silent)


_LIMITS = {
    ("memory", 1): ("memory", "memory.limit_in_bytes"),
    ("memory", 2): ("memory", "memory.max"),
    ("memory_high", 2): ("memory", "memory.high"),
    ("memory_swap", 1): ("memory", "memory.memsw.limit_in_bytes"),
    ("memory_swap", 2): ("memory", "memory.swap.max"),
    ("pids", 1): ("pids", "pids.max"),
    ("pids", 2): ("pids", "pids.max"),
}


def limit(payload: Payload, name: str) -> int | None:
    """The limit that is counted under this name; None if there is none."""
    controller = name.partition("_")[0]
    where = place(payload, controller)
    known = _LIMITS.get((name, where.version))
    value = _number(f"{where.path}/{known[1]}") if known is not None else None
    return value if value is not None and value < _NO_LIMIT_BYTES else None


def _rejected(path: str) -> int | None:
    """Forks, here and below. None if that cannot be read, or not all of it: something has gone
    meanwhile.
    """
    found: list[int] = []

    def visit(here: int) -> list[str]:
        events = os.open("pids.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=here)
        with open(events, encoding="ascii") as file:
            found.append(int(file.read().rpartition(" ")[2]))
        return directory.subdirectories(here)

    try:
        with Fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
            directory.walk(top.fileno(), visit)
    except (OSError, ValueError):
        return None
    return sum(found)


def _words(path: str) -> dict[str, int]:
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        for line in file:
            word, _, number = line.partition(" ")
            found[word] = int(number)
    return found


def _number(path: str) -> int | None:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return int(file.read())
    return None
