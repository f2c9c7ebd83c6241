"""Deleting what belongs to a container, and nothing else: never across a mount, never through a
link.

A rootfs outside of the container's own directory is not even looked at.
"""

from __future__ import annotations

import errno
import os
from hashlib import blake2b
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.kernel import directory as directories
from lxcd.kernel import procfs

if TYPE_CHECKING:
    from lxcd.config.model import Rootfs

# A directory on its way out or in; swept when lxcd starts. Stock LXC lists no name with a leading
# dot.
DELETING = ".lxcd-deleting"
CREATING = ".lxcd-creating"
_LONGEST = 220  # with a suffix behind it still a file name (NAME_MAX)


def hidden(directory: str, suffix: str, owner: str) -> str:
    """The name that `directory` has while it is made or deleted.

    `owner` is the runtime directory of the lxcd that does it: what another one has under way in the
    same lxcpath is not ours to sweep.
    """
    above, name = os.path.split(directory)
    return os.path.join(above, f".{name[:_LONGEST]}{ending(suffix, owner)}")


def ending(suffix: str, owner: str) -> str:
    """How names end of what the lxcd of the runtime directory `owner` makes."""
    return f"{suffix}-{blake2b(os.fsencode(owner), digest_size=4).hexdigest()}"


def remove(directory: str, transient: str, *, owner: str, keep: str = "") -> None:
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
                aside = hidden(path, DELETING, owner)
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


def sweep(above: str, owner: str) -> list[str]:
    """Finish what a crash has left half made or half deleted; what it was."""
    endings = tuple(ending(suffix, owner) for suffix in (DELETING, CREATING))
    found = []
    try:
        names = os.listdir(above)
    except OSError:
        return []
    for name in names:
        if name.startswith(".") and name.endswith(endings):
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
        directories.remove_tree(handle, name)
    finally:
        os.close(handle)


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
