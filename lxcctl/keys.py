"""The keys that leave a terminal: found in what is typed, however it is cut into pieces.

`Ctrl-a q` by default. The first key twice sends it once; the first key and then another one sends
both: nothing that is typed gets lost but the sequence itself.
"""

from __future__ import annotations

from lxcctl.errors import UsageError

DEFAULT = "ctrl-a,q"
_CONTROL_END = 0x20


def parse(text: str) -> bytes:
    """`ctrl-a,q`, `^A q`, `x`; empty for none. Raises UsageError."""
    if len(text) == 1:
        return text.encode()
    return b"".join(_key(word, text) for word in text.replace(",", " ").split())


def _key(word: str, text: str) -> bytes:
    name = word.lower()
    letter = ""
    if name.startswith(("ctrl-", "c-")):
        letter = name.partition("-")[2]
    elif name.startswith("^") and len(name) > 1:
        letter = name[1:]
    elif len(word) == 1 and word.isascii() and word.isprintable():
        return word.encode()
    if len(letter) == 1 and "@" <= letter.upper() <= "_":
        return bytes([ord(letter.upper()) - ord("@")])
    raise UsageError(f"no key is called {word!r} in {text!r} (try ctrl-a,q or ^]; empty for none)")


def describe(sequence: bytes) -> str:
    """`Ctrl-a q`."""
    return " ".join(
        f"Ctrl-{chr(byte + ord('@')).lower()}" if byte < _CONTROL_END else chr(byte)
        for byte in sequence
    )


class DetachKeys:
    """Looks for one sequence in a stream of typed bytes."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of it is to be sent on, and whether the sequence was complete; what is behind that
        is not looked at.
        """
        sequence = self._sequence
        if not sequence:
            return data, False
        sent = bytearray()
        for byte in data:
            if byte == sequence[self._matched]:
                self._matched += 1
                if self._matched == len(sequence):
                    self._matched = 0
                    return bytes(sent), True
                continue
            if self._matched == 1 and byte == sequence[0]:
                # Twice: once of it is meant.
                sent.append(byte)
                self._matched = 0
                continue
            sent += sequence[: self._matched]
            self._matched = int(byte == sequence[0])
            if not self._matched:
                sent.append(byte)
        return bytes(sent), False
