"""Cgroup hierarchies of this machine: where they are mounted, who sits where, and removing."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass

_REMOVAL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Tree:
    """One hierarchy."""

    mountpoint: str
    version: int
    options: frozenset[str]  # of version 1: controllers, or `name=systemd`

    def is_of(self, key: str) -> bool:
        """Tell whether /proc/PID/cgroup means it by `key`."""
        if not key:
            return self.version == 2  # noqa: PLR2004
        return self.version == 1 and self.options >= set(key.split(","))


def find() -> list[Tree]:
    """Every hierarchy that is mounted, once."""
    found: dict[frozenset[str], Tree] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fstype, _, text = right.split()[:3]
            root, mountpoint = left.split()[3:5]
            if fstype in ("cgroup", "cgroup2") and root == "/":
                options = frozenset(text.split(","))
                found[options | {fstype}] = Tree(
                    mountpoint, 2 if fstype == "cgroup2" else 1, options
                )
    return list(found.values())


def named(part: str) -> set[str]:
    """Every directory with this in its name, in every hierarchy."""
    found: set[str] = set()
    for tree in find():
        for folder, names, _ in os.walk(tree.mountpoint):
            found.update(os.path.join(folder, name) for name in names if part in name)
    return found


def of(pid: int | str) -> set[str]:
    """The directories that a process sits in, roots aside; none if it is gone."""
    found: set[str] = set()
    trees = find()
    with suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        for line in file:
            _, key, path = line.rstrip("\n").split(":", 2)
            found.update(
                tree.mountpoint + path for tree in trees if path != "/" and tree.is_of(key)
            )
    return found


def remove(tops: set[str]) -> set[str]:
    """Remove them with what is below, where nobody sits any more; which could not be."""
    end = time.monotonic() + _REMOVAL_SECONDS
    for top in sorted(tops):
        for folder, _, _ in os.walk(top, topdown=False):
            # What was reaped a moment ago may still be counted in there.
            while not _gone(folder) and time.monotonic() < end:
                time.sleep(0.01)
    return {top for top in tops if os.path.isdir(top)}


def _gone(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
