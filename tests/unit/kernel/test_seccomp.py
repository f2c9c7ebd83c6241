"""The filter's program, run by a machine of its own: what it answers to each call."""

from __future__ import annotations

import errno
import struct

import pytest

from lxcd.kernel import seccomp

_ALLOWED = 0x7FFF0000
_REFUSED = 0x00050000 | errno.EPERM
_X32 = 0x40000000
_X86_64, _I386, _AARCH64, _ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028


def _answer(code: bytes, architecture: int, number: int, flags: int = 0) -> int:
    """Classic BPF, as far as the program uses it; linux/bpf_common.h."""
    instructions = list(struct.iter_unpack("=HBBI", code))
    data = {0: number, 4: architecture, 40: flags}
    accumulator = place = 0
    while True:
        kind, yes, no, value = instructions[place]
        place += 1
        if kind == 0x06:
            return int(value)
        if kind == 0x20:
            accumulator = data[value]
        elif kind == 0x54:
            accumulator &= value
        else:
            assert kind == 0x15
            place += yes if accumulator == value else no


# arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl; x32 has a bit besides.
# include/uapi/asm-generic/unistd.h; arch/arm/tools/syscall.tbl.
_SWAP = [
    ("x86_64", _X86_64, {167, 168, _X32 | 167, _X32 | 168}),
    ("x86_64", _I386, {87, 115}),
    ("aarch64", _AARCH64, {224, 225}),
    ("aarch64", _ARM, {87, 115}),
    ("riscv64", 0xC00000F3, {224, 225}),
    ("riscv64", 0x400000F3, {224, 225}),
    # One that this kernel does not have.
    ("x86_64", _AARCH64, set[int]()),
]


@pytest.mark.parametrize(("machine", "architecture", "refused"), _SWAP)
def test_swap_is_refused_under_every_architecture(
    machine: str, architecture: int, refused: set[int]
) -> None:
    code = seccomp.guard(machine, remounts=False)
    highest = 2 if architecture == _X86_64 else 1
    for number in (bit | n for bit in (0, _X32)[:highest] for n in range(600)):
        expected = _REFUSED if number in refused else _ALLOWED
        assert _answer(code, architecture, number) == expected, number


@pytest.mark.parametrize(
    ("machine", "architecture", "mount"),
    [
        ("x86_64", _X86_64, 165),
        ("x86_64", _X86_64, _X32 | 165),
        ("x86_64", _I386, 21),
        ("aarch64", _AARCH64, 40),
        ("aarch64", _ARM, 21),
    ],
)
def test_remounting_read_only_is_refused(machine: str, architecture: int, mount: int) -> None:
    code = seccomp.guard(machine, remounts=True)
    # MS_RDONLY 1, MS_NOSUID 2, MS_REMOUNT 32, MS_BIND 4096, MS_SILENT 32768.
    for flags in (1 | 32, 1 | 2 | 32, 1 | 32 | 32768):
        assert _answer(code, architecture, mount, flags) == _REFUSED
    for flags in (0, 1, 32, 2 | 32, 1 | 32 | 4096, 4096):
        assert _answer(code, architecture, mount, flags) == _ALLOWED
    assert _answer(code, architecture, mount + 1, 1 | 32) == _ALLOWED
    assert _answer(code, architecture, 433) == 0x00050000 | errno.ENOSYS


@pytest.mark.parametrize(("machine", "architecture", "refused"), _SWAP)
def test_swap_is_refused_beside_that(machine: str, architecture: int, refused: set[int]) -> None:
    code = seccomp.guard(machine, remounts=True)
    for number in refused:
        assert _answer(code, architecture, number) == _REFUSED


def test_a_machine_whose_numbers_are_not_known_has_no_filter() -> None:
    assert seccomp.guard("pdp11", remounts=True) == b""
