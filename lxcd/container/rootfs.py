"""Steps that give the child its root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.spec import Step
from lxcd.container.walk import ROOTFS_PLACE
from lxcd.kernel import mount

if TYPE_CHECKING:
    from lxcd.container.walk import Walk


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRootfs(Step):
    """Hang the root file system, which lxcd opened on the host's side, into the child's mount
    namespace.
    """

    fd: int
    source: str
    follow: bool = False  # what the host mounts and unmounts below it later

    def describe(self) -> str:
        """See Step."""
        return f"root file system {self.source}"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        rootfs = walk.sent(self.fd)
        walk.move_mount(rootfs, mount.AT_FDCWD, ROOTFS_PLACE)
        # What happens in the container's mounts stays there, and nothing of the host comes in
        # later.
        propagation = mount.MS_SLAVE if self.follow else mount.MS_PRIVATE
        walk.mount_setattr(rootfs, propagation=propagation, recursive=True)
        walk.root = rootfs


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotRoot(Step):
    """Make it the root directory, and let go of the keeper's tree: pivot_root(2), the
    `pivot_root(".", ".")` form.
    """

    def describe(self) -> str:
        """See Step."""
        return "pivot_root, then unmount the old root"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.call("fchdir", walk.root)
        walk.call("pivot_root", ".", ".", path=".")
        # The old root now lies over the new one at `.`; this takes it away.
        walk.call("umount2", ".", mount.MNT_DETACH, path=".")
        walk.call("chdir", "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareMounts(Step):
    """A peer group of its own for every mount: systemd expects a container's manager to have made
    `/` shared.
    """

    def describe(self) -> str:
        """See Step."""
        return "make all mounts shared inside"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        walk.mount_setattr(walk.root, propagation=mount.MS_SHARED, recursive=True)
