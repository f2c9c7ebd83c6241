"""bpf(2): programs that decide about devices, and the cgroups of version 2 that they are attached
to.

The kernel copies a program; it lives as long as a descriptor of it, or a cgroup that it is attached
to.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from lxcd.kernel import libc

# linux/bpf.h
_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_DETACH = 9
_PROG_GET_FD_BY_ID = 13
_OBJ_GET_INFO_BY_FD = 15
_PROG_QUERY = 16

_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6  # enum bpf_attach_type
_F_ALLOW_MULTI = 2
_F_REPLACE = 4

_INSTRUCTION_BYTES = 8
_LOG_BYTES = 64 * 1024
_LOG_TAIL = 500  # of what the verifier writes, the end says why
_NAME_BYTES = 16  # BPF_OBJ_NAME_LEN
_MOST_PROGRAMS = 64  # BPF_CGROUP_MAX_PROGS


@dataclass(frozen=True, slots=True)
class Program:
    """What the kernel knows of one."""

    id: int
    name: str
    tag: bytes  # a digest of its instructions


def load_device_program(instructions: bytes, name: str) -> int:
    """Have the kernel verify a program; the caller owns the descriptor. Raises OSError, with what
    the verifier says.
    """
    try:
        return _load(instructions, name, None)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
    # It writes its log only if asked, and then more slowly.
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return _load(instructions, name, log)
    except OSError as error:
        said = log.value.decode(errors="replace").strip()[-_LOG_TAIL:]
        text = f"device program {name}: {said or 'this kernel has none'}"
        raise libc.oserror(error.errno or errno.EINVAL, "bpf BPF_PROG_LOAD", text) from None


def _load(instructions: bytes, name: str, log: ctypes.Array[ctypes.c_char] | None) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    # No function of the kernel is called that asks for the GPL.
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        f"=IIQQIIQII{_NAME_BYTES}sII",
        _PROG_TYPE_CGROUP_DEVICE,
        len(instructions) // _INSTRUCTION_BYTES,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0 if log is None else 1,
        0 if log is None else len(log),
        0 if log is None else ctypes.addressof(log),
        0,
        0,
        name.encode()[: _NAME_BYTES - 1],
        0,
        _CGROUP_DEVICE,
    )
    return _bpf(_PROG_LOAD, attributes, "bpf BPF_PROG_LOAD")[0]


def attach(cgroup: int, program: int, replaced: int = -1) -> None:
    """Have a program asked about devices in the cgroup whose directory `cgroup` is, beside those
    that are asked already; or in the place of one of them, without a moment between (Linux 5.6).
    All must say yes.
    """
    flags = _F_ALLOW_MULTI | (_F_REPLACE if replaced >= 0 else 0)
    attributes = struct.pack("=IIIII", cgroup, program, _CGROUP_DEVICE, flags, max(replaced, 0))
    _bpf(_PROG_ATTACH, attributes, "bpf BPF_PROG_ATTACH")


def detach(cgroup: int, program: int) -> None:
    """Have it asked no more."""
    attributes = struct.pack("=III", cgroup, program, _CGROUP_DEVICE)
    _bpf(_PROG_DETACH, attributes, "bpf BPF_PROG_DETACH")


def attached(cgroup: int) -> list[int]:
    """Ids of the programs that are attached to this very cgroup."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    attributes = struct.pack(
        "=IIIIQIIQ", cgroup, _CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), _MOST_PROGRAMS, 0, 0
    )
    _, answer = _bpf(_PROG_QUERY, attributes, "bpf BPF_PROG_QUERY")
    (count,) = struct.unpack_from("=I", answer, 24)
    return list(ids[:count])


def open_program(number: int) -> int:
    """A program by its id; the caller owns the descriptor. FileNotFoundError if it is gone."""
    attributes = struct.pack("=III", number, 0, 0)
    return _bpf(_PROG_GET_FD_BY_ID, attributes, "bpf BPF_PROG_GET_FD_BY_ID")[0]


def describe(program: int) -> Program:
    """What the kernel knows of it."""
    # struct bpf_prog_info up to its name: type, id, tag, seven more.
    form = struct.Struct(f"=II8sIIQQQIIQ{_NAME_BYTES}s")
    info = ctypes.create_string_buffer(form.size)
    attributes = struct.pack("=IIQ", program, form.size, ctypes.addressof(info))
    _bpf(_OBJ_GET_INFO_BY_FD, attributes, "bpf BPF_OBJ_GET_INFO_BY_FD")
    words = form.unpack(info.raw)
    return Program(words[1], words[-1].rstrip(b"\0").decode(errors="replace"), words[2])


def _bpf(command: int, attributes: bytes, name: str) -> tuple[int, bytes]:
    """The result, and what the kernel has written into the attributes."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    while True:
        result = libc.syscall(libc.SYS_BPF, libc.Long(command), buffer, libc.UInt(len(attributes)))
        # The verifier gives up for a signal (bpf(2)).
        if result >= 0 or ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    number = libc.check(result, name)
    if command in (_PROG_LOAD, _PROG_GET_FD_BY_ID):
        os.set_inheritable(number, False)
    return number, buffer.raw
