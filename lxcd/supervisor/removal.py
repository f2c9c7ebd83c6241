"""Deleting what belongs to a container, and nothing else: never across a mount, never through a
link.

A rootfs outside of the container's own directory is not even looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.kernel import mount, procfs

if TYPE_CHECKING:
    from lxcd.config.model import Rootfs

# A directory on its way out or in; swept when lxcd starts. Stock LXC lists no name with a leading
# dot.
DELETING = ".lxcd-deleting"
CREATING = ".lxcd-creating"
_RESOLVE = mount.RESOLVE_BENEATH | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_XDEV


def hidden(directory: str, suffix: str) -> str:
    """The name that `directory` has while it is made or deleted."""
    above, name = os.path.split(directory)
    return os.path.join(above, f".{name}{suffix}")


def remove(directory: str, transient: str = "", *, keep: str = "") -> None:
    """Delete a container's directory, and the one that a container without definition had.

    `keep`: a path below `directory` that stays (an unmanaged rootfs), with the directories above
    it. Renamed first, so that a crash leaves it there or gone, never half there. Raises an
    LxcdError.
    """
    for path in (directory, transient):
        if path and os.path.lexists(path):
            _refuse_mounts(path)
            try:
                if keep.startswith(path + "/"):
                    _empty(path, keep)
                    continue
                aside = hidden(path, DELETING)
                if os.path.lexists(aside):
                    remove_tree(aside)
                os.rename(path, aside)
                remove_tree(aside)
            except OSError as error:
                raise errors.from_oserror(error, f"deleting {path}") from None


def kept_rootfs(root: Rootfs | None, directories: list[str]) -> str:
    """The root file system that is left alone when these directories go: one that lies outside of
    them, or one that `lxc.rootfs.managed = 0` protects; empty if there is none.
    """
    if root is None:
        return ""
    path = root.path.split(":")[-1]
    inside = any(path.startswith(f"{above}/") for above in directories if above)
    return "" if inside and root.managed else path


def sweep(above: str) -> list[str]:
    """Finish what a crash has left half made or half deleted; what it was."""
    found = []
    try:
        names = os.listdir(above)
    except OSError:
        return []
    for name in names:
        if name.startswith(".") and name.endswith((DELETING, CREATING)):
            path = os.path.join(above, name)
            try:
                remove_tree(path)
            except OSError:
                continue
            found.append(path)
    return found


def remove_tree(path: str) -> None:
    """Delete a tree by descriptors. Raises OSError, EXDEV where something is mounted in it."""
    above, name = os.path.split(path)
    handle = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_at(handle, name)
    finally:
        os.close(handle)


def _remove_at(dirfd: int, name: str) -> None:
    """Without recursion: a container may have made a tree that is deeper than Python's stack."""
    if not _is_directory(dirfd, name):
        os.unlink(name, dir_fd=dirfd)
        return
    # Directories on the way down: descriptor of each, its name above, what is left in it.
    down: list[tuple[int, str, list[str]]] = []
    try:
        down.append(_enter(dirfd, name))
        while down:
            handle, own, names = down[-1]
            if names:
                below = names.pop()
                if _is_directory(handle, below):
                    down.append(_enter(handle, below))
                else:
                    os.unlink(below, dir_fd=handle)
                continue
            down.pop()
            os.close(handle)
            os.rmdir(own, dir_fd=down[-1][0] if down else dirfd)
    finally:
        for handle, _, _ in down:
            os.close(handle)


def _enter(dirfd: int, name: str) -> tuple[int, str, list[str]]:
    handle = mount.openat2(dirfd, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, _RESOLVE)
    return handle, name, os.listdir(handle)


def _is_directory(dirfd: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode)


def _empty(directory: str, keep: str) -> None:
    """Delete all of `directory` but `keep` and what leads to it."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if keep == path:
            continue
        if keep.startswith(path + "/"):
            _empty(path, keep)
        else:
            remove_tree(path)


def _refuse_mounts(path: str) -> None:
    real = os.path.realpath(path)
    for found in procfs.mounts():
        if found.target == real or found.target.startswith(real + "/"):
            raise errors.FailedPrecondition(
                f"{found.target} is a mount point: unmount it first, or its files would be deleted",
                "MOUNTED",
                errno=errno.errorcode[errno.EBUSY],
                path=found.target,
            )
