"""Walking directory trees that somebody else has made: by descriptors, never through a link or
across a mount, with one descriptor open at a time and no recursion, however deep they are.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from lxcd.kernel import libc, mount

if TYPE_CHECKING:
    from collections.abc import Callable

_RESOLVE = mount.RESOLVE_BENEATH | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_XDEV
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def walk(
    top: int, visit: Callable[[int], list[str]], leave: Callable[[int, str], None] | None = None
) -> None:
    """Visit the directory `top` and all below it.

    `visit` gets a descriptor and says into which subdirectories to go; `leave` gets the descriptor
    of the parent and the name of a subdirectory that is done with. Both may raise OSError. The
    caller keeps `top`.

    Raises OSError: EXDEV where something is mounted, ESTALE when the tree is moved meanwhile.
    """
    here = os.dup(top)
    try:
        # Of each directory on the way down: what is left to visit in it, its name, its identity.
        down = [(visit(here), "", _identity(here))]
        while True:
            names = down[-1][0]
            if names:
                name = names.pop()
                below = mount.openat2(here, name, _FLAGS, _RESOLVE)
                os.close(here)
                here = below
                down.append((visit(here), name, _identity(here)))
                continue
            _, name, _ = down.pop()
            if not down:
                return
            above = os.open("..", _FLAGS | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
            if _identity(here) != down[-1][2]:
                raise libc.oserror(errno.ESTALE, "openat", name)
            if leave is not None:
                leave(here, name)
    finally:
        os.close(here)


def subdirectories(here: int) -> list[str]:
    """Names of the directories in a directory; for `visit`."""
    with os.scandir(here) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def remove_tree(dirfd: int, name: str) -> None:
    """Delete a file, or a directory and all in it. Raises OSError."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=dirfd)
        return
    top = mount.openat2(dirfd, name, _FLAGS, _RESOLVE)
    try:
        walk(top, _unlink_files, _rmdir)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=dirfd)


def _unlink_files(here: int) -> list[str]:
    directories: list[str] = []
    with os.scandir(here) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=here)
    return directories


def _rmdir(parent: int, name: str) -> None:
    os.rmdir(name, dir_fd=parent)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
