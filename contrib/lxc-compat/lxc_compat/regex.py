"""Extended regular expressions of POSIX, as regcomp(3) reads them for LXC, in Python's words. Pure.

Python's own differ: no classes like `[:alpha:]`, a backslash within brackets escapes, `*?` is not
`?` of `*`. Letters and digits are those of ASCII: LXC's tools set no locale.
"""

from __future__ import annotations

import re

_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r"\t\ ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": r"\x21-\x7e",
    "lower": "a-z",
    "print": r"\x20-\x7e",
    "punct": r"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    "space": r"\x09-\x0d\ ",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_ANCHORS = {"^": r"\A", "$": r"\Z"}
# What a backslash makes special, of GNU's libc: places, of which there is no repetition, and more.
_PLACES = {
    "b": r"\b",
    "B": r"\B",
    "<": r"\b(?=\w)",
    ">": r"\b(?<=\w)",
    "`": r"\A",
    "'": r"\Z",
}
_ESCAPES = {
    **_PLACES,
    **{letter: f"\\{letter}" for letter in "wWsS"},
    **{digit: f"(?:\\{digit})" for digit in "123456789"},
}
_UNREPEATED = {*_ANCHORS.values(), *_PLACES.values()}
_INTERVAL = re.compile(r"\{([0-9]*)(,?)([0-9]*)\}", re.ASCII)
# RE_DUP_MAX.
_MOST = 0x7FFF


def compiled(text: str) -> re.Pattern[str]:
    """What `text` asks for. Raises ValueError, which says what is wrong with it."""
    try:
        return re.compile(_Reader(text).read(), re.ASCII | re.DOTALL)
    except re.error as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("parentheses within parentheses within parentheses") from None


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def read(self) -> str:
        return self._alternatives(depth=0)

    def _next(self) -> str:
        """The next character, which is taken; empty at the end."""
        found = self._text[self._place : self._place + 1]
        self._place += len(found)
        return found

    def _alternatives(self, depth: int) -> str:
        found = ""
        # The last piece is what a repetition is of, if there is one.
        pieces: list[str] = []
        while letter := self._next():
            if letter == ")" and depth:
                return found + "".join(pieces)
            if letter == "|":
                found, pieces = f"{found}{''.join(pieces)}|", []
            elif letter in "*+?{":
                if not pieces or pieces[-1] in _UNREPEATED:
                    raise ValueError("nothing in front of a repetition")
                pieces[-1] = f"(?:{pieces[-1]}){self._repetition(letter)}"
            else:
                pieces.append(self._atom(letter, depth))
        if depth:
            raise ValueError("unmatched (")
        return found + "".join(pieces)

    def _atom(self, letter: str, depth: int) -> str:
        if letter == "(":
            return f"({self._alternatives(depth + 1)})"
        if letter == "[":
            return self._brackets()
        if letter == "\\":
            escaped = self._next()
            if not escaped:
                raise ValueError("a backslash at the end")
            return _ESCAPES.get(escaped, re.escape(escaped))
        return _ANCHORS.get(letter) or ("." if letter == "." else re.escape(letter))

    def _repetition(self, letter: str) -> str:
        if letter != "{":
            return letter
        found = _INTERVAL.match(self._text, self._place - 1)
        if found is None or not (found[1] or found[2]):
            raise ValueError("not a number of times in {}")
        self._place = found.end()
        low = int(found[1] or 0)
        high = int(found[3]) if found[3] else (_MOST if found[2] else low)
        if not low <= high <= _MOST:
            raise ValueError("not a number of times in {}")
        return f"{{{low},{'' if found[2] and not found[3] else high}}}"

    # ---- in brackets

    def _brackets(self) -> str:
        found = "["
        if self._text.startswith("^", self._place):
            self._place += 1
            found += "^"
        first = True
        while first or not self._text.startswith("]", self._place):
            found += self._member()
            first = False
        self._place += 1
        return f"{found}]"

    def _member(self) -> str:
        named = self._named()
        if named is not None and named[0] == ":":
            if named[1] not in _CLASSES or self._has_range():
                raise ValueError(f"no such class, or one in a range: [:{named[1]}:]")
            return _CLASSES[named[1]]
        low = self._one(named)
        if not self._has_range():
            return re.escape(low)
        self._place += 1
        high = self._one(self._named())
        if low > high:
            raise ValueError(f"a range from {low} to {high}")
        return f"{re.escape(low)}-{re.escape(high)}"

    def _has_range(self) -> bool:
        rest = self._text[self._place : self._place + 2]
        return rest[:1] == "-" and rest != "-]"

    def _one(self, named: tuple[str, str] | None) -> str:
        """A character that stands for itself, or that `[.x.]` or `[=x=]` name."""
        letter = self._next() if named is None else named[1]
        if not letter:
            raise ValueError("unmatched [")
        if len(letter) != 1 or (named is not None and named[0] == ":"):
            raise ValueError(f"not one character: {letter}")
        return letter

    def _named(self) -> tuple[str, str] | None:
        """Of `[:alpha:]`, `[.x.]` and `[=x=]` the kind and the name; None if none is next."""
        kind = self._text[self._place + 1 : self._place + 2]
        if not self._text.startswith("[", self._place) or not kind or kind not in ":.=":
            return None
        end = self._text.find(f"{kind}]", self._place + 2)
        if end < 0:
            raise ValueError("unmatched [")
        name = self._text[self._place + 2 : end]
        self._place = end + 2
        return kind, name
