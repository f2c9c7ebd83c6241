"""Whether contestants do the same work: what their containers look like from the host."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


@dataclass(frozen=True, slots=True)
class Shape:
    """One container, by its init."""

    namespaces: frozenset[str]  # of its own
    cgroups: frozenset[str]  # hierarchies in which it has a directory of its own
    identity: frozenset[str]  # id maps
    loopback: frozenset[str]  # whether lo is up
    command: frozenset[str]
    terminal: frozenset[str]  # what init's standard streams are
    mounts: frozenset[str]


def look(pid: int) -> Shape:
    """Look at the container whose init this is."""
    outside = _cgroups("self")
    return Shape(
        namespaces=frozenset(
            n for n in _NAMESPACES if _link(pid, f"ns/{n}") != _link("self", f"ns/{n}")
        ),
        cgroups=frozenset(key for key, path in _cgroups(pid).items() if path != outside.get(key)),
        identity=frozenset(
            f"{which} {' '.join(_read(pid, f'{which}_map').split())}" for which in ("uid", "gid")
        ),
        loopback=frozenset({"up" if "127.0.0.1" in _read(pid, "net/fib_trie") else "down"}),
        command=frozenset({_read(pid, "cmdline").rstrip("\0").replace("\0", " ")}),
        terminal=frozenset(_link(pid, f"fd/{number}") for number in range(3)),
        mounts=frozenset(_mount(line) for line in _read(pid, "mountinfo").splitlines()),
    )


def differences(ours: Shape, theirs: Shape, name: str) -> list[str]:
    """One line for each respect in which another's container is not as ours."""
    found: list[str] = []
    for field in fields(Shape):
        mine: frozenset[str] = getattr(ours, field.name)
        other: frozenset[str] = getattr(theirs, field.name)
        words = [f"{word} only {name}" for word in sorted(other - mine)]
        words += [f"{word} only lxcd" for word in sorted(mine - other)]
        if words:
            found.append(f"{field.name}: {'; '.join(words)}")
    return found


def _read(pid: int | str, name: str) -> str:
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _link(pid: int | str, name: str) -> str:
    return os.readlink(f"/proc/{pid}/{name}")


def _cgroups(pid: int | str) -> dict[str, str]:
    """Path in each hierarchy."""
    found: dict[str, str] = {}
    for line in _read(pid, "cgroup").splitlines():
        _, key, path = line.split(":", 2)
        found[key or "version 2"] = path
    return found


def _mount(line: str) -> str:
    """Where, what, and whether it can be written to."""
    left, _, right = line.partition(" - ")
    target, options = left.split()[4:6]
    return f"{target} ({right.split()[0]} {'ro' if 'ro' in options.split(',') else 'rw'})"
