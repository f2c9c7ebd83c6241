"""What there is in a network namespace: devices, addresses, routes. Pure: messages in, a frozen
picture out.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxcd.network import dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# include/uapi/linux/if.h
IFF_UP, IFF_LOOPBACK, IFF_LOWER_UP = 0x1, 0x8, 0x10000

# if_link.h, if_addr.h, rtnetlink.h: attributes by number.
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK = 1, 3, 4, 5
_IFLA_LINKINFO, _IFLA_STATS64, _IFLA_LINK_NETNSID = 18, 23, 37
_INFO_KIND = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_RTA_PREFSRC, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 7, 9, 15, 18

_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths of both, tos, table, protocol, scope, type
_HOP = struct.Struct("=HBBi")  # length, flags, hops, index
# rtnl_link_stats64: packets, bytes, errors, dropped, each of both ways; behind them rx_fifo_errors
# and tx_fifo_errors.
_STATS = struct.Struct("=8Q48xQ24xQ")

_MAIN_TABLE = 254
_CLONED = 0x200  # RTM_F_CLONED: an exception to a route, not one
_ARPHRD = {1: "ether", 772: "loopback"}
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_ROUTE_KINDS = {
    1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole",
    7: "unreachable", 8: "prohibit", 9: "throw", 10: "nat",
}  # fmt: skip
_TENTATIVE, _DEPRECATED, _DAD_FAILED, _OPTIMISTIC = 0x40, 0x20, 0x08, 0x04


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a device."""

    family: int  # AF_INET, AF_INET6
    address: str
    prefix_length: int
    scope: str  # `global`, `link`, `host` …
    peer: str = ""  # at the other end of a point-to-point link
    tentative: bool = False  # not yet known to be nobody else's
    duplicate: bool = False  # somebody else's
    deprecated: bool = False

    @property
    def far(self) -> bool:
        """Others than neighbours can be talked to with it."""
        if self.tentative or self.duplicate or self.scope not in ("global", "site"):
            return False
        return not ipaddress.ip_address(self.address).is_link_local


@dataclass(frozen=True, slots=True)
class Interface:
    """One device. `peer_*` is its other end, or what it stands on, where that is in another
    namespace; the name is known for one of the host.
    """

    index: int
    name: str
    kind: str  # `veth`, `macvlan` …; `ether` and `loopback` of those that have none
    flags: int = 0  # IFF_* of netdevice(7)
    hardware_address: str = ""
    mtu: int = 0
    peer_index: int = 0
    peer_name: str = ""
    addresses: tuple[Address, ...] = ()

    @property
    def up(self) -> bool:
        """It is switched on."""
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        """Something is at the other end."""
        return bool(self.flags & IFF_LOWER_UP)

    @property
    def loopback(self) -> bool:
        """It is `lo`, whatever its name."""
        return bool(self.flags & IFF_LOOPBACK)


@dataclass(frozen=True, slots=True)
class Route:
    """One way of the main table; each hop of one that has several."""

    family: int
    destination: str  # `0.0.0.0/0`
    gateway: str = ""
    interface: str = ""
    source: str = ""
    metric: int = 0
    kind: str = "unicast"

    @property
    def far(self) -> bool:
        """It leads somewhere that is not only this link."""
        if self.kind != "unicast":
            return False
        where = ipaddress.ip_network(self.destination, strict=False)
        return not (where.is_link_local or where.is_multicast or where.is_loopback)


@dataclass(frozen=True, slots=True)
class Counters:
    """What has passed a device."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int
    rx_overruns: int
    tx_overruns: int


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is known of a namespace. `cut`: there is more than was looked at."""

    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    cut: bool = False

    @property
    def reachable(self) -> bool:
        """There is an address to talk to others with, and a route to them."""
        routed = {route.family for route in self.routes if route.far}
        return any(
            address.far and address.family in routed
            for interface in self.interfaces
            if not interface.loopback
            for address in interface.addresses
        )

    @property
    def bare(self) -> bool:
        """There is nothing but what every namespace is born with."""
        return not self.routes and all(interface.loopback for interface in self.interfaces)


@dataclass(frozen=True, slots=True)
class Link:
    """A device as one message tells of it, and in which namespace its peer is: -1 for its own."""

    interface: Interface
    peer_namespace: int


@dataclass(frozen=True, slots=True)
class Told:
    """What dumps have told, in their order."""

    links: tuple[Link, ...] = ()
    addresses: tuple[tuple[int, Address], ...] = ()  # by index of the device
    hops: tuple[tuple[int, Route], ...] = ()
    cut: bool = False


def link(message: bytes) -> Link:
    """RTM_NEWLINK."""
    _, kind, index, flags, _ = _LINK.unpack_from(message)
    found = dump.attributes(message, _LINK.size)
    named = dump.text(dump.attributes(found.get(_IFLA_LINKINFO, b"")).get(_INFO_KIND))
    namespace = dump.signed(found.get(_IFLA_LINK_NETNSID), -1)
    return Link(
        Interface(
            index=index,
            name=dump.text(found.get(_IFLA_IFNAME)),
            kind=named or _ARPHRD.get(kind, ""),
            flags=flags,
            hardware_address=found.get(_IFLA_ADDRESS, b"").hex(":"),
            mtu=dump.number(found.get(_IFLA_MTU)),
            peer_index=dump.number(found.get(_IFLA_LINK)) if namespace >= 0 else 0,
        ),
        namespace,
    )


def counters(message: bytes) -> tuple[int, Counters | None]:
    """The same message: index, and what has passed."""
    index = _LINK.unpack_from(message)[2]
    stats = dump.attributes(message, _LINK.size).get(_IFLA_STATS64, b"")
    return index, Counters(*_STATS.unpack_from(stats)) if len(stats) >= _STATS.size else None


def address(message: bytes) -> tuple[int, Address] | None:
    """RTM_NEWADDR: index of the device, address. None of another family."""
    family, length, flags, scope, index = _ADDRESS.unpack_from(message)
    found = dump.attributes(message, _ADDRESS.size)
    # Where there is a peer IFA_ADDRESS is that, and IFA_LOCAL is one's own: if_addr.h.
    peer = _ip(family, found.get(_IFA_ADDRESS))
    own = _ip(family, found.get(_IFA_LOCAL)) or peer
    if not own:
        return None
    flags = dump.number(found.get(_IFA_FLAGS), flags)
    return index, Address(
        family=family,
        address=own,
        prefix_length=length,
        scope=_SCOPES.get(scope, str(scope)),
        peer="" if peer == own else peer,
        # One that is used while it is being asked about is used (RFC 4429).
        tentative=bool(flags & _TENTATIVE) and not flags & _OPTIMISTIC,
        duplicate=bool(flags & _DAD_FAILED),
        deprecated=bool(flags & _DEPRECATED),
    )


def hops(message: bytes) -> list[tuple[int, Route]]:
    """RTM_NEWROUTE: index of the device and route, for each hop. None of another table."""
    family, length, _, _, table, _, _, kind, flags = _ROUTE.unpack_from(message)
    found = dump.attributes(message, _ROUTE.size)
    bits = {socket.AF_INET: 32, socket.AF_INET6: 128}.get(family, 0)
    if dump.number(found.get(_RTA_TABLE), table) != _MAIN_TABLE or flags & _CLONED:
        return []
    where = _ip(family, found.get(_RTA_DST, bytes(bits // 8)))
    if not where or length > bits:
        return []
    route = Route(
        family=family,
        destination=f"{where}/{length}",
        gateway=_gateway(family, found),
        source=_ip(family, found.get(_RTA_PREFSRC)),
        metric=dump.number(found.get(_RTA_PRIORITY)),
        kind=_ROUTE_KINDS.get(kind, str(kind)),
    )
    several = found.get(_RTA_MULTIPATH, b"")
    if not several:
        return [(dump.number(found.get(_RTA_OIF)), route)]
    ways: list[tuple[int, Route]] = []
    place = 0
    while place + _HOP.size <= len(several):
        size, _, _, index = _HOP.unpack_from(several, place)
        if size < _HOP.size:
            break
        own = dump.attributes(several[place : place + size], _HOP.size)
        ways.append((index, replace(route, gateway=_gateway(family, own))))
        place += (size + 3) & ~3
    return ways


def compose(told: Told, host: int, name_of: Callable[[int], str]) -> Picture:
    """The picture. `host` is the number of the host's namespace within this one, or -1, and
    `name_of` knows the host's devices.
    """
    names = {one.interface.index: one.interface.name for one in told.links}
    of: dict[int, dict[Address, None]] = {}
    for index, one in told.addresses:
        of.setdefault(index, {})[one] = None

    def whole(one: Link) -> Interface:
        mine = one.peer_namespace >= 0 and one.peer_namespace == host
        return replace(
            one.interface,
            peer_name=name_of(one.interface.peer_index) if mine else "",
            addresses=tuple(of.get(one.interface.index, ())),
        )

    # One that is renamed, or made, under the dump may be told of twice; the last word counts.
    links = {one.interface.index: one for one in told.links}
    routes = {replace(way, interface=names.get(index, "")): None for index, way in told.hops}
    return Picture(tuple(map(whole, links.values())), tuple(routes), told.cut)


def told(
    links: Iterable[bytes],
    addresses: Iterable[bytes],
    routes: Iterable[bytes],
    *,
    cut: bool = False,
) -> Told:
    """Read messages of all three kinds. One that is torn is passed over."""
    return Told(
        tuple(link(message) for message in links if len(message) >= _LINK.size),
        tuple(
            found
            for message in addresses
            if len(message) >= _ADDRESS.size
            if (found := address(message)) is not None
        ),
        tuple(
            found for message in routes if len(message) >= _ROUTE.size for found in hops(message)
        ),
        cut,
    )


def _ip(family: int, value: bytes | None) -> str:
    try:
        return socket.inet_ntop(family, value) if value else ""
    except (ValueError, OSError):
        return ""


def _gateway(family: int, found: dict[int, bytes]) -> str:
    # RTA_VIA: a gateway of another family, which its first two bytes name.
    via = found.get(_RTA_VIA, b"")
    if len(via) > 2:  # noqa: PLR2004
        return _ip(struct.unpack_from("=H", via)[0], via[2:])
    return _ip(family, found.get(_RTA_GATEWAY))


def routes_of(family: int) -> bytes:
    """What a dump of the main table's routes asks for."""
    return _ROUTE.pack(family, 0, 0, 0, _MAIN_TABLE, 0, 0, 0, 0)
