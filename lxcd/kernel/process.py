"""Processes: making them, naming them by pidfd, joining namespaces, prctl.

Waiting and signals need no wrapper: os.waitid(P_PIDFD), os.pidfd_open and signal.pidfd_send_signal
are in Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
from ctypes import c_uint64
from dataclasses import dataclass

from lxcd.kernel import libc, procfs

CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# LXC's words for `lxc.namespace.*`, which are the names under /proc/PID/ns too.
NAMESPACES = {
    "cgroup": CLONE_NEWCGROUP,
    "ipc": CLONE_NEWIPC,
    "mnt": CLONE_NEWNS,
    "net": CLONE_NEWNET,
    "pid": CLONE_NEWPID,
    "time": CLONE_NEWTIME,
    "user": CLONE_NEWUSER,
    "uts": CLONE_NEWUTS,
}

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_SCHED_CORE = 62
PR_SCHED_CORE_CREATE = 1

# linux/pidfd.h; the first layout of the structure, 64 bytes.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 8
_PIDFD_INFO = struct.Struct("=QQ11Ii")

# linux/nsfs.h: _IO(0xb7, 3).
_NS_GET_NSTYPE = 0xB703


class _CloneArgs(ctypes.Structure):
    """struct clone_args of linux/sched.h, up to `cgroup` (Linux 5.7)."""

    _fields_ = (  # type: ignore[mutable-override]  # the way of ctypes
        ("flags", c_uint64),
        ("pidfd", c_uint64),
        ("child_tid", c_uint64),
        ("parent_tid", c_uint64),
        ("exit_signal", c_uint64),
        ("stack", c_uint64),
        ("stack_size", c_uint64),
        ("tls", c_uint64),
        ("set_tid", c_uint64),
        ("set_tid_size", c_uint64),
        ("cgroup", c_uint64),
    )


def clone3(flags: int) -> tuple[int, int]:
    """clone3(2) as a fork with namespaces: (pid, pidfd) in the parent, who owns the pidfd; (0, -1)
    in the child.

    `flags` are CLONE_NEW* and CLONE_PARENT. Only for a process with one thread: Python's own fork
    hooks do not run, and need not then.
    """
    pidfd = ctypes.c_int(-1)
    arguments = clone_arguments(flags | CLONE_PIDFD)
    arguments.pidfd = ctypes.addressof(pidfd)
    pid = libc.syscall_with_gil(
        libc.SYS_CLONE3, ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments))
    )
    if pid == 0:
        return 0, -1
    libc.check(pid, "clone3")
    return pid, pidfd.value


def clone_arguments(flags: int) -> _CloneArgs:
    """What clone3(2) is called with for these flags."""
    return _CloneArgs(
        flags=flags,
        # With CLONE_PARENT the parent's own exit signal is used, and the kernel wants zero here.
        exit_signal=0 if flags & CLONE_PARENT else int(signal.SIGCHLD),
    )


def setns(fd: int, flags: int) -> None:
    """setns(2): into one namespace by its descriptor, or into several of a process by its pidfd
    (Linux 5.8).
    """
    libc.check(libc.setns(fd, flags), "setns")


def namespace_kind(fd: int) -> int:
    """Which CLONE_NEW* a descriptor of a namespace is: ioctl_nsfs(2), NS_GET_NSTYPE. Raises
    OSError for what is none.
    """
    return libc.check(libc.ioctl(fd, _NS_GET_NSTYPE, None), "ioctl NS_GET_NSTYPE")


def unshare(flags: int) -> None:
    """unshare(2)."""
    libc.check(libc.unshare(ctypes.c_int(flags)), "unshare")


def prctl(option: int, argument: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0) -> int:
    """prctl(2)."""
    return libc.check(libc.prctl(option, argument, third, fourth, fifth), "prctl")


def set_name(name: str) -> None:
    """PR_SET_NAME: what ps calls `comm`; cut at 15 bytes."""
    buffer = ctypes.create_string_buffer(os.fsencode(name)[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def signalfd(signals: list[int]) -> int:
    """signalfd(2), non-blocking. Block the signals first. The caller owns the descriptor."""
    mask = sum(1 << (number - 1) for number in signals)
    buffer = ctypes.create_string_buffer(struct.pack("=Q", mask), 128)
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    return libc.check(libc.signalfd(-1, ctypes.addressof(buffer), flags), "signalfd")


def pidfd_getfd(pidfd: int, number: int) -> int:
    """pidfd_getfd(2): a copy of another process's descriptor; the caller owns it."""
    return libc.check(
        libc.syscall(libc.SYS_PIDFD_GETFD, libc.Long(pidfd), libc.Long(number), libc.Long(0)),
        "pidfd_getfd",
    )


@dataclass(frozen=True, slots=True)
class PidfdInfo:
    """What PIDFD_GET_INFO tells. `status` is a wait status, or None while the process is not
    reaped.
    """

    pid: int
    status: int | None


def pidfd_get_info(pidfd: int) -> PidfdInfo:
    """Ioctl PIDFD_GET_INFO (Linux 6.13, exit status 6.15).

    Raises OSError: ENOTTY from a kernel without it; ESRCH for a process that ended unseen.
    """
    buffer = ctypes.create_string_buffer(_PIDFD_INFO.size)
    _PIDFD_INFO.pack_into(buffer, 0, 1 | _PIDFD_INFO_EXIT, *([0] * 13))
    libc.check(libc.ioctl(pidfd, _PIDFD_GET_INFO, ctypes.addressof(buffer)), "ioctl PIDFD_GET_INFO")
    values = _PIDFD_INFO.unpack(buffer.raw)
    known = values[0] & _PIDFD_INFO_EXIT
    return PidfdInfo(pid=values[2], status=values[13] if known else None)


def ended_status(pidfd: int, pid: int) -> int | None:
    """Wait status of a process that ended and is not ours to wait for; None if the kernel does not
    tell (any more, or not yet: once its parent has reaped it, Linux 6.15 does).
    """
    with contextlib.suppress(OSError):
        status = pidfd_get_info(pidfd).status
        if status is not None:
            return status
    # A zombie that its new parent has not looked at yet, on a kernel that tells no more.
    with contextlib.suppress(OSError):
        status = procfs.exit_status(pid)
        if status is not None and pidfd_pid(pidfd) == pid:
            return status
    return None


def pidfd_pid(pidfd: int) -> int:
    """The pid behind a pidfd, as this process's own pid namespace sees it (/proc/self/fdinfo).

    Raises ProcessLookupError once it is reaped.
    """
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                pid = int(line[4:])
                if pid > 0:
                    return pid
    raise libc.oserror(errno.ESRCH, "pidfd")
