"""Limits written to a container's directories, and read back.

Only its topmost directories are written to: see `tree.Trees.hides_limits`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from lxcd.cgroup import readback
from lxcd.kernel import libc
from lxcd.kernel.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lxcd.cgroup.limits import Write
    from lxcd.cgroup.tree import Payload, Trees

_MOST_BYTES = 1 << 16  # of a file with a line for each device


class LimitRefusedError(OSError):
    """The kernel does not take a limit; `write` says which line asks for it."""

    write: Write


def path_of(trees: Trees, payload: Payload, write: Write) -> str:
    """The file. Raises OSError if the container has no directory in that tree."""
    tree = trees.unified if write.controller == "cgroup" else trees.having(write.controller)
    directory = payload.directories.get(tree.key) if tree is not None else None
    if directory is None:
        raise libc.oserror(errno.ENOENT, "open", write.file)
    return f"{directory}/{write.file}"


def read(trees: Trees, payload: Payload, write: Write) -> str:
    """What the file says now. Raises OSError."""
    with open(path_of(trees, payload, write), encoding="utf-8", errors="replace") as file:
        return file.read(_MOST_BYTES)


def carry_out(trees: Trees, payload: Payload, writes: Iterable[Write]) -> Iterator[Write]:
    """Write one after the other; each is told of once it is done. Raises LimitRefusedError for the
    first that is refused; one that is no bound, and that this kernel has no file for, is not done.
    """
    for write in writes:
        try:
            path = path_of(trees, payload, write)
            with Fd(os.open(path, os.O_WRONLY | os.O_CLOEXEC)) as file:
                _put(file.fileno(), path, write.value)
        except OSError as error:
            if error.errno == errno.ENOENT and not write.bound and _is_there(error.filename):
                continue
            raise _refused(write, error) from None
        yield write


def _is_there(path: object) -> bool:
    """The directory of a file; it may have vanished with the container."""
    if not isinstance(path, str):
        return False
    return "/" not in path or os.path.isdir(os.path.dirname(path))


def _put(fd: int, path: str, value: str) -> None:
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise libc.oserror(error.errno or errno.EIO, "write", path) from None


def _refused(write: Write, error: OSError) -> LimitRefusedError:
    number = error.errno or errno.EIO
    refused = LimitRefusedError(number, os.strerror(number), error.filename)
    refused.syscall = libc.syscall_of(error) or "open"  # type: ignore[attr-defined]
    refused.write = write
    return refused


def state(trees: Trees, payload: Payload, writes: Iterable[Write]) -> dict[str, str]:
    """What the files say that are written to, as far as they can be read."""
    found: dict[str, str] = {}
    for write in writes:
        if write.file not in found:
            with contextlib.suppress(OSError):
                found[write.file] = read(trees, payload, write)
    return found


def differing(
    trees: Trees, payload: Payload, writes: Iterable[Write]
) -> tuple[tuple[Write, str], ...]:
    """Those that the kernel has made something else of, and what it says now."""
    found: list[tuple[Write, str]] = []
    for write in writes:
        with contextlib.suppress(OSError):
            said = read(trees, payload, write)
            if not readback.agrees(write, said):
                found.append((write, said.strip()))
    return tuple(found)


def restore(
    trees: Trees, payload: Payload, done: Iterable[Write], before: Mapping[str, str]
) -> None:
    """Write back what was there; what cannot be is left."""
    for write in readback.undo(done, before):
        with contextlib.suppress(OSError):
            for _ in carry_out(trees, payload, [write]):
                pass
