"""The keys that leave a terminal, however what is typed is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcctl.errors import UsageError
from lxcctl.keys import DEFAULT, DetachKeys, describe, parse

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=200)
A, Q = 1, ord("q")
LEAVE = bytes([A, Q])


def reference(sequence: bytes, typed: bytes) -> tuple[bytes, bool]:
    """What is sent, and whether the sequence was there; for a first key that is not in the rest."""
    sent = bytearray()
    place = 0
    while place < len(typed):
        rest = typed[place:]
        if rest.startswith(sequence):
            return bytes(sent), True
        if sequence.startswith(rest):
            # It may be the sequence yet.
            return bytes(sent), False
        sent.append(typed[place])
        place += 2 if typed[place] == sequence[0] and rest[:2] == sequence[:1] * 2 else 1
    return bytes(sent), False


def feed(keys: DetachKeys, typed: bytes, cuts: list[int]) -> tuple[bytes, bool]:
    sent = b""
    places = [0, *sorted(cut % (len(typed) + 1) for cut in cuts), len(typed)]
    for begin, end in pairwise(places):
        more, found = keys.feed(typed[begin:end])
        sent += more
        if found:
            return sent, True
    return sent, False


@STEADY
@given(
    sequence=st.sampled_from([b"x", LEAVE, b"abc", b"\x10\x11"]),
    words=st.lists(st.sampled_from([b"a", b"b", b"c", b"x", b"\x01", b"q", b"\x10", b"\x11"])),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_any_cutting_gives_the_same(sequence: bytes, words: list[bytes], cuts: list[int]) -> None:
    typed = b"".join(words)
    assert feed(DetachKeys(sequence), typed, cuts) == reference(sequence, typed)


@STEADY
@given(
    sequence=st.binary(min_size=1, max_size=4),
    typed=st.binary(max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_any_sequence_at_all(sequence: bytes, typed: bytes, cuts: list[int]) -> None:
    whole = feed(DetachKeys(sequence), typed, [])
    assert feed(DetachKeys(sequence), typed, cuts) == whole
    if sequence[0] not in typed:
        assert whole == (typed, False)


@pytest.mark.parametrize(
    ("typed", "sent", "found"),
    [
        (b"\x01q", b"", True),
        (b"ls\n\x01q", b"ls\n", True),
        # What stands behind it was meant for whatever comes next here.
        (b"\x01qls\n", b"", True),
        (b"\x01\x01q", b"\x01q", False),
        (b"\x01\x01\x01q", b"\x01", True),
        (b"\x01\x01\x01\x01", b"\x01\x01", False),
        (b"\x01x", b"\x01x", False),
        (b"\x01xq", b"\x01xq", False),
        (b"\x01x\x01q", b"\x01x", True),
        (b"q", b"q", False),
        (b"\x01", b"", False),
        (b"", b"", False),
        (bytes(range(256)), bytes(range(256)), False),
    ],
)
def test_the_usual_keys(typed: bytes, sent: bytes, *, found: bool) -> None:
    assert DetachKeys(LEAVE).feed(typed) == (sent, found)
    assert feed(DetachKeys(LEAVE), typed, list(range(len(typed)))) == (sent, found)


def test_none() -> None:
    assert DetachKeys(b"").feed(b"\x01q") == (b"\x01q", False)


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        (DEFAULT, LEAVE),
        ("ctrl-a,q", LEAVE),
        ("CTRL-A Q", b"\x01Q"),
        ("^A q", LEAVE),
        ("^a,q", LEAVE),
        ("c-p,c-q", b"\x10\x11"),
        ("ctrl-@", b"\0"),
        ("^]", b"\x1d"),
        ("ctrl-_", b"\x1f"),
        ("^[ ^^", b"\x1b\x1e"),
        ("x", b"x"),
        ("^", b"^"),
        (",", b","),
        (" ", b" "),
        ("", b""),
        (" , ", b""),
        ("a b,c", b"abc"),
    ],
)
def test_names_of_keys(text: str, sequence: bytes) -> None:
    assert parse(text) == sequence


@pytest.mark.parametrize(
    "text", ["ctrl-", "ctrl-aa", "ctrl-1", "ctrl-?", "^ab", "hyper-a", "qq", "c-", "a,ü", "^ä x"]
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(UsageError, match="no key is called"):
        parse(text)


@STEADY
@given(st.lists(st.one_of(st.integers(0, 31), st.integers(33, 126)), min_size=2, max_size=8))
def test_a_description_names_the_same_keys(keys: list[int]) -> None:
    sequence = bytes(key for key in keys if chr(key) != ",")
    assert parse(describe(sequence) + " ") == sequence


def test_descriptions() -> None:
    assert describe(LEAVE) == "Ctrl-a q"
    assert describe(b"\x1d") == "Ctrl-]"
