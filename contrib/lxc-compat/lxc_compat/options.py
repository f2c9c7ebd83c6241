"""Options as getopt_long(3) reads them: long ones may be abbreviated, options may stand behind
words, `--` ends them.
"""

from __future__ import annotations

from dataclasses import dataclass

from lxcctl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Option:
    """One of them. `value` is the word for what it takes, empty if that is nothing; `optional`: it
    may be left out.
    """

    long: str
    short: str = ""
    value: str = ""
    text: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What stands on a command line: the values of each option, by its long name, in the order in
    which they stand there last, and the words that belong to none.
    """

    values: Mapping[str, tuple[str, ...]]
    words: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Whether the option is there."""
        return name in self.values

    def last(self, name: str, default: str = "") -> str:
        """Its value: of several the last."""
        return self.values.get(name, (default,))[-1]

    def latest(self, *names: str) -> str:
        """Which of these options stands last; empty if none is there."""
        found = [name for name in self.values if name in names]
        return found[-1] if found else ""

    def all(self, name: str) -> tuple[str, ...]:
        """Its values, in order."""
        return self.values.get(name, ())


def read(options: Sequence[Option], argv: Sequence[str], *, foreign: bool = False) -> Given:
    """Read a command line. `foreign`: it is that of another program, and only long options in full
    and the first -n are ours among its own. Raises UsageError.
    """
    reading = _Reading(options)
    return reading.read_foreign(argv) if foreign else reading.read(argv)


class _Reading:
    def __init__(self, options: Sequence[Option]) -> None:
        self._long = {option.long: option for option in options}
        self._short = {option.short: option for option in options if option.short}
        self._values: dict[str, tuple[str, ...]] = {}
        self._rest: Iterator[str] = iter(())

    def read(self, argv: Sequence[str]) -> Given:
        words: list[str] = []
        self._rest = iter(argv)
        for word in self._rest:
            if word == "--":
                words.extend(self._rest)
            elif word.startswith("--"):
                self._take_long(word.removeprefix("--"))
            elif word.startswith("-") and word != "-":
                self._take_short(word.removeprefix("-"))
            else:
                words.append(word)
        return Given(self._values, tuple(words))

    def read_foreign(self, argv: Sequence[str]) -> Given:
        words: list[str] = []
        self._rest = iter(argv)
        for word in self._rest:
            if word == "--":
                words.extend(self._rest)
            elif word == "-n" and "n" in self._short and "name" not in self._values:
                self._take_short("n")
            elif word.startswith("--") and word[2:].partition("=")[0] in self._long:
                self._take_long(word.removeprefix("--"))
            else:
                words.append(word)
        return Given(self._values, tuple(words))

    def _take_long(self, text: str) -> None:
        name, equals, value = text.partition("=")
        option = self._find(name)
        if equals and not option.value:
            raise UsageError(f"option '--{option.long}' doesn't allow an argument")
        if option.value and not equals and not option.optional:
            value = self._next(f"option '--{option.long}' requires an argument")
        self._add(option, value)

    def _find(self, name: str) -> Option:
        if name in self._long:
            return self._long[name]
        close = [long for long in self._long if name and long.startswith(name)]
        if not close:
            raise UsageError(f"unrecognized option '--{name}'")
        if len(close) > 1:
            known = " ".join(f"'--{long}'" for long in close)
            raise UsageError(f"option '--{name}' is ambiguous; possibilities: {known}")
        return self._long[close[0]]

    def _take_short(self, letters: str) -> None:
        while letters:
            letter, letters = letters[0], letters[1:]
            option = self._short.get(letter)
            if option is None:
                raise UsageError(f"invalid option -- '{letter}'")
            if not option.value:
                self._add(option, "")
                continue
            if not letters and not option.optional:
                letters = self._next(f"option requires an argument -- '{letter}'")
            self._add(option, letters)
            return

    def _next(self, complaint: str) -> str:
        for word in self._rest:
            return word
        raise UsageError(complaint)

    def _add(self, option: Option, value: str) -> None:
        # Out and in again: to its new place.
        self._values[option.long] = (*self._values.pop(option.long, ()), value)


def usage(options: Sequence[Option]) -> Iterator[str]:
    """A line of help for each."""
    heads = [_head(option) for option in options]
    width = max(map(len, heads), default=0)
    for head, option in zip(heads, options, strict=True):
        yield f"  {head:<{width}}  {option.text}".rstrip()


def _head(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    value = f"={option.value}" if option.value else ""
    return f"{short}--{option.long}{f'[{value}]' if option.optional else value}"
