"""The text of a Spec, read by its layout alone, as calls.py has it written down and the child reads it
(kernel/native/walker.c).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lxcd.container.calls import ANY_ERROR
from lxcd.kernel.syscalls import NUMBERS

MOST_FDS = 253

ACTS = (
    *("receive", "wait", "say", "fork", "hand", "test", "set", "load"),
    *("keep", "error", "raise", "print", "decimal", "limit"),
)
NAMES = {
    **{number: name for name, number in NUMBERS.items()},
    **{0x10000 + number: name for number, name in enumerate(ACTS)},
}
NUMBER, DATA, REGISTER, ADDRESS = range(4)


@dataclass(frozen=True)
class Call:
    name: str
    step: int
    result: int
    then: int
    unless: tuple[tuple[int, int], ...]
    arguments: tuple[tuple[int, int], ...]  # kind and value


@dataclass(frozen=True)
class Text:
    calls: tuple[Call, ...]
    relocations: tuple[int, ...]
    registers: int
    data: bytes


def read(text: bytes) -> Text:
    """AssertionError for what is not laid out so."""
    count, relocations, registers, size = struct.unpack_from("=4I", text)
    at = 16
    found = []
    for _ in range(count):
        number, step, result, then, *rest = struct.unpack_from("=4I6I2I6q", text, at)
        ways, (kinds, padding), values = rest[:6], rest[6:8], rest[8:]
        assert number in NAMES
        assert padding == 0
        assert kinds < 1 << 12
        arguments = tuple((kinds >> 2 * place & 3, value) for place, value in enumerate(values))
        unless = tuple(zip(ways[::2], ways[1::2], strict=True))
        found.append(Call(NAMES[number], step, result, then, unless, arguments))
        at += 96
    places = struct.unpack_from(f"={relocations}I", text, at)
    # What follows is aligned, as the beginning is.
    at += 4 * relocations + 4 * (relocations % 2)
    assert at % 8 == 0
    assert text[at : at + 8 * registers] == b"\xff" * (8 * registers)
    at += 8 * registers
    assert len(text) == at + size
    return Text(tuple(found), places, registers, text[at:])


# Where a pointer leads to: so many bytes, or a text. Sizes of linux/*.h.
STRING = 0
POINTERS: dict[str, dict[int, int]] = {
    "chdir": {0: STRING},
    "chroot": {0: STRING},
    "clone3": {0: 88},
    "decimal": {0: 21},
    "execve": {0: STRING, 1: 8, 2: 8},
    "execveat": {1: STRING, 2: 8, 3: 8},
    "fchmodat": {1: STRING},
    "fchownat": {1: STRING},
    "fsopen": {0: STRING},
    "fstatfs": {1: 120},
    "mkdirat": {1: STRING},
    "mknodat": {1: STRING},
    "mount_setattr": {1: STRING, 3: 32},
    "move_mount": {1: STRING, 3: STRING},
    "open_tree": {1: STRING},
    "openat": {1: STRING},
    "openat2": {1: STRING, 2: 24},
    "pipe2": {0: 8},
    "pivot_root": {0: STRING, 1: STRING},
    "print": {1: STRING, 2: STRING},
    "load": {0: 4},
    "rt_sigaction": {1: 32},
    "rt_sigprocmask": {1: 8},
    "seccomp": {2: 16},
    "sendfile": {2: 8},
    "statx": {1: STRING, 4: 256},
    "symlinkat": {0: STRING, 2: STRING},
    "umount2": {0: STRING},
    "unlinkat": {1: STRING},
}
# The same with an argument that says how many bytes there are, times so many.
LENGTHS: dict[str, tuple[int, int, int]] = {
    "getcwd": (0, 1, 1),
    "hand": (0, 1, 1),
    "setgroups": (1, 0, 4),
    "sethostname": (0, 1, 1),
    "test": (0, 1, 1),
    "write": (1, 2, 1),
}


def check(text: Text, steps: int) -> None:
    """Nothing in it leads out of it."""
    assert text.calls[0].name == "receive"
    for number, call in enumerate(text.calls):
        assert 0 <= call.step <= steps
        assert number == 0 or call.step >= text.calls[number - 1].step
        assert call.result < text.registers
        # The end is a place too, where the next step would be.
        assert 0 <= call.then <= len(text.calls)
        for error, to in call.unless:
            assert 0 <= to <= len(text.calls)
            assert error == ANY_ERROR or 0 < error < 4096 if to else error == 0
        errors = [error for error, to in call.unless if to]
        # What stands behind this one would never be looked at.
        assert ANY_ERROR not in errors[:-1]
        for kind, value in call.arguments:
            if kind == DATA:
                assert 0 <= value <= len(text.data)
            elif kind in (REGISTER, ADDRESS):
                assert 0 <= value < text.registers
        _check_pointers(text, call)
    for place in text.relocations:
        assert place % 8 == 0
        assert 0 <= place <= len(text.data) - 8
        assert 0 <= _pointer(text, place) < len(text.data)
    assert len({*text.relocations}) == len(text.relocations)


def _pointer(text: Text, place: int) -> int:
    return int.from_bytes(text.data[place : place + 8], "little")


def _check_pointers(text: Text, call: Call) -> None:
    sizes = dict(POINTERS.get(call.name, {}))
    if call.name == "ioctl":
        sizes = {2: 4}
    elif call.name == "fsconfig":
        sizes = {2: STRING, 3: STRING}
    for place, (kind, value) in enumerate(call.arguments):
        if kind == DATA and call.name in LENGTHS and place == LENGTHS[call.name][0]:
            _, other, factor = LENGTHS[call.name]
            assert call.arguments[other][0] == NUMBER
            size = call.arguments[other][1] * factor
            assert size >= 0
            assert value + size <= len(text.data)
        elif kind == DATA and call.name == "hand":
            assert place == 2
            count = call.arguments[3][1]
            assert 0 < count <= MOST_FDS
            places = struct.unpack_from(f"={count}I", text.data, value)
            assert max(places) < text.registers
        elif kind == DATA:
            size = sizes[place]
            assert value + size <= len(text.data)
            assert size != STRING or b"\0" in text.data[value:]
    for place in {"execve": (1, 2), "execveat": (2, 3)}.get(call.name, ()):
        kind, value = call.arguments[place]
        assert kind == DATA
        # Each word is pointed to, and the last pointer is none.
        while value in text.relocations:
            assert b"\0" in text.data[_pointer(text, value) :]
            value += 8
        assert _pointer(text, value) == 0
        assert value <= len(text.data) - 8
