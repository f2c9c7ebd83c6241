"""System calls that a process, and whatever it becomes or makes, is refused: filters of seccomp(2).

A filter is a program in classic BPF that looks at the number of a call and its register arguments
(linux/seccomp.h), under each architecture whose calls this kernel takes: a 64-bit one answers
32-bit programs too, with other numbers.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

SET_MODE_FILTER = 1
# Without it older kernels slow every process that has a filter down (Documentation/userspace-api/
# spec_ctrl.rst): this one does not confine hostile code within a process.
FILTER_FLAG_SPEC_ALLOW = 1 << 2

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
# struct seccomp_data; of the fourth argument the lower half, which is all of the flags of mount(2).
_NUMBER, _ARCHITECTURE, _MOUNT_FLAGS = 0, 4, 40
INSTRUCTION_BYTES = 8  # struct sock_filter
# x32 has the numbers of x86-64, with this bit.
_X32 = 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND = 1, 32, 4096
_FSPICK = 433  # everywhere


@dataclass(frozen=True, slots=True)
class _Architecture:
    """AUDIT_ARCH_* of linux/audit.h, and numbers there."""

    audit: int
    swapon: int
    swapoff: int
    mount: int


_I386 = _Architecture(0x40000003, 87, 115, 21)
_ARM = _Architecture(0x40000028, 87, 115, 21)
_ARCHITECTURES = {
    "x86_64": (_Architecture(0xC000003E, 167, 168, 165), _I386),
    "aarch64": (_Architecture(0xC00000B7, 224, 225, 40), _ARM),
    "riscv64": (
        _Architecture(0xC00000F3, 224, 225, 40),
        _Architecture(0x400000F3, 224, 225, 40),  # with CONFIG_COMPAT
    ),
}


def guard(machine: str, *, remounts: bool) -> bytes:
    """The program that answers swapon(2) and swapoff(2) with EPERM, and with `remounts` the way in
    which mount(8) makes a whole file system read-only. Empty for a machine whose numbers are not
    known here.

    Against mistakes, not against ill will: umount(2) of the root does the same, and so does
    mount(2) with "ro" among its data, of which a filter sees nothing. Who has CAP_SYS_ADMIN of the
    host and wants to harm it finds a way.
    """
    code: list[bytes] = []
    for one in _ARCHITECTURES.get(machine, ()):
        part = _numbers(one, remounts=remounts)
        code += [
            _instruction(_LOAD, _ARCHITECTURE),
            _instruction(_JUMP_EQUAL, one.audit, no=len(part)),
            *part,
        ]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)]) if code else b""


def _numbers(one: _Architecture, *, remounts: bool) -> list[bytes]:
    refused = _instruction(_RETURN, _ERRNO | errno.EPERM)
    part = [
        _instruction(_LOAD, _NUMBER),
        _instruction(_AND, ~_X32 & 0xFFFFFFFF),
        _instruction(_JUMP_EQUAL, one.swapon, yes=1),
        _instruction(_JUMP_EQUAL, one.swapoff, no=1),
        refused,
    ]
    if remounts:
        # What fspick(2) is for cannot be seen here. mount(8) takes the old way where it is missing.
        part += [
            _instruction(_JUMP_EQUAL, _FSPICK, no=1),
            _instruction(_RETURN, _ERRNO | errno.ENOSYS),
            _instruction(_JUMP_EQUAL, one.mount, no=4),
            _instruction(_LOAD, _MOUNT_FLAGS),
            _instruction(_AND, _MS_RDONLY | _MS_REMOUNT | _MS_BIND),
            _instruction(_JUMP_EQUAL, _MS_RDONLY | _MS_REMOUNT, no=1),
            refused,
        ]
    return [*part, _instruction(_RETURN, _ALLOW)]


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One struct sock_filter; jumps are counted from the next one."""
    return struct.pack("=HBBI", code, yes, no, value)


# For this kernel, by `remounts`.
GUARDS = {remounts: guard(os.uname().machine, remounts=remounts) for remounts in (False, True)}


def is_known() -> bool:
    """Whether there is a program for this machine."""
    return bool(GUARDS[False])
