"""The columns of `stats` and `top`: what they show, what they sort by, which of them fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from lxcctl.output import columns_of, cut, harmless
from lxcctl.usage import amount, number, percent, size, span
from lxcctl.wire import state_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lxcctl.usage import Usage

    Value = float | str | None

_NAME_WIDTHS = (8, 32)


@dataclass(frozen=True, slots=True)
class Column:
    """`word` is what people sort by; the others name it so in `--sort` and in a record."""

    title: str
    word: str
    width: int
    value: Callable[[Usage], Value]
    text: Callable[[Usage], str]
    spare: int = 0  # the highest is left out first where there is no room; 0 never is


def _traffic(
    title: str, word: str, value: Callable[[Usage], Value], spare: int, *, rate: bool
) -> Column:
    width = 9 if rate else 7
    return Column(
        f"{title}/s" if rate else title, word, width, value, lambda u: _size(u, value), spare
    )


def _size(usage: Usage, value: Callable[[Usage], Value]) -> str:
    found = value(usage)
    assert not isinstance(found, str)
    return size(found)


def _swap(usage: Usage) -> int | None:
    return number(usage.stats.memory, "swap_usage_bytes")


def _kernel(usage: Usage) -> int | None:
    return number(usage.stats.memory, "kernel_bytes")


def _limit(usage: Usage) -> int | None:
    return number(usage.stats.memory, "limit_bytes")


def _tasks(usage: Usage) -> int | None:
    return number(usage.stats.pids, "current")


def _spent(usage: Usage) -> int | None:
    return number(usage.stats.cpu, "usage_usec")


_FIRST = (
    Column("NAME", "name", 8, lambda u: u.stats.name, lambda u: harmless(u.stats.name)),
    Column(
        "STATE",
        "state",
        7,
        lambda u: state_name(u.stats.state),
        lambda u: state_name(u.stats.state),
        7,
    ),
    Column("CPU%", "cpu", 5, lambda u: u.rates.cpu_percent, lambda u: percent(u.rates.cpu_percent)),
    Column("TIME", "time", 6, _spent, lambda u: span(_spent(u)), 8),
    Column("MEMORY", "memory", 6, lambda u: u.memory_bytes, lambda u: size(u.memory_bytes)),
    Column("LIMIT", "limit", 5, _limit, lambda u: size(_limit(u)), 6),
    Column(
        "MEM%", "percent", 5, lambda u: u.memory_percent, lambda u: percent(u.memory_percent), 2
    ),
    Column("SWAP", "swap", 5, _swap, lambda u: size(_swap(u)), 4),
    Column("KERNEL", "kernel", 6, _kernel, lambda u: size(_kernel(u)), 9),
    Column("PIDS", "pids", 5, _tasks, lambda u: amount(_tasks(u)), 1),
)
_LAST = Column(
    "UPTIME", "uptime", 6, lambda u: u.stats.uptime_usec, lambda u: span(u.stats.uptime_usec), 5
)

# What has passed since the start of each container, and what passes now.
TOTALS = (
    *_FIRST,
    _traffic("NET-IN", "in", lambda u: u.receive_bytes, 3, rate=False),
    _traffic("NET-OUT", "out", lambda u: u.transmit_bytes, 3, rate=False),
    _traffic("READ", "read", lambda u: u.read_bytes, 3, rate=False),
    _traffic("WRITE", "write", lambda u: u.write_bytes, 3, rate=False),
    _LAST,
)
RATES = (
    *_FIRST,
    _traffic("NET-IN", "in", lambda u: u.rates.receive_bytes, 3, rate=True),
    _traffic("NET-OUT", "out", lambda u: u.rates.transmit_bytes, 3, rate=True),
    _traffic("READ", "read", lambda u: u.rates.read_bytes, 3, rate=True),
    _traffic("WRITE", "write", lambda u: u.rates.write_bytes, 3, rate=True),
    _LAST,
)


def _both(one: float | None, other: float | None) -> float | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


# Sorted by two columns together.
_SUMS: dict[str, tuple[str, str]] = {"io": ("read", "write"), "net": ("in", "out")}
SORTS = (*(column.word for column in RATES), *_SUMS)


def values(columns: Sequence[Column], word: str) -> Callable[[Usage], Value]:
    """What is sorted by under this word."""
    known = {column.word: column.value for column in columns}
    if word not in _SUMS:
        return known[word]
    first, second = (known[part] for part in _SUMS[word])

    def total(usage: Usage) -> Value:
        one, other = first(usage), second(usage)
        assert not isinstance(one, str)
        assert not isinstance(other, str)
        return _both(one, other)

    return total


def ordered(
    usages: Iterable[Usage], columns: Sequence[Column], word: str, *, reverse: bool
) -> list[Usage]:
    """Words from A on, numbers from the largest, what is not known last; `reverse`: the other way
    round. Those alike stand by their names.
    """
    value = values(columns, word)
    found = sorted(usages, key=lambda u: (u.stats.name, u.stats.lxcpath))
    known: list[Usage] = []
    unknown: list[Usage] = []
    for usage in found:
        (unknown if value(usage) is None else known).append(usage)
    # The sort is stable both ways.
    falling = (word not in {"name", "state"}) != reverse
    known.sort(key=cast("Callable[[Usage], float]", value), reverse=falling)  # all are of one kind
    return known + unknown


def fitting(columns: Sequence[Column], room: int, keep: str, name_width: int) -> list[Column]:
    """Those for which a line has room. What is sorted by is never left out."""
    kept = list(columns)
    needed = {keep, *_SUMS.get(keep, ())}

    def width() -> int:
        return name_width + sum(1 + column.width for column in kept[1:])

    while width() > room:
        spare = [column for column in kept if column.spare and column.word not in needed]
        if not spare:
            break
        # Of those alike the one on the right.
        kept.remove(max(reversed(spare), key=lambda column: column.spare))
    return kept


def name_width(usages: Iterable[Usage]) -> int:
    """So wide that nearly every name has room."""
    least, most = _NAME_WIDTHS
    longest = max((columns_of(harmless(usage.stats.name)) for usage in usages), default=0)
    return min(max(least, longest), most)


def heading(columns: Sequence[Column], width: int) -> str:
    """The line above; `width` is that of the names."""
    return _aligned(columns, [column.title for column in columns], width)


def line(columns: Sequence[Column], usage: Usage, width: int) -> str:
    """The line of one container."""
    return _aligned(columns, [column.text(usage) for column in columns], width)


def _aligned(columns: Sequence[Column], cells: Sequence[str], width: int) -> str:
    name = cut(cells[0], width)
    padded = [name + " " * (width - columns_of(name))]
    for column, cell in zip(columns[1:], cells[1:], strict=True):
        padded.append(
            cell.ljust(column.width) if column.word == "state" else cell.rjust(column.width)
        )
    return " ".join(padded)
