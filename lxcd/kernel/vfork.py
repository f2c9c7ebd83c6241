"""Going on as another process without copying anything: a vfork(2) after which the first one does
not come back.

A fork copies the page tables, and each page that is written to afterwards: 1.1 ms from the keeper's
image, and more in page faults behind it. clone3(2) with CLONE_VM takes 0.1 ms: both processes have
the same memory.

The first one may touch none of it any more, not even its stack, which nothing but a few
instructions of our own can do. They close all that it has open and wait until the other one has let
go of the memory: whoever is the last to do so unmaps it all, which takes a millisecond of a Python
process, and the program that was exec'ed need not wait for that.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
from ctypes import c_int, c_long, c_size_t, c_void_p

from lxcd.kernel import libc, process

_CLONE_VM = 0x00000100
# Made once, in the keeper: it takes 50 µs.
_EVERY_SIGNAL = signal.valid_signals()

# The two arguments of clone3(2) are where a function's are, the third is a pipe's read end; it
# returns to the other process, or to this one with an error. exec(2) gives up the memory first
# (exec_mmap() in the kernel), then it closes descriptors.
_CODE = {
    "x86_64": bytes.fromhex(
        "b8 b3 01 00 00"  # mov eax, SYS_clone3
        "0f 05"  # syscall
        "48 85 c0"  # test rax, rax
        "7f 01"  # jg +1
        "c3"  # ret
        "41 89 d0"  # mov r8d, edx
        "31 ff 41 8d 70 ff 31 d2"  # close_range(0, edx - 1, 0)
        "b8 b4 01 00 00 0f 05"
        "41 8d 78 01 be ff ff ff ff"  # close_range(edx + 1, ~0, 0)
        "b8 b4 01 00 00 0f 05"
        "44 89 c7 31 f6 ba 01 00 00 00"  # read(edx, NULL, 1): nobody ever writes
        "31 c0 0f 05"
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
_function = ctypes.PYFUNCTYPE(c_long, c_void_p, c_size_t, c_int)
_clone = _function(_PLACE) if _PLACE is not None else None


def go_on(flags: int, cgroup_fd: int = -1) -> int:
    """Go on as another process with the same memory; see `process.clone3` for the arguments.

    Returns, in the other process, a descriptor that is closed by exec(2) and that the caller keeps
    until then. This one has nothing open any more, and ends with status 0 when that is closed; it
    may be killed. -1: not possible on this machine. Raises OSError; only for a process with one
    thread.

    The memory is nobody's alone: setns(2) into a time namespace refuses that.
    """
    if _clone is None:
        return -1
    try:
        closed, held = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise libc.oserror(error.errno or errno.EMFILE, "pipe2") from None
    arguments = process.clone_arguments(flags | _CLONE_VM, cgroup_fd)
    # A handler would run on the stack that is the other one's.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
    result = _clone(ctypes.addressof(arguments), ctypes.sizeof(arguments), closed)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(closed)
    if result < 0:
        os.close(held)
        raise libc.oserror(-result, "clone3")
    return held
