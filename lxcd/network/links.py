"""Devices of the host by their names: what they are, and what of theirs is a file."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from typing import TYPE_CHECKING

from lxcd.network.device import fail

if TYPE_CHECKING:
    from lxcd.network.device import Device

_SIOCGIFFLAGS, _SIOCGIFMTU, _SIOCGIFHWADDR = 0x8913, 0x8921, 0x8927


def require_link(device: Device, name: str) -> int:
    """Index of a device of the host."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise fail(
            device.line("link"), f"lxc.net.{device.number}.link: the host has no device {name}"
        ) from None


def require_free(device: Device) -> None:
    """A name that is given for the host's end."""
    with contextlib.suppress(OSError):
        socket.if_nametoindex(device.pair)
        text = f"lxc.net.{device.number}.veth.pair: {device.pair} is taken on the host"
        raise fail(device.line("veth.pair"), text)


def _ioctl(name: str, request: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        return fcntl.ioctl(any_socket, request, struct.pack("40s", name.encode()))


def flags(name: str) -> int:
    """IFF_UP and others. Raises OSError."""
    return int(struct.unpack_from("=H", _ioctl(name, _SIOCGIFFLAGS), 16)[0])


def mtu(name: str) -> int:
    """Its largest packet. Raises OSError."""
    return int(struct.unpack_from("=i", _ioctl(name, _SIOCGIFMTU), 16)[0])


def hwaddr(name: str) -> str:
    """Its present address. Raises OSError."""
    return _ioctl(name, _SIOCGIFHWADDR)[18:24].hex(":")


def _sysctl(version: int, name: str, key: str) -> str:
    return f"/proc/sys/net/ipv{version}/conf/{name}/{key}"


def default_vlan(device: Device) -> int:
    """Of untagged packets at its bridge, which is one that looks at VLANs: one that does not takes
    any number, and lets all through.
    """
    option = "veth.vlan.tagged.id" if device.port_vlan is None else "veth.vlan.id"
    origin, key = device.line(option), f"lxc.net.{device.number}.{option}"
    try:
        if _of_bridge(device.link, "vlan_filtering"):
            return _of_bridge(device.link, "default_pvid")
    except OSError:
        text = (
            f"{key} needs a bridge of this host's that knows VLANs (CONFIG_BRIDGE_VLAN_FILTERING)"
        )
        raise fail(origin, text) from None
    raise fail(origin, f"{key}: {device.link} lets all VLANs through: its vlan_filtering is off")


def _of_bridge(name: str, key: str) -> int:
    with open(f"/sys/class/net/{name}/bridge/{key}", encoding="ascii") as file:
        return int(file.read())


def _versions(device: Device) -> set[int]:
    return {one.interface.version for one in device.assigned}


def seclude(host_name: str, device: Device) -> None:
    """The host takes no router's word from a container, and is no neighbour of it by IPv6 but at
    the bridge: what comes in at the port itself has met no filter. Before it is up.
    """
    bridged = device.mode == "bridge" and device.link
    routes = any(route.network.version == 6 for route in device.routes)  # noqa: PLR2004
    key, value = ("disable_ipv6", "1") if bridged and not routes else ("accept_ra", "0")
    # There may be no IPv6.
    with (
        contextlib.suppress(OSError),
        open(_sysctl(6, host_name, key), "w", encoding="ascii") as file,
    ):
        file.write(value)


def forward(host_name: str, device: Device) -> None:
    """A router's port forwards, and answers for the gateways."""
    for version in sorted(_versions(device)):
        keys = ["forwarding"]
        if version == 6:  # noqa: PLR2004
            keys.append("proxy_ndp")
        for key in keys:
            path = _sysctl(version, host_name, key)
            try:
                with open(path, "w", encoding="ascii") as file:
                    file.write("1")
            except OSError as error:
                raise fail(device.line("veth.mode"), f"{path}: {error.strerror}") from None


def require_forwarding(device: Device) -> None:
    """LXC's rule: for l2proxy the link has to forward already; whether the host routes is not a
    container's to say.
    """
    for version in sorted(_versions(device)):
        keys = ["forwarding"]
        if version == 6:  # noqa: PLR2004
            keys.append("proxy_ndp")
        for key in keys:
            try:
                with open(_sysctl(version, device.link, key), encoding="ascii") as file:
                    value = file.read().strip()
            except OSError:
                value = ""
            if value != "1":
                raise fail(
                    device.line("l2proxy"),
                    f"lxc.net.{device.number}.l2proxy needs"
                    f" net.ipv{version}.conf.{device.link}.{key} = 1 on the host",
                )
