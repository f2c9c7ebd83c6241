"""Which processes belong to which container: by their cgroup, or by their pid namespace."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.keeper import protocol
from lxcd.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxcd.cgroup.tree import Trees
    from lxcd.supervisor.container import Container


@dataclass(frozen=True, slots=True)
class Process:
    """One process, seen from the host."""

    pid: int
    container_pid: int
    container: str  # empty: the host's own
    comm: str
    command: tuple[str, ...]
    parent_pid: int
    uid: int
    state: str


def list_processes(
    trees: Trees,
    wanted: list[Container],
    *,
    include_host: bool,
    running: Iterable[Container] = (),
) -> list[Process]:
    """Processes of those that are wanted, and of the host if asked for: not of others that are
    `running`. Reads /proc; not on the loop.
    """
    owners: dict[tuple[str, str], Container] = {}
    asked = frozenset(wanted)
    for container in asked.union(running):
        for tree in trees.hierarchies:
            directory = container.record.cgroups.get(tree.key)
            if directory is not None:
                owners[tree.key, directory.removeprefix(tree.mountpoint)] = container
    found: list[Process] = []
    for pid in procfs.pids():
        # It may end at any time while it is looked at.
        with contextlib.suppress(OSError, ValueError, IndexError):
            owner = _owner(pid, owners)
            if include_host if owner is None else owner in asked:
                process = _process(pid, owner.name if owner is not None else "")
                if owner is None or not _is_keepers(process):
                    found.append(process)
    return found


def _is_keepers(process: Process) -> bool:
    """A prepared child, or the first half of one that has become the container: it is on its way
    out. Nobody inside of a pid namespace can look like that.
    """
    outside = process.container_pid == process.pid
    return outside and process.comm == protocol.CHILD_NAME


def _owner(pid: int, owners: dict[tuple[str, str], Container]) -> Container | None:
    for key, own in procfs.cgroups(pid).items():
        path = own
        # A container's process may have made itself a directory below.
        while len(path) > 1:
            owner = owners.get((key, path))
            if owner is not None:
                return owner
            path = path.rpartition("/")[0]
    return None


def _process(pid: int, owner: str) -> Process:
    status = procfs.status(pid)
    return Process(
        pid=pid,
        container_pid=status.pids[-1] if owner else pid,
        container=owner,
        comm=status.comm,
        command=tuple(procfs.command(pid)),
        parent_pid=status.parent_pid,
        uid=status.uid,
        state=status.state,
    )
