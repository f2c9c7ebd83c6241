"""Steps in the child's own namespaces that are no mounts: identity, names, clocks, loopback,
barriers.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.spec import Step
from lxcd.kernel import identity, libc, process

if TYPE_CHECKING:
    from lxcd.container.walk import Walk

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier(Step):
    """The child waits here until lxcd has done its part from outside."""

    barrier: str
    why: str

    def describe(self) -> str:
        """See Step."""
        return f"wait for lxcd: {self.why}"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        walk.channel.wait_at(self.barrier)


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
    own_memory: bool = False

    def describe(self) -> str:
        """See Step."""
        return "fork" + (" into a new pid namespace" if self.pid_namespace else "")

    def apply(self, walk: Walk) -> None:
        """See Step."""
        cgroup = walk.fds[self.fd] if self.fd >= 0 else -1
        flags = process.CLONE_NEWPID if self.pid_namespace else 0
        walk.fork(flags, cgroup, own_memory=self.own_memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareNamespace(Step):
    """Join somebody else's namespace: setns(2), while still root of the host."""

    fd: int
    namespace: str
    whose: str

    def describe(self) -> str:
        """See Step."""
        return f"join the {self.namespace} namespace of {self.whose}"

    def apply(self, walk: Walk) -> None:
        """See Step."""
        process.setns(walk.fds[self.fd], process.NAMESPACES[self.namespace])


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeNamespaces(Step):
    """Make those that else come with the spawn: unshare(2). Behind the joining of others, as who
    sits in a new user namespace may join none of the host's.
    """

    namespaces: tuple[str, ...]

    def describe(self) -> str:
        """See Step."""
        return f"make namespaces {' '.join(self.namespaces)}"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        flags = 0
        for name in self.namespaces:
            flags |= process.NAMESPACES[name]
        process.unshare(flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class BecomeRoot(Step):
    """Take user and group 0 of the new user namespace; before, the ids of the host stand there
    unmapped.
    """

    def describe(self) -> str:
        """See Step."""
        return "become root of the user namespace"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        identity.set_user(0, 0, ())


@dataclass(frozen=True, slots=True, kw_only=True)
class UnshareCgroups(Step):
    """Make the cgroups that the child sits in the roots of what it sees: cgroup_namespaces(7)."""

    def describe(self) -> str:
        """See Step."""
        return "new cgroup namespace, rooted in the container's cgroups"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        process.unshare(process.CLONE_NEWCGROUP)


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

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        process.unshare(process.CLONE_NEWTIME)
        lines: list[str] = []
        for clock, offset in (("monotonic", self.monotonic_ns), ("boottime", self.boot_ns)):
            seconds, nanoseconds = divmod(offset, 1_000_000_000)
            lines.append(f"{clock} {seconds} {nanoseconds}\n")
        fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, "".join(lines).encode())
        except OSError as error:
            raise libc.oserror(error.errno or 0, "write", "/proc/self/timens_offsets") from None
        finally:
            os.close(fd)
        # unshare(CLONE_NEWTIME) is for children; a process with one thread may follow them.
        namespace = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        try:
            process.setns(namespace, process.CLONE_NEWTIME)
        finally:
            os.close(namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHostname(Step):
    """sethostname(2)."""

    hostname: str

    def describe(self) -> str:
        """See Step."""
        return f"hostname {self.hostname}"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        try:
            socket.sethostname(self.hostname)
        except OSError as error:
            raise libc.oserror(error.errno or 0, "sethostname", self.hostname) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKeyring(Step):
    """A session keyring of its own, so that the host's keys cannot be read: keyrings(7)."""

    def describe(self) -> str:
        """See Step."""
        return "new session keyring"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        process.new_session_keyring()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCoreCookie(Step):
    """Core scheduling: no other container on the same core's threads at the same time."""

    def describe(self) -> str:
        """See Step."""
        return "new core scheduling cookie"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        process.new_core_cookie()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackUp(Step):
    """Set `lo` up in the new network namespace: netdevice(7)."""

    def describe(self) -> str:
        """See Step."""
        return "set lo up"

    def apply(self, walk: Walk) -> None:  # noqa: ARG002
        """See Step."""
        set_loopback_up()


def set_loopback_up() -> None:
    """Set `lo` up unless it is. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        request = struct.pack("16sH22x", b"lo", 0)
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
            (flags,) = struct.unpack_from("H", answer, 16)
            if flags & _IFF_UP:
                return
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))
        except OSError as error:
            raise libc.oserror(error.errno or 0, "ioctl SIOCSIFFLAGS", "lo") from None
