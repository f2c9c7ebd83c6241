"""Steps in the child's own namespaces that are no mounts: identity, names, clocks, loopback,
barriers.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.spec import Step
from lxcd.kernel import mount, process

if TYPE_CHECKING:
    from lxcd.container.walk import Walk

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_JOIN_SESSION_KEYRING = 1  # KEYCTL_JOIN_SESSION_KEYRING


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier(Step):
    """The child waits here until lxcd has done its part from outside."""

    barrier: str
    why: str

    def describe(self) -> str:
        """See Step."""
        return f"wait for lxcd: {self.why}"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.wait_at(self.barrier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork(Step):
    """Go on as a child of the prepared process: PID 1 of a new pid namespace, born in the
    container's cgroup of version 2.

    Whoever is moved into a cgroup of version 2 waits for an RCU grace period
    (cgroup_threadgroup_rwsem), a child that is born there does not: clone3(2), CLONE_INTO_CGROUP.
    In version 1 it sits where the prepared process sits. `fd`: that cgroup, -1 without version 2.
    """

    fd: int
    pid_namespace: bool

    def describe(self) -> str:
        """See Step."""
        return "fork" + (" into a new pid namespace" if self.pid_namespace else "")

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.fork(process.CLONE_NEWPID if self.pid_namespace else 0, self.fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareNamespace(Step):
    """Join somebody else's namespace: setns(2), while still root of the host."""

    fd: int
    namespace: str
    whose: str

    def describe(self) -> str:
        """See Step."""
        return f"join the {self.namespace} namespace of {self.whose}"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.call("setns", walk.sent(self.fd), process.NAMESPACES[self.namespace])


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeNamespaces(Step):
    """Make those that else come with the spawn: unshare(2). Behind the joining of others, as who
    sits in a new user namespace may join none of the host's.
    """

    namespaces: tuple[str, ...]

    def describe(self) -> str:
        """See Step."""
        return f"make namespaces {' '.join(self.namespaces)}"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        flags = 0
        for name in self.namespaces:
            flags |= process.NAMESPACES[name]
        walk.unshare(flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class BecomeRoot(Step):
    """Take user and group 0 of the new user namespace; before, the ids of the host stand there
    unmapped.
    """

    def describe(self) -> str:
        """See Step."""
        return "become root of the user namespace"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.set_user(0, 0, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class UnshareCgroups(Step):
    """Make the cgroups that the child sits in the roots of what it sees: cgroup_namespaces(7)."""

    def describe(self) -> str:
        """See Step."""
        return "new cgroup namespace, rooted in the container's cgroups"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.unshare(process.CLONE_NEWCGROUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetClocks(Step):
    """A time namespace with its own offsets: time_namespaces(7). They can only be set before
    anybody is in it.
    """

    monotonic_ns: int
    boot_ns: int

    def describe(self) -> str:
        """See Step."""
        return (
            f"new time namespace: monotonic {self.monotonic_ns:+} ns, boottime {self.boot_ns:+} ns"
        )

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.unshare(process.CLONE_NEWTIME)
        lines: list[str] = []
        for clock, offset in (("monotonic", self.monotonic_ns), ("boottime", self.boot_ns)):
            seconds, nanoseconds = divmod(offset, 1_000_000_000)
            lines.append(f"{clock} {seconds} {nanoseconds}\n")
        text, path = "".join(lines).encode(), "/proc/self/timens_offsets"
        file = walk.call("openat", mount.AT_FDCWD, path, os.O_WRONLY | os.O_CLOEXEC, path=path)
        walk.call("write", file, text, len(text), path=path)
        walk.close(file)
        # unshare(CLONE_NEWTIME) is for children; a process with one thread may follow them.
        path = "/proc/self/ns/time_for_children"
        made = walk.call("openat", mount.AT_FDCWD, path, os.O_RDONLY | os.O_CLOEXEC, path=path)
        walk.call("setns", made, process.CLONE_NEWTIME)
        walk.close(made)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHostname(Step):
    """sethostname(2)."""

    hostname: str

    def describe(self) -> str:
        """See Step."""
        return f"hostname {self.hostname}"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        name = os.fsencode(self.hostname)
        walk.call("sethostname", name, len(name), path=self.hostname)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKeyring(Step):
    """A session keyring of its own, so that the host's keys cannot be read: keyrings(7)."""

    def describe(self) -> str:
        """See Step."""
        return "new session keyring"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.call("keyctl", _JOIN_SESSION_KEYRING, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCoreCookie(Step):
    """Core scheduling: no other container on the same core's threads at the same time."""

    def describe(self) -> str:
        """See Step."""
        return "new core scheduling cookie"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.call("prctl", process.PR_SCHED_CORE, process.PR_SCHED_CORE_CREATE, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackUp(Step):
    """Set `lo` up in the new network namespace: netdevice(7)."""

    def describe(self) -> str:
        """See Step."""
        return "set lo up"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        any_socket = walk.call("socket", socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)
        request = walk.block(struct.pack("16sH22x", b"lo", _IFF_UP))
        walk.call(
            "ioctl", any_socket, _SIOCSIFFLAGS, request, path="lo", named="ioctl SIOCSIFFLAGS"
        )
        walk.close(any_socket)
