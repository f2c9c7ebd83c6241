"""Which characters names and values may hold; how text of unknown origin is shown in messages."""

from __future__ import annotations

import re

# A tab is a blank in LXC's texts. U+2028 and U+2029 end a line for many readers of our output;
# surrogates are bytes that are not UTF-8 (PEP 383), which no protobuf string can carry.
_FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
BLANKS = " \t"
_QUOTED_LENGTH = 60


def forbidden(text: str) -> str:
    """Say which forbidden character stands in `text`, or return the empty text if there is none."""
    found = _FORBIDDEN.search(text)
    if found is None:
        return ""
    code = ord(found.group())
    if "\ud800" <= found.group() <= "\udfff":
        return "bytes that are not UTF-8"
    return f"the control character U+{code:04X}"


def printable(text: str) -> str:
    r"""Return `text` with all that does not print written as an escape: `\x1b`, `\u2028`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(text: str) -> str:
    """Return `text` in quotes for a message: printable, and cut when it is long."""
    cut = text if len(text) <= _QUOTED_LENGTH else text[:_QUOTED_LENGTH] + "…"
    return f'"{printable(cut)}"'


def words(text: str) -> list[str]:
    """Split at blanks and tabs; str.split() would also split at the blanks of other scripts."""
    return [word for word in text.replace("\t", " ").split(" ") if word]
