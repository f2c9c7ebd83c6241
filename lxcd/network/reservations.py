"""Which IPv4 address of a network's range is kept for which container's device. Pure.

The first choice comes of the container's name, so that it is the same whenever it can be.
"""

from __future__ import annotations

import ipaddress
import json
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from ipaddress import IPv4Address

    from lxcd.network.definition import ManagedNetwork

_MAXIMUM_RANGE = 1 << 16


def key(lxcpath: str, container: str, device_number: int) -> str:
    """What a reservation is known by."""
    return json.dumps([lxcpath, container, device_number])


def container_of(reserved_key: str) -> tuple[str, str] | None:
    """The lxcpath and name in a key."""
    try:
        found = cast("list[object]", json.loads(reserved_key))
        lxcpath, name, _ = found
    except (ValueError, TypeError):
        return None
    return str(lxcpath), str(name)


def choose(
    network: ManagedNetwork, own_key: str, reserved: Mapping[str, str], taken: Collection[str]
) -> str:
    """An address that nobody has; `taken` are those beside the reserved. Empty: there is none."""
    bounds = network.range
    own = network.ipv4_interface
    if bounds is None or own is None:
        return ""
    first, last = bounds
    kept = reserved.get(own_key, "")
    if kept and first <= ipaddress.IPv4Address(kept) <= last and kept not in taken:
        return kept
    gone = {*taken, *(text for other, text in reserved.items() if other != own_key), str(own.ip)}
    count = min(int(last) - int(first) + 1, _MAXIMUM_RANGE)
    start = int.from_bytes(blake2b(own_key.encode(), digest_size=8).digest()) % count
    for step in range(count):
        found = str(_nth(first, (start + step) % count))
        if found not in gone:
            return found
    return ""


def _nth(first: IPv4Address, number: int) -> IPv4Address:
    return first + number


def encode(reserved: Mapping[str, str]) -> bytes:
    """As a file."""
    return json.dumps(dict(reserved), indent=0).encode()


def decode(data: bytes) -> dict[str, str]:
    """The reverse; what is damaged is left out."""
    try:
        table: object = json.loads(data)
    except ValueError:
        return {}
    if not isinstance(table, dict):
        return {}
    found: dict[str, str] = {}
    for own_key, value in cast("dict[str, object]", table).items():
        try:
            found[own_key] = str(ipaddress.IPv4Address(str(value)))
        except ValueError:
            continue
    return found
