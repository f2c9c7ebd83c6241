"""dnsmasq(8) of a managed network: its command line, its files, its leases. Pure.

It reads what is said of containers again by itself (inotify): one file for each port in each of two
directories. That something is gone it is told by SIGHUP.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config.characters import forbidden
from lxcd.network import port as ports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxcd.network.definition import ManagedNetwork
    from lxcd.network.port import Port

_MAC = re.compile(r"(?:[0-9a-f]{2}-)?([0-9a-f]{2}(?::[0-9a-f]{2})*)\Z")
STARTED = b"started, version"
_LEASE_TIME = "1h"
_LEASE_FIELDS = 4


@dataclass(frozen=True, slots=True)
class Files:
    """Where its files are."""

    reservations: str  # a directory
    hosts: str  # a directory
    leases: str
    user: str = ""  # that it becomes; empty: whom it chooses


def command_line(network: ManagedNetwork, files: Files) -> tuple[str, ...]:
    """How it is run. It stays what it is: no fork, and its words go to standard error."""
    argv = [
        "dnsmasq",
        f"--conf-file={network.dnsmasq_conf}",
        "--keep-in-foreground",
        "--log-facility=-",
        "--quiet-dhcp",
        "--quiet-dhcp6",
        "--quiet-ra",
        "--pid-file=",
        "--strict-order",
        "--no-hosts",
        # Names that cannot be on the host's network are not asked for there.
        "--domain-needed",
        "--bind-dynamic",
        "--except-interface=lo",
        f"--interface={network.name}",
        f"--hostsdir={files.hosts}",
    ]
    if files.user:
        argv.append(f"--user={files.user}")
    if network.domain:
        # Not --domain: a lease would keep its name in DNS, for as long as it lasts, whoever has
        # gone. Names are in the files for hosts alone.
        argv += [
            f"--local=/{network.domain}/",
            f"--dhcp-option=option:domain-name,{network.domain}",
            f"--dhcp-option=option6:domain-search,{network.domain}",
        ]
    argv += _dhcp(network, files) if network.ipv4_dhcp else []
    own6 = network.ipv6_interface
    if own6 is not None and network.ipv6_ra:
        start = own6.network.network_address
        argv += [f"--dhcp-range={start},ra-stateless,{own6.network.prefixlen}", "--enable-ra"]
        if network.mtu:
            argv.append(f"--ra-param={network.name},mtu:{network.mtu}")
    if network.dhcp_max:
        argv.append(f"--dhcp-lease-max={network.dhcp_max}")
    if "--dhcp-authoritative" in argv or "--enable-ra" in argv:
        argv.append(f"--dhcp-leasefile={files.leases}")
    return tuple(require_plain(word) for word in argv)


def _dhcp(network: ManagedNetwork, files: Files) -> list[str]:
    own, bounds = network.ipv4_interface, network.range
    if own is None or bounds is None:
        return []
    first, last = bounds
    argv = [
        f"--dhcp-range={first},{last},{own.network.netmask},{_LEASE_TIME}",
        f"--dhcp-hostsdir={files.reservations}",
        "--dhcp-authoritative",
        "--dhcp-no-override",
        # Else a container would be whoever it says.
        "--dhcp-ignore-names",
        # Else it would be as many as it says, and have all addresses: its filter knows no ids.
        "--dhcp-ignore-clid",
    ]
    if not network.dhcp_ping:
        argv.append("--no-ping")
    if not network.dhcp_max:
        argv.append(f"--dhcp-lease-max={max(1, int(last) - int(first) + 1)}")
    if network.mtu:
        argv.append(f"--dhcp-option=option:mtu,{network.mtu}")
    return argv


def require_plain(text: str) -> str:
    """The same. Raises InvalidArgument for what could be a line of its own (I8)."""
    why = forbidden(text) or ("a tab" if "\t" in text else "")
    if why:
        raise errors.InvalidArgument(f"a value for dnsmasq holds {why}", "INVALID_NETWORK")
    return text


def reservation(port: Port, former: Iterable[str] = ()) -> str:
    """The line that keeps its address for it. `former`: hardware addresses that the same address
    was leased to, each of which gives way.
    """
    if not port.ipv4:
        return ""
    known = dict.fromkeys([port.hwaddr, *former])
    return ",".join(require_plain(word) for word in (*known, port.ipv4)) + "\n"


def hosts(port: Port, network: ManagedNetwork) -> str:
    """The lines of hosts(5) that give its addresses a name."""
    if not port.dns_name:
        return ""
    names = [port.dns_name]
    if network.domain:
        # The first is what its address stands for; and as that is in no domain of dnsmasq's own,
        # it is not taken for the lease.
        names.insert(0, f"{port.dns_name}.{network.domain}")
    line = " ".join(require_plain(name) for name in names)
    return "".join(f"{address} {line}\n" for address in ports.named_addresses(port, network))


@dataclass(frozen=True, slots=True)
class Lease:
    """One of dnsmasq's. `expires` is seconds since 1970; 0: never."""

    address: str
    hwaddr: str  # empty for IPv6, where there is none
    name: str
    client_id: str
    expires: int


def read_leases(text: str) -> list[Lease]:
    """What its file says; a line that is none is passed over."""
    found: list[Lease] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < _LEASE_FIELDS or not (words[0].isascii() and words[0].isdigit()):
            continue  # `duid …` among others
        try:
            address = ipaddress.ip_address(words[2])
            expires = int(words[0])
        except ValueError:
            continue
        name = "" if words[3] == "*" else words[3]
        client = words[4] if len(words) > _LEASE_FIELDS and words[4] != "*" else ""
        mac = _MAC.match(words[1].lower()) if address.version == 4 else None  # noqa: PLR2004
        found.append(Lease(str(address), mac.group(1) if mac else "", name, client, expires))
    return found


def complaint(stderr: bytes) -> str:
    """What it said last, for an error."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("dnsmasq: ").strip() if lines else ""
