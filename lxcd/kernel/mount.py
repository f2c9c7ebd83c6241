"""Mounts, by descriptors (Linux 5.2): nothing here resolves a path a second time.

A mount made by `fsmount` or `open_tree(OPEN_TREE_CLONE)` hangs nowhere until `move_mount` puts it
somewhere, and goes away with its last descriptor. Descriptors are close-on-exec and the caller's.
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import c_uint64
from typing import Self

from lxcd.kernel import libc

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR__ATIME = 0x00000070
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6


class _MountAttr(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = (  # type: ignore[mutable-override]  # the way of ctypes
        ("attr_set", c_uint64),
        ("attr_clr", c_uint64),
        ("propagation", c_uint64),
        ("userns_fd", c_uint64),
    )


class _OpenHow(ctypes.Structure):
    """struct open_how of linux/openat2.h."""

    _fields_ = (  # type: ignore[mutable-override]  # the way of ctypes
        ("flags", c_uint64),
        ("mode", c_uint64),
        ("resolve", c_uint64),
    )


def _path(path: str) -> ctypes.c_char_p:
    return ctypes.c_char_p(os.fsencode(path))


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2): open below `dirfd` under the rules of `resolve`. The one way into a tree that is
    not ours.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        result = libc.syscall(
            libc.SYS_OPENAT2,
            libc.Long(dirfd),
            _path(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        # EAGAIN: a rename somewhere made the kernel unsure that `..` stayed inside (openat2(2)).
        if result >= 0 or ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            return libc.check(result, "openat2", path)


def open_tree(dirfd: int, path: str, flags: int = OPEN_TREE_CLONE) -> int:
    """open_tree(2). With OPEN_TREE_CLONE a bind mount that hangs nowhere; AT_RECURSIVE takes what
    is mounted below.
    """
    return libc.check(
        libc.syscall(
            libc.SYS_OPEN_TREE, libc.Long(dirfd), _path(path), libc.UInt(flags | OPEN_TREE_CLOEXEC)
        ),
        "open_tree",
        path,
    )


def move_mount(mount_fd: int, to_dirfd: int, to_path: str = "") -> None:
    """move_mount(2): hang the mount `mount_fd` over `to_path`, or over `to_dirfd` itself if the
    path is empty.
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else MOVE_MOUNT_T_EMPTY_PATH)
    libc.check(
        libc.syscall(
            libc.SYS_MOVE_MOUNT,
            libc.Long(mount_fd),
            _path(""),
            libc.Long(to_dirfd),
            _path(to_path),
            libc.UInt(flags),
        ),
        "move_mount",
        to_path,
    )


class FsContext:
    """A file system that is being configured: fsopen(2) … fsmount(2). Use it in a `with`
    statement.
    """

    def __init__(self, fstype: str) -> None:
        self.fstype = fstype
        self._fd = libc.check(
            libc.syscall(libc.SYS_FSOPEN, _path(fstype), libc.UInt(FSOPEN_CLOEXEC)),
            "fsopen",
            fstype,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _config(
        self, command: int, key: str | None, value: ctypes.c_char_p | None, number: int, what: str
    ) -> None:
        result = libc.syscall(
            libc.SYS_FSCONFIG,
            libc.Long(self._fd),
            libc.UInt(command),
            None if key is None else _path(key),
            value,
            libc.Long(number),
        )
        if result < 0:
            number = ctypes.get_errno()
            raise libc.oserror(number, "fsconfig", f"{self.fstype}: {self._said() or what}")

    def _said(self) -> str:
        """What the file system wrote to the context's log: `overlay: upper fs does not support
        …`.
        """
        lines: list[str] = []
        while True:
            try:
                line = os.read(self._fd, 4096)
            except OSError:
                break
            if not line:
                break
            lines.append(line[2:].decode(errors="replace").strip())
        return "; ".join(lines)

    def flag(self, key: str) -> None:
        """An option without a value."""
        self._config(FSCONFIG_SET_FLAG, key, None, 0, key)

    def string(self, key: str, value: str) -> None:
        """An option with a value; `source` is what is mounted."""
        self._config(FSCONFIG_SET_STRING, key, _path(value), 0, f"{key}={value}")

    def descriptor(self, key: str, fd: int) -> None:
        """An option whose value is a descriptor (overlay's layers, Linux 6.13)."""
        self._config(FSCONFIG_SET_FD, key, None, fd, key)

    def create(self) -> None:
        """Make the superblock out of what was configured."""
        self._config(FSCONFIG_CMD_CREATE, None, None, 0, "cannot be mounted")

    def mount(self, attributes: int = 0) -> int:
        """fsmount(2): a mount of it that hangs nowhere; the caller owns the descriptor."""
        result = libc.syscall(
            libc.SYS_FSMOUNT,
            libc.Long(self._fd),
            libc.UInt(FSMOUNT_CLOEXEC),
            libc.UInt(attributes),
        )
        return libc.check(result, "fsmount", self.fstype)


def fsmount(
    fstype: str, options: tuple[tuple[str, str | None], ...] = (), attributes: int = 0
) -> int:
    """A new mount of `fstype` that hangs nowhere; the caller owns the descriptor. An option of None
    is a flag.
    """
    with FsContext(fstype) as context:
        for key, value in options:
            if value is None:
                context.flag(key)
            else:
                context.string(key, value)
        context.create()
        return context.mount(attributes)


def mount_setattr(
    fd: int,
    *,
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    userns_fd: int = -1,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) (Linux 5.12) on the mount that `fd` is the root of."""
    attributes = _MountAttr(
        set_ | (MOUNT_ATTR_IDMAP if userns_fd >= 0 else 0), clear, propagation, max(userns_fd, 0)
    )
    libc.check(
        libc.syscall(
            libc.SYS_MOUNT_SETATTR,
            libc.Long(fd),
            _path(""),
            libc.UInt(AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)),
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        ),
        "mount_setattr",
    )


def umount2(path: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    libc.check(libc.umount2(os.fsencode(path), flags), "umount2", path)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    libc.check(
        libc.syscall(libc.SYS_PIVOT_ROOT, _path(new_root), _path(put_old)), "pivot_root", new_root
    )
