"""What the kernel is asked for to have a device: a pure function of what is wanted and of what was
looked up of the host.

A veth pair is made from within the container's namespace, its other end in the host's: so the
container's end can be given an index beforehand and be addressed in the same send, without asking
which one it got. What hangs on a device of the host is made from the host's side, where that is.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lxcd.network import netlink
from lxcd.network.device import outside
from lxcd.network.netlink import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lxcd.network.device import Address, Device, Gateway

AF_INET, AF_INET6 = 2, 10
_UP = 1
_MAIN_TABLE, _BOOT, _STATIC = 254, 3, 4
_UNIVERSE, _LINK = 0, 253
_UNICAST = 1
_ONLINK = 4  # RTNH_F_ONLINK
_PROXY = 8  # NTF_PROXY
_PERMANENT = 0x80
_MACVLAN_MODES = {"private": "private", "vepa": "vepa", "bridge": "bridge", "passthru": "passthru"}
_IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
_IPVLAN_ISOLATION = {"bridge": 0, "private": 1, "vepa": 2}
_BRIDGE_VLAN_PVID, _BRIDGE_VLAN_UNTAGGED = 2, 4


@dataclass(frozen=True, slots=True)
class Known:
    """What was looked up for a device."""

    host_namespace: int  # descriptors
    namespace: int
    link_index: int = 0  # of its link on the host
    link_mtu: int = 0
    host_name: str = ""  # of the host's end of a veth
    spare_index: int = 0  # of a device that the host does not have
    gateways: tuple[Gateway, ...] = ()  # none of them `auto`


def family(version: int) -> int:
    """AF_INET or AF_INET6."""
    return AF_INET if version == 4 else AF_INET6  # noqa: PLR2004


def _nested(**parts: object) -> dict[str, Any]:
    return {"attrs": list(parts.items())}


def _info(kind: str, **data: object) -> tuple[str, Any]:
    parts: dict[str, object] = {"IFLA_INFO_KIND": kind}
    if data:
        parts["IFLA_INFO_DATA"] = _nested(**data)
    return "IFLA_LINKINFO", _nested(**parts)


def _basics(device: Device, mtu: int) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = [("IFLA_IFNAME", device.name)]
    if device.hwaddr:
        found.append(("IFLA_ADDRESS", device.hwaddr))
    if mtu:
        found.append(("IFLA_MTU", mtu))
    return found


def _queues(receive: int, transmit: int) -> list[tuple[str, Any]]:
    numbers = (("IFLA_NUM_RX_QUEUES", receive), ("IFLA_NUM_TX_QUEUES", transmit))
    return [(name, number) for name, number in numbers if number]


def host_hwaddr(device: Device) -> str:
    """Of the host's end of a veth: high, so that a bridge does not take it for its own."""
    return f"fe{device.hwaddr[2:]}"


def in_container(device: Device, known: Known) -> list[Request]:
    """From within the container's namespace: the pair if it is one, and all that is set there."""
    found: list[Request] = []
    flags = {"index": device.place, "flags": _UP if device.up else 0, "change": _UP}
    if device.kind == "veth":
        mtu = device.mtu or known.link_mtu
        receive, transmit = device.queues
        peer: list[tuple[str, Any]] = [
            ("IFLA_IFNAME", known.host_name),
            ("IFLA_ADDRESS", host_hwaddr(device)),
            ("IFLA_NET_NS_FD", known.host_namespace),
            # What one end sends the other receives.
            *_queues(transmit, receive),
        ]
        if mtu:
            peer.append(("IFLA_MTU", mtu))
        found.append(
            Request(
                "newlink",
                flags,
                [
                    *_basics(device, mtu),
                    *_queues(receive, transmit),
                    _info("veth", VETH_INFO_PEER={"attrs": peer}),
                ],
                f"making the pair {known.host_name}, {device.name}",
                device.line("veth.pair") if device.pair else device.origin,
            )
        )
    else:
        attributes: list[tuple[str, Any]] = []
        # The others were made as they shall be.
        if device.kind == "phys":
            attributes = _basics(device, device.mtu)
        elif device.mode == "passthru" and "hwaddr" in device.origins:
            # Made with the address of its link, whatever is asked for; both can be changed.
            attributes = [("IFLA_ADDRESS", device.hwaddr)]
        found.append(
            Request(
                "setlink",
                flags,
                attributes,
                f"setting up {device.name}",
                device.line("hwaddr"),
            )
        )
    return found + addressing(device, known.gateways)


def from_host(device: Device, known: Known) -> list[Request]:
    """From the host's side, before: what hangs on a device of the host, or is one."""
    target: list[tuple[str, Any]] = [("IFLA_NET_NS_FD", known.namespace)]
    if device.kind == "phys":
        return [
            Request(
                "setlink",
                {"index": known.link_index},
                [*target, ("IFLA_IFNAME", device.name), ("IFLA_NEW_IFINDEX", device.place)],
                f"moving {device.link} into the container",
                device.line("link"),
            )
        ]
    kinds: dict[str, tuple[str, Any]] = {
        "macvlan": _info("macvlan", IFLA_MACVLAN_MODE=_MACVLAN_MODES.get(device.mode, "private")),
        "ipvlan": _info(
            "ipvlan",
            IFLA_IPVLAN_MODE=_IPVLAN_MODES.get(device.mode, 1),
            IFLA_IPVLAN_FLAGS=_IPVLAN_ISOLATION.get(device.isolation, 0),
        ),
        "vlan": _info("vlan", IFLA_VLAN_ID=device.vlan_id),
    }
    if device.kind not in kinds:
        return []
    return [
        Request(
            "newlink",
            {"index": device.place},
            [
                *_basics(device, device.mtu),
                ("IFLA_LINK", known.link_index),
                *target,
                kinds[device.kind],
            ],
            f"making {device.describe()}",
            device.origin,
        )
    ]


def by_way_of_host(device: Device, known: Known) -> list[Request]:
    """The same where the host has a device with that number. Before Linux 6.15 none is made then,
    EEXIST: the kernel looks on the side of who asks, not where the device will be. So it is made
    with a number and a name that nobody has, and moved.
    """
    asked = from_host(device, known)
    if not asked or asked[0].verb != "newlink":
        return asked
    (request,) = asked
    spare = {"index": known.spare_index}
    inside = ("IFLA_NET_NS_FD", "IFLA_IFNAME")
    name = ("IFLA_IFNAME", f"lxcd{known.spare_index:x}")
    kept = [one for one in request.attributes if one[0] not in inside]
    moved = [one for one in request.attributes if one[0] in inside]
    moved.append(("IFLA_NEW_IFINDEX", device.place))
    return [
        replace(request, fields=spare, attributes=[name, *kept]),
        replace(request, verb="setlink", fields=spare, attributes=moved),
        # It is gone from here, unless it could not be moved.
        Request("dellink", spare, [], f"removing {device.name}", optional=True),
    ]


def host_end(device: Device, known: Known) -> list[Request]:
    """From the host's side, afterwards: the other end of a veth."""
    if device.kind != "veth":
        return []
    attributes: list[tuple[str, Any]] = [("IFLA_IFNAME", known.host_name)]
    what, origin = f"setting up {known.host_name}", device.origin
    if device.mode == "bridge" and device.link:
        attributes.append(("IFLA_MASTER", known.link_index))
        what, origin = f"putting {known.host_name} into {device.link}", device.line("link")
    return [Request("setlink", {"flags": _UP, "change": _UP}, attributes, what, origin)]


def host_routes(device: Device, host_index: int) -> list[Request]:
    """Routes of the host through its end of a veth: those that are asked for, and for a router
    those to every address of the container; and who answers for its gateways.
    """
    found = [
        _route(route.network.version, host_index, route.origin, destination=str(route.network))
        for route in device.routes
    ]
    if device.mode != "router":
        return found
    for one in device.assigned:
        address = one.interface.ip
        destination = f"{address}/{address.max_prefixlen}"
        found.append(_route(address.version, host_index, one.origin, destination=destination))
    found += [
        neighbour_proxy(gateway.address, host_index, gateway.origin)
        for gateway in device.gateways
        if gateway.address is not None
    ]
    return found


def neighbour_proxy(address: Address, index: int, origin: str) -> Request:
    """Answer ARP or neighbour discovery for an address on a device of the host."""
    return Request(
        "newneigh",
        {
            "family": family(address.version),
            "ifindex": index,
            "state": _PERMANENT,
            "flags": _PROXY,
        },
        [("NDA_DST", str(address))],
        f"answering for {address}",
        origin,
        replace=True,
    )


def without_proxy(address: str, index: int) -> Request:
    """The end of that."""
    version = 6 if ":" in address else 4
    return Request(
        "delneigh",
        {"family": family(version), "ifindex": index, "flags": _PROXY},
        [("NDA_DST", address)],
        f"not answering for {address} any more",
        optional=True,
    )


def port_vlans(device: Device, host_index: int, default: int) -> list[Request]:
    """VLANs of a port of a bridge: bridge(8). `default` is the one that it is in; 0: none."""
    found: list[Request] = []

    def ask(verb: str, what: str, origin: str, vlan: int, flags: int) -> None:
        found.append(
            Request(
                verb,
                {"family": netlink.AF_BRIDGE, "index": host_index},
                [("IFLA_AF_SPEC", _nested(IFLA_BRIDGE_VLAN_INFO={"flags": flags, "vid": vlan}))],
                what,
                origin,
            )
        )

    if device.port_vlan is not None:
        origin = device.line("veth.vlan.id")
        if default not in (0, device.port_vlan):
            ask("unbridgelink", f"taking the port out of VLAN {default}", origin, default, 0)
        if device.port_vlan not in (-1, default):
            flags = _BRIDGE_VLAN_PVID | _BRIDGE_VLAN_UNTAGGED
            ask("bridgelink", f"VLAN {device.port_vlan}", origin, device.port_vlan, flags)
    for vlan in device.tagged_vlans:
        ask("bridgelink", f"VLAN {vlan}", device.line("veth.vlan.tagged.id"), vlan, 0)
    return found


def addressing(device: Device, gateways: Sequence[Gateway]) -> list[Request]:
    """Addresses and default routes, within the container's namespace."""
    found: list[Request] = []
    for one in device.assigned:
        address = str(one.interface.ip)
        attributes: list[tuple[str, Any]] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
        if one.broadcast is not None:
            attributes.append(("IFA_BROADCAST", str(one.broadcast)))
        found.append(
            Request(
                "newaddr",
                {
                    "family": family(one.interface.version),
                    "index": device.place,
                    "prefixlen": one.interface.network.prefixlen,
                    "scope": _UNIVERSE,
                },
                attributes,
                f"giving {device.name} the address {one.interface}",
                one.origin,
            )
        )
    for gateway in gateways:
        apart = outside(gateway, device.assigned)
        found.append(
            _route(
                gateway.version,
                device.place,
                gateway.origin,
                gateway=str(gateway.address) if gateway.address is not None else "",
                onlink=apart,
            )
        )
    return found


def _route(
    version: int,
    index: int,
    origin: str,
    *,
    destination: str = "",
    gateway: str = "",
    onlink: bool = False,
) -> Request:
    attributes: list[tuple[str, Any]] = [("RTA_OIF", index)]
    length = 0
    if destination:
        host, _, prefix = destination.partition("/")
        length = int(prefix)
        attributes.append(("RTA_DST", host))
    if gateway:
        attributes.append(("RTA_GATEWAY", gateway))
    where = destination or "default"
    through = f" through {gateway}" if gateway else ""
    return Request(
        "newroute",
        {
            "family": family(version),
            "dst_len": length,
            "table": _MAIN_TABLE,
            "proto": _BOOT,
            "scope": _UNIVERSE if gateway or version == 6 else _LINK,  # noqa: PLR2004
            "type": _UNICAST,
            "flags": _ONLINK if onlink else 0,
        },
        attributes,
        f"the route {where}{through}",
        origin,
    )


def address(text: str) -> Address:
    """An address as the kernel tells it."""
    return ipaddress.ip_address(text)
