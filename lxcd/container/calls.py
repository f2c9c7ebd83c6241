"""A Spec as the system calls that carry it out: how lxcd writes it, and what of it comes back.

The child that walks it (`kernel/native/walker.c`) knows nothing of steps, paths or errors: it makes
one call after the other. A call's arguments are numbers, pointers to data that travels with it, and
registers, which hold what earlier calls have returned. A call that fails goes on at another one, if
it says so for that error; else that ends the walk, and the child tells which call it was and the
errno. What that means is known here: `Program.failure`.

    spec        calls, relocations, registers, bytes of data                             4 u32
    call        number, step, register for the result, next call; three times an error and where it
                leads to; kinds of the arguments, 2 bits each; 6 arguments          96 bytes, each
    relocation  where in the data a pointer to other data lies                               u32
    register    i64, -1 at first; those of the descriptors that lxcd sends come first
    data

A number from ACTS on is none of the kernel, but what takes several calls, or none:

    receive     the descriptors: how many, where
    wait        tell lxcd that we stand at a barrier, and wait for GO
    say         tell it that exec comes next
    fork        go on as another child of the keeper: flags, cgroup of version 2 or -1
    hand        a message with descriptors to the keeper: text, length, which registers, how many
    test        fail unless memory is so: where, width, mask, what it must be, the errno then
    set, load   a register: a value, or an int from memory
    keep        remember the last failure
    error       a register: the errno of the last failure
    raise       fail with this errno, or 0: as what is remembered
    print       to a descriptor: a text, and a line of a table of lines with so many bytes each
    decimal     a number as text
    limit       give up all capabilities but these, a mask
"""

from __future__ import annotations

import array
import contextlib
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.container.channel import Failed
from lxcd.kernel.syscalls import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

ANY_ERROR = 0xFFFFFFFF
ACTS = 0x10000
_ACTS = (
    *("receive", "wait", "say", "fork", "hand", "test", "set", "load"),
    *("keep", "error", "raise", "print", "decimal", "limit"),
)
_ALL = {**NUMBERS, **{name: ACTS + number for number, name in enumerate(_ACTS)}}
_SPEC = struct.Struct("=4I")
# A call as numbers of 64 bits, the pairs of 32 in one: the words that it has, which of them is the
# result's, with the next call behind it, and what fills up its arguments.
_WORDS, _RESULT, _MOST_WAYS = 12, 1, 3
_FILLING = tuple((0,) * (6 - count) for count in range(7))
_NUMBER, _DATA, _REGISTER, _ADDRESS, _TEXT = 0, 1, 2, 3, -1
# Failures of the child before its first call: what it does then, and by which system call.
_BEFORE = {
    0xFFFFFFFF: ("enter_cgroups", "write"),
    0xFFFFFFFE: ("map_spec", "mmap"),
    0xFFFFFFFD: ("open_netlink", "socket"),
}


class Register(int):
    """What a call has returned, by its number; -1 before. The first are descriptors that lxcd
    sends.
    """

    __slots__ = ()


class Address(int):
    """Of a register, by its number: for calls that leave something there."""

    __slots__ = ()


class Data(int):
    """Where something lies that travels with the calls: bytes from the first."""

    __slots__ = ()


class Label:
    """A place to go on at, `put` before or after it is used."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = -1

    def place(self) -> int:
        """Of the call there. ValueError if it was never put."""
        if self.at < 0:
            raise ValueError("a label is nowhere")
        return self.at


Argument = int | str | bytes | Register | Address | Data
Way = tuple[int, Label | None]  # an errno or ANY_ERROR; None: the next call


# What a call is to people: its step, the name of the system call, what it is about (`path`), and
# what stands in front of what the kernel itself says of a failure (`head`).
Said = tuple[int, str, str, str]


@dataclass(frozen=True, slots=True)
class Program:
    """The text that travels, and what its calls mean."""

    text: bytes
    calls: tuple[Said, ...]
    steps: tuple[str, ...]

    def failure(self, call: int, error: int, words: str) -> Failed:
        """What has failed. ValueError for a call that there is not."""
        if call in _BEFORE:
            step, syscall = _BEFORE[call]
            return Failed(-1, step, syscall, error, os.strerror(error))
        if call == len(self.calls) and self.steps:
            index = len(self.steps) - 1
            return Failed(index, self.steps[-1], "", 0, "the spec ends without a program")
        if call >= len(self.calls):
            raise ValueError(f"there is no call {call}")
        index, syscall, path, head = self.calls[call]
        if words and head:
            # Some file systems say their name themselves.
            path = words if words.startswith(f"{head}: ") else f"{head}: {words}"
        text = os.strerror(error) + (f": {path}" if path else "")
        step = self.steps[index] if index >= 0 else syscall
        return Failed(index, step, syscall, error, text)

    def barrier(self, call: int) -> str:
        """The barrier that this call waits at. ValueError if it is none."""
        if call < len(self.calls) and self.calls[call][1] == "wait":
            return self.calls[call][2]
        raise ValueError(f"call {call} waits for nothing")


_KINDS: dict[type, int] = {
    int: _NUMBER,
    Data: _DATA,
    Register: _REGISTER,
    Address: _ADDRESS,
    str: _TEXT,
    bytes: _TEXT,
}

# What a child walks that only waits.
NOTHING = Program(b"", (), ())


class Calls:
    """Writes them, one after the other. `descriptors`: how many lxcd will send, at most."""

    def __init__(self, descriptors: int) -> None:
        self._words: list[int] = []
        self._jumps: list[tuple[int, tuple[Way, ...], Label | None]] = []
        self._said: list[Said] = []
        self._steps: list[str] = []
        self._data = bytearray()
        self._texts: dict[str | bytes, Data] = {}
        self._constants: dict[bytes, Data] = {}
        self._relocations: list[int] = []
        self._descriptors = self._registers = descriptors
        self._otherwise: Label | None = None
        # Before the first step.
        self.call("receive", descriptors, Address(0), named="receive_descriptors")

    # ---- data

    def text(self, value: str | bytes) -> Data:
        """A string as C has it."""
        found = self._texts.get(value)
        if found is None:
            found = self._texts[value] = Data(len(self._data))
            self._data += os.fsencode(value) + b"\0"
        return found

    def block(self, data: bytes) -> Data:
        """A structure, or room for one."""
        self._data += b"\0" * (-len(self._data) % 8)
        made = Data(len(self._data))
        self._data += data
        return made

    def constant(self, data: bytes) -> Data:
        """A structure that nobody writes to: one for all who want the same."""
        found = self._constants.get(data)
        if found is None:
            found = self._constants[data] = self.block(data)
        return found

    def pointing(self, data: bytes, pointers: dict[int, Data]) -> Data:
        """A structure with pointers in it, by their offsets there."""
        made = self.block(data)
        for place, target in pointers.items():
            at = made + place
            self._data[at : at + 8] = target.to_bytes(8, "little")
            self._relocations.append(at)
        return made

    def words(self, words: Sequence[str | Data]) -> Data:
        """An argv, or an environment."""
        texts = {
            8 * place: self.text(word) if isinstance(word, str) else word
            for place, word in enumerate(words)
        }
        return self.pointing(b"\0" * (8 * len(words) + 8), texts)

    # ---- calls

    def begin(self, step: str) -> None:
        """What follows belongs to this step."""
        self._steps.append(step)

    def call(
        self,
        name: str,
        *arguments: Argument,
        path: str = "",
        head: str = "",
        named: str = "",
        into: Register | None = None,
        unless: tuple[Way, ...] = (),
        then: Label | None = None,
    ) -> Register:
        """One call, of the kernel or of ours: where its result will be.

        `unless` says where it goes on if it fails, `then` where else if it does not. `named` is
        what a failure calls it, where that is not its name. KeyError for a name that none has,
        IndexError for more arguments than a call can have.
        """
        # A start has two hundred of them, and somebody waits for it.
        kinds, shift, values = 0, 0, list[int]()
        for one in arguments:
            # An enumeration is a number, too.
            kind = _KINDS.get(type(one), _NUMBER)
            if kind == _TEXT:
                kind, one = _DATA, self.text(one)  # type: ignore[arg-type]  # noqa: PLW2901
            kinds |= kind << shift
            shift += 2
            values.append(one)  # type: ignore[arg-type]
        if into is None:
            into = Register(self._registers)
            self._registers += 1
        if self._otherwise is not None and len(unless) < _MOST_WAYS:
            unless = (*unless, (ANY_ERROR, self._otherwise))
        step = len(self._steps)
        if unless or then is not None:
            self._jumps.append((len(self._said), unless, then))
        first = _ALL[name] | step << 32
        self._words += (first, into, 0, 0, 0, kinds, *values, *_FILLING[len(values)])
        self._said.append((step - 1, named or name, path, head))
        return into

    def sent(self, place: int) -> Register:
        """A descriptor of those that lxcd sends; -1 if it has none there. ValueError for a place
        that there is not: it would be another register, or none.
        """
        if not 0 <= place < self._descriptors:
            raise ValueError(f"there is no descriptor {place}, but {self._descriptors}")
        return Register(place)

    def put(self, label: Label) -> None:
        """The next call is at that place."""
        label.at = len(self._said)

    @contextlib.contextmanager
    def trying(self, failed: Label | None = None) -> Generator[Label]:
        """Calls in it that fail lead to the label: to their end, if that is none of another
        place.
        """
        label = failed or Label()
        outer, self._otherwise = self._otherwise, label
        yield label
        self._otherwise = outer
        if failed is None:
            self.put(label)

    def go(self, label: Label) -> None:
        """Go on there."""
        self.call("set", 0, then=label)

    # ---- the text

    def program(self) -> Program:
        """What has been written. ValueError for a label that is nowhere, OverflowError for a number
        that no register holds.
        """
        for number, unless, then in self._jumps:
            place = _WORDS * number + _RESULT
            if then is not None:
                self._words[place] |= then.place() << 32
            for way, (error, label) in enumerate(unless, place + 1):
                goes_on = number + 1 if label is None else label.place()
                self._words[way] = error | goes_on << 32
        relocations = [*self._relocations, *([0] * (len(self._relocations) % 2))]
        sizes = len(self._said), len(self._relocations), self._registers, len(self._data)
        text = b"".join(
            (
                _SPEC.pack(*sizes),
                array.array("q", self._words),
                struct.pack(f"={len(relocations)}I", *relocations),
                b"\xff" * (8 * self._registers),
                self._data,
            )
        )
        return Program(text, tuple(self._said), tuple(self._steps))
