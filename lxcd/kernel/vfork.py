"""Going on as another process without copying anything: the half of vfork(2) that Python lacks.

A fork copies the page tables, and each page that is written to afterwards: 1.1 ms from the keeper's
image, and more in page faults behind it. clone3(2) with CLONE_VM and CLONE_VFORK takes 0.1 ms: both
processes have the same memory, and the first one sleeps in the kernel until the other one has
exec'ed, has ended, or somebody kills the sleeper.

When the first one wakes up its stack is not its own any more: so it must end at once, in code that
touches no memory, which nothing but a few instructions of our own can do.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from ctypes import c_long, c_size_t, c_void_p

from lxcd.kernel import libc, process

_CLONE_VM = 0x00000100
_CLONE_VFORK = 0x00004000

# The two arguments of clone3(2) are where a function's are; it returns to the other process, or to
# this one with an error.
_CODE = {
    "x86_64": bytes.fromhex(
        "b8 b3 01 00 00"  # mov eax, SYS_clone3
        "0f 05"  # syscall
        "48 85 c0"  # test rax, rax
        "7f 01"  # jg +1
        "c3"  # ret
        "31 ff"  # xor edi, edi
        "b8 e7 00 00 00"  # mov eax, SYS_exit_group
        "0f 05"  # syscall
    )
}


def _map(code: bytes | None) -> int | None:
    """The code where it can be called; None if there is none for this machine, or it may not be
    mapped (SELinux, MemoryDenyWriteExecute): then there is always fork.
    """
    if code is None:
        return None
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    place = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if place in (None, c_void_p(-1).value):
        return None
    ctypes.memmove(place, code, len(code))
    if libc.mprotect(place, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC) < 0:
        libc.munmap(place, mmap.PAGESIZE)
        return None
    return int(place)


_PLACE = _map(_CODE.get(os.uname().machine))
# Keeps the GIL, as `libc.syscall_with_gil` does and for the same reason.
_clone = ctypes.PYFUNCTYPE(c_long, c_void_p, c_size_t)(_PLACE) if _PLACE is not None else None


def go_on(flags: int, cgroup_fd: int = -1) -> bool:
    """Go on as another process with the same memory; see `process.clone3` for the arguments.

    True, in the other process. This one ends with status 0 as soon as that one has exec'ed or has
    ended; until then it keeps its copy of every descriptor, and may be killed. False: not possible
    on this machine. Raises OSError; only for a process with one thread.

    The memory is nobody's alone: setns(2) into a time namespace refuses that.
    """
    if _clone is None:
        return False
    arguments = process.clone_arguments(flags | _CLONE_VM | _CLONE_VFORK, cgroup_fd)
    result = _clone(ctypes.addressof(arguments), ctypes.sizeof(arguments))
    if result < 0:
        raise libc.oserror(-result, "clone3")
    return True
