"""The C library: prototypes, each declared once, and the way from errno to OSError.

Numbers of system calls that glibc may not wrap are the kernel's
(include/uapi/asm-generic/unistd.h); all since 424 are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p

_X86_64 = os.uname().machine == "x86_64"

SYS_PIVOT_ROOT = 155 if _X86_64 else 41
SYS_BPF = 321 if _X86_64 else 280
SYS_OPEN_TREE = 428
SYS_MOVE_MOUNT = 429
SYS_FSOPEN = 430
SYS_FSCONFIG = 431
SYS_FSMOUNT = 432
SYS_CLONE3 = 435
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_PIDFD_GETFD = 438
SYS_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)
# Keeps the GIL: the child of a clone3 made through it starts as the owner of the GIL, like its
# parent.
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)

syscall = _libc.syscall
syscall.restype = c_long
syscall_with_gil = _libc_with_gil.syscall
syscall_with_gil.restype = c_long

setns = _libc.setns
setns.argtypes = (c_int, c_int)
unshare = _libc.unshare
unshare.argtypes = (c_int,)
prctl = _libc.prctl
prctl.argtypes = (c_int, c_ulong, c_ulong, c_ulong, c_ulong)
mount = _libc.mount
mount.argtypes = (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
umount2 = _libc.umount2
umount2.argtypes = (c_char_p, c_int)
capget = _libc.capget
capget.argtypes = (c_void_p, c_void_p)
capset = _libc.capset
capset.argtypes = (c_void_p, c_void_p)
ioctl = _libc.ioctl
ioctl.argtypes = (c_int, c_ulong, c_void_p)
mmap = _libc.mmap
mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
mmap.restype = c_void_p
signalfd = _libc.signalfd
signalfd.argtypes = (c_int, c_void_p, c_int)
inotify_init1 = _libc.inotify_init1
inotify_init1.argtypes = (c_int,)
inotify_add_watch = _libc.inotify_add_watch
inotify_add_watch.argtypes = (c_int, c_char_p, c_uint)
inotify_rm_watch = _libc.inotify_rm_watch
inotify_rm_watch.argtypes = (c_int, c_int)

Long = c_long
UInt = c_uint


def check(result: int, name: str, path: str | bytes = "") -> int:
    """Give `result` back, or raise what errno says about the system call `name`."""
    if result >= 0:
        return result
    raise oserror(ctypes.get_errno(), name, path)


def oserror(number: int, name: str, path: str | bytes = "") -> OSError:
    """An OSError that also says which system call failed, in `.syscall`."""
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    error = (
        OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))
    )
    error.syscall = name  # type: ignore[attr-defined]
    return error


def syscall_of(error: OSError) -> str:
    """The system call that raised `error`, where it is known."""
    return str(getattr(error, "syscall", ""))
