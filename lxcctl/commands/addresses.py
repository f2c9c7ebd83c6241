"""Devices, addresses and routes of a container, in words."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxcd.v1.container_pb2 import Container
    from lxcd.v1.types_pb2 import NetworkAddress, NetworkInterface, NetworkRoute

# Of AddressFamily (a test compares).
INET, INET6 = 1, 2
IFF_LOOPBACK = 0x8
_FAR = ("global", "site")
# A column is for a person; a container may have any number of addresses.
_SHOWN = 4


def far_words(container: Container, family: int) -> str:
    """The addresses that others reach it by, as lxc-ls lists them."""
    found = [
        address.address
        for interface in container.network_interfaces
        if not interface.flags & IFF_LOOPBACK
        for address in interface.addresses
        if address.family == family and address.scope in _FAR and not address.duplicate
    ]
    more = [f"+{len(found) - _SHOWN}"] if len(found) > _SHOWN else []
    return ",".join([*found[:_SHOWN], *more])


def words_of(interface: NetworkInterface) -> Iterator[str]:
    """A device: a line of its own, one for each address, one for what has passed."""
    words = [interface.name, "up" if interface.up else "down"]
    if interface.up and not interface.carrier:
        words.append("no-carrier")
    words += [interface.type, interface.hardware_address, f"mtu {interface.mtu}"]
    if interface.host_index:
        words.append(f"host {interface.host_name or f'device {interface.host_index}'}")
    yield " ".join(word for word in words if word)
    for address in interface.addresses:
        yield f"  {_address_words(address)}"
    if interface.HasField("counters"):
        count = interface.counters
        for way, passed, packets, errors, dropped in (
            ("rx", count.rx_bytes, count.rx_packets, count.rx_errors, count.rx_dropped),
            ("tx", count.tx_bytes, count.tx_packets, count.tx_errors, count.tx_dropped),
        ):
            yield f"  {way} {passed} bytes, {packets} packets, {errors} errors, {dropped} dropped"


def _address_words(address: NetworkAddress) -> str:
    words = [f"{address.address}/{address.prefix_length}"]
    if address.peer:
        words.append(f"peer {address.peer}")
    words.append(address.scope)
    words += [
        word
        for word, holds in (
            ("tentative", address.tentative),
            ("duplicate", address.duplicate),
            ("deprecated", address.deprecated),
        )
        if holds
    ]
    return " ".join(words)


def route_words(route: NetworkRoute) -> str:
    """A route, as ip-route(8) writes it."""
    default = route.destination in ("0.0.0.0/0", "::/0")
    words = [] if route.type == "unicast" else [route.type]
    words.append("default" if default else route.destination)
    for name, value in (
        ("via", route.gateway),
        ("dev", route.interface),
        ("src", route.source),
        ("metric", str(route.metric or "")),
    ):
        if value:
            words += [name, value]
    return " ".join(words)
