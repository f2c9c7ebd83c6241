from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.container.passwd import find_groups, find_user, with_groups

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=500)
PASSWD = b"root:x:0:0:root:/root:/bin/bash\nuser:x:1000:100::/home/user:\nodd:x:7:8::rel:/bin/x\n"
GROUP = b"root:x:0:\nusers:x:100:\nwheel:x:10:root,user\nmore:x:11:user\n"
NUMBER = re.compile("[0-9]+")

SPECS = st.one_of(
    st.text("0123456789:+-x e.\n\uff11\u0663", max_size=12),
    st.integers(-5, 2**66).map(str),
    st.tuples(st.integers(0, 2**33), st.integers(0, 2**33)).map(
        lambda pair: f"{pair[0]}:{pair[1]}"
    ),
    st.sampled_from(["root", "user", "root\n", " root", "user:wheel", "user:", ":", ":0", "0:0:0"]),
)


def reference(text: str) -> tuple[int, int | None] | None:
    """(uid, gid or None where the entry decides), None: refused."""

    def number(word: str, names: dict[str, int]) -> int | None:
        if NUMBER.fullmatch(word, 0) and word.isascii():
            good = len(word) <= 10 and int(word) <= 2**32 - 2
            return int(word) if good else None
        return names.get(word)

    if not text:
        return 0, None
    who, colon, group = text.partition(":")
    if not who or (colon and not group):
        return None
    uid = number(who, {"root": 0, "user": 1000, "odd": 7})
    if uid is None:
        return None
    if not colon:
        return uid, None
    gid = number(group, {"root": 0, "users": 100, "wheel": 10, "more": 11})
    return None if gid is None else (uid, gid)


@STEADY
@given(SPECS)
def test_against_the_grammar(text: str) -> None:
    expected = reference(text)
    try:
        found = find_user(text, PASSWD, GROUP)
    except ValueError:
        assert expected is None
        return
    assert expected is not None
    assert found.uid == expected[0]
    if expected[1] is not None:
        assert (found.gid, found.groups) == (expected[1], ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 0, (0, 10), "/root", "/bin/bash")),
        ("user", (1000, 100, (100, 10, 11), "/home/user", "/bin/sh")),
        ("1000", (1000, 100, (100, 10, 11), "/home/user", "/bin/sh")),
        ("7", (7, 8, (8,), "/", "/bin/x")),
        ("55", (55, 0, (), "/", "/bin/sh")),
        ("user:wheel", (1000, 10, (), "/home/user", "/bin/sh")),
    ],
)
def test_entries(text: str, expected: tuple[int, int, tuple[int, ...], str, str]) -> None:
    user = find_user(text, PASSWD, GROUP)
    assert (user.uid, user.gid, user.groups, user.home, user.shell) == expected


def test_root_needs_no_entry() -> None:
    assert find_user("", b"", b"").uid == 0


@STEADY
@given(st.binary(max_size=80), st.binary(max_size=40), SPECS)
def test_hostile_files(passwd: bytes, group: bytes, text: str) -> None:
    try:
        user = find_user(text, passwd + b"\n" + PASSWD, group + b"\n" + GROUP)
    except ValueError:
        return
    assert 0 <= user.uid <= 2**32 - 2
    assert all(0 <= gid <= 2**32 - 2 for gid in (user.gid, *user.groups))


@pytest.mark.parametrize("uid", ["4294967295", "4294967296", "-1", "", "0x0", " 0", "+0"])
def test_entries_with_wrong_ids_are_none(uid: str) -> None:
    with pytest.raises(ValueError, match=r"ids|no user"):
        find_user("evil", f"evil:x:{uid}:0:::\n".encode(), b"")


# ---- groups that are asked for


def group_reference(name: str) -> int | None:
    """None: refused."""
    if name.isascii() and NUMBER.fullmatch(name):
        return int(name) if len(name) <= 10 and int(name) <= 2**32 - 2 else None
    return {"root": 0, "users": 100, "wheel": 10, "more": 11}.get(name)


@STEADY
@given(st.lists(SPECS | st.sampled_from(["users", "wheel", "more"]), max_size=4))
def test_groups_against_the_grammar(names: list[str]) -> None:
    expected = [group_reference(name) for name in names]
    if None in expected:
        with pytest.raises(ValueError, match=r"no group|no user or group id"):
            find_groups(tuple(names), GROUP)
    else:
        assert list(find_groups(tuple(names), GROUP)) == expected


def test_groups_by_name_and_number() -> None:
    assert find_groups(("wheel", "0", "77", "wheel"), GROUP) == (10, 0, 77, 10)
    assert find_groups((), GROUP) == ()
    # A number needs no entry; the first of two entries counts, as for getgrnam(3).
    assert find_groups(("5",), b"") == (5,)
    assert find_groups(("twice",), b"twice:x:1:\ntwice:x:2:\n") == (1,)


@pytest.mark.parametrize("name", ["", "nosuch", "4294967295", "4294967296", "-1", "wheel:x", "+0"])
def test_no_groups(name: str) -> None:
    with pytest.raises(ValueError, match=r"no group|no user or group id"):
        find_groups(("wheel", name), GROUP)


@settings(STEADY, max_examples=100)
@given(st.lists(SPECS, max_size=3), st.binary(max_size=60))
def test_groups_of_hostile_files(names: list[str], group: bytes) -> None:
    try:
        found = find_groups(tuple(names), group + b"\n" + GROUP)
    except ValueError:
        return
    assert len(found) == len(names)
    assert all(0 <= gid <= 2**32 - 2 for gid in found)


def test_the_primary_group_comes_first_and_each_once() -> None:
    user = find_user("user", PASSWD, GROUP)
    assert with_groups(user, (11, 100, 11, 5)).groups == (100, 11, 5)
    assert with_groups(user, ()).groups == (100,)
    assert with_groups(user, (11,)).gid == 100
