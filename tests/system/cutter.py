"""Counts the system calls by which a process changes anything outside of itself, and kills it just before one of them.

A program of its own (`python -I -S cutter.py PID NUMBER EXCLUDED [DIRECTORY]`), standard library only: ptrace(2) belongs to
a thread. Unlike strace's injection it counts over all threads of the process. It says `attached`; after the process has
ended it says, as one JSON object, what the `calls` were and whether it has `fired`. NUMBER counts from 1; 0 never comes.
EXCLUDED: a file whose writes do not count.

With a DIRECTORY it kills nothing: only calls count that need room below it, and the one that would be killed finds none
(ENOSPC). It goes when it is told to (SIGTERM), as the process stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import struct
import sys
from dataclasses import dataclass, field

_SEIZE, _INTERRUPT, _LISTEN, _SYSCALL, _SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 24, 0x420E
_DETACH, _POKEUSER = 17, 6
_RAX, _ORIG_RAX = 10 * 8, 15 * 8  # offsets in struct user, of x86_64
_SYSGOOD, _TRACE_CLONE = 1, 8  # PTRACE_O_*
_STOP = 128  # PTRACE_EVENT_STOP
_ENTRY = 1  # PTRACE_SYSCALL_INFO_ENTRY
_WALL = 0x40000000
_MODIFIES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AT_FDCWD = -100
# Of calls with many commands those that change nothing outside, most of them Python's own: terminal(4)'s questions (TCGETS,
# TIOCGPGRP, TIOCGWINSZ, TIOCGPTN), flags of a descriptor (FIONREAD, FIONBIO, FIONCLEX, FIOCLEX), SIOCGIF*, nsfs, pidfs; and
# of bpf(2) all but PROG_LOAD, PROG_ATTACH, PROG_DETACH.
_ASKS = {
    "ioctl": {0x5401, 0x540F, 0x5413, 0x80045430, 0x541B, 0x5421, 0x5450, 0x5451}
    | set(range(0x8910, 0x8950))
    | set(range(0xB701, 0xB70A)),
    "bpf": set(range(64)) - {5, 8, 9},
}
_PIDFS_TYPE = 0xFF  # the second byte: PIDFD_GET_INFO has the size of its answer in the others


@dataclass(frozen=True)
class Call:
    """A system call: its number on x86_64 and elsewhere (0: not there), and which argument says what it works on."""

    name: str
    x86_64: int
    generic: int
    path: int = -1
    fd: int = -1
    flags: int = -1  # of an open
    command: int = -1  # of a call that is many
    needs_room: bool = False  # on the disk of what it works on


_CALLS = (
    Call("write", 1, 64, fd=0, needs_room=True),
    Call("open", 2, 0, path=0, flags=1, needs_room=True),
    Call("pwrite64", 18, 68, fd=0, needs_room=True),
    Call("writev", 20, 66, fd=0, needs_room=True),
    Call("sendto", 44, 206, fd=0),
    Call("sendmsg", 46, 211, fd=0),
    Call("ioctl", 16, 29, fd=0, command=1),
    Call("kill", 62, 129),
    Call("fsync", 74, 82, fd=0, needs_room=True),
    Call("fdatasync", 75, 83, fd=0, needs_room=True),
    Call("truncate", 76, 45, path=0),
    Call("ftruncate", 77, 46, fd=0, needs_room=True),
    Call("rename", 82, 0, path=1, needs_room=True),
    Call("mkdir", 83, 0, path=0, needs_room=True),
    Call("rmdir", 84, 0, path=0),
    Call("link", 86, 0, path=1, needs_room=True),
    Call("unlink", 87, 0, path=0),
    Call("symlink", 88, 0, path=1, needs_room=True),
    Call("chmod", 90, 0, path=0),
    Call("fchmod", 91, 52, fd=0),
    Call("chown", 92, 0, path=0),
    Call("fchown", 93, 55, fd=0),
    Call("lchown", 94, 0, path=0),
    Call("mknod", 133, 0, path=0, needs_room=True),
    Call("setxattr", 188, 5, path=0),
    Call("lsetxattr", 189, 6, path=0),
    Call("fsetxattr", 190, 7, fd=0),
    Call("openat", 257, 56, path=1, flags=2, needs_room=True),
    Call("mkdirat", 258, 34, path=1, needs_room=True),
    Call("mknodat", 259, 33, path=1, needs_room=True),
    Call("fchownat", 260, 54, path=1),
    Call("unlinkat", 263, 35, path=1),
    Call("renameat", 264, 38, path=3, needs_room=True),
    Call("linkat", 265, 37, path=3, needs_room=True),
    Call("symlinkat", 266, 36, path=2, needs_room=True),
    Call("fchmodat", 268, 53, path=1),
    Call("bpf", 321, 280, command=0),
    Call("renameat2", 316, 276, path=3, needs_room=True),
    Call("pidfd_send_signal", 424, 424),
)
_X86_64 = os.uname().machine == "x86_64"
REFUSES = _X86_64  # whose registers it knows
_BY_NUMBER = {
    number: call for call in _CALLS if (number := call.x86_64 if _X86_64 else call.generic)
}


# struct ptrace_syscall_info at a system call's entry: op, arch, instruction, stack, number, arguments.
_INFO = struct.Struct("=B3xI3Q6Q")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, thread: int, address: int = 0, data: int = 0) -> int:
    result: int = _libc.ptrace(request, thread, address, data)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {thread}")
    return result


@dataclass
class Cutter:
    """Follows one process."""

    pid: int
    number: int
    excluded: str
    directory: str = ""
    found: list[list[str]] = field(default_factory=list)
    fired: bool = False
    _refused: set[int] = field(default_factory=set)  # threads whose call was not made
    _leaving: bool = False

    def attach(self) -> None:
        """Seize every thread; those that come later are seized by the kernel."""
        seized: set[int] = set()
        while new := {int(name) for name in os.listdir(f"/proc/{self.pid}/task")} - seized:
            for thread in new:
                # One that ends just now, or that the kernel has seized already.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    _ptrace(_SEIZE, thread, 0, _SYSGOOD | _TRACE_CLONE)
                    _ptrace(_INTERRUPT, thread)
            seized |= new

    def follow(self) -> None:
        """Until the process has ended, or, after `leave`, goes on without us."""
        while True:
            try:
                thread, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                if thread == self.pid:
                    return
                continue
            # It may be killed at any moment.
            with contextlib.suppress(ProcessLookupError):
                self._stopped(thread, os.WSTOPSIG(status), status >> 16)

    def leave(self, *_: object) -> None:
        """Let go of each thread where it stops next: not just end, as one in the middle of a call would be given less."""
        self._leaving = True
        for name in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                _ptrace(_INTERRUPT, int(name))

    def _stopped(self, thread: int, number: int, event: int) -> None:
        if number == signal.SIGTRAP | 0x80:
            self._calls(thread)
            self._go_on(thread)
        elif event == _STOP and number != signal.SIGTRAP and not self._leaving:
            _ptrace(_LISTEN, thread)
        elif event:
            self._go_on(thread)
        else:
            self._go_on(thread, number)

    def _go_on(self, thread: int, number: int = 0) -> None:
        leaves = self._leaving and thread not in self._refused
        _ptrace(_DETACH if leaves else _SYSCALL, thread, 0, number)

    def _calls(self, thread: int) -> None:
        info = ctypes.create_string_buffer(128)
        _ptrace(_SYSCALL_INFO, thread, len(info), ctypes.addressof(info))
        op, _, _, _, number, *arguments = _INFO.unpack_from(info)
        if op != _ENTRY:
            if thread in self._refused:
                _ptrace(_POKEUSER, thread, _RAX, -errno.ENOSPC)
                self._refused.discard(thread)
            return
        call = _BY_NUMBER.get(number)
        if call is None or (self.directory and not call.needs_room):
            return
        what = self._what(call, arguments)
        if what is None:
            return
        self.found.append([call.name, what])
        if len(self.found) != self.number:
            return
        self.fired = True
        if self.directory:
            # The call is made as one that does not exist; what it answers is said as it returns.
            self._refused.add(thread)
            _ptrace(_POKEUSER, thread, _ORIG_RAX, -1)
        else:
            # The call is not made: ptrace(2) looks for SIGKILL before it lets go on.
            os.kill(self.pid, signal.SIGKILL)

    def _what(self, call: Call, arguments: list[int]) -> str | None:
        """What it works on, or None if it does not count."""
        if call.flags >= 0 and not arguments[call.flags] & _MODIFIES:
            return None
        if call.command >= 0:
            command = arguments[call.command] & 0xFFFFFFFF
            if command in _ASKS[call.name] or command >> 8 & 0xFF == _PIDFS_TYPE:
                return None
        what = ""
        if call.path >= 0:
            what = self._text(arguments[call.path])
            if self.directory:
                what = self._absolute(call, arguments, what)
                # One that is there needs no room.
                if call.flags >= 0 and (
                    not arguments[call.flags] & os.O_CREAT
                    or os.path.lexists(f"/proc/{self.pid}/root{what}")
                ):
                    return None
        elif call.fd >= 0:
            what = self._descriptor(arguments[call.fd])
            if what == self.excluded or what.startswith(
                ("anon_inode:", "pipe:", "/memfd:", "/dev/")
            ):
                # Of a device a command may well change something.
                return what if call.command >= 0 and what.startswith("/dev/") else None
        if self.directory and not what.startswith(f"{self.directory}/"):
            return None
        return what

    def _text(self, address: int) -> str:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return os.fsdecode(memory.read(4096).partition(b"\0")[0])

    def _absolute(self, call: Call, arguments: list[int], path: str) -> str:
        """The path, wherever it begins: all calls that end with `at` have the descriptor before it."""
        if path.startswith("/proc/self/fd/"):
            number, _, rest = path.removeprefix("/proc/self/fd/").partition("/")
            return os.path.join(self._descriptor(int(number)), rest)
        if call.name in ("open", "rename", "mkdir", "link", "symlink", "mknod"):
            begins = _AT_FDCWD
        else:
            begins = ctypes.c_int32(arguments[call.path - 1]).value
        if begins == _AT_FDCWD:
            return os.path.join(os.readlink(f"/proc/{self.pid}/cwd"), path)
        return os.path.join(self._descriptor(begins), path)

    def _descriptor(self, number: int) -> str:
        try:
            return os.readlink(f"/proc/{self.pid}/fd/{ctypes.c_int32(number).value}")
        except OSError:
            return ""


def main() -> None:
    """See above."""
    pid, number, excluded, *directory = sys.argv[1:]
    cutter = Cutter(int(pid), int(number), excluded, "".join(directory))
    cutter.attach()
    signal.signal(signal.SIGTERM, cutter.leave)
    print("attached", flush=True)
    cutter.follow()
    print(json.dumps({"calls": cutter.found, "fired": cutter.fired}), flush=True)


if __name__ == "__main__":
    main()
