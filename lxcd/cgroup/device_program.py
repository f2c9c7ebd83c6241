"""A device policy as a program for the kernel, of type BPF_PROG_TYPE_CGROUP_DEVICE. Pure.

The kernel runs it at every mknod(2) and open(2) of a node by a process of the cgroup, with a
`struct bpf_cgroup_dev_ctx` (linux/bpf.h): what is to be done and the type in one word, then major
and minor. 0 is no. Instructions are those of linux/bpf.h, as bpf(2) wants them on a little-endian
machine.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from lxcd.cgroup.devices import ALL, Policy, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

# Opcodes: class, operation, and whether the operand is a constant (K) or a register (X).
LOAD_WORD = 0x61  # BPF_LDX | BPF_MEM | BPF_W
MOVE_X = 0xBC  # BPF_ALU | BPF_MOV | BPF_X: 32 bits
AND_K = 0x54  # BPF_ALU | BPF_AND | BPF_K
XOR_K = 0xA4  # BPF_ALU | BPF_XOR | BPF_K
SHIFT_K = 0x74  # BPF_ALU | BPF_RSH | BPF_K
JUMP_NOT_EQUAL = 0x55  # BPF_JMP | BPF_JNE | BPF_K
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
SET_K = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
EXIT = 0x95

_ANSWER, _CONTEXT, _TYPE, _ACCESS, _MAJOR, _MINOR, _SCRATCH = range(7)
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*


def assemble(policy: Policy) -> bytes:
    """The program. Its accesses have the bits that rules have: BPF_DEVCG_ACC_*."""
    code = [
        _instruction(LOAD_WORD, _TYPE, _CONTEXT, offset=0),
        _instruction(MOVE_X, _ACCESS, _TYPE),
        _instruction(SHIFT_K, _ACCESS, constant=16),
        _instruction(AND_K, _TYPE, constant=0xFFFF),
        _instruction(LOAD_WORD, _MAJOR, _CONTEXT, offset=4),
        _instruction(LOAD_WORD, _MINOR, _CONTEXT, offset=8),
    ]
    for rule in policy.exceptions:
        code += _exception(rule, allows=policy.allows)
    code += [_instruction(SET_K, _ANSWER, constant=int(policy.allows)), _instruction(EXIT)]
    return b"".join(code)


def _exception(rule: Rule, *, allows: bool) -> Iterator[bytes]:
    """Answer if it is about this access; else fall through."""
    tests = [(_TYPE, XOR_K, _TYPES[rule.kind], JUMP_NOT_EQUAL)]
    if rule.major is not None:
        tests.append((_MAJOR, XOR_K, rule.major, JUMP_NOT_EQUAL))
    if rule.minor is not None:
        tests.append((_MINOR, XOR_K, rule.minor, JUMP_NOT_EQUAL))
    if allows:
        tests.append((_ACCESS, AND_K, rule.access, JUMP_EQUAL))
    else:
        tests.append((_ACCESS, AND_K, ALL & ~rule.access, JUMP_NOT_EQUAL))
    for number, (register, operation, constant, jump) in enumerate(tests):
        # On a copy: the verifier learns nothing of the register itself then, comes to the next
        # exception always knowing the same, and looks at each once. Else the number of paths grows
        # with the square of the rules.
        yield _instruction(MOVE_X, _SCRATCH, register)
        yield _instruction(operation, _SCRATCH, constant=constant)
        behind = 3 * (len(tests) - number - 1) + 2
        yield _instruction(jump, _SCRATCH, offset=behind)
    yield _instruction(SET_K, _ANSWER, constant=int(not allows))
    yield _instruction(EXIT)


def _instruction(
    opcode: int, target: int = 0, source: int = 0, *, offset: int = 0, constant: int = 0
) -> bytes:
    """A `struct bpf_insn`."""
    return struct.pack("<BBhi", opcode, source << 4 | target, offset, constant)
