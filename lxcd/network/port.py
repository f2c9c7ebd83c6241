"""A port of a managed bridge: one device of one container, and what it may say of itself. Pure.

Kept as a record for as long as the device is connected, so that the next lxcd knows it.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lxcd.config.forwards import Forward
from lxcd.network.definition import eui64

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from lxcd.network.definition import ManagedNetwork

_LINK_LOCAL = ipaddress.IPv6Network("fe80::/64")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?\Z")
_IPV4, _IPV6 = 4, 6


@dataclass(frozen=True, slots=True)
class Port:
    """One. `ipv4` is the address that is kept for it; empty without IPv4 on the bridge."""

    network: str
    lxcpath: str
    container: str
    device_number: int
    host_name: str  # of the veth's end in the bridge
    hwaddr: str  # of the end in the container
    ipv4: str = ""
    static: tuple[str, ...] = ()  # addresses that its configuration gives it
    filter: tuple[str, ...] = ()
    dns_name: str = ""  # empty: it has none
    seen: tuple[str, ...] | None = None  # what it really has; None: nobody has looked yet
    forwards: tuple[Forward, ...] = ()  # ports of the host that lead to it


def dns_label(name: str) -> str:
    """The name that a container has in DNS; empty if its own cannot be one."""
    label = name.lower()
    return label if _LABEL.match(label) else ""


def allowed_ipv4(port: Port) -> list[IPv4Address]:
    """What it may send from."""
    found = {ipaddress.IPv4Address(text) for text in (port.ipv4,) if text}
    found |= {ipaddress.IPv4Address(text) for text in _of(port, _IPV4)}
    return sorted(found)


def allowed_ipv6(port: Port, network: ManagedNetwork) -> list[IPv6Address]:
    """The same: what its hardware address makes of the link's prefix and the network's."""
    found = {eui64(_LINK_LOCAL, port.hwaddr)}
    own = network.ipv6_interface
    if own is not None:
        found.add(eui64(own.network, port.hwaddr))
    found |= {ipaddress.IPv6Address(text) for text in _of(port, _IPV6)}
    return sorted(found)


def target_ipv6(port: Port, network: ManagedNetwork) -> IPv6Address | None:
    """Where a forward leads by IPv6: a static address of it within the network, or its own."""
    own = network.ipv6_interface
    if own is None:
        return None
    static = [one for one in map(ipaddress.IPv6Address, _of(port, _IPV6)) if one in own.network]
    return static[0] if static else eui64(own.network, port.hwaddr)


def _of(port: Port, version: int) -> list[str]:
    return [text for text in port.static if ipaddress.ip_address(text).version == version]


def named_addresses(port: Port, network: ManagedNetwork) -> list[str]:
    """The addresses that its name stands for, within the network."""
    networks = [
        own.network for own in (network.ipv4_interface, network.ipv6_interface) if own is not None
    ]
    own6 = network.ipv6_interface
    expected = [port.ipv4, *port.static]
    if own6 is not None and network.ipv6_ra:
        expected.append(str(eui64(own6.network, port.hwaddr)))
    texts = expected if port.seen is None else port.seen
    allowed: set[object] = set()
    filtered = {_IPV4: "ipv4" in port.filter, _IPV6: "ipv6" in port.filter}
    allowed |= {*allowed_ipv4(port), *allowed_ipv6(port, network)}
    found: list[str] = []
    for address in (ipaddress.ip_address(text) for text in texts if text):
        inside = any(address in one for one in networks if one.version == address.version)
        # What it may not send from, it does not get a name for either.
        if inside and (address in allowed or not filtered[address.version]):
            found.append(str(address))
    return list(dict.fromkeys(found))


def encode(port: Port) -> bytes:
    """As a record."""
    return json.dumps(asdict(port)).encode()


def decode(data: bytes) -> Port:
    """The reverse. Raises ValueError, TypeError, KeyError for one that is damaged."""
    table: dict[str, Any] = json.loads(data)
    for key in ("static", "filter"):
        table[key] = tuple(str(one) for one in table[key])
    if table["seen"] is not None:
        table["seen"] = tuple(str(one) for one in table["seen"])
    table["forwards"] = tuple(Forward(**one) for one in table["forwards"])
    return Port(**table)
