"""One value of a cgroup's file: from what was written to what it means, and back.

The syntax is the kernel's: memparse() for bytes, bitmap_parselist() for lists of cpus. Every
function raises ValueError with a text for the user. None is "unlimited" everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING

from lxcd.config.characters import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Value = int | Fraction | str | None

UNLIMITED = ("max", "-1")
# PAGE_COUNTER_MAX is 2^63 - 1 rounded down to pages (with huge pages of up to 16 GB, 2^34): what is
# so large is no limit.
_NO_LIMIT = 2**63 - 2**34
_BYTES = re.compile(r"(0x[0-9a-f]{1,16}|[0-9]{1,20})([kmgtpe]?)\Z", re.IGNORECASE | re.ASCII)
_SUFFIXES = {letter: 1 << 10 * power for power, letter in enumerate(" kmgtpe") if power}
_NUMBER = re.compile(r"(-?[0-9]{1,20}|0x[0-9a-f]{1,16})\Z", re.IGNORECASE | re.ASCII)
_PART = re.compile(
    r"(all|(n|\d{1,7})(-(n|\d{1,7}))?)(:(\d{1,7})/(\d{1,7}))?\Z", re.IGNORECASE | re.ASCII
)
# CONFIG_NR_CPUS of the largest kernel is 8192; who writes more than that means something else.
_MOST_CPUS = 1 << 16
_DEVICE = re.compile(r"(0|[1-9][0-9]{0,3}):(0|[1-9][0-9]{0,6})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Host:
    """What a translation has to know of the host besides its controllers."""

    cpus: frozenset[int]  # that are online
    nodes: frozenset[int] = frozenset({0})  # that have memory
    page_bytes: int = 4096
    # Of the block devices that settings name by a path: path -> `MAJOR:MINOR`.
    devices: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def byte_count(text: str) -> int | None:
    """Read a number of bytes, maybe with one of K M G T P E behind it, or `max`, or `-1`."""
    if text in UNLIMITED:
        return None
    found = _BYTES.match(text)
    if not found:
        why = "a whole number, maybe with K, M or G, or max"
        raise ValueError(f"{quoted(text)} is not a number of bytes: {why}")
    number = _digits(found.group(1)) * _SUFFIXES.get(found.group(2).lower(), 1)
    return None if number >= _NO_LIMIT else number


def whole(text: str, low: int, high: int) -> int:
    """Read a whole number, decimal or with 0x."""
    if not _NUMBER.match(text):
        raise ValueError(f"{quoted(text)} is not a whole number")
    number = _digits(text)
    if not low <= number <= high:
        raise ValueError(f"{quoted(text)} is not between {low} and {high}")
    return number


def number(low: int, high: int) -> Callable[[str], int]:
    """Make a reader of whole numbers between `low` and `high`."""
    return lambda text: whole(text, low, high)


def count(low: int, high: int) -> Callable[[str], int | None]:
    """Make a reader of the same, or of no limit."""
    return lambda text: None if text in UNLIMITED else whole(text, low, high)


def _digits(text: str) -> int:
    digits = text.removeprefix("-")
    if digits.lower().startswith("0x"):
        return int(digits, 16)
    if digits.startswith("0") and digits != "0":
        # The kernel reads it as octal, people do not.
        raise ValueError(f"{quoted(text)} begins with a zero: octal to the kernel, not taken here")
    return int(text)


def one_of(*words: str) -> Callable[[str], str]:
    """Make a reader of one word out of a choice."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{quoted(text)} is none of: {' '.join(words)}")
        return text

    return read


def percentage(text: str) -> str:
    """Read a percentage with at most two decimals, or `max`: cpu.uclamp.*."""
    if text == "max":
        return text
    if not re.match(r"[0-9]{1,3}(\.[0-9]{1,2})?\Z", text, re.ASCII) or float(text) > 100:  # noqa: PLR2004
        raise ValueError(f"{quoted(text)} is not a percentage between 0 and 100, or max")
    return f"{float(text):.2f}"


def numbers(text: str, there: frozenset[int], what: str) -> str:
    """Read a list of cpus or of memory nodes, `0-3,6`; all must be `there`."""
    listed = number_set(text, max(there, default=0))
    if not listed:
        raise ValueError(f"{quoted(text)} names no {what}")
    missing = listed - there
    if missing:
        has = as_list(there) or "none"
        raise ValueError(f"{what} {as_list(missing)} does not exist: this host has {has}")
    return as_list(listed)


def number_set(text: str, last: int) -> frozenset[int]:
    """Read a list as bitmap_parselist() of the kernel has it: `0-3,6`, `0-31:1/2`, `all`, `N` for
    the last.
    """
    listed: set[int] = set()
    for part in text.replace(",", " ").split():
        found = _PART.match(part)
        if not found:
            raise ValueError(f"{quoted(part)} is not a number or a range, as in 0-3,6")
        if found.group(1).lower() == "all":
            first, end = 0, last
        else:
            first = _place(found.group(2), last)
            end = _place(found.group(4) or found.group(2), last)
        used, size = int(found.group(6) or 1), int(found.group(7) or 1)
        if end < first or not 0 < used <= size:
            raise ValueError(f"{quoted(part)} is a range that is none")
        if end >= _MOST_CPUS:
            raise ValueError(f"{quoted(part)} is beyond the {_MOST_CPUS} that there can be")
        listed.update(one for one in range(first, end + 1) if (one - first) % size < used)
    return frozenset(listed)


def _place(text: str, last: int) -> int:
    return last if text.lower() == "n" else int(text)


def as_list(numbers: Iterable[int]) -> str:
    """Write numbers as the kernel writes a list: `0-3,6`."""
    runs: list[tuple[int, int]] = []
    for one in sorted(numbers):
        if runs and runs[-1][1] == one - 1:
            runs[-1] = (runs[-1][0], one)
        else:
            runs.append((one, one))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def device(text: str, host: Host) -> str:
    """Read a block device by its number, or by a path that `host` knows."""
    if text.startswith("/"):
        if text not in host.devices:
            raise ValueError(f"{quoted(text)} is not a block device of this host")
        return host.devices[text]
    if not _DEVICE.match(text):
        raise ValueError(f"{quoted(text)} is not a block device: MAJOR:MINOR, as 8:0")
    return text


def two(text: str, form: str) -> tuple[str, str]:
    """Split at the blank between two words."""
    parts = text.split()
    if len(parts) != 2:  # noqa: PLR2004
        raise ValueError(f"{quoted(text)} is not of the form: {form}")
    return parts[0], parts[1]


def pairs(text: str, form: str) -> tuple[str, dict[str, str]]:
    """Split `WORD NAME=VALUE …`."""
    first, *rest = text.split() or [""]
    found = dict(part.split("=", 1) for part in rest if "=" in part)
    if not rest or len(found) != len(rest):
        raise ValueError(f"{quoted(text)} is not of the form: {form}")
    return first, found
