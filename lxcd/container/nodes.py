"""Steps that give a running container a device node, and take it away: for a child that joins it
for nothing else.

The node is one of lxcd's own: the same device, on a file system of its own that is the host's, for
in a user namespace no node can be made, and one on a file system of it could not be opened. What
the container's root does to it (chmod, chown, touch) is not done to the host's /dev.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.channel import Executing
from lxcd.container.spec import Step
from lxcd.container.walk import DEVPTS_PLACE
from lxcd.kernel import libc, mount, process

if TYPE_CHECKING:
    from collections.abc import Generator

    from lxcd.container.walk import Walk

_TYPES = {"b": stat.S_IFBLK, "c": stat.S_IFCHR}
_RESOLVE = mount.RESOLVE_BENEATH | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_MAGICLINKS
_NAME = "node"


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

    def apply(self, walk: Walk) -> None:
        """See Step."""
        # A mount that hangs nowhere cannot be bound from (before Linux 6.15), so it hangs where
        # nobody else sees it, as long as this child is there.
        process.unshare(process.CLONE_NEWNS)
        attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NOEXEC
        options = (("mode", "755"), ("size", "4k"), ("nr_inodes", "4"))
        tmpfs = mount.fsmount("tmpfs", options, attributes)
        try:
            device = os.makedev(self.major, self.minor)
            try:
                os.mknod(_NAME, _TYPES[self.kind] | 0o600, device, dir_fd=tmpfs)
            except OSError as error:
                raise libc.oserror(error.errno or errno.EPERM, "mknodat", _NAME) from None
            os.chown(_NAME, self.uid, self.gid, dir_fd=tmpfs)
            os.chmod(_NAME, self.mode, dir_fd=tmpfs)
            mount.move_mount(tmpfs, mount.AT_FDCWD, DEVPTS_PLACE)
            walk.node = mount.open_tree(tmpfs, _NAME)
        finally:
            os.close(tmpfs)


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

    def apply(self, walk: Walk) -> None:
        """See Step. Does not return."""
        folder, _, name = self.path.strip("/").rpartition("/")
        with _root(walk):
            missing = _missing(walk, folder)
            try:
                parent = walk.target(folder, "dir")
                _make_place(parent, name, self.path)
                try:
                    place = mount.openat2(parent, name, os.O_PATH, _RESOLVE)
                    mount.move_mount(walk.node, place)
                except OSError:
                    _remove_place(parent, name)
                    raise
            except OSError:
                for path in missing:
                    _remove_folder(walk, path)
                raise
        _done(walk)


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

    def apply(self, walk: Walk) -> None:
        """See Step. Does not return."""
        with _root(walk), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._unbind(walk)
        _done(walk)

    def _unbind(self, walk: Walk) -> None:
        folder, _, name = self.path.strip("/").rpartition("/")
        try:
            parent = walk.target(folder)
            place = mount.openat2(parent, name, os.O_PATH, _RESOLVE)
        except OSError as error:
            if error.errno == errno.ELOOP:
                return
            raise
        found = os.fstat(place)
        os.close(place)
        device = os.makedev(self.major, self.minor)
        if stat.S_IFMT(found.st_mode) == _TYPES[self.kind] and found.st_rdev == device:
            # By its name in a folder that is held: no path can be turned elsewhere meanwhile.
            os.fchdir(parent)
            try:
                mount.umount2(name, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
            except OSError as error:
                # A node that the container has made itself.
                if error.errno != errno.EINVAL:
                    raise
        _remove_place(parent, name)


@contextlib.contextmanager
def _root(walk: Walk) -> Generator[None]:
    """What the child has joined is the tree that paths are below."""
    walk.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(walk.root)


def _missing(walk: Walk, folder: str) -> list[str]:
    """Folders on the way that are not there, deepest first."""
    found: list[str] = []
    while folder:
        try:
            os.close(walk.target(folder))
        except FileNotFoundError:
            found.append(folder)
        else:
            break
        folder = folder.rpartition("/")[0]
    return found


def _is_place(found: os.stat_result) -> bool:
    """An empty file without any permission is what nodes are hung over, and nobody else's."""
    return stat.S_ISREG(found.st_mode) and not found.st_mode & 0o777 and not found.st_size


def _make_place(parent: int, name: str, path: str) -> None:
    try:
        os.mknod(name, stat.S_IFREG, dir_fd=parent)
    except FileExistsError:
        # Of an earlier life: in the root file system it stays when the node goes.
        if not _is_place(os.stat(name, dir_fd=parent, follow_symlinks=False)):
            raise libc.oserror(errno.EEXIST, "mknodat", path) from None
    except OSError as error:
        raise libc.oserror(error.errno or errno.EIO, "mknodat", path) from None


def _remove_place(parent: int, name: str) -> None:
    with contextlib.suppress(OSError):
        if _is_place(os.stat(name, dir_fd=parent, follow_symlinks=False)):
            os.unlink(name, dir_fd=parent)


def _remove_folder(walk: Walk, path: str) -> None:
    above, _, name = path.rpartition("/")
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=walk.target(above))


def _done(walk: Walk) -> None:
    """Say what a child says before it becomes a program; there is none."""
    walk.channel.say(Executing())
    os._exit(0)
