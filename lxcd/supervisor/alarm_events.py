"""How kills and limits are told: the message for a person, and the details. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lxcd.cgroup.kmsg import Victim
    from lxcd.supervisor.kills import Kill

_SHOWN = 8  # names in an event of many
_STEP = 1024
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_WORDS = {
    "memory": "memory",
    "memory_high": "memory before it is throttled",
    "memory_swap": "memory and swap",
    "pids": "processes",
}


def kill(one: Kill, limit_bytes: int | None, *, init: bool) -> tuple[str, dict[str, str]]:
    """One victim, or a number of them that nobody has named."""
    details = {"count": str(one.count)}
    victim = one.victim
    if victim is None:
        text = _number(one.count, "process", "processes")
    else:
        text = f"{_named(victim)}, {_size(victim.resident_bytes)}"
        details |= _details(victim)
        if init:
            text = f"init: {text}"
            details["init"] = "true"
    if limit_bytes is not None:
        text += f", at a limit of {_size(limit_bytes)}"
        details["limit_bytes"] = str(limit_bytes)
    elif victim is not None and victim.cgroup and not victim.limit_cgroup:
        text += ": the host is out of memory"
    return _finish(text, details, missed=one.missed)


def kills(many: Sequence[Kill]) -> tuple[str, dict[str, str]]:
    """Many at once, after many that were told one by one."""
    count = sum(one.count for one in many)
    names = [_named(one.victim) for one in many if one.victim is not None]
    shown = ", ".join(names[:_SHOWN])
    text = _number(count, "process", "processes")
    if shown:
        text += f": {shown}" + (", ..." if count > min(len(names), _SHOWN) else "")
    details = {"count": str(count)}
    if shown:
        details["names"] = shown
    return _finish(text, details, missed=any(one.missed for one in many))


def hit(name: str, count: int, limit: int | None, seconds: float) -> tuple[str, dict[str, str]]:
    """A limit that was met, `seconds` after it was last told; 0 for the first time."""
    details = {"limit": name, "count": str(count)}
    text = f"limit of {_WORDS.get(name, name)} met"
    if limit is not None:
        in_bytes = name != "pids"
        details["limit_bytes" if in_bytes else "limit_processes"] = str(limit)
        text += f" ({_size(limit) if in_bytes else limit})"
    if count > 1:
        text += f", {count} times"
    if seconds:
        details["seconds"] = f"{seconds:.0f}"
        text += f" in {seconds:.0f} s"
    return text, details


def _details(victim: Victim) -> dict[str, str]:
    found = {
        "name": victim.name,
        "pid": str(victim.pid),
        "uid": str(victim.uid),
        "resident_bytes": str(victim.resident_bytes),
        "virtual_bytes": str(victim.virtual_bytes),
        "kernel_log_sequence": str(victim.sequence),
    }
    if victim.container_pid:
        found["container_pid"] = str(victim.container_pid)
    if victim.cgroup:
        found["cgroup"] = victim.cgroup
    if victim.limit_cgroup:
        found["limit_cgroup"] = victim.limit_cgroup
    return found


def _named(victim: Victim) -> str:
    return f"{victim.name} (pid {victim.pid})"


def _finish(text: str, details: dict[str, str], *, missed: bool) -> tuple[str, dict[str, str]]:
    if missed:
        details["missed"] = "true"
        text += ", while lxcd was away"
    return text, details


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _size(number: int) -> str:
    value, unit = float(number), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.4g} {_UNITS[unit]}"
