"""One item of a key that holds several: id ranges, mounts, variables, limits.

Every function raises ValueError with a text for the user.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, cast

from lxcd.config import values
from lxcd.config.characters import quoted, words
from lxcd.config.model import (
    CgroupSetting,
    Hook,
    IdMapping,
    MountAuto,
    MountEntry,
    ResourceLimit,
    Setting,
    Share,
    Variable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")
_IDMAP_FIELDS = 4
_FSTAB_LEAST = 3
_FSTAB_NUMBERS = slice(4, 6)  # fs_freq and fs_passno
# lxc.container.conf(5); what a bare word means for the cgroup kinds depends on the capabilities
# that are kept.
_AUTO_MODES: dict[str, tuple[str, ...]] = {
    "proc": ("mixed", "rw"),
    "sys": ("mixed", "ro", "rw"),
    "cgroup": ("mixed", "ro", "rw"),
    "cgroup-full": ("mixed", "ro", "rw"),
    "cgroup2": ("ro",),
}
_SHMOUNTS_TARGET = "/dev/.lxc-mounts"


def id_mapping(text: str, origin: str) -> IdMapping:
    """Read `u|g NSID HOSTID RANGE`.

    A range of 0 is good syntax, as LXC's own test says (parse_config_file.c); `check` minds it.
    """
    parts = words(text)
    if len(parts) != _IDMAP_FIELDS:
        raise ValueError(f"{quoted(text)} is not of the form: u|g NSID HOSTID RANGE")
    kind = cast("Literal['u', 'g']", values.one_of("u", "g")(parts[0]))
    first, host = (values.integer(part, 0, values.LARGEST_ID) for part in parts[1:3])
    count = values.integer(parts[3], 0, values.LARGEST_ID + 1)
    if max(first, host) + count > values.LARGEST_ID + 1:
        raise ValueError(f"{quoted(text)} reaches beyond the largest id, {values.LARGEST_ID}")
    return IdMapping(kind, first, host, count, origin)


def overlaps(mappings: Sequence[IdMapping]) -> list[tuple[IdMapping, IdMapping, str]]:
    """Find the ranges that share ids, which user_namespaces(7) forbids.

    Returns:
        For each: the one, the other, and what they share.
    """
    found: list[tuple[IdMapping, IdMapping, str]] = []
    for side in ("container", "host"):
        for kind in ("u", "g"):
            mine = [(m.first if side == "container" else m.host, m) for m in mappings]
            mine = [(start, m) for start, m in mine if m.kind == kind and m.count]
            mine.sort(key=lambda pair: pair[0])
            end, last = -1, None
            for start, mapping in mine:
                if last is not None and start < end:
                    found.append((mapping, last, f"{side} {kind}ids from {start}"))
                if start + mapping.count > end:
                    end, last = start + mapping.count, mapping
    return found


def mount_entry(text: str, origin: str) -> MountEntry:
    """Read one line of fstab(5)."""
    fields = words(text)
    if len(fields) < _FSTAB_LEAST:
        # Nothing is quoted: the line may come from any file that root can read, named by somebody
        # who cannot.
        raise ValueError("not a line of fstab(5): source, target and type are needed")
    for field in fields[_FSTAB_NUMBERS]:
        if not (field.isascii() and field.isdigit()):
            raise ValueError(
                "the fifth and sixth field of fstab(5) are numbers;"
                " a blank within a field is written \\040"
            )
    source, target, fstype = (unescape(field) for field in fields[:3])
    options = fields[3].split(",") if len(fields) > _FSTAB_LEAST else []
    return MountEntry(source, target, fstype, tuple(unescape(o) for o in options if o), origin)


def unescape(field: str) -> str:
    r"""Read the octal escapes of fstab(5): `\040` is a blank."""
    if "\\" not in field:
        return field
    decoded = _OCTAL.sub(lambda found: bytes([int(found.group(1), 8)]), field.encode())
    if b"\0" in decoded:
        raise ValueError("a NUL in a path")
    try:
        return decoded.decode()
    except UnicodeDecodeError:
        raise ValueError("escapes that do not make UTF-8") from None


def mount_auto(word: str, origin: str) -> MountAuto:
    """Read one word of `lxc.mount.auto`."""
    what, *rest = word.split(":")
    if what == "shmounts":
        return _shmounts(word, rest, origin)
    modes = _AUTO_MODES.get(what)
    if modes is None:
        raise ValueError(f"{quoted(word)} is none of: {' '.join(_AUTO_MODES)} shmounts:HOST")
    mode = rest.pop(0) if rest and rest[0] in modes else ""
    force = what.startswith("cgroup") and rest == ["force"]
    if rest and not force:
        tail = "[:force]" if what.startswith("cgroup") else ""
        raise ValueError(f"{quoted(word)} is not {what}[:{'|:'.join(modes)}]{tail}")
    if not mode and what in ("proc", "sys"):
        mode = "mixed"
    return MountAuto(
        cast("Literal['proc', 'sys', 'cgroup', 'cgroup2', 'cgroup-full']", what),
        cast("Literal['', 'ro', 'rw', 'mixed']", mode),
        force,
        (),
        origin,
    )


def _shmounts(word: str, rest: list[str], origin: str) -> MountAuto:
    if not 1 <= len(rest) <= 2 or not all(path.startswith("/") for path in rest):  # noqa: PLR2004
        raise ValueError(f"{quoted(word)} is not shmounts:/HOST[:/CONTAINER]")
    return MountAuto("shmounts", "", False, (rest[0], (*rest, _SHMOUNTS_TARGET)[1]), origin)


def variable(scope: Literal["all", "runtime", "hooks"], text: str, origin: str) -> Variable:
    """Read `NAME=VALUE`, or `NAME` alone for a variable that is inherited."""
    name, equals, value = text.partition("=")
    if not name or name != name.strip(" \t"):
        raise ValueError("not of the form NAME=VALUE or NAME")
    return Variable(name, value if equals else None, scope, origin)


def resource_limit(name: str, text: str, origin: str) -> ResourceLimit:
    """Read `soft[:hard]`; one number is both."""
    if name not in values.LIMITS:
        raise ValueError(f"{quoted(name)} is not a limit of setrlimit(2)")
    parts = [part.strip(" \t") for part in text.split(":")]
    if len(parts) > 2:  # noqa: PLR2004
        raise ValueError(f"{quoted(text)} is not of the form SOFT[:HARD]")
    soft, hard = (_limit(parts[0]), _limit(parts[-1]))
    if hard is not None and (soft is None or soft > hard):
        raise ValueError(f"{quoted(text)}: the soft limit is above the hard one")
    return ResourceLimit(name, soft, hard, origin)


def _limit(text: str) -> int | None:
    # 2^64 - 1 is RLIM_INFINITY itself.
    return None if text == "unlimited" else values.integer(text, 0, 2**64 - 2)


def sysctl(name: str, text: str, origin: str) -> Setting:
    """Read one kernel parameter. Dots and slashes separate; no part may lead elsewhere."""
    if "" in re.split(r"[./]", name) or any(c.isspace() for c in name):
        raise ValueError(f"{quoted(name)} is not the name of a kernel parameter")
    return Setting(name, text, origin)


def proc(name: str, text: str, origin: str) -> Setting:
    """Read a setting of a file below /proc/PID."""
    if not _FILE_NAME.match(name.replace("/", ".")):
        raise ValueError(f"{quoted(name)} is not the name of a file in /proc/PID")
    return Setting(name, text, origin)


def cgroup(version: Literal[1, 2], name: str, text: str, origin: str) -> CgroupSetting:
    """Read a setting of a cgroup's file. Which files there are is the kernel's business."""
    if not _FILE_NAME.match(name) or "." not in name:
        raise ValueError(f"{quoted(name)} is not the name of a file in a cgroup")
    return CgroupSetting(version, name, text, origin)


def hook(kind: str, text: str, origin: str) -> Hook:
    """Read the command of a hook."""
    return Hook(kind, text, origin)


def share(name: str, text: str, origin: str) -> Share:
    """Read whose namespace is to be shared."""
    return Share(values.namespace(name), text, origin)
