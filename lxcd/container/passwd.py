"""Users of a container, out of its own passwd(5) and group(5): pure code for texts that are
hostile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# (uid_t) -1 means "no change" to setresuid(2).
_MAXIMUM_ID = 2**32 - 2
_GROUPS_LIMIT = 65536  # NGROUPS_MAX
# NGROUPS_MAX of the kernel, with the primary one.
_MAXIMUM_GROUPS = 65536


@dataclass(frozen=True, slots=True)
class User:
    """Who a command runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def find_user(wanted: str, passwd: bytes, group: bytes) -> User:
    """`NAME`, `NAME:GROUP`, `UID`, `UID:GID` …; empty is root, who needs no entry.

    A text that looks like a number is one and nothing else: what does not fit 32 bits is refused,
    never looked up as a name (CVE-2026-46680). ValueError says what is wrong.
    """
    who, colon, group_name = wanted.partition(":")
    if colon and not group_name:
        raise ValueError(f"no group behind the colon in {wanted!r}")
    if not who and wanted:
        raise ValueError(f"no user in front of the colon in {wanted!r}")
    who = who or "0"
    number = _number(who)
    found = next(
        (
            entry
            for entry in _entries(passwd, 7)
            if (entry[0] == who if number is None else _number(entry[2]) == number)
        ),
        None,
    )
    if found is None and number is None:
        raise ValueError(f"the container has no user {who!r}")
    if found is None:
        uid = number or 0
        user = User(
            "root" if uid == 0 else str(uid), uid, 0, (), "/root" if uid == 0 else "/", "/bin/sh"
        )
    else:
        uid_, gid_ = _number(found[2]), _number(found[3])
        if uid_ is None or gid_ is None:
            raise ValueError(f"the container's entry for {who!r} has no proper ids")
        home = found[5] if found[5].startswith("/") else "/"
        user = User(
            found[0], uid_, gid_, _memberships(found[0], gid_, group), home, found[6] or "/bin/sh"
        )
    if not colon:
        return user
    return replace(user, gid=_group(group_name, group), groups=())


def find_groups(wanted: tuple[str, ...], group: bytes) -> tuple[int, ...]:
    """Ids of groups that are given by name or number. ValueError says what is wrong."""
    if len(wanted) >= _MAXIMUM_GROUPS:
        raise ValueError(f"{len(wanted)} groups; the kernel knows {_MAXIMUM_GROUPS}")
    return tuple(_group(name, group) for name in wanted)


def with_groups(user: User, groups: tuple[int, ...]) -> User:
    """The same user in these groups besides the primary one."""
    return replace(user, groups=tuple(dict.fromkeys((user.gid, *groups))))


def _group(name: str, group: bytes) -> int:
    gid = _number(name)
    if gid is None:
        match = next((entry for entry in _entries(group, 4) if entry[0] == name), None)
        gid = _number(match[2]) if match is not None else None
    if gid is None:
        raise ValueError(f"the container has no group {name!r}")
    return gid


def _number(text: str) -> int | None:
    """A decimal id; None for a name. ValueError for a number that is no id."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 10 or int(text) > _MAXIMUM_ID:  # noqa: PLR2004
        raise ValueError(f"{text[:20]} is no user or group id")
    return int(text)


def _entries(data: bytes, fields: int) -> Iterator[list[str]]:
    for line in data.split(b"\n"):
        words = line.decode(errors="surrogateescape").split(":")
        if len(words) == fields and words[0] and b"\0" not in line:
            try:
                _number(words[2])
            except ValueError:
                continue
            yield words


def _memberships(name: str, gid: int, group: bytes) -> tuple[int, ...]:
    found = {gid: None}
    for entry in _entries(group, 4):
        number = _number(entry[2])
        if number is not None and name in entry[3].split(","):
            found[number] = None
            if len(found) == _GROUPS_LIMIT:
                break
    return tuple(found)
