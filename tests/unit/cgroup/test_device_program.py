from __future__ import annotations

import struct

from hypothesis import given

from lxcd.cgroup import device_program as program
from lxcd.cgroup import devices
from lxcd.cgroup.devices import Policy
from tests.device_rules import ACCESSES, policies

_TYPES = {"b": 1, "c": 2}


def run(code: bytes, kind: str, major: int, minor: int, access: int) -> int:
    """What the kernel's interpreter would answer; any instruction that is not meant is a KeyError."""
    context = struct.pack("<III", access << 16 | _TYPES[kind], major, minor)
    registers: dict[int, int] = {}
    instructions = list(struct.iter_unpack("<BBhi", code))
    place = 0
    while True:
        opcode, both, offset, constant = instructions[place]
        target, source = both & 0xF, both >> 4
        place += 1
        match opcode:
            case program.LOAD_WORD:
                assert source == 1
                (registers[target],) = struct.unpack_from("<I", context, offset)
            case program.MOVE_X:
                registers[target] = registers[source]
            case program.AND_K:
                registers[target] &= constant
            case program.XOR_K:
                registers[target] ^= constant
            case program.SHIFT_K:
                registers[target] >>= constant
            case program.SET_K:
                registers[target] = constant
            case program.JUMP_NOT_EQUAL:
                place += offset if registers[target] != constant else 0
            case program.JUMP_EQUAL:
                place += offset if registers[target] == constant else 0
            case program.EXIT:
                return registers[0]
            case _:
                raise AssertionError(hex(opcode))


@given(policies())
def test_it_answers_as_the_policy_does(policy: Policy) -> None:
    code = program.assemble(policy)
    for kind, major, minor, access in ACCESSES:
        expected = policy.permits(kind, major, minor, access)
        assert run(code, kind, major, minor, access) == int(expected), (kind, major, minor, access)


def test_the_default() -> None:
    code = program.assemble(devices.DEFAULT)
    assert run(code, "c", 1, 3, devices.ALL) == 1
    assert run(code, "c", 136, 77, devices.READ) == 1
    assert run(code, "c", 10, 237, devices.MKNOD) == 1
    assert run(code, "c", 10, 237, devices.READ) == 0
    assert run(code, "b", 8, 0, devices.MKNOD) == 0
