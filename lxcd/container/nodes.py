"""Steps that give a running container a device node, and take it away: for a child that joins it
for nothing else.

The node is one of lxcd's own: the same device, on a file system of its own that is the host's, for
in a user namespace no node can be made, and one on a file system of it could not be opened. What
the container's root does to it (chmod, chown, touch) is not done to the host's /dev.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.calls import ANY_ERROR, Label
from lxcd.container.devices import encoded
from lxcd.container.spec import Step
from lxcd.container.walk import DEVPTS_PLACE, RESOLVE
from lxcd.kernel import mount, process

if TYPE_CHECKING:
    from lxcd.container.calls import Register
    from lxcd.container.walk import Walk

_TYPES = {"b": stat.S_IFBLK, "c": stat.S_IFCHR}
_RESOLVE = mount.RESOLVE_BENEATH | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_MAGICLINKS
_NAME = "node"
_FORMAT = 0o170000  # S_IFMT
_AT_REMOVEDIR = 0x200


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeNode(Step):
    """Make the node, before the container is joined: as root of the host."""

    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int

    def describe(self) -> str:
        """See Step."""
        return f"make device node {self.kind} {self.major}:{self.minor}"

    def compile(self, walk: Walk) -> None:
        """See Step."""
        # A mount that hangs nowhere cannot be bound from (before Linux 6.15), so it hangs where
        # nobody else sees it, as long as this child is there.
        walk.unshare(process.CLONE_NEWNS)
        attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC
        options = (("mode", "755"), ("size", "4k"), ("nr_inodes", "4"))
        tmpfs = walk.fsmount("tmpfs", options, attributes)
        mode, device = _TYPES[self.kind] | 0o600, encoded(self.major, self.minor)
        walk.call("mknodat", tmpfs, _NAME, mode, device, path=_NAME)
        walk.call("fchownat", tmpfs, _NAME, self.uid, self.gid, 0, path=_NAME)
        walk.call("fchmodat", tmpfs, _NAME, self.mode, path=_NAME)
        walk.move_mount(tmpfs, mount.AT_FDCWD, DEVPTS_PLACE)
        walk.node = walk.open_tree(tmpfs, _NAME)
        walk.close(tmpfs)


@dataclass(frozen=True, slots=True, kw_only=True)
class BindNode(Step):
    """Hang the node over a new, empty file of the container, in place of a program to run.

    EEXIST if there is something already, ELOOP for a symlink on the way. What was made is removed
    if the rest fails.
    """

    path: str

    def describe(self) -> str:
        """See Step."""
        return f"hang the device node over {self.path}"

    def compile(self, walk: Walk) -> None:
        """See Step. It is the last one."""
        folder, _, name = self.path.strip("/").rpartition("/")
        walk.root = _root(walk)
        missing = _missing(walk, folder)
        undone = Label()
        with walk.trying(undone):
            parent = walk.target(folder, "dir")
            _make_place(walk, parent, name, self.path)
            failed = Label()
            with walk.trying(failed):
                place = walk.openat2(parent, name, os.O_PATH, _RESOLVE)
                walk.move_mount(walk.node, place)
        _done(walk)
        folders = Label()
        walk.put(failed)
        walk.call("keep")
        _remove_place(walk, parent, name)
        walk.go(folders)
        walk.put(undone)
        walk.call("keep")
        walk.put(folders)
        for path, was_there in missing:
            _remove_folder(walk, path, was_there)
        walk.call("raise", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnbindNode(Step):
    """Take the node away again, in place of a program to run. What else may be there by now stays,
    and is no error: the container does with its files what it likes.
    """

    path: str
    kind: str
    major: int
    minor: int

    def describe(self) -> str:
        """See Step."""
        return f"take the device node away from {self.path}"

    def compile(self, walk: Walk) -> None:
        """See Step. It is the last one."""
        folder, _, name = self.path.strip("/").rpartition("/")
        gone, unbound = Label(), Label()
        nothing = tuple((error, gone) for error in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
        walk.root = _root(walk)
        parent = walk.openat2(walk.root, folder or ".", os.O_PATH, RESOLVE, unless=nothing)
        place = walk.openat2(parent, name, os.O_PATH, _RESOLVE, unless=nothing)
        found = walk.statx(place, self.path)
        walk.close(place)
        # Something else by now, or a node that the container has made itself: then EINVAL.
        other = ((ANY_ERROR, unbound),)
        walk.call("test", found.mode, 2, _FORMAT, _TYPES[self.kind], errno.ENODEV, unless=other)
        device = self.major | self.minor << 32
        walk.call("test", found.device, 8, -1, device, errno.ENODEV, unless=other)
        # By its name in a folder that is held: no path can be turned elsewhere meanwhile.
        walk.call("fchdir", parent)
        flags = mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW
        walk.call("umount2", name, flags, path=name, unless=((errno.EINVAL, None),))
        walk.put(unbound)
        _remove_place(walk, parent, name)
        walk.put(gone)
        _done(walk)


def _root(walk: Walk) -> Register:
    """What the child has joined is the tree that paths are below."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    return walk.call("openat", mount.AT_FDCWD, "/", flags, path="/")


def _missing(walk: Walk, folder: str) -> list[tuple[str, Register]]:
    """Folders on the way, deepest first, each with what is -1 if it is not there."""
    found: list[tuple[str, Register]] = []
    while folder:
        there = walk.openat2(walk.root, folder, os.O_PATH, RESOLVE, unless=((errno.ENOENT, None),))
        found.append((folder, there))
        folder = folder.rpartition("/")[0]
    return found


def _unless_place(walk: Walk, parent: Register, name: str, otherwise: Label) -> None:
    """Go on there unless this is an empty file without any permission, which is what nodes are hung
    over, and nobody else's.
    """
    with walk.trying(otherwise):
        found = walk.statx(parent, name, name)
        walk.call("test", found.mode, 2, _FORMAT | 0o777, stat.S_IFREG, errno.EEXIST)
        walk.call("test", found.size, 8, -1, 0, errno.EEXIST)


def _make_place(walk: Walk, parent: Register, name: str, path: str) -> None:
    there, other, made = Label(), Label(), Label()
    walk.call(
        "mknodat",
        *(parent, name, stat.S_IFREG, 0),
        path=path,
        unless=((errno.EEXIST, there),),
        then=made,
    )
    walk.put(there)
    # Of an earlier life: in the root file system it stays when the node goes.
    _unless_place(walk, parent, name, other)
    walk.go(made)
    walk.put(other)
    walk.call("raise", errno.EEXIST, path=path, named="mknodat")
    walk.put(made)


def _remove_place(walk: Walk, parent: Register, name: str) -> None:
    other = Label()
    _unless_place(walk, parent, name, other)
    walk.call("unlinkat", parent, name, 0, unless=((ANY_ERROR, None),))
    walk.put(other)


def _remove_folder(walk: Walk, path: str, was_there: Register) -> None:
    above, _, name = path.rpartition("/")
    missing, stays = Label(), Label()
    walk.unless_there(was_there, missing)
    walk.go(stays)
    walk.put(missing)
    with walk.trying(stays):
        folder = walk.openat2(walk.root, above or ".", os.O_PATH, RESOLVE)
        walk.call("unlinkat", folder, name, _AT_REMOVEDIR)
    walk.put(stays)


def _done(walk: Walk) -> None:
    """Say what a child says before it becomes a program; there is none."""
    walk.call("say")
    walk.call("exit_group", 0)
