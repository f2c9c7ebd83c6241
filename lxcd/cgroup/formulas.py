"""How a thing that is limited is read from a file of either version, and written to one: the
formulas of the table in `equivalents`. They raise ValueError with a text for the user.

A reader takes the text, the match of the file's name, and the host; a writer a key (a device …),
the parts of what was said, and what is around it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from lxcd.cgroup import amounts
from lxcd.cgroup.amounts import Host, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Parts = dict[str, Value]  # what was said about one thing, by name of the part; often one, ""
Said = tuple[str, str, Value]  # key, part, value

SHARES, WEIGHT, CFQ_WEIGHT = 1024, 100, 500  # defaults
PERIOD_USEC = 100_000  # default_cfs_period() of the kernel
LONGEST_USEC = (1 << 44) - 1  # max_bw_runtime_us
_LEAST_SHARES, _MOST_SHARES = 2, 1 << 18  # MIN_SHARES, MAX_SHARES
_LOST = Fraction(5, 100)  # more than that is told
THROTTLE = {"rbps": "read_bps", "wbps": "write_bps", "riops": "read_iops", "wiops": "write_iops"}
_PART_OF = {name: part for part, name in THROTTLE.items()}
# File, default, least and most.
_IO_WEIGHTS = {
    1: (("blkio.bfq.weight", WEIGHT, 1, 1000), ("blkio.weight", CFQ_WEIGHT, 10, 1000)),
    2: (("io.weight", WEIGHT, 1, 10000), ("io.bfq.weight", WEIGHT, 1, 1000)),
}


@dataclass(frozen=True, slots=True)
class Around:
    """What a value is written in the midst of."""

    host: Host
    files: frozenset[str] | None = None  # that the controller has on this host; None: not known
    limit: int | None = None  # of memory


@dataclass(frozen=True, slots=True)
class Written:
    """What to write, and what is lost by it."""

    files: tuple[tuple[str, str], ...]
    lost: tuple[str, ...] = ()


def value_by(
    read: Callable[[str], Value], part: str = ""
) -> Callable[[str, re.Match[str], Host], Iterable[Said]]:
    """Make a reader of one value."""
    return lambda text, _match, _host: [("", part, read(text))]


def cpus(text: str, _match: re.Match[str], host: Host) -> list[Said]:
    """Read a list of cpus."""
    return [("", "", amounts.numbers(text, host.cpus, "cpu"))]


def nodes(text: str, _match: re.Match[str], host: Host) -> list[Said]:
    """Read a list of memory nodes."""
    return [("", "", amounts.numbers(text, host.nodes, "memory node"))]


def shares(text: str) -> Fraction:
    """Read a weight of which 1024 is the default."""
    return Fraction(amounts.whole(text, 0, 2**63 - 1), SHARES)


def weight(text: str) -> Fraction:
    """Read a weight of which 100 is the default."""
    return Fraction(amounts.whole(text, 1, 10000), WEIGHT)


def nice(text: str) -> str:
    """Read a nice value."""
    return f"nice {amounts.whole(text, -20, 19)}"


quota = amounts.count(1000, LONGEST_USEC)
period = amounts.number(1000, 1_000_000)


def cpu_max(text: str, _match: re.Match[str], _host: Host) -> list[Said]:
    """Read a quota, maybe with its period."""
    first, *rest = text.split() or [""]
    if len(rest) > 1:
        raise ValueError("not of the form: QUOTA PERIOD")
    said: list[Said] = [("", "quota", quota(first))]
    return [*said, *(("", "period", period(one)) for one in rest)]


def memory_max(text: str) -> int | None:
    """Read a limit of memory."""
    limit = amounts.byte_count(text)
    if limit == 0:
        raise ValueError("no process can live without memory")
    return limit


def throttle(text: str, match: re.Match[str], host: Host) -> list[Said]:
    """Read a limit of a device, of version 1: 0 takes it away."""
    where, limit = amounts.two(text, "MAJOR:MINOR NUMBER")
    value = amounts.byte_count(limit)
    return [(amounts.device(where, host), _PART_OF[match.group(1)], value or None)]


def io_max(text: str, _match: re.Match[str], host: Host) -> list[Said]:
    """Read limits of a device, of version 2."""
    where, given = amounts.pairs(text, "MAJOR:MINOR rbps=N wbps=N riops=N wiops=N")
    said: list[Said] = []
    for part, limit in given.items():
        if part not in THROTTLE:
            raise ValueError(f"{part} is none of: {' '.join(THROTTLE)}")
        value = amounts.byte_count(limit)
        if value is not None and value < 2:  # noqa: PLR2004 - tg_set_limit() of the kernel
            raise ValueError(f"{part} must be at least 2")
        said.append((amounts.device(where, host), part, value))
    return said


def io_weight(
    low: int, high: int, default: int, text: str, _match: re.Match[str], host: Host
) -> list[Said]:
    """Read `NUMBER`, `default NUMBER`, `MAJOR:MINOR NUMBER` or `MAJOR:MINOR default`."""
    where, word = amounts.two(text if " " in text.strip() else f"default {text}", "WEIGHT")
    key = "" if where == "default" else amounts.device(where, host)
    if key and word == "default":
        return [(key, "", word)]
    return [(key, "", Fraction(amounts.whole(word, low, high), default))]


def huge_pages(text: str, match: re.Match[str], _host: Host) -> list[Said]:
    """Read a limit of huge pages of one size."""
    return [(match.group(1), "", amounts.byte_count(text))]


def by_word(text: str, _match: re.Match[str], _host: Host) -> list[Said]:
    """Read a word and a number."""
    word, limit = amounts.two(text, "NAME NUMBER")
    return [(word, "", amounts.count(0, 2**63 - 1)(limit))]


def rdma(text: str, _match: re.Match[str], _host: Host) -> list[Said]:
    """Read limits of an adapter."""
    word, given = amounts.pairs(text, "DEVICE hca_handle=N hca_object=N")
    return [(word, part, amounts.count(0, 2**31 - 1)(limit)) for part, limit in given.items()]


def latency(text: str, _match: re.Match[str], host: Host) -> list[Said]:
    """Read a target of a device."""
    where, given = amounts.pairs(text, "MAJOR:MINOR target=USEC")
    if list(given) != ["target"]:
        raise ValueError("takes target= and nothing else")
    return [(amounts.device(where, host), "", amounts.whole(given["target"], 0, 2**32))]


def same(name: str, key: str, parts: Parts, _around: Around) -> Written:
    """Write the value as it is."""
    (value,) = parts.values()
    text = "max" if value is None else str(value)
    return Written(((name, f"{key} {text}" if key else text),))


def in_bytes(unlimited: str, name: str, _key: str, parts: Parts, around: Around) -> Written:
    """Write bytes."""
    (value,) = parts.values()
    return Written(((name, unlimited if value is None else _pages(value, around)),))


def _pages(value: Value, around: Around) -> str:
    """Round down, as the kernel would do by itself: so that the same is read back."""
    page = around.host.page_bytes
    return str(int(value or 0) // page * page)


def as_shares(_key: str, parts: Parts, _around: Around) -> Written:
    """Write cpu.shares. Out of its range the kernel takes the nearest without a word."""
    number, lost = _scaled(parts[""], SHARES, _LEAST_SHARES, _MOST_SHARES)
    return Written((("cpu.shares", str(number)),), lost)


def as_weight(_key: str, parts: Parts, _around: Around) -> Written:
    """Write cpu.weight, or nice if it was said so."""
    value = parts[""]
    if isinstance(value, str):
        return Written((("cpu.weight.nice", value.removeprefix("nice ")),))
    number, lost = _scaled(value, WEIGHT, 1, 10000)
    return Written((("cpu.weight", str(number)),), lost)


def _scaled(value: Value, default: int, low: int, high: int) -> tuple[int, tuple[str, ...]]:
    """Multiply, and tell when it cannot be nearly that."""
    if isinstance(value, str):
        # Each step of nice is a quarter: kernel/sched/core.c; its table differs by 1 % at most.
        value = Fraction(4, 5) ** int(value.removeprefix("nice "))
    exact = Fraction(value or 0) * default
    number = min(max(round(exact), low), high)
    if abs(number - exact) > exact * _LOST:
        shown = f"{float(exact):.4g}"
        return number, (f"it would be {shown} here, and {number} is the nearest that there is",)
    return number, ()


def as_quota(_key: str, parts: Parts, _around: Around) -> Written:
    """Write cpu.cfs_*."""
    names = {"period": "cpu.cfs_period_us", "quota": "cpu.cfs_quota_us"}
    files = [
        (name, "-1" if parts[part] is None else str(parts[part]))
        for part, name in names.items()
        if part in parts
    ]
    return Written(tuple(files))


def as_cpu_max(_key: str, parts: Parts, _around: Around) -> Written:
    """Write cpu.max."""
    limit = parts.get("quota")
    text = f"{'max' if limit is None else limit} {parts.get('period', PERIOD_USEC)}"
    return Written((("cpu.max", text),))


def as_memsw(_key: str, parts: Parts, around: Around) -> Written:
    """Write the sum of memory and swap."""
    if "total" in parts:
        total = parts["total"]
        if total is not None:
            _swap_of(int(total), around)
    elif parts["swap"] is None:
        total = None
    elif around.limit is None:
        return Written((), ("version 1 limits swap only together with memory.max",))
    else:
        total = around.limit + int(parts["swap"] or 0)
    return Written((("memory.memsw.limit_in_bytes", _or_none("-1", total, around)),))


def as_swap(_key: str, parts: Parts, around: Around) -> Written:
    """Write swap alone."""
    swap = parts.get("swap")
    if parts.get("total") is not None:
        swap = _swap_of(int(parts["total"] or 0), around)
    return Written((("memory.swap.max", _or_none("max", swap, around)),))


def _or_none(unlimited: str, value: Value, around: Around) -> str:
    return unlimited if value is None else _pages(value, around)


def _swap_of(total: int, around: Around) -> int:
    if around.limit is None:
        raise ValueError("needs memory.limit_in_bytes, too: it is the sum of that and swap")
    if total < around.limit:
        raise ValueError(
            f"{total} is below the limit of memory, {around.limit}: it is the sum of that and swap"
        )
    return total - around.limit


def as_throttle(key: str, parts: Parts, _around: Around) -> Written:
    """Write blkio.throttle.*, one for each part."""
    files = [
        (f"blkio.throttle.{name}_device", f"{key} {parts[part] or 0}")
        for part, name in THROTTLE.items()
        if part in parts
    ]
    return Written(tuple(files))


def as_io_max(key: str, parts: Parts, _around: Around) -> Written:
    """Write io.max, all parts at once."""
    words = [key]
    for part in THROTTLE:
        if part in parts:
            value = parts[part]
            # 1 is possible in version 1 alone.
            words.append(f"{part}={'max' if value is None else max(int(value), 2)}")
    return Written((("io.max", " ".join(words)),))


def as_io_weight(version: int, key: str, parts: Parts, around: Around) -> Written:
    """Write it to every file of weights that there is: which of them counts depends on the
    scheduler that a device has at that time.
    """
    value = parts[""]
    kinds = [one for one in _IO_WEIGHTS[version] if around.files and one[0] in around.files]
    files: list[tuple[str, str]] = []
    lost: tuple[str, ...] = ()
    for name, default, low, high in kinds or _IO_WEIGHTS[version][:1]:
        text = "default"
        if not isinstance(value, str):
            number, lost = _scaled(value, default, low, high)
            text = str(number)
        if version == 1:
            files.append((f"{name}_device", f"{key} {text}") if key else (name, text))
        else:
            files.append((name, f"{key or 'default'} {text}"))
    return Written(tuple(files), lost)


def as_huge_pages(end: str, unlimited: str, key: str, parts: Parts, _around: Around) -> Written:
    """Write a limit of huge pages, in whole ones."""
    value = parts[""]
    size, unit = re.findall(r"\d+|[KMG]", key)[:2]
    page = int(size) << {"K": 10, "M": 20, "G": 30}[unit]
    text = unlimited if value is None else str(int(value) // page * page)
    return Written(((f"hugetlb.{key}.{end}", text),))


def as_pairs(name: str, key: str, parts: Parts, _around: Around) -> Written:
    """Write several parts at once."""
    told = " ".join(f"{part}={'max' if one is None else one}" for part, one in parts.items())
    return Written(((name, f"{key} {told}"),))


def as_latency(key: str, parts: Parts, _around: Around) -> Written:
    """Write io.latency."""
    return Written((("io.latency", f"{key} target={parts['']}"),))
