"""What a container wrote, on a terminal of the host: what such bytes may do there, and where they
may begin.
"""

from __future__ import annotations

import codecs
import re

from lxcctl.output import escaped

# Everything that a terminal obeys: C0 and C1 (which a terminal knows in UTF-8, too), and DEL.
_CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
# Colours, bold and the like; with this much between, none is longer.
_COLOUR = r"\x1b\[[0-9;:]{0,64}m"
_OBEYED = re.compile(f"({_COLOUR})|[{_CONTROL}]")
# The beginning of one, at the end of a piece.
_UNDER_WAY = re.compile(r"\x1b(\[[0-9;:]{0,64})?\Z")
# An escape sequence that has lost its beginning does not go on behind any of these: a new line, the
# next one (or the end of a string, which is one), and BEL, which ends a string as well.
_BOUNDARY = re.compile(rb"\n|\x1b\\|\x07|(?=\x1b)")
_CUT_BYTES = 4096  # so far a boundary is looked for


class Harmless:
    r"""Makes a stream safe to look at: of what a terminal obeys only line ends, tabs and colours
    are left, the rest becomes text: `\x1b`. Also what is not UTF-8 does.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""
        self._coloured = False

    def feed(self, data: bytes) -> bytes:
        """What of it can be shown; the beginning of a colour or a character waits for the rest."""
        text = self._rest + self._decoder.decode(data)
        begun = _UNDER_WAY.search(text)
        at = begun.start() if begun else len(text)
        text, self._rest = text[:at], text[at:]
        return self._made(text)

    def end(self) -> bytes:
        """What is left, and the colours as they were."""
        text = self._rest + self._decoder.decode(b"", final=True)
        self._rest = ""
        data = self._made(text)
        if self._coloured:
            data += b"\x1b[m"
            self._coloured = False
        return data

    def _made(self, text: str) -> bytes:
        return _OBEYED.sub(self._one, text).encode(errors="backslashreplace")

    def _one(self, found: re.Match[str]) -> str:
        if found[1]:
            self._coloured = True
            return found[1]
        return escaped(found[0])


def behind_cut(data: bytes) -> bytes:
    """What a terminal wrote, from where it makes sense: its beginning is lost, so that it may begin
    in the middle of a character or an escape sequence.
    """
    found = _BOUNDARY.search(data, 0, _CUT_BYTES)
    if found is not None:
        return data[found.end() :]
    return data.lstrip(bytes(range(0x80, 0xC0)))
