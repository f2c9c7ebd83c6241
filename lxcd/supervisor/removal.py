"""Deleting what belongs to a container, and nothing else: never across a mount, never through a
link.

A rootfs outside of the container's own directory is not even looked at.
"""

from __future__ import annotations

import contextlib
import errno
import os
from hashlib import blake2b
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.kernel import directory as directories
from lxcd.kernel import procfs
from lxcd.supervisor.definition import CONFIG_NAME

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


def remove(directory: str, transient: str, *, owner: str, keep: list[str] | None = None) -> None:
    """Delete a container's directory, and the one that a container without definition had.

    `keep`: a path below `directory` that stays (an unmanaged rootfs), with the directories above
    it. Renamed first, so that a crash leaves it there or gone, never half there. Raises an
    LxcdError.
    """
    for path in (directory, transient):
        if path and os.path.lexists(path):
            _refuse_mounts(path)
            try:
                real = os.path.realpath(path)
                kept = [below for below in keep or [] if _inside(below, [real])]
                if kept:
                    if real not in kept:
                        # Without it there is no container: from here on it is gone.
                        _unlink(os.path.join(real, CONFIG_NAME))
                    _empty(real, kept)
                    continue
                aside = hidden(path, DELETING, owner)
                if os.path.lexists(aside):
                    remove_tree(aside)
                os.rename(path, aside)
                remove_tree(aside)
            except OSError as error:
                raise errors.from_oserror(error, f"deleting {path}") from None


def finish(directory: str, *, owner: str, keep: tuple[str, ...]) -> None:
    """Remove what a crash has left of a directory that has no configuration, as it was made or
    deleted: only what cannot be anybody else's by now. Raises OSError.
    """
    for suffix in (DELETING, CREATING):
        aside = hidden(directory, suffix, owner)
        if os.path.lexists(aside):
            remove_tree(aside)
    real = os.path.realpath(directory)
    kept = [below for below in keep if _inside(below, [real])]
    if kept and os.path.isdir(real):
        _empty(real, kept)


def kept_paths(root: Rootfs | None, directories: list[str]) -> list[str]:
    """What of a root file system is left alone when these directories go: layers that lie outside
    of them, and all of them where `lxc.rootfs.managed = 0`. As real paths.
    """
    if root is None:
        return []
    layers = root.path.split(":") if root.kind == "overlay" else [root.path]
    real = [os.path.realpath(layer) for layer in layers if layer]
    own = [os.path.realpath(above) for above in directories if above]
    return [path for path in real if not (root.managed and _inside(path, own))]


def _inside(path: str, directories: list[str]) -> bool:
    return any(path == above or path.startswith(f"{above}/") for above in directories)


def sweep(above: str, owner: str) -> list[str]:
    """Finish what a crash has left half made or half deleted; what it was."""
    endings = tuple(ending(suffix, owner) for suffix in (DELETING, CREATING))
    found: list[str] = []
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


def _empty(directory: str, keep: list[str]) -> None:
    """Delete all of `directory` but what is kept and what leads to it."""
    if directory in keep:
        return
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        below = [kept for kept in keep if _inside(kept, [path])]
        if below:
            _empty(path, below)
        else:
            remove_tree(path)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


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
