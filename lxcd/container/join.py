"""The step by which a command joins a running container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.spec import Step
from lxcd.kernel import process

if TYPE_CHECKING:
    from lxcd.container.walk import Walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Step):
    """Enter the namespaces of a container's init, named by its pidfd: setns(2).

    A process cannot change its own pid namespace, only its children's: so it forks once more.
    Neither is dumpable: nobody inside can trace it or look at its descriptors before its own exec
    (CVE-2016-8649).
    """

    fd: int
    namespaces: tuple[str, ...]
    # Its cgroups: files of version 1 to be written to, a directory of version 2 to be born in.
    cgroups: tuple[int, ...] = ()
    cgroup: int = -1
    # Its cgroup namespace, where that is joined: who sits in its user namespace may not ask its
    # init for it any more, if that is not dumpable (ptrace(2)).
    cgroup_namespace: int = -1
    # Where `mnt` is not joined: lxcd's mount namespace, and behind it its root.
    host_mounts: int = -1

    def describe(self) -> str:
        """See Step."""
        return f"join namespaces {' '.join(self.namespaces)}"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.joined = True
        for number in self.cgroups:
            # 0 is the writer itself: cgroups(7).
            walk.call("write", walk.sent(number), b"0", 1, path="cgroup.procs")
        flags = 0
        for name in self.namespaces:
            flags |= process.NAMESPACES[name]
        # Not before it sits in the container's cgroup: from within a cgroup namespace nobody moves
        # in whose own cgroup lies outside, ENOENT (cgroup2's `nsdelegate`, as systemd mounts it).
        last = self.cgroup_namespace
        if last >= 0:
            flags &= ~process.CLONE_NEWCGROUP
        if self.host_mounts >= 0:
            # Out of the keeper's own small tree: the program is the host's.
            walk.call("setns", walk.sent(self.host_mounts), process.CLONE_NEWNS)
            walk.call("fchdir", walk.sent(self.host_mounts + 1))
            walk.call("chroot", ".", path=".")
        if flags:
            walk.call("setns", walk.sent(self.fd), flags)
        walk.fork(0, self.cgroup)
        if last >= 0:
            walk.call("setns", walk.sent(last), process.CLONE_NEWCGROUP)
        if "user" in self.namespaces:
            walk.set_user(0, 0, ())
            # A change of ids may have made it dumpable again (fs.suid_dumpable).
            walk.call("prctl", process.PR_SET_DUMPABLE, 0, 0, 0, 0)
        if "mnt" in self.namespaces:
            # setns(2) left it at the container's root; a relative path must not start elsewhere.
            walk.call("chdir", "/", path="/")
