"""A network device as its configuration wants it: `lxc.net.N.*`, read and completed.

A pure function of the configuration and of the container's name: what is not given is derived, so
that it is the same at every start. LXC draws hardware addresses, which gives a container another
DHCP lease each time.
"""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config.model import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lxcd.config.model import ContainerConfig, Nic

STEP = "network"
# Indexes within a new namespace: 1 is lo, and from 2 on there is what the kernel puts into each of
# them, tunl0, sit0, gre0 …, where such modules are loaded (net.core.fb_tunnels_only_for_init_net).
_FIRST_PLACE = 64
_AUTO = ("auto", "dev")
# LXC's own block since 7.0.
_VENDOR = "10:66:6a:xx:xx:xx"
# What there is in every network, or in its sysctls.
_RESERVED = ("lo", "all", "default")
# What the kernel takes for a veth, and for the others at least.
_MTU_MIN, _MTU_MAX = 68, 65535
# A classful prefix where none is written, as LXC has it (config_ip_prefix).
_CLASSES = ((128, 8), (192, 16), (224, 24))

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Assigned:
    """One address of a device."""

    interface: Interface
    broadcast: ipaddress.IPv4Address | None
    origin: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """A default route: through an address, or, `onlink`, one that no subnet of the device holds;
    without an address (`dev`) straight out of the device. `auto` is not resolved yet.
    """

    version: int
    address: Address | None
    origin: str
    auto: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A network that the host reaches through its end of a device."""

    network: Network
    origin: str


@dataclass(frozen=True, slots=True)
class Device:
    """All that is wanted of one device."""

    number: int  # N of lxc.net.N
    kind: str
    name: str  # inside
    place: int  # its index inside
    origin: str
    up: bool = False
    link: str = ""
    hwaddr: str = ""  # empty: the kernel's, or the device's own
    mtu: int = 0  # 0: the link's
    assigned: tuple[Assigned, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    l2proxy: bool = False
    script_up: str = ""
    script_down: str = ""
    mode: str = ""  # of a macvlan, ipvlan or veth
    isolation: str = ""  # of an ipvlan
    vlan_id: int = 0  # of a vlan
    pair: str = ""  # name of the host's end of a veth, if it was given
    queues: tuple[int, int] = (0, 0)  # receive, transmit; 0: as the kernel has it
    routes: tuple[Route, ...] = ()
    port_vlan: int | None = None  # VLAN of untagged packets at the bridge; -1: none
    tagged_vlans: tuple[int, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict[str, str])

    def line(self, option: str) -> str:
        """Where an option comes from; that of the device if it was not given."""
        return self.origins.get(option, self.origin)

    def describe(self) -> str:
        """In words, for messages and `lxcctl plan`."""
        words = f"{self.kind} {self.name}" if self.name else self.kind
        return f"{words} on {self.link}" if self.link else words


def fail(origin: str, text: str) -> errors.StartFailed:
    """The error of a device that cannot be as it is wanted."""
    where = f"{origin}: " if origin != DEFAULT else ""
    return errors.StartFailed(f"{where}{text}", step=STEP, origin=origin, index="-1")


def read_devices(
    config: ContainerConfig,
    seed: str,
    *,
    first_place: int = _FIRST_PLACE,
    taken: Iterable[str] = (),
) -> tuple[Device, ...]:
    """The devices of a container in their order; `none` is none, and of an `empty` one there are
    only scripts. What is drawn follows from `seed`. Their indexes inside begin at `first_place`;
    none is called by a name that is `taken`. Raises StartFailed with the line.
    """
    nics = [nic for nic in config.nics if nic.kind != "none"]
    names = _names([nic for nic in nics if nic.kind != "empty"], set(taken))
    found = [
        _Reader(nic, seed).device(names.get(nic.index, ""), first_place + position)
        for position, nic in enumerate(nics)
    ]
    _require_different(found)
    return tuple(found)


def shares_host(config: ContainerConfig) -> Nic | None:
    """The device `none`: the container has the host's own network."""
    return next((nic for nic in config.nics if nic.kind == "none"), None)


def _names(nics: list[Nic], taken: set[str]) -> dict[int, str]:
    """Names inside, by number. What is open in them the kernel would draw, so: `eth%d` for those
    that have none.
    """
    found = {nic.index: _value(nic, "name") for nic in nics}
    for nic in nics:
        if not found[nic.index]:
            found[nic.index] = _value(nic, "link") if nic.kind == "phys" else "eth%d"
    used = taken | set(found.values())
    for index, name in found.items():
        before, pattern, after = name.partition("%d")
        if pattern:
            names = (f"{before}{number}{after}" for number in range(len(used) + 1))
            found[index] = next(one for one in names if one not in used)
            used.add(found[index])
    return found


# What no two devices of a container have, and the option that says it.
_OWN = {"name": "name", "pair": "veth.pair", "hwaddr": "hwaddr", "link": "link"}


def _require_different(devices: list[Device]) -> None:
    for what, option in _OWN.items():
        seen: dict[str, Device] = {}
        for device in devices:
            value = getattr(device, what)
            if not value or (what == "link" and device.kind != "phys"):
                continue
            # What `prefix+` is, is not known yet; each takes another.
            if device.kind == "phys" and value == device.link and value[-1] == "+":
                continue
            if value in seen:
                first = seen[value]
                key = f"lxc.net.{device.number}.{option}"
                text = f"{key}: {value} is lxc.net.{first.number}'s already"
                raise fail(device.line(option), text)
            seen[value] = device


def _value(nic: Nic, option: str) -> str:
    return next((one.value for one in nic.options if one.name == option), "")


def complete_hwaddr(pattern: str, seed: str) -> str:
    """A hardware address with every x drawn: of one station, and where the first digits are drawn
    not anybody's.
    """
    draw = random.Random(seed)  # noqa: S311 - the same at every start, not secret
    digits = [draw.choice("0123456789abcdef") if c in "xX" else c.lower() for c in pattern]
    if pattern[1] in "xX":
        # Not of a group; of nobody's block if all of it is ours to choose.
        choices = "26ae" if pattern[0] in "xX" else "048c26ae"
        digits[1] = draw.choice(choices)
    return "".join(digits)


class _Reader:
    """One device from its options."""

    def __init__(self, nic: Nic, seed: str) -> None:
        self._nic = nic
        self._seed = f"{seed}\0{nic.index}"

    def device(self, name: str, place: int) -> Device:
        nic = self._nic
        queues = (self._number("veth.n_rxqueues", 0), self._number("veth.n_txqueues", 0))
        assigned = (*self._assigned("ipv4.address"), *self._assigned("ipv6.address"))
        device = Device(
            number=nic.index,
            kind=nic.kind,
            name=name,
            place=place,
            origin=nic.origin,
            up=self._text("flags") == "up",
            link=self._text("link"),
            hwaddr=self._hwaddr(),
            mtu=self._number("mtu", 0),
            assigned=assigned,
            gateways=(*self._gateway(4, assigned), *self._gateway(6, assigned)),
            l2proxy=self._text("l2proxy") == "1",
            script_up=self._text("script.up"),
            script_down=self._text("script.down"),
            mode=self._mode(),
            isolation=self._text("ipvlan.isolation") or "bridge",
            vlan_id=self._number("vlan.id", 0),
            pair=self._text("veth.pair"),
            queues=queues,
            routes=(*self._routes("veth.ipv4.route"), *self._routes("veth.ipv6.route")),
            port_vlan=self._port_vlan(),
            tagged_vlans=tuple(int(text) for text, _ in self._all("veth.vlan.tagged.id")),
            origins={one.name: one.origin for one in nic.options},
        )
        self._require_link(device)
        self._require_sane(device)
        return device

    def _all(self, option: str) -> list[tuple[str, str]]:
        return [(one.value, one.origin) for one in self._nic.options if one.name == option]

    def _text(self, option: str) -> str:
        found = self._all(option)
        return found[-1][0] if found else ""

    def _number(self, option: str, default: int) -> int:
        text = self._text(option)
        return int(text) if text else default

    def _origin(self, option: str) -> str:
        found = self._all(option)
        return found[-1][1] if found else self._nic.origin

    def _mode(self) -> str:
        defaults = {"macvlan": "private", "ipvlan": "l3", "veth": "bridge"}
        kind = self._nic.kind
        return self._text(f"{kind}.mode") or defaults.get(kind, "")

    def _hwaddr(self) -> str:
        pattern = self._text("hwaddr")
        if not pattern and self._nic.kind in ("veth", "macvlan"):
            pattern = _VENDOR
        return complete_hwaddr(pattern, self._seed) if pattern else ""

    def _assigned(self, option: str) -> tuple[Assigned, ...]:
        found: list[Assigned] = []
        for text, origin in self._all(option):
            where, *rest = text.split()
            host, slash, prefix = where.partition("/")
            address = ipaddress.ip_address(host)
            if not slash:
                prefix = "64" if address.version == 6 else str(_class_prefix(address))  # noqa: PLR2004
            interface = ipaddress.ip_interface(f"{host}/{prefix}")
            broadcast = None
            if isinstance(interface, ipaddress.IPv4Interface):
                broadcast = _broadcast(interface, rest)
            found.append(Assigned(interface, broadcast, origin))
        return tuple(found)

    def _gateway(self, version: int, assigned: tuple[Assigned, ...]) -> tuple[Gateway, ...]:
        option = f"ipv{version}.gateway"
        text, origin = self._text(option), self._origin(option)
        if not text:
            return ()
        key = f"lxc.net.{self._nic.index}.{option}"
        if self._text("flags") != "up":
            raise fail(origin, f"{key} needs lxc.net.{self._nic.index}.flags = up")
        if text == "dev":
            return (Gateway(version, None, origin),)
        if not any(one.interface.version == version for one in assigned):
            raise fail(
                origin, f"{key} needs an address: lxc.net.{self._nic.index}.ipv{version}.address"
            )
        if text == "auto":
            if self._nic.kind not in ("veth", "macvlan", "ipvlan") or not self._text("link"):
                raise fail(origin, f"{key} = auto needs a link whose address it can be")
            return (Gateway(version, None, origin, auto=True),)
        return (Gateway(version, ipaddress.ip_address(text), origin),)

    def _routes(self, option: str) -> tuple[Route, ...]:
        return tuple(
            Route(ipaddress.ip_network(text, strict=False), origin)
            for text, origin in self._all(option)
        )

    def _port_vlan(self) -> int | None:
        text = self._text("veth.vlan.id")
        return None if not text else -1 if text == "none" else int(text)

    def _require_link(self, device: Device) -> None:
        key = f"lxc.net.{device.number}"
        if device.kind in ("macvlan", "ipvlan", "vlan", "phys") and not device.link:
            raise fail(
                device.origin, f"{key}: a {device.kind} needs {key}.link, a device of the host"
            )
        if device.kind == "vlan" and not self._text("vlan.id"):
            raise fail(device.origin, f"{key}: a vlan needs {key}.vlan.id")
        if device.l2proxy and not device.link:
            raise fail(device.line("l2proxy"), f"{key}.l2proxy needs {key}.link")

    def _require_sane(self, device: Device) -> None:
        """What the kernel refuses, without saying which of all that it is asked for is wrong."""
        key = f"lxc.net.{device.number}"
        if device.name in _RESERVED:
            raise fail(device.line("name"), f"{key}.name: no other device is called {device.name}")
        if "%" in device.pair:
            raise fail(device.line("veth.pair"), f"{key}.veth.pair: {device.pair} is no whole name")
        if device.hwaddr and (int(device.hwaddr[:2], 16) & 1 or not device.hwaddr.strip("0:")):
            text = f"{key}.hwaddr: {device.hwaddr} is the address of no station"
            raise fail(device.line("hwaddr"), text)
        largest = _MTU_MAX if device.kind == "veth" else device.mtu
        if device.mtu and not _MTU_MIN <= device.mtu <= largest:
            text = f"{key}.mtu: a {device.kind} takes {_MTU_MIN} to {_MTU_MAX}, not {device.mtu}"
            raise fail(device.line("mtu"), text)


def _class_prefix(address: Address) -> int:
    first = address.packed[0]
    return next((prefix for below, prefix in _CLASSES if first < below), 32)


def _broadcast(
    interface: ipaddress.IPv4Interface, given: list[str]
) -> ipaddress.IPv4Address | None:
    if given:
        return ipaddress.IPv4Address(given[0])
    # RFC 3021: a network of two has none, nor has one of one.
    few = interface.network.prefixlen > 30  # noqa: PLR2004
    return None if few else interface.network.broadcast_address


def outside(gateway: Gateway, assigned: tuple[Assigned, ...]) -> bool:
    """No subnet of the device holds the gateway: it needs a route of its own to be reached."""
    address = gateway.address
    # Of IPv6 alone every device reaches its link's; 169.254.0.1 is what routers are called.
    if address is None or (address.version == 6 and address.is_link_local):  # noqa: PLR2004
        return False
    return not any(address in one.interface.network for one in assigned)
