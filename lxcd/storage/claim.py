"""That nobody else writes to what is about to be mounted: two mounts of one file system destroy it.

Among all lxcd, and for as long as the loop device is there, a lock on the bytes of the part says
so: it belongs to the opening of the file, which the device has. Of other programs it can only be
seen: in the list of loop devices, and in the locks of QEMU.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import loop
from lxcd.kernel.fd import Fd
from lxcd.storage import blocks
from lxcd.storage.choice import ImageBusyError, ImageError, Part

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOP = re.compile(r"loop([0-9]+)")
# How a virtual machine says what it does with an image: block/file-posix.c of QEMU locks byte 100
# on for what it does, 200 on for what others must not. Of these, 101 is for writing.
_QEMU_ANY = (100, 200)
_QEMU_WRITES = (101, 1)
# Ours begin behind these; no file system has anything of its own before.
_FIRST_BYTE = 512
_REFERENCE = "container "
# Of a file system without locks: the list of devices has to do.
_NO_LOCKS = (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class _Device:
    number: int
    status: loop.Status


def reference(container: str) -> str:
    """The word by which the next one learns whose the device is."""
    return f"{_REFERENCE}{container}"


def _kept(word: str) -> str:
    """What the kernel keeps of it."""
    return os.fsdecode(os.fsencode(word)[: loop.REFERENCE_BYTES])


def claim(file: int, path: str, part: Part, container: str, *, read_only: bool) -> None:
    """Have `part` of the image for this container, to write to, or to share with others that read.

    Raises:
        ImageBusyError: if somebody else has it who may be about to let go.
        ImageError: if somebody else has it.
    """
    free = _lock(file, part, read_only=read_only)
    refuse_taken(file, path, part, container, read_only=read_only)
    if not free:
        raise ImageBusyError(f"{path} is in use: another program has locked it")


def refuse_taken(file: int, path: str, part: Part, container: str, *, read_only: bool) -> None:
    """Raise as `claim` if a loop device has some of the part, or a virtual machine the file. Who
    has mounted a block device is none of these: that is the same file system then.
    """
    other = _other(file, part, read_only=read_only)
    if other is not None:
        if other.status.autoclear and not is_mounted(os.makedev(loop.MAJOR, other.number)):
            # Nobody uses it any more, or not yet: it is going, or another start is about to be
            # seen.
            own = other.status.reference == _kept(reference(container))
            raise ImageBusyError(_taken(path, other), own=own)
        raise ImageError(_taken(path, other))
    if _qemu_has(file, read_only=read_only):
        raise ImageError(f"{path} is in use by a virtual machine: it has QEMU's lock")


def _lock(file: int, part: Part, *, read_only: bool) -> bool:
    first = max(part.offset_bytes, _FIRST_BYTE)
    try:
        return kernel_fd.lock_range(file, first, part.size_bytes, exclusive=not read_only)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return True
        raise


def _qemu_has(file: int, *, read_only: bool) -> bool:
    try:
        return kernel_fd.is_locked(file, *(_QEMU_WRITES if read_only else _QEMU_ANY))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise


def _other(file: int, part: Part, *, read_only: bool) -> _Device | None:
    """A loop device that shows some of the part, and writes, or could not bear that we do."""
    own = os.fstat(file)
    device = own.st_rdev if stat.S_ISBLK(own.st_mode) else 0
    for found in _devices():
        status = found.status
        # A device may have been reached by another node.
        same = device == status.behind and (
            device or (status.device, status.inode) == (own.st_dev, own.st_ino)
        )
        if not same:
            continue
        if status.read_only and read_only:
            continue
        if _overlap(part, status.offset_bytes, status.size_bytes):
            return found
    return None


def _overlap(part: Part, offset_bytes: int, size_bytes: int) -> bool:
    """Whether the part has a byte of the other range; a size of 0 is without end."""
    behind = part.size_bytes and offset_bytes >= part.offset_bytes + part.size_bytes
    before = size_bytes and offset_bytes + size_bytes <= part.offset_bytes
    return not behind and not before


def _devices() -> Iterator[_Device]:
    for name in os.listdir("/sys/block"):
        match = _LOOP.fullmatch(name)
        if match is None or not os.path.exists(f"/sys/block/{name}/loop"):
            continue
        number = int(match[1])
        # It may be gone at any moment: ENXIO.
        with (
            contextlib.suppress(OSError),
            Fd(loop.open_device(number, writable=False)) as device,
        ):
            yield _Device(number, loop.status(device.fileno()))


def is_mounted(device: int) -> bool:
    """In anybody's mount namespace."""
    # The number of a btrfs is none of a device.
    number, name = f"{os.major(device)}:{os.minor(device)}", re.escape(blocks.name_of(device))
    wanted = re.compile(rf" ({number}|/dev/{name}) ")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # It may end, or be a zombie.
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file,
        ):
            if any(map(wanted.search, file)):
                return True
    return False


def _taken(path: str, other: _Device) -> str:
    word = other.status.reference
    whose = f" of {word}" if word.startswith(_REFERENCE) else ""
    how = "read-only" if other.status.read_only else "read-write"
    text = f"{path} is in use: /dev/loop{other.number}{whose} has it {how}"
    return f"{text}, and two mounts of one file system destroy it"
