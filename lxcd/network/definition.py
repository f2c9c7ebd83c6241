"""A managed network: a bridge of ours with addresses, DHCP, DNS, and a way out. Its definition as
data, and as the text of `STATE_DIR/networks/NAME.toml`. Pure.

The name of a network is that of its bridge.
"""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config.characters import forbidden, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from ipaddress import IPv4Network, IPv6Network

DEFAULT_NAME = "lxcbr0"
DEFAULT_IPV4 = "10.0.3.1/24"
DOMAIN = "lxc"
# A device's name is at most 15 bytes. What stands here is a word to nft as well as to dnsmasq, and
# no pattern to either.
_DEVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,14}\Z")
_NOT_A_BRIDGE = ("lo", "all", "default")
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?\Z"
)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_SMALLEST_MTU, _SMALLEST_MTU_IPV6, _LARGEST_MTU = 68, 1280, 65535
_MOST_LEASES = 1_000_000
_LARGEST_PREFIX, _LARGEST_PREFIX_IPV6 = 30, 126
_SLAAC_PREFIX = 64
# 10.x.3.0/24: what LXC's bridge has, and its likes.
_CANDIDATES = 256
_MAXIMUM_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ManagedNetwork:
    """One. Addresses are texts in their shortest form; an empty one: no such thing."""

    name: str
    ipv4: str = DEFAULT_IPV4  # the bridge's, with its prefix
    ipv4_nat: bool = True
    ipv4_dhcp: bool = True
    ipv4_range: str = ""  # `FIRST-LAST`; empty: all that there is
    ipv6: str = ""
    ipv6_nat: bool = True
    ipv6_ra: bool = True  # router advertisements: SLAAC, and where DNS is
    domain: str = DOMAIN
    hwaddr: str = ""  # of the bridge
    mtu: int = 0  # 0: the kernel's choice
    dhcp_max: int = 0  # leases; 0: as many as there are addresses
    dhcp_ping: bool = False  # see whether an address answers before it is given away
    dnsmasq_conf: str = ""  # a file with more for dnsmasq

    @property
    def ipv4_interface(self) -> ipaddress.IPv4Interface | None:
        """The bridge's IPv4 address."""
        return ipaddress.IPv4Interface(self.ipv4) if self.ipv4 else None

    @property
    def ipv6_interface(self) -> ipaddress.IPv6Interface | None:
        """The bridge's IPv6 address."""
        return ipaddress.IPv6Interface(self.ipv6) if self.ipv6 else None

    @property
    def range(self) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address] | None:
        """First and last of the addresses for containers."""
        own = self.ipv4_interface
        if own is None:
            return None
        if self.ipv4_range:
            first, _, last = self.ipv4_range.partition("-")
            return ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
        return own.network.network_address + 1, own.network.broadcast_address - 1

    @property
    def wants_dnsmasq(self) -> bool:
        """Something is to answer in it."""
        has_dhcp = bool(self.ipv4) and self.ipv4_dhcp
        return has_dhcp or bool(self.domain) or (bool(self.ipv6) and self.ipv6_ra)

    @property
    def etag(self) -> str:
        """Changes whenever it does."""
        return blake2b(to_toml(self).encode(), digest_size=8).hexdigest()


def device_problem(name: str) -> str:
    """Why a device of the host with this name cannot be ours, or be filtered; empty if it can."""
    if _DEVICE.match(name) and name not in _NOT_A_BRIDGE:
        return ""
    return (
        f"{quoted(name)}: a name has 1 to 15 letters, digits, '-', '_' or '.', and begins with "
        "none of the last two signs"
    )


# ---- made up


def stable_hwaddr(seed: str, name: str) -> str:
    """A hardware address for a bridge: the same whenever it is made on this host."""
    digest = blake2b(f"hwaddr\0{seed}\0{name}".encode(), digest_size=5).digest()
    return ":".join(f"{byte:02x}" for byte in b"\x02" + digest)


def stable_ula(seed: str, name: str) -> str:
    """A bridge's address in a network of RFC 4193 that is this host's and network's own."""
    digest = blake2b(f"ula\0{seed}\0{name}".encode(), digest_size=7).digest()
    return str(ipaddress.IPv6Interface((b"\xfd" + digest + bytes(7) + b"\x01", _SLAAC_PREFIX)))


def eui64(prefix: IPv6Network, hwaddr: str) -> ipaddress.IPv6Address:
    """The address that SLAAC makes of a hardware address (RFC 4291, appendix A)."""
    octets = bytearray.fromhex(hwaddr.replace(":", ""))
    octets[0] ^= 2
    own = bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
    return ipaddress.IPv6Address(prefix.network_address.packed[:8] + own)


def free_ipv4(used: Iterable[IPv4Network], seed: str, name: str) -> str:
    """An address for a bridge: 10.0.3.1/24, or another 10.x.3.1/24 if that is taken. Raises
    ResourceExhausted.
    """
    taken = list(used)
    first = blake2b(f"ipv4\0{seed}\0{name}".encode(), digest_size=1).digest()[0]
    for number in (0, *range(first, _CANDIDATES), *range(first)):
        found = ipaddress.IPv4Interface(f"10.{number}.3.1/24")
        if not any(found.network.overlaps(network) for network in taken):
            return str(found)
    raise errors.ResourceExhausted("no 10.x.3.0/24 is free on this host", "SUBNETS_EXHAUSTED")


def fresh(
    name: str, seed: str, used: Iterable[IPv4Network], *, has_ipv6: bool = True
) -> ManagedNetwork:
    """What a network is that nothing was said about but its name."""
    return ManagedNetwork(
        name,
        ipv4=free_ipv4(used, seed, name),
        ipv6=stable_ula(seed, name) if has_ipv6 else "",
        hwaddr=stable_hwaddr(seed, name),
    )


# ---- what was said


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - told like all the others
    return value


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("must be a number")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004
    why = forbidden(value)
    if why:
        raise ValueError(f"holds {why}")
    return value.strip()


def _ipv4(value: object) -> str:
    text = _text(value)
    return str(ipaddress.IPv4Interface(text)) if text not in ("", "none") else ""


def _ipv6(value: object) -> str:
    text = _text(value)
    if "%" in text:
        raise ValueError("must have no zone")
    return str(ipaddress.IPv6Interface(text)) if text not in ("", "none") else ""


def _range(value: object) -> str:
    text = _text(value)
    if not text:
        return ""
    first, dash, last = text.replace(",", "-").partition("-")
    if not dash:
        raise ValueError("must be FIRST-LAST")
    return f"{ipaddress.IPv4Address(first.strip())}-{ipaddress.IPv4Address(last.strip())}"


def _lower(value: object) -> str:
    return _text(value).lower()


def _domain(value: object) -> str:
    text = _lower(value).removesuffix(".")
    return "" if text == "none" else text


_READERS: dict[str, Callable[[object], object]] = {
    "ipv4": _ipv4,
    "ipv4_nat": _flag,
    "ipv4_dhcp": _flag,
    "ipv4_range": _range,
    "ipv6": _ipv6,
    "ipv6_nat": _flag,
    "ipv6_ra": _flag,
    "domain": _domain,
    "hwaddr": _lower,
    "mtu": _number,
    "dhcp_max": _number,
    "dhcp_ping": _flag,
    "dnsmasq_conf": _text,
}
FIELDS = tuple(_READERS)


def changed(network: ManagedNetwork, values: dict[str, object]) -> ManagedNetwork:
    """The same with other values. Raises InvalidArgument for one that cannot be, by its name."""
    known: dict[str, object] = {}
    for key, value in values.items():
        reader = _READERS.get(key)
        if reader is None:
            raise _invalid(key, "not a setting of a network")
        try:
            known[key] = reader(value)
        except ValueError as error:
            raise _invalid(key, str(error)) from None
    return require_sound(replace(network, **known))  # type: ignore[arg-type]


def require_sound(network: ManagedNetwork) -> ManagedNetwork:
    """The same. Raises InvalidArgument if it cannot be."""
    why = device_problem(network.name)
    if why:
        raise _invalid("name", why)
    _require_ipv4(network)
    _require_ipv6(network)
    if network.domain and not _DOMAIN.match(network.domain):
        raise _invalid("domain", f"{quoted(network.domain)} is not a domain")
    if network.hwaddr and (not _MAC.match(network.hwaddr) or int(network.hwaddr[:2], 16) & 1):
        raise _invalid("hwaddr", f"{quoted(network.hwaddr)} is not an address of one device")
    smallest = _SMALLEST_MTU_IPV6 if network.ipv6 else _SMALLEST_MTU
    if network.mtu and not smallest <= network.mtu <= _LARGEST_MTU:
        raise _invalid("mtu", f"must be between {smallest} and {_LARGEST_MTU}")
    if network.dhcp_max > _MOST_LEASES:
        raise _invalid("dhcp_max", f"must be at most {_MOST_LEASES}")
    if network.dnsmasq_conf and not network.dnsmasq_conf.startswith("/"):
        raise _invalid("dnsmasq_conf", "must begin with a slash")
    return network


def _require_ipv4(network: ManagedNetwork) -> None:
    own = network.ipv4_interface
    if own is None:
        if network.ipv4_range:
            raise _invalid("ipv4_range", "there is no ipv4 that it could be of")
        return
    if own.network.prefixlen > _LARGEST_PREFIX:
        raise _invalid("ipv4", f"needs a prefix of at most {_LARGEST_PREFIX}: ADDRESS/PREFIX")
    address = own.ip
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_reserved:
        raise _invalid("ipv4", f"{own.ip} is not an address of a host")
    if own.ip in (own.network.network_address, own.network.broadcast_address):
        raise _invalid("ipv4", f"{own.ip} is the network's own, or its broadcast address")
    found = network.range
    if found is not None and network.ipv4_range:
        first, last = found
        if first > last or first not in own.network or last not in own.network:
            raise _invalid("ipv4_range", f"{network.ipv4_range} is not within {own.network}")
        if first == last == own.ip:
            raise _invalid("ipv4_range", "it holds nothing but the bridge's own address")


def _require_ipv6(network: ManagedNetwork) -> None:
    own = network.ipv6_interface
    if own is None:
        return
    address = own.ip
    if (
        address.is_multicast
        or address.is_loopback
        or address.is_unspecified
        or address.is_link_local
    ):
        raise _invalid("ipv6", f"{own.ip} is not an address of a host beyond its link")
    if own.network.prefixlen > _LARGEST_PREFIX_IPV6:
        raise _invalid("ipv6", f"needs a prefix of at most {_LARGEST_PREFIX_IPV6}: ADDRESS/PREFIX")
    if network.ipv6_ra and own.network.prefixlen != _SLAAC_PREFIX:
        raise _invalid("ipv6", "needs the prefix 64 for ipv6_ra: addresses are made of it")


def _invalid(key: str, why: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"network: {key}: {why}", "INVALID_NETWORK", field=key)


# ---- as a text


def to_toml(network: ManagedNetwork) -> str:
    """The text of its file."""
    lines = [f"# The network {network.name} of lxcd."]
    for one in fields(network):
        if one.name == "name":
            continue
        value: object = getattr(network, one.name)
        # A string of JSON is one of TOML as well; control characters have been refused.
        lines.append(f"{one.name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def from_toml(name: str, data: bytes) -> ManagedNetwork:
    """The reverse; what is not said has its default. Raises InvalidArgument."""
    if len(data) > _MAXIMUM_BYTES:
        raise _invalid(name, f"larger than {_MAXIMUM_BYTES} bytes")
    try:
        table = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _invalid(name, str(error)) from None
    return changed(ManagedNetwork(name), dict(table))
