"""The bridge of a managed network, by netlink: made, found, removed. Blocks; for a thread."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.network.netlink import Netlink, RefusedError, Request

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from lxcd.network.definition import ManagedNetwork

_IFF_UP = 1
_SYSCTL = "/proc/sys/net"
_TENTATIVE_NEVER = 0x02  # IFA_F_NODAD
_MAIN = 254


@dataclass(frozen=True, slots=True)
class Link:
    """A device of the host."""

    index: int
    name: str
    kind: str  # `bridge`, `veth` …; empty: none that has a name
    hwaddr: str
    mtu: int


def links(netlink: Netlink) -> list[Link]:
    """All. Raises OSError."""
    return [
        Link(
            index=int(message.fields["index"]),
            name=str(message.attributes.get("IFLA_IFNAME", "")),
            kind=str(message.attributes.get("IFLA_LINKINFO", {}).get("IFLA_INFO_KIND", "")),
            hwaddr=str(message.attributes.get("IFLA_ADDRESS", "")),
            mtu=int(message.attributes.get("IFLA_MTU", 0)),
        )
        for message in netlink.dump(Request("getlink", {}, [], "listing devices"))
    ]


def find(netlink: Netlink, name: str) -> Link | None:
    """The device of that name. Raises OSError."""
    return next((link for link in links(netlink) if link.name == name), None)


def used_ipv4(netlink: Netlink, but: str = "") -> list[IPv4Network]:
    """Networks that the host has addresses in, or routes to, by other devices than that. Raises
    OSError.
    """
    own = 0
    if but:
        with contextlib.suppress(OSError):
            own = socket.if_nametoindex(but)
    found: list[IPv4Network] = []
    what = "listing addresses"
    for message in netlink.dump(Request("getaddr", {"family": socket.AF_INET}, [], what)):
        address = message.attributes.get("IFA_LOCAL") or message.attributes.get("IFA_ADDRESS")
        if address and int(message.fields["index"]) != own:
            prefix = message.fields["prefixlen"]
            found.append(ipaddress.IPv4Network(f"{address}/{prefix}", strict=False))
    what = "listing routes"
    for message in netlink.dump(Request("getroute", {"family": socket.AF_INET}, [], what)):
        target, table = message.attributes.get("RTA_DST"), message.attributes.get("RTA_TABLE")
        device = int(message.attributes.get("RTA_OIF", 0))
        if target and table == _MAIN and device != own and message.fields["dst_len"]:
            found.append(ipaddress.IPv4Network(f"{target}/{message.fields['dst_len']}", False))
    return found


def make(netlink: Netlink, network: ManagedNetwork, known: int = 0) -> int:
    """Make it and have it up, or bring one of ours in order, that with the index `known` or with
    our hardware address; its index. Raises OSError, EEXIST for a device of that name that is
    somebody else's.
    """
    kind = {"attrs": [("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", _no_delay())]}
    attributes: list[tuple[str, object]] = [("IFLA_IFNAME", network.name)]
    if network.hwaddr:
        # One that is set stays; else it is that of a port, and changes with them.
        attributes.append(("IFLA_ADDRESS", network.hwaddr))
    if network.mtu:
        attributes.append(("IFLA_MTU", network.mtu))
    what = f"making the bridge {network.name}"
    try:
        netlink.run([Request("newlink", {}, [*attributes, ("IFLA_LINKINFO", kind)], what)])
    except RefusedError as error:
        if error.errno != errno.EEXIST:
            raise
        there = socket.if_nametoindex(network.name)
        if there not in (known, find_own(netlink, network)):
            raise
    index = socket.if_nametoindex(network.name)
    _set_up_ipv6(network)
    up = {"index": index, "flags": _IFF_UP, "change": _IFF_UP}
    netlink.run(
        [
            *_stale(netlink, network, index),
            *_addresses(network, index),
            Request("setlink", up, attributes[1:], what),
        ]
    )
    return index


def _no_delay() -> dict[str, object]:
    return {"attrs": [("IFLA_BR_FORWARD_DELAY", 0)]}


def _addresses(network: ManagedNetwork, index: int) -> list[Request]:
    found: list[Request] = []
    for own, family in (
        (network.ipv4_interface, socket.AF_INET),
        (network.ipv6_interface, socket.AF_INET6),
    ):
        if own is None:
            continue
        fields = {"family": family, "index": index, "prefixlen": own.network.prefixlen}
        attributes: list[tuple[str, object]] = [
            ("IFA_LOCAL", str(own.ip)),
            ("IFA_ADDRESS", str(own.ip)),
        ]
        if family == socket.AF_INET:
            attributes.append(("IFA_BROADCAST", str(own.network.broadcast_address)))
        else:
            attributes.append(("IFA_FLAGS", _TENTATIVE_NEVER))
        what = f"giving {own} to {network.name}"
        found.append(Request("newaddr", fields, attributes, what, replace=True))
    return found


def _stale(netlink: Netlink, network: ManagedNetwork, index: int) -> list[Request]:
    """Addresses that an earlier definition gave it; not those of the link."""
    wanted = {network.ipv4, network.ipv6}
    found: list[Request] = []
    for message in netlink.dump(Request("getaddr", {}, [], "listing addresses")):
        if int(message.fields["index"]) != index:
            continue
        text = message.attributes.get("IFA_LOCAL") or message.attributes.get("IFA_ADDRESS")
        prefix, family = message.fields["prefixlen"], message.fields["family"]
        interface = ipaddress.ip_interface(f"{text}/{prefix}")
        if str(interface) not in wanted and not interface.is_link_local:
            fields = {"family": family, "index": index, "prefixlen": prefix}
            attributes = [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]
            what = f"taking {interface} from {network.name}"
            found.append(Request("deladdr", fields, attributes, what, optional=True))
    return found


def find_own(netlink: Netlink, network: ManagedNetwork) -> int:
    """Index of the bridge that `make` has made; 0 if there is none. Raises OSError."""
    found = find(netlink, network.name)
    if found is None or found.kind != "bridge":
        return 0
    # A name alone may be anybody's by now.
    return found.index if network.hwaddr in ("", found.hwaddr) else 0


def remove(netlink: Netlink, network: ManagedNetwork) -> None:
    """Remove it; nothing if it is not there. Raises OSError."""
    index = find_own(netlink, network)
    if not index:
        return
    try:
        what = f"removing the bridge {network.name}"
        netlink.run([Request("dellink", {"index": index}, [], what)])
    except RefusedError as error:
        if error.errno != errno.ENODEV:
            raise


# ---- sysctls


def has_ipv6() -> bool:
    """The host does IPv6: not where it was started with ipv6.disable=1."""
    return os.path.exists(os.path.join(_SYSCTL, "ipv6/conf"))


def _set_up_ipv6(network: ManagedNetwork) -> None:
    """No address of ours is to be looked for by others first, and no router's word taken."""
    own = f"ipv6/conf/{network.name}"
    if network.ipv6:
        _write(f"{own}/disable_ipv6", "0")
    _write(f"{own}/accept_dad", "0")
    _write(f"{own}/accept_ra", "0")


def forward(network: ManagedNetwork) -> list[str]:
    """Have the host route for it; what could not be set."""
    wanted: list[tuple[str, str]] = []
    if network.ipv4:
        wanted.append(("ipv4/ip_forward", "1"))
    if network.ipv6 and _read("ipv6/conf/all/forwarding") != "1":
        # A router takes no router's word any more, but where it is told to: the host would lose
        # its own way out (Documentation/networking/ip-sysctl.rst, accept_ra).
        wanted += [
            (f"ipv6/conf/{name}/accept_ra", "2")
            for name in _listed("ipv6/conf")
            if name not in ("all", "default") and _read(f"ipv6/conf/{name}/accept_ra") == "1"
        ]
        wanted.append(("ipv6/conf/all/forwarding", "1"))
    return [name for name, value in wanted if _read(name) != value and not _write(name, value)]


def route_localhost(name: str) -> bool:
    """Have connections of the host to 127.0.0.1 go out by this bridge, as its forwards need. What
    comes in by it for 127.0.0.0/8 must be dropped then: see `firewall`.
    """
    return _write(f"ipv4/conf/{name}/route_localnet", "1")


def learn_from_filtered(name: str) -> bool:
    """Learn nothing from frames to 01:80:c2:00:00:00 and its like, which no filter of the bridge
    sees: whoever sends them would have what is for others.
    """
    return _write("no_linklocal_learn", "1", f"/sys/class/net/{name}/bridge")


def _listed(name: str) -> list[str]:
    try:
        return os.listdir(os.path.join(_SYSCTL, name))
    except OSError:
        return []


def _read(name: str) -> str:
    try:
        with open(os.path.join(_SYSCTL, name), encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _write(name: str, value: str, above: str = _SYSCTL) -> bool:
    try:
        with open(os.path.join(above, name), "w", encoding="ascii") as file:
            file.write(value)
    except OSError:
        return False
    return True
