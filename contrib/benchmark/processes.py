"""Processes of this machine, by /proc: who is whose child."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Those of a process; zombies too."""
    return [child for child, parent in _parents().items() if parent == pid]


def parent(pid: int) -> int:
    """Whose child a process is; 0 if there is no such process."""
    return _parents().get(pid, 0)


def descendants(pid: int) -> list[int]:
    """Everything below a process."""
    parents = _parents()
    found: list[int] = []
    todo = [pid]
    while todo:
        above = todo.pop()
        below = [child for child, parent in parents.items() if parent == above]
        found += below
        todo += below
    return found


def ticks(pid: int) -> int:
    """Time of a processor that it has used, all threads together: utime and stime of proc(5)."""
    text = Path(f"/proc/{pid}/stat").read_bytes()
    return sum(int(word) for word in text.rpartition(b")")[2].split()[11:13])


def words(pid: int) -> str:
    """Its command line; empty for a zombie."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return text.decode(errors="replace").strip()
    return ""


def _parents() -> dict[int, int]:
    """Every process, and whose child it is."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The command's name may hold anything, a parenthesis too.
                found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    return found
