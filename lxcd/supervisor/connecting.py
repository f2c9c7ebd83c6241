"""Who is connected to managed networks: a port of a bridge for each device of a container, the
address that is kept for it, its name, its filter, the ports of the host that lead to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config.daemon import FILTERS
from lxcd.network import bridge, definition, firewall, reservations
from lxcd.network import port as ports
from lxcd.network.port import Port
from lxcd.supervisor.definition import CONFIG_NAME, ConfigFile
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lxcd.config.forwards import Forward
    from lxcd.network.definition import ManagedNetwork
    from lxcd.supervisor.house import House
    from lxcd.supervisor.nameserver import Nameserver
    from lxcd.supervisor.network_store import Store, UpRecord
    from lxcd.supervisor.ruleset import Ruleset

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Up:
    """A network that is up."""

    network: ManagedNetwork
    index: int  # of the bridge
    record: UpRecord
    server: Nameserver
    reserved: dict[str, str]  # by `reservations.key`


@dataclass(frozen=True, slots=True)
class Device:
    """What there is to know of a container's device that is to be connected."""

    lxcpath: str
    container: str
    number: int  # N of lxc.net.N
    host_name: str
    hwaddr: str
    addresses: tuple[str, ...]
    filter: frozenset[str]


class Connections:
    """All of them. Knows networks that are up, and has none go up."""

    def __init__(
        self, house: House, store: Store, ruleset: Ruleset, up: Callable[[str], Up | None]
    ) -> None:
        self._house = house
        self._store = store
        self._ruleset = ruleset
        self._find_up = up
        self._ports: dict[str, Port] = {}

    def of(self, network: str = "") -> list[Port]:
        """Who is connected to a network, or to any."""
        return [port for port in self._ports.values() if not network or port.network == network]

    def adopt(self, port: Port) -> None:
        """One of an earlier lxcd, which is still there."""
        self._ports[port.host_name] = port

    def drop(self, network: str) -> None:
        """Forget who is connected to a network that goes down; its rules go with it."""
        for port in self.of(network):
            del self._ports[port.host_name]
            self._store.delete_port(port)

    async def add(self, up: Up, device: Device) -> Port:
        """See `Networks.connect`."""
        own = (device.lxcpath, device.container, device.number)
        for port in self.of():
            # One that was never disconnected has the addresses that this one is to have.
            same = (port.lxcpath, port.container, port.device_number) == own
            if same or port.host_name == device.host_name:
                await self.remove(port.host_name)
        port = self._port(up, device)
        self._ports[port.host_name] = port
        try:
            self._store.write_port(port)
            self._store.write_files(up.network, port)
            if port.filter:
                await self._ruleset.add_port(port, up.network)
            if port.forwards:
                await self._publish(up.network.name)
        except BaseException:
            await asyncio.shield(self.remove(port.host_name))
            raise
        return port

    def _port(self, up: Up, device: Device) -> Port:
        why = definition.device_problem(device.host_name)
        if why:
            raise errors.InvalidArgument(f"the host's end of a device: {why}", "INVALID_NAME")
        unknown = device.filter - FILTERS
        if unknown:
            raise errors.Internal(f"no such filter: {sorted(unknown)}")
        network, others = up.network, self.of(up.network.name)
        static = tuple(str(ipaddress.ip_interface(text).ip) for text in device.addresses)
        for address in static:
            _require_nobodys(network, address, others)
        label = ports.dns_label(device.container)
        if any(other.dns_name == label for other in others):
            # Its first device has it, or another container of that name.
            label = ""
        own = network.ipv4_interface
        inside = [
            text for text in static if own is not None and ipaddress.ip_address(text) in own.network
        ]
        port = Port(
            network=network.name,
            lxcpath=device.lxcpath,
            container=device.container,
            device_number=device.number,
            host_name=device.host_name,
            hwaddr=device.hwaddr.lower(),
            ipv4=inside[0] if inside else self._reserve(up, device),
            static=static,
            filter=tuple(sorted(device.filter)),
            dns_name=label,
        )
        # A second device of the same container does not lead there once more.
        if self.port_of(device.lxcpath, device.container) is None:
            port = replace(port, forwards=self._wanted_forwards(port))
        return port

    def _reserve(self, up: Up, device: Device) -> str:
        """An address that stays the same, also when it is started again. Raises
        ResourceExhausted.
        """
        network = up.network
        if not network.ipv4 or not network.ipv4_dhcp:
            return ""
        key = reservations.key(device.lxcpath, device.container, device.number)
        connected = self.of(network.name)
        taken = {text for port in connected for text in (port.ipv4, *port.static)}
        keys = {reservations.key(p.lxcpath, p.container, p.device_number) for p in connected}
        known = {p.hwaddr for p in connected} | {device.hwaddr.lower()}
        # Somebody on the bridge whom we know nothing of, and who got an address all the same.
        reserved_to = set(up.reserved.values())
        strangers = {
            lease.address
            for lease in self._store.leases(network.name)
            if lease.hwaddr not in known and lease.address not in reserved_to
        }
        found = reservations.choose(network, key, up.reserved, taken | strangers)
        if not found:
            # Those who are gone for good first, then whoever is not here.
            absent = [other for other in up.reserved if other not in keys]
            for those in ([other for other in absent if _is_gone(other)], absent):
                for other in those:
                    up.reserved.pop(other, None)
                found = reservations.choose(network, key, up.reserved, taken)
                if found:
                    break
        if not found:
            raise errors.ResourceExhausted(
                f"network {network.name} has no address left", "ADDRESSES_EXHAUSTED"
            )
        if up.reserved.get(key) != found:
            up.reserved[key] = found
            self._store.write_reserved(network.name, up.reserved)
        return found

    async def remove(self, host_name: str) -> None:
        """Undo `add`; nothing if it was not connected."""
        port = self._ports.pop(host_name, None)
        if port is None:
            return
        self._forget_files(port)
        try:
            await self._ruleset.remove_port(port)
            if port.forwards:
                await self._ruleset.publish(self.published)
        except errors.LxcdError as error:
            # Rules of a name that nothing has do no harm; the next rebuild leaves them out.
            _log.warning("rules of port %s: %s", host_name, error)
        if host_name not in self._ports:
            self._store.delete_port(port)

    def _forget_files(self, port: Port) -> None:
        files = self._store.files(port.network)
        for directory in (files.reservations, files.hosts):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, port.host_name))
        up = self._find_up(port.network)
        if up is not None:
            up.server.reload()

    def note_addresses(
        self, lxcpath: str, name: str, hwaddr: str, addresses: Iterable[str]
    ) -> None:
        """What addresses a container's device really has: those are what its name stands for."""
        seen = tuple(
            sorted({str(ipaddress.ip_interface(text.partition("%")[0]).ip) for text in addresses})
        )
        for port in self.of():
            same = (port.lxcpath, port.container, port.hwaddr) == (lxcpath, name, hwaddr.lower())
            up = self._find_up(port.network)
            if not same or port.seen == seen or up is None:
                continue
            noted = replace(port, seen=seen)
            self._ports[port.host_name] = noted
            try:
                self._store.write_port(noted)
                self._store.write_files(up.network, noted)
            except errors.LxcdError as error:
                _log.warning("addresses of %s: %s", name, error)

    # ---- forwards

    def _wanted_forwards(self, port: Port) -> tuple[Forward, ...]:
        """Those that its lxcd.toml asks for, but for what somebody else has already."""
        found: list[Forward] = []
        for forward in ConfigFile(os.path.join(port.lxcpath, port.container)).settings().forwards:
            holder = self.holder(forward)
            if holder is None:
                found.append(forward)
                continue
            text = f"{forward}: that port leads to {holder.container}"
            _log.warning("%s: %s", port.container, text)
            self._house.events.add(
                "network.forward_refused",
                container=port.container,
                lxcpath=port.lxcpath,
                message=text,
                details={"network": port.network},
            )
        return tuple(found)

    def holder(self, forward: Forward) -> Port | None:
        """Who has that port of the host."""
        for port in self._ports.values():
            if any(forward.clashes(other) for other in port.forwards):
                return port
        return None

    def port_of(self, lxcpath: str, name: str) -> Port | None:
        """Where forwards of a container lead to; None while it is not connected."""
        found = [p for p in self._ports.values() if (p.lxcpath, p.container) == (lxcpath, name)]
        found.sort(key=lambda port: (not port.forwards, port.device_number))
        return found[0] if found else None

    async def set_forwards(self, port: Port, forwards: tuple[Forward, ...]) -> None:
        """Have these lead to it, and no others. Raises FailedPrecondition; it is as it was then."""
        before = self._ports.get(port.host_name)
        if before is None:
            return
        self._ports[port.host_name] = replace(before, forwards=forwards)
        try:
            await self._publish(port.network)
        except errors.LxcdError:
            if port.host_name in self._ports:
                self._ports[port.host_name] = before
            raise
        now = self._ports.get(port.host_name)
        if now is not None:
            self._store.write_port(now)

    async def _publish(self, network: str) -> None:
        await in_thread(bridge.route_localhost, network)
        await self._ruleset.publish(self.published)

    def published(self) -> tuple[firewall.Published, ...]:
        """All ports of the host that lead somewhere."""
        found: list[firewall.Published] = []
        for port in self._ports.values():
            up = self._find_up(port.network)
            if up is None or not port.forwards:
                continue
            target = ports.target_ipv6(port, up.network)
            ipv6 = str(target) if target is not None else ""
            found += [firewall.Published(one, port.ipv4, ipv6) for one in port.forwards]
        return tuple(found)


def _require_nobodys(network: ManagedNetwork, address: str, others: list[Port]) -> None:
    """Raise FailedPrecondition for an address that is the bridge's, or another container's."""
    owners = {
        str(own.ip): f"the bridge {network.name}"
        for own in (network.ipv4_interface, network.ipv6_interface)
        if own is not None
    }
    for other in others:
        owners |= dict.fromkeys([*other.static, other.ipv4], f"container {other.container}")
    if address in owners:
        raise errors.FailedPrecondition(
            f"{address} is the address of {owners[address]} already",
            "ADDRESS_IN_USE",
            network=network.name,
        )


def _is_gone(key: str) -> bool:
    """The container of a reservation is not defined any more."""
    found = reservations.container_of(key)
    return found is None or not os.path.exists(os.path.join(*found, CONFIG_NAME))
