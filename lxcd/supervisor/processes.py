"""Which processes belong to which container: by their cgroup, or by their pid namespace."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.keeper import protocol
from lxcd.kernel import procfs

if TYPE_CHECKING:
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
    trees: Trees, containers: list[Container], *, include_host: bool
) -> list[Process]:
    """Processes of these containers, and of the host if asked for. Reads /proc; not on the loop."""
    owners: dict[tuple[str, str], str] = {}
    for container in containers:
        for tree in trees.hierarchies:
            directory = container.record.cgroups.get(tree.key)
            if directory is not None:
                owners[tree.key, directory.removeprefix(tree.mountpoint)] = container.name
    found: list[Process] = []
    for pid in procfs.pids():
        # It may end at any time while it is looked at.
        with contextlib.suppress(OSError, ValueError, IndexError):
            owner = _owner(pid, owners)
            if owner or include_host:
                process = _process(pid, owner)
                if not (owner and _is_keepers(process)):
                    found.append(process)
    return found


def _is_keepers(process: Process) -> bool:
    """A prepared child, or the first half of one that has become the container: it is on its way
    out (`kernel.vfork`). Nobody inside of a pid namespace can look like that.
    """
    outside = process.container_pid == process.pid
    return outside and process.comm == protocol.PROCESS_NAME


def _owner(pid: int, owners: dict[tuple[str, str], str]) -> str:
    for key, own in procfs.cgroups(pid).items():
        path = own
        # A container's process may have made itself a directory below.
        while len(path) > 1:
            name = owners.get((key, path))
            if name is not None:
                return name
            path = path.rpartition("/")[0]
    return ""


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
