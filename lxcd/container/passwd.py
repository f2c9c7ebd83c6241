"""Users of a container, out of its own passwd(5) and group(5): pure code for texts that are
hostile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

# (uid_t) -1 means "no change" to setresuid(2).
_MAXIMUM_ID = 2**32 - 2
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
    entries = _entries(passwd, 7)
    groups = _entries(group, 4)
    if not who and wanted:
        raise ValueError(f"no user in front of the colon in {wanted!r}")
    who = who or "0"
    number = _number(who)
    found = next(
        (e for e in entries if (e[0] == who if number is None else _number(e[2]) == number)), None
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
            found[0], uid_, gid_, _memberships(found[0], gid_, groups), home, found[6] or "/bin/sh"
        )
    if not colon:
        return user
    return replace(user, gid=_group(group_name, groups), groups=())


def find_groups(wanted: tuple[str, ...], group: bytes) -> tuple[int, ...]:
    """Ids of groups that are given by name or number. ValueError says what is wrong."""
    if len(wanted) >= _MAXIMUM_GROUPS:
        raise ValueError(f"{len(wanted)} groups; the kernel knows {_MAXIMUM_GROUPS}")
    entries = _entries(group, 4)
    return tuple(_group(name, entries) for name in wanted)


def with_groups(user: User, groups: tuple[int, ...]) -> User:
    """The same user in these groups besides the primary one."""
    return replace(user, groups=tuple(dict.fromkeys((user.gid, *groups))))


def _group(name: str, entries: list[list[str]]) -> int:
    gid = _number(name)
    if gid is None:
        match = next((e for e in entries if e[0] == name), None)
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


def _entries(data: bytes, fields: int) -> list[list[str]]:
    found: list[list[str]] = []
    for line in data.split(b"\n"):
        words = line.decode(errors="surrogateescape").split(":")
        if len(words) == fields and words[0] and "\0" not in line.decode(errors="replace"):
            try:
                _number(words[2])
            except ValueError:
                continue
            found.append(words)
    return found


def _memberships(name: str, gid: int, groups: list[list[str]]) -> tuple[int, ...]:
    found = [gid]
    for entry in groups:
        number = _number(entry[2])
        if number is not None and name in entry[3].split(",") and number not in found:
            found.append(number)
    return tuple(found[:_MAXIMUM_GROUPS])
