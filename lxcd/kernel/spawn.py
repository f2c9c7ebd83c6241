"""A child that is a program of its own from its first instruction on, in namespaces of its own.

clone3(2) with CLONE_VFORK and CLONE_VM, and execveat(2): nothing of the caller is copied, and
nothing of it is left in the child. What both do with the one memory and the one stack that they
have until the exec is in `native/spawn.c`, as Python cannot do it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
from ctypes import c_char_p, c_int, c_long, c_void_p

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc, process
from lxcd.kernel.native import images

_CLONE_VM = 0x00000100
_CLONE_VFORK = 0x00004000
_EVERY_SIGNAL = signal.valid_signals()
# Keeps the GIL: the child has no thread to give it to.
_FUNCTION = ctypes.PYFUNCTYPE(
    c_long, c_void_p, c_long, c_void_p, c_long, c_void_p, c_void_p, c_long, c_void_p
)
_CODE = images.IMAGES["spawn"].get(os.uname().machine)


def _map(code: str | None) -> int | None:
    """The code where it can be called; None if there is none for this machine, or it may not be
    mapped. From a file, as memory that was ever written to is executed nowhere where
    MemoryDenyWriteExecute or SELinux forbids that.
    """
    if code is None:
        return None
    try:
        with kernel_fd.Fd(kernel_fd.sealed_program("lxcd-spawn", bytes.fromhex(code))) as file:
            protection = mmap.PROT_READ | mmap.PROT_EXEC
            size = mmap.PAGESIZE
            place = libc.mmap(None, size, protection, mmap.MAP_PRIVATE, file.fileno(), 0)
    except OSError:
        return None
    return None if place == c_void_p(-1).value else place


_PLACE = _map(_CODE)
_spawn = _FUNCTION(_PLACE) if _PLACE is not None else None


def spawn(flags: int, program: int, words: list[str], fds: list[int]) -> tuple[int, int]:
    """Exec `program`, a descriptor, in a child with these namespaces; `words` are its argv, and of
    our descriptors it has 0, 1, 2 and `fds`, with the same numbers. Its environment is empty.

    `flags` are CLONE_NEW* of clone3(2). In a new user namespace it is nobody, and has all that it
    may as ambient capabilities. Returns its pid and its pidfd, which the caller owns. Raises
    OSError: of clone3, or of execveat. Only for a process with one thread. The caller waits for the
    exec: so it is not born in a cgroup of somebody else's, which could be frozen.
    """
    if _spawn is None:
        # Not for this machine, or not allowed.
        why = errno.ENOSYS if _CODE is None else errno.EACCES
        raise libc.oserror(why, "mmap")
    pidfd, failure = c_int(-1), c_int(0)
    wanted = flags | process.CLONE_PIDFD | _CLONE_VM | _CLONE_VFORK
    arguments = process.clone_arguments(wanted)
    arguments.pidfd = ctypes.addressof(pidfd)
    opened = (c_int * (len(fds) + 1))(*fds, -1)
    argv = (c_char_p * (len(words) + 1))(*(word.encode() for word in words), None)
    none = (c_char_p * 1)(None)
    # A handler would run in the child, on our stack.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
    pid = _spawn(
        ctypes.addressof(arguments),
        ctypes.sizeof(arguments),
        ctypes.addressof(opened),
        program,
        ctypes.addressof(argv),
        ctypes.addressof(none),
        bool(flags & process.CLONE_NEWUSER),
        ctypes.addressof(failure),
    )
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if pid < 0:
        raise libc.oserror(-pid, "clone3")
    if failure.value:
        os.waitid(os.P_PIDFD, pidfd.value, os.WEXITED)
        os.close(pidfd.value)
        raise libc.oserror(failure.value, "execveat")
    return pid, pidfd.value
