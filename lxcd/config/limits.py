"""`[limits]` of a container's `lxcd.toml`: limits in words of people. Text in, data out, and back:
the rest of the file stays as it is.

    [limits]
    cpu = 1.5                # so much time of cpus; or "0-3,6": these cpus and no others
    memory = "256MiB"        # or "1GB", "50%" of the host's, or a number of bytes
    swap = "1GiB"            # beyond memory
    pids = 500
    io = [
        { device = "/dev/vda", read_bytes_per_second = "10MiB", write_operations_per_second = 100 },
        { device = "*", weight = 200 },  # against 100 of others; "*": on all devices
    ]

KiB, MiB … are powers of 1024, kB, MB … of 1000. Each becomes a line of version 2, which counts
unless the configuration itself speaks of the same thing (`cgroup.limits`).
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from lxcd.config.characters import quoted
from lxcd.config.model import CgroupSetting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = ("cpu", "memory", "swap", "pids", "io")
PERIOD_USEC = 100_000
_MOST_CPUS = 1 << 16
_LEAST_CPUS = 0.01  # 1 ms of the period: the kernel takes no less
_MOST_PIDS = 1 << 22
_MOST_BYTES = 2**63 - 1
_SIZE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,9}))? ?([KMGTP]i?B|kB|B|)\Z", re.ASCII)
_UNITS = {
    "": 1,
    "B": 1,
    "kB": 1000,
    **{f"{letter}B": 1000 ** (power + 1) for power, letter in enumerate("KMGTP")},
    **{f"{letter}iB": 1024 ** (power + 1) for power, letter in enumerate("KMGTP")},
}
_PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,4}))?%\Z", re.ASCII)
_CPUS = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*\Z", re.ASCII)
_DEVICE = re.compile(r"/dev/[!-~]+\Z|[0-9]{1,4}:[0-9]{1,7}\Z", re.ASCII)
_RATES = {
    "read_bytes_per_second": "rbps",
    "write_bytes_per_second": "wbps",
    "read_operations_per_second": "riops",
    "write_operations_per_second": "wiops",
}
_ALL = "*"
_MOST_LINES = 1000  # of one value: beyond that its owner edits it
_HEADER = re.compile(r"\s*\[\s*(?:limits|\"limits\"|'limits')\s*\]\s*(?:#.*)?\Z")
_IO_HEADER = re.compile(r"\s*\[\[\s*limits\s*\.\s*io\s*\]\]\s*(?:#.*)?\Z")
_TABLE = re.compile(r"\s*\[")


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, or a part of the host's memory."""

    bytes: int = 0
    ten_thousandths: int = 0  # 50 % are 5000

    def of(self, host_bytes: int) -> int:
        """Return it in bytes."""
        return self.bytes or host_bytes * self.ten_thousandths // 10_000


@dataclass(frozen=True, slots=True)
class Io:
    """Limits of one device, or of all."""

    device: str  # a path, `MAJOR:MINOR`, or `*`
    rates: tuple[tuple[str, int], ...] = ()  # as io.max names them: rbps wbps riops wiops
    weight: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What stands in the table. None and empty: nothing."""

    cpu_usec: int | None = None  # of each 100 ms
    cpus: str = ""
    memory: Size | None = None
    swap: Size | None = None
    pids: int | None = None
    io: tuple[Io, ...] = ()

    def settings(self, host_bytes: int) -> tuple[CgroupSetting, ...]:
        """Return it as lines of version 2, for a host of so much memory."""
        return tuple(
            CgroupSetting(2, name, value, f"lxcd.toml: limits.{key}")
            for key, name, value in self._lines(host_bytes)
        )

    def _lines(self, host_bytes: int) -> Iterator[tuple[str, str, str]]:
        if self.cpu_usec is not None:
            yield "cpu", "cpu.max", f"{self.cpu_usec} {PERIOD_USEC}"
        if self.cpus:
            yield "cpu", "cpuset.cpus", self.cpus
        if self.memory is not None:
            yield "memory", "memory.max", str(self.memory.of(host_bytes))
        if self.swap is not None:
            yield "swap", "memory.swap.max", str(self.swap.of(host_bytes))
        if self.pids is not None:
            yield "pids", "pids.max", str(self.pids)
        for one in self.io:
            if one.rates:
                told = " ".join(f"{name}={value}" for name, value in one.rates)
                yield "io", "io.max", f"{one.device} {told}"
            if one.weight is not None:
                where = "default" if one.device == _ALL else one.device
                yield "io", "io.weight", f"{where} {one.weight}"


def read(value: object) -> tuple[Limits, list[tuple[str, str]]]:
    """Those that stand below the key `limits`, and what is wrong with others: name, why."""
    if not isinstance(value, dict):
        return Limits(), [("limits", "must be a table: [limits]")]
    found: dict[str, object] = {}
    problems: list[tuple[str, str]] = []
    for name, given in cast("dict[str, object]", value).items():
        if name not in _READERS:
            problems.append((name, f"limits.{name} is none of: {', '.join(NAMES)}"))
            continue
        try:
            found |= _READERS[name](given)
        except ValueError as error:
            problems.append((name, f"limits.{name}: {error}"))
    make = cast("Callable[..., Limits]", Limits)
    return make(**found), problems


def _cpu(value: object) -> dict[str, object]:
    if isinstance(value, str):
        return {"cpus": _cpu_list(value)}
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError('must be a number of cpus, or which: "0-3,6"')  # noqa: TRY004
    if not _LEAST_CPUS <= value <= _MOST_CPUS:
        raise ValueError(f"must be between {_LEAST_CPUS} and {_MOST_CPUS}")
    return {"cpu_usec": round(value * PERIOD_USEC)}


def _cpu_list(text: str) -> str:
    if text.isdecimal():
        raise ValueError(f'{quoted(text)}: how many is written without quotes, which is "2-2"')
    if not _CPUS.match(text):
        raise ValueError(f"{quoted(text)} is not a list of cpus, as 0-3,6")
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise ValueError(f"{quoted(part)} is a range that is none")
    return text


def _size(value: object) -> Size:
    """Read a number of bytes in one of its forms."""
    if isinstance(value, str) and value.endswith("%"):
        found = _PERCENT.match(value)
        parts = int(found.group(1)) * 100 + _hundredths(found.group(2)) if found else 0
        if not 0 < parts <= 10_000:  # noqa: PLR2004
            raise ValueError(f"{quoted(value)} must be more than 0 % and at most 100 %")
        return Size(ten_thousandths=parts)
    return Size(_bytes(value))


def _hundredths(text: str | None) -> int:
    return int((text or "").ljust(2, "0")[:2])


def _bytes(value: object) -> int:
    number = value
    if isinstance(value, str):
        found = _SIZE.match(value)
        if not found:
            raise ValueError(f"{quoted(value)} is not a size: a number with MiB, GB or the like")
        whole, rest, unit = found.groups()
        scale = 10 ** len(rest or "")
        number = int(whole + (rest or "")) * _UNITS[unit] // scale
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError('must be a size: "256MiB", or a number of bytes')  # noqa: TRY004
    if not 0 <= number <= _MOST_BYTES:
        raise ValueError(f"must be between 0 and {_MOST_BYTES} bytes")
    return number


def _memory(value: object) -> dict[str, object]:
    size = _size(value)
    if not size.of(1 << 40):
        raise ValueError("no process can live without memory")
    return {"memory": size}


def _swap(value: object) -> dict[str, object]:
    return {"swap": _size(value)}


def _pids(value: object) -> dict[str, object]:
    return {"pids": _number(value, 1, _MOST_PIDS)}


def _number(value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"must be a number between {low} and {high}")
    return value


def _io(value: object) -> dict[str, object]:
    if not isinstance(value, list):
        raise ValueError("must be a list of tables")  # noqa: TRY004
    found = [_one_io(one) for one in cast("list[object]", value)]
    devices = [one.device for one in found]
    twice = [device for device in devices if devices.count(device) > 1]
    if twice:
        raise ValueError(f"{quoted(twice[0])} stands there twice")
    return {"io": tuple(found)}


def _one_io(value: object) -> Io:
    if not isinstance(value, dict):
        raise ValueError("must be a list of tables")  # noqa: TRY004
    table = cast("dict[str, object]", value)
    device, weight = table.get("device"), table.get("weight")
    unknown = sorted(table.keys() - _RATES.keys() - {"device", "weight"})
    if unknown:
        raise ValueError(f"{quoted(unknown[0])} is none of: device, weight, {', '.join(_RATES)}")
    if not isinstance(device, str) or not (device == _ALL or _DEVICE.match(device)):
        raise ValueError('device must be a path in /dev, a number as "8:0", or "*"')
    rates: list[tuple[str, int]] = []
    for key, name in _RATES.items():
        if key in table:
            number = _bytes(table[key]) if "bytes" in key else _number(table[key], 0, 2**32 - 2)
            if number < 2:  # noqa: PLR2004 - as the kernel has it
                raise ValueError(f"{key} must be at least 2")
            rates.append((name, number))
    if rates and device == _ALL:
        raise ValueError("limits per second are those of one device each; * is for weight alone")
    if not rates and weight is None:
        raise ValueError(f"{quoted(device)}: says nothing")
    return Io(device, tuple(rates), None if weight is None else _number(weight, 1, 10_000))


_READERS: dict[str, Callable[[object], dict[str, object]]] = {
    "cpu": _cpu,
    "memory": _memory,
    "swap": _swap,
    "pids": _pids,
    "io": _io,
}


def with_limit(text: str, name: str, value: str) -> str:
    """Return the text with one limit set, as a user types its value. Raises ValueError if there is
    no such limit, it cannot be that, or the file is written so unusually that it is for its owner
    to edit.
    """
    written = _literal(name, value)
    _, problems = read({name: _toml(f"x = {written}")["x"]})
    if problems:
        raise ValueError(problems[0][1])
    lines = _lines_of(text)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    span = _span(lines, name)
    line = f"{name} = {written}\n"
    if span is not None:
        lines[span[0] : span[1]] = [_like(lines[span[0] : span[1]], line)]
        return _verified(text, "".join(lines), name, written)
    start = next((i for i, one in enumerate(lines) if _is(_HEADER, one)), None)
    if start is None:
        # Before its own [[limits.io]], which may follow it but not go ahead.
        first = next((i for i, one in enumerate(lines) if _is(_IO_HEADER, one)), None)
        if first is None:
            blank = ["\n"] if lines else []
            lines += [*blank, "[limits]\n", line]
        else:
            lines[first:first] = ["[limits]\n", line, "\n"]
        return _verified(text, "".join(lines), name, written)
    end = _end_of_table(lines, start)
    while end > start + 1 and not _is_content(lines[end - 1]):
        end -= 1
    lines.insert(end, line)
    return _verified(text, "".join(lines), name, written)


def without_limit(text: str, name: str) -> str:
    """Return the text without one limit; raises ValueError as `with_limit`."""
    if name not in NAMES:
        raise ValueError(f"limits.{name} is none of: {', '.join(NAMES)}")
    lines = _lines_of(text)
    span = _span(lines, name)
    if span is not None:
        del lines[span[0] : span[1]]
        _drop_if_empty(lines)
    if name == "io":
        for start in reversed(range(len(lines))):
            if _is(_IO_HEADER, lines[start]):
                del lines[start : _end_of_table(lines, start)]
    return _verified(text, "".join(lines), name, "")


def _lines_of(text: str) -> list[str]:
    try:
        _toml(text)
    except ValueError as error:
        raise ValueError(f"lxcd.toml has to be edited by hand: {error}") from None
    return text.splitlines(keepends=True)


def _drop_if_empty(lines: list[str]) -> None:
    start = next((i for i, one in enumerate(lines) if _is(_HEADER, one)), None)
    end = _end_of_table(lines, start or 0)
    if start is None or "".join(lines[start + 1 : end]).strip():
        return
    while start and end >= len(lines) and not lines[start - 1].strip():
        start -= 1  # the blank lines before the last table go with it
    del lines[start:end]


def _is(header: re.Pattern[str], line: str) -> bool:
    return header.match(line.rstrip("\r\n")) is not None


def _toml(text: str) -> dict[str, Any]:
    """Read TOML. Raises ValueError alone."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("too deep") from None


def _literal(name: str, value: str) -> str:
    """Write a value as TOML has it."""
    if name not in NAMES:
        raise ValueError(f"limits.{name} is none of: {', '.join(NAMES)}")
    text = value.strip()
    if name == "io":
        try:
            alone = list(_toml(f"x = {text}")) == ["x"]
        except ValueError:
            alone = False
        if not alone:
            raise ValueError("limits.io is a list of tables, as TOML has it")
        return text
    number = r"[1-9][0-9]{0,18}|0" + (r"|(0|[1-9][0-9]{0,5})\.[0-9]{1,6}" if name == "cpu" else "")
    if re.fullmatch(number, text, re.ASCII):
        return text
    if not text.isascii() or not text.isprintable() or set(text) & set("\"\\'"):
        raise ValueError(f"{quoted(text)} cannot be limits.{name}")
    return f'"{text}"'


def _span(lines: list[str], name: str) -> tuple[int, int] | None:
    """Find the lines of one limit, in its table or dotted at the top."""
    inside = re.compile(rf"\s*(?:{name}|\"{name}\"|'{name}')\s*=")
    dotted = re.compile(rf"\s*limits\s*\.\s*{name}\s*=")
    where = "top"
    for start, line in enumerate(lines):
        if _TABLE.match(line):
            where = "limits" if _is(_HEADER, line) else "else"
        pattern = {"top": dotted, "limits": inside}.get(where)
        if pattern is not None and pattern.match(line):
            return start, _end_of_value(lines, start)
    return None


def _end_of_value(lines: list[str], start: int) -> int:
    """Find where a value ends that may have several lines: as soon as it is TOML."""
    for end in range(start + 1, min(start + _MOST_LINES, len(lines)) + 1):
        try:
            _toml("".join(lines[start:end]))
        except ValueError:
            continue
        return end
    return start + 1


def _end_of_table(lines: list[str], start: int) -> int:
    end = start + 1
    while end < len(lines) and not _TABLE.match(lines[end]):
        end = _end_of_value(lines, end) if _is_content(lines[end]) else end + 1
    return end


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _like(old: list[str], line: str) -> str:
    """Write a line in the place of another: what is left of the sign, and a comment, stay."""
    before, _, rest = old[0].partition("=")
    value = line.partition("=")[2].strip()
    comment = ""
    if len(old) == 1:
        for found in re.finditer("#", rest):
            try:
                _toml(f"x = {rest[: found.start()]}")
            except ValueError:
                continue
            space = len(rest[: found.start()]) - len(rest[: found.start()].rstrip())
            comment = " " * space + rest[found.start() :].rstrip("\r\n")
            break
    return f"{before.rstrip()} = {value}{comment}\n"


def _verified(before: str, after: str, name: str, written: str) -> str:
    """What comes out must say what was meant: else it is for its owner to edit."""
    try:
        wanted, made = _toml(before), _toml(after)
        limits = wanted.setdefault("limits", {})
        limits.pop(name, None)
        if written:
            limits[name] = _toml(f"x = {written}")["x"]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"lxcd.toml has to be edited by hand: {error}") from None
    made.setdefault("limits", {})
    if made != wanted:
        raise ValueError("lxcd.toml has to be edited by hand: its limits are written unusually")
    return after
