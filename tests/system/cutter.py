"""Counts the system calls by which a process changes anything outside of itself, and kills it just before one of them.

A program of its own (`python -I -S cutter.py PID NUMBER EXCLUDED`), standard library only: ptrace(2) belongs to a thread.
Unlike strace's injection it counts over all threads of the process. It says `attached`; after the process has ended it says,
as one JSON list, what the calls were. NUMBER counts from 1; 0 kills never. EXCLUDED: a file whose writes do not count.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import struct
import sys
from dataclasses import dataclass, field

_SEIZE, _INTERRUPT, _LISTEN, _SYSCALL, _SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 24, 0x420E
_SYSGOOD, _TRACE_CLONE = 1, 8  # PTRACE_O_*
_STOP = 128  # PTRACE_EVENT_STOP
_ENTRY = 1  # PTRACE_SYSCALL_INFO_ENTRY
_WALL = 0x40000000
_MODIFIES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Call:
    """A system call: its number on x86_64 and elsewhere (0: not there), and which argument says what it works on."""

    name: str
    x86_64: int
    generic: int
    path: int = -1
    fd: int = -1
    flags: int = -1  # of an open


_CALLS = (
    Call("write", 1, 64, fd=0),
    Call("open", 2, 0, path=0, flags=1),
    Call("pwrite64", 18, 68, fd=0),
    Call("writev", 20, 66, fd=0),
    Call("sendto", 44, 206, fd=0),
    Call("sendmsg", 46, 211, fd=0),
    Call("kill", 62, 129),
    Call("fsync", 74, 82, fd=0),
    Call("fdatasync", 75, 83, fd=0),
    Call("truncate", 76, 45, path=0),
    Call("ftruncate", 77, 46, fd=0),
    Call("rename", 82, 0, path=1),
    Call("mkdir", 83, 0, path=0),
    Call("rmdir", 84, 0, path=0),
    Call("link", 86, 0, path=1),
    Call("unlink", 87, 0, path=0),
    Call("symlink", 88, 0, path=1),
    Call("chmod", 90, 0, path=0),
    Call("fchmod", 91, 52, fd=0),
    Call("chown", 92, 0, path=0),
    Call("fchown", 93, 55, fd=0),
    Call("lchown", 94, 0, path=0),
    Call("mknod", 133, 0, path=0),
    Call("setxattr", 188, 5, path=0),
    Call("lsetxattr", 189, 6, path=0),
    Call("fsetxattr", 190, 7, fd=0),
    Call("openat", 257, 56, path=1, flags=2),
    Call("mkdirat", 258, 34, path=1),
    Call("mknodat", 259, 33, path=1),
    Call("fchownat", 260, 54, path=1),
    Call("unlinkat", 263, 35, path=1),
    Call("renameat", 264, 38, path=3),
    Call("linkat", 265, 37, path=3),
    Call("symlinkat", 266, 36, path=2),
    Call("fchmodat", 268, 53, path=1),
    Call("renameat2", 316, 276, path=3),
    Call("pidfd_send_signal", 424, 424),
)
_X86_64 = os.uname().machine == "x86_64"
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
    found: list[list[str]] = field(default_factory=list)

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
        """Until the process has ended."""
        while True:
            thread, status = os.waitpid(-1, _WALL)
            if not os.WIFSTOPPED(status):
                if thread == self.pid:
                    return
                continue
            # It may be killed at any moment.
            with contextlib.suppress(ProcessLookupError):
                self._stopped(thread, os.WSTOPSIG(status), status >> 16)

    def _stopped(self, thread: int, number: int, event: int) -> None:
        if number == signal.SIGTRAP | 0x80:
            self._calls(thread)
            _ptrace(_SYSCALL, thread)
        elif event == _STOP and number != signal.SIGTRAP:
            _ptrace(_LISTEN, thread)
        elif event:
            _ptrace(_SYSCALL, thread)
        else:
            _ptrace(_SYSCALL, thread, 0, number)

    def _calls(self, thread: int) -> None:
        info = ctypes.create_string_buffer(128)
        _ptrace(_SYSCALL_INFO, thread, len(info), ctypes.addressof(info))
        op, _, _, _, number, *arguments = _INFO.unpack_from(info)
        call = _BY_NUMBER.get(number)
        if op != _ENTRY or call is None:
            return
        what = ""
        if call.flags >= 0 and not arguments[call.flags] & _MODIFIES:
            return
        if call.path >= 0:
            what = self._text(arguments[call.path])
        elif call.fd >= 0:
            what = self._descriptor(arguments[call.fd])
            if what == self.excluded or what.startswith(
                ("anon_inode:", "pipe:", "/memfd:", "/dev/")
            ):
                return
        self.found.append([call.name, what])
        if len(self.found) == self.number:
            # The call is not made: ptrace(2) looks for SIGKILL before it lets go on.
            os.kill(self.pid, signal.SIGKILL)

    def _text(self, address: int) -> str:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return os.fsdecode(memory.read(4096).partition(b"\0")[0])

    def _descriptor(self, number: int) -> str:
        try:
            return os.readlink(f"/proc/{self.pid}/fd/{ctypes.c_int32(number).value}")
        except OSError:
            return ""


def main() -> None:
    """See above."""
    cutter = Cutter(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    cutter.attach()
    print("attached", flush=True)
    cutter.follow()
    print(json.dumps(cutter.found), flush=True)


if __name__ == "__main__":
    main()
