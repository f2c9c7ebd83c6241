"""What has changed between two readings of a configuration, for an event. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxcd.config.model import Line

_KEYS = 20
_VALUE_CHARACTERS = 256


def details(before: Iterable[Line], after: Iterable[Line]) -> dict[str, str]:
    """`keys`, then `before.KEY` and `after.KEY` with the values, one a line; where there were none
    there is no such entry. Of many keys only their number is told, of long values the beginning.
    """
    old, new = _by_key(before), _by_key(after)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    shown = changed[:_KEYS]
    found = {"keys": " ".join(_cut(key) for key in shown)}
    if len(changed) > len(shown):
        found["more_keys"] = str(len(changed) - len(shown))
    for key in shown:
        for side, values in (("before", old), ("after", new)):
            if key in values:
                found[f"{side}.{_cut(key)}"] = _cut("\n".join(values[key]))
    return found


def message(found: dict[str, str]) -> str:
    """For a person."""
    keys = ", ".join(found["keys"].split(" ")) if found["keys"] else "nothing but its text"
    more = found.get("more_keys")
    return f"{keys} and {more} more" if more else keys


def _by_key(lines: Iterable[Line]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(line.name, []).append(line.value)
    return found


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}..."
