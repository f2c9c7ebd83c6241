"""The sockets of a container, and which of its processes hold them. No tool is needed inside."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple

from lxcd import errors
from lxcd.kernel import procfs
from lxcd.kernel.fd import Fd
from lxcd.network import namespace, sockets
from lxcd.network.sockets import Kind
from lxcd.supervisor.processes import list_processes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxcd.cgroup.tree import Trees
    from lxcd.network.sockets import Socket
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.processes import Process

# /proc/PID/net/raw: more of it than anybody reads is not read.
_RAW_BYTES = 4 << 20


class Listing(NamedTuple):
    """What was found. `holders` are those of each inode, if they were asked for."""

    sockets: list[Socket]
    holders: dict[int, list[Process]]
    cut: bool


class Query:
    """One question about a running container. Made on the loop, answered in a thread."""

    def __init__(self, trees: Trees, container: Container, kinds: Iterable[Kind]) -> None:
        """Raise FailedPrecondition if it does not run."""
        child = container.require_running()
        self._trees = trees
        self._container = container
        self._pid = child.pid
        self._pidfd = Fd(os.dup(child.pidfd.fileno()))
        self._own = "net" in container.record.namespaces
        self._kinds = frozenset(kinds) or frozenset(Kind)

    def answer(self, *, holders: bool) -> Listing:
        """Read it all. Raises LxcdError."""
        try:
            with self._pidfd as pidfd:
                found, cut = self._read(pidfd.fileno())
        except OSError as error:
            name = self._container.name
            raise errors.from_oserror(error, f"reading the sockets of {name}") from None
        if not holders and self._own:
            return Listing(found, {}, cut)
        held = _holders(list_processes(self._trees, [self._container], include_host=False))
        if not self._own:
            # The namespace is somebody else's: what is its own is what it holds.
            found = [one for one in found if one.inode in held]
        return Listing(found, held if holders else {}, cut)

    def _read(self, pidfd: int) -> tuple[list[Socket], bool]:
        with namespace.netlink(pidfd, namespace.NETLINK_SOCK_DIAG) as opened:
            opened.bind((0, 0))
            opened.setblocking(False)
            found, cut = sockets.ask(opened, self._kinds)
        if Kind.RAW in self._kinds:
            for family, name in ((socket.AF_INET, "raw"), (socket.AF_INET6, "raw6")):
                # A kernel may lack IPv6; and should init have ended, its pid is somebody else's.
                with contextlib.suppress(FileNotFoundError):
                    text = procfs.read(self._pid, f"net/{name}", _RAW_BYTES)
                    signal.pidfd_send_signal(pidfd, 0)
                    found += sockets.raw(family, text)
        return found, cut


def _holders(processes: Iterable[Process]) -> dict[int, list[Process]]:
    """Which of them have a socket open, by its inode."""
    found: dict[int, list[Process]] = {}
    for process in processes:
        # Either may go at any time while it is looked at.
        with contextlib.suppress(OSError), os.scandir(f"/proc/{process.pid}/fd") as entries:
            inodes: set[int] = set()
            for entry in entries:
                with contextlib.suppress(OSError):
                    kind, _, number = os.readlink(entry.path).partition(":[")
                    if kind == "socket" and number[:-1].isdigit():
                        inodes.add(int(number[:-1]))
            for inode in inodes:
                found.setdefault(inode, []).append(process)
    return found
