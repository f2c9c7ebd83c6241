"""Device nodes of the host's, wherever /dev has them, or has them not."""

from __future__ import annotations

import fcntl
import os
import stat
import struct

from lxcd.kernel import libc, mount

_BLKSSZGET = 0x1268  # linux/fs.h


def open_node(name: str, kind: int, number: int, flags: int) -> int:
    """Open /dev/NAME; or, where that is no devtmpfs and has none, one of its own that nobody sees.
    The caller owns the descriptor.
    """
    flags |= os.O_CLOEXEC
    try:
        fd = os.open(f"/dev/{name}", flags)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise libc.oserror(error.errno or 0, "open", f"/dev/{name}") from None
    else:
        found = os.fstat(fd)
        if stat.S_IFMT(found.st_mode) == kind and found.st_rdev == number:
            return fd
        os.close(fd)
    hidden = mount.fsmount("tmpfs", (("mode", "700"), ("size", "4k")))
    try:
        os.mknod("node", kind | 0o600, number, dir_fd=hidden)
        return os.open("node", flags, dir_fd=hidden)
    except OSError as error:
        raise libc.oserror(error.errno or 0, "open", f"{name} in a /dev of its own") from None
    finally:
        os.close(hidden)


def path_of(path: str, opened: int) -> str:
    """A path by which the kernel finds the device that is opened: mount(2) and fsconfig(2) take no
    descriptor. `path` is the one to be seen in /proc/mounts, if it still is the same.
    """
    try:
        found, own = os.stat(path), os.fstat(opened)
        if (stat.S_IFMT(found.st_mode), found.st_rdev) == (stat.S_IFMT(own.st_mode), own.st_rdev):
            return path
    except OSError:
        pass
    return f"/proc/self/fd/{opened}"


def sector_bytes(device: int) -> int:
    """BLKSSZGET: the least that a block device reads and writes, which its partition table counts
    in.
    """
    try:
        data = fcntl.ioctl(device, _BLKSSZGET, struct.pack("i", 0))
    except OSError as error:
        raise libc.oserror(error.errno or 0, "ioctl BLKSSZGET") from None
    return int(struct.unpack("i", data)[0])
