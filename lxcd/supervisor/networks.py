"""Managed networks: up when somebody needs them, and who is connected to them.

A network is a bridge, rules, and a dnsmasq; it goes up with the first container that names its
bridge, and stays until it is deleted or lxcd is shut down. Before anything of it is made there is a
record of it, so that the next lxcd takes it up or removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config.daemon import FILTERS
from lxcd.kernel import procfs
from lxcd.network import bridge, definition, dnsmasq, firewall, namespace, reservations
from lxcd.network import port as ports
from lxcd.network.port import Port
from lxcd.supervisor import nameserver
from lxcd.supervisor.definition import CONFIG_NAME, ConfigFile
from lxcd.supervisor.nameserver import Nameserver
from lxcd.supervisor.network_store import Store, UpRecord
from lxcd.supervisor.ruleset import Ruleset

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lxcd.config.forwards import Forward
    from lxcd.network.definition import ManagedNetwork
    from lxcd.network.picture import Picture
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Up:
    """A network that is up."""

    network: ManagedNetwork
    index: int
    record: UpRecord
    server: Nameserver
    reserved: dict[str, str]


class Networks:
    """All of one lxcd. `adopt` first, then the rest."""

    def __init__(self, house: House, lxc_net: str) -> None:
        self._house = house
        self.store = Store(house.paths, lxc_net)
        self._up: dict[str, _Up] = {}
        self._ports: dict[str, Port] = {}
        self._ruleset = Ruleset(house, self._rules)
        self._lock = asyncio.Lock()  # of networks: going up, changing, going down
        self._recovered = asyncio.Event()
        self._left: dict[str, UpRecord] = {}  # by an earlier lxcd
        self._warned = False

    # ---- what there is

    async def get(self, name: str) -> ManagedNetwork:
        """A network that is defined, or the default one. Raises NotFound."""
        found = await asyncio.to_thread(self._defined, name)
        if found is None:
            raise errors.NotFound(f"no network {name}", "NETWORK_NOT_FOUND", network=name)
        return found

    async def all(self) -> list[ManagedNetwork]:
        """Every one, by name; one whose file is damaged is left out."""

        def read() -> list[ManagedNetwork]:
            found: dict[str, ManagedNetwork] = {}
            default = self.store.default().network
            if default is not None:
                found[default.name] = default
            for name in self.store.names():
                with contextlib.suppress(errors.LxcdError):
                    one = self.store.read(name)
                    if one is not None:
                        found[name] = one
            return [found[name] for name in sorted(found)]

        return await asyncio.to_thread(read)

    def is_up(self, name: str) -> bool:
        """Its bridge is there."""
        return name in self._up

    def dnsmasq_pid(self, name: str) -> int:
        """Of the one that answers in it; 0 if none does."""
        up = self._up.get(name)
        return up.server.pid if up is not None else 0

    def connected(self, name: str = "") -> list[Port]:
        """Who is connected to a network, or to any."""
        return [port for port in self._ports.values() if not name or port.network == name]

    def _defined(self, name: str) -> ManagedNetwork | None:
        """Blocks."""
        found = self.store.read(name)
        if found is None:
            default = self.store.default()
            for problem in default.problems:
                _log.warning("lxc-net: %s", problem)
            if default.network is not None and default.network.name == name:
                found = default.network
        return found

    def _rules(self) -> firewall.Rules:
        return firewall.Rules(
            tuple(up.network for up in self._up.values()),
            tuple(port for port in self._ports.values() if port.network in self._up),
            self._published(),
        )

    # ---- up and down

    async def ensure(self, link: str) -> ManagedNetwork | None:
        """Have the network whose bridge this is up. None if there is none, or if somebody else's
        device has the name of one that nobody has defined. Raises an LxcdError.
        """
        await self._recovered.wait()
        up = self._up.get(link)
        if up is not None and _index(link) == up.index:
            return up.network
        async with self._lock:
            network = await asyncio.to_thread(self._defined, link)
            if network is None:
                return None
            up = self._up.get(link)
            if up is not None and _index(link) == up.index:
                return up.network
            if up is None and await asyncio.to_thread(_is_there, link):
                if self.store.defined(link):
                    raise errors.FailedPrecondition(
                        f"network {link}: a device of that name is there, and is not lxcd's",
                        "DEVICE_EXISTS",
                        network=link,
                    )
                return None
            await self._go_up(network)
            return network

    async def _go_up(self, network: ManagedNetwork) -> None:
        """The caller holds the lock. It may be up already, and have lost its bridge."""
        name = network.name
        await asyncio.to_thread(self._require_free, network)
        server = self._server(name)
        record = UpRecord(definition.to_toml(network))
        before = self._up.get(name)
        if before is not None:
            server, record = before.server, replace(before.record, text=record.text)
        self.store.write_up(name, record)
        try:
            index = await asyncio.to_thread(_make, network)
            reserved = await asyncio.to_thread(self.store.reserved, name)
            self._up[name] = up = _Up(network, index, record, server, reserved)
            await self._rebuild()
            await self._serve(up)
        except BaseException as error:
            if before is None:
                await asyncio.shield(self._go_down(name, network))
            if isinstance(error, OSError):
                raise errors.from_oserror(error, f"network {name}", network=name) from None
            raise
        self._tell("network.up", name, f"{network.ipv4} {network.ipv6}".strip())

    def _require_free(self, network: ManagedNetwork) -> None:
        """Raise FailedPrecondition if its addresses are somebody else's. Blocks."""
        own = network.ipv4_interface
        if own is None:
            return
        with namespace.rtnetlink() as opened:
            used = bridge.used_ipv4(opened, network.name)
        for other in used:
            if other.overlaps(own.network):
                raise errors.FailedPrecondition(
                    f"network {network.name}: {own.network} is in use on this host ({other})",
                    "ADDRESS_IN_USE",
                    network=network.name,
                )

    async def _rebuild(self) -> None:
        """The rules. Without nftables there are networks all the same, but no way out of them."""
        try:
            await self._ruleset.rebuild()
        except errors.FailedPrecondition as error:
            if any(port.filter for port in self.connected()):
                raise
            if not self._warned:
                self._warned = True
                _log.warning("networks go without rules: %s", error)
            for name in self._up:
                text = f"no NAT, no filters, no forwards: {error.text}"
                self._tell("network.firewall_unavailable", name, text)

    async def _serve(self, up: _Up) -> None:
        """Have its dnsmasq, and what that reads. Raises FailedPrecondition."""
        network, connected = up.network, self.connected(up.network.name)
        if up.server.pid:
            # It looks at the directories that it has opened.
            for port in connected:
                self.store.write_files(network, port)
            return
        self.store.make_files(network, connected)
        if network.wants_dnsmasq:
            await up.server.start()

    async def go_down(self, name: str) -> None:
        """Remove all of a network that is up; who is connected is no longer."""
        await self._recovered.wait()
        async with self._lock:
            if name in self._up:
                await self._go_down(name)
                self._tell("network.down", name)

    async def shut_down(self) -> None:
        """The same of all: `lxcd shutdown`. What cannot be removed is told, not raised."""
        for name in list(self._up):
            try:
                await self.go_down(name)
            except errors.LxcdError as error:
                _log.error("network %s could not be taken down: %s", name, error)

    async def _go_down(self, name: str, network: ManagedNetwork | None = None) -> None:
        up = self._up.pop(name, None)
        if up is not None:
            network = up.network
            self.store.write_up(name, replace(up.record, going=True))
            await up.server.stop()
        for port in self.connected(name):
            del self._ports[port.host_name]
            self.store.delete_port(port)
        try:
            if self._up:
                await self._ruleset.rebuild()
            else:
                await self._ruleset.release()
        except errors.LxcdError as error:
            _log.warning("rules of network %s: %s", name, error)
        try:
            if network is not None:
                await asyncio.to_thread(_remove, network)
        except OSError as error:
            raise errors.from_oserror(error, f"removing network {name}", network=name) from None
        self.store.delete_up(name)

    async def apply(self, network: ManagedNetwork) -> None:
        """Have a network that is up be as it is defined now. Raises an LxcdError."""
        async with self._lock:
            up = self._up.get(network.name)
            if up is None:
                return
            await up.server.stop()
            up.network = network
            up.record = replace(up.record, text=definition.to_toml(network))
            await self._go_up(network)

    # ---- dnsmasq

    def _command(self, name: str) -> tuple[str, ...]:
        return dnsmasq.command_line(self._require_up(name).network, self.store.files(name))

    def _require_up(self, name: str) -> _Up:
        up = self._up.get(name)
        if up is None:
            raise errors.Aborted(f"network {name} is going down", "NETWORK_NOT_UP", network=name)
        return up

    def _note(self, name: str, child: Held) -> None:
        """Before it is exec'ed: what has been begun and is known to nobody is never ended."""
        ticks = 0
        with contextlib.suppress(OSError):
            ticks = procfs.start_time(child.pid)
        up = self._require_up(name)
        up.record = replace(up.record, child=child.id, pid=child.pid, start_time_ticks=ticks)
        self.store.write_up(name, up.record)

    # ---- who is connected

    async def connect(
        self,
        lxcpath: str,
        name: str,
        *,
        link: str,
        device_number: int,
        host_name: str,
        hwaddr: str,
        addresses: Iterable[str] = (),
        filter: Collection[str] = FILTERS,  # noqa: A002 - the word for it
    ) -> Port:
        """Before the host's end of a container's device goes up in the bridge `link` of a network:
        keep an address for it, give it a name, and filter what it sends. Raises an LxcdError;
        nothing is left then.
        """
        network = await self.ensure(link)
        up = self._up.get(link)
        if network is None or up is None:
            raise errors.FailedPrecondition(f"no network {link}", "NETWORK_NOT_FOUND", network=link)
        await self.disconnect(host_name)
        port = self._port(up, lxcpath, name, device_number, host_name, hwaddr, addresses, filter)
        self._ports[host_name] = port
        try:
            self.store.write_port(port)
            self.store.write_files(network, port)
            if port.filter:
                await self._ruleset.add_port(port, network)
            if port.forwards:
                await self._publish(link)
        except BaseException:
            await asyncio.shield(self.disconnect(host_name))
            raise
        return port

    def _port(  # noqa: PLR0917 - what `connect` is given
        self,
        up: _Up,
        lxcpath: str,
        name: str,
        device_number: int,
        host_name: str,
        hwaddr: str,
        addresses: Iterable[str],
        filters: Collection[str],
    ) -> Port:
        why = definition.device_problem(host_name)
        if why:
            raise errors.InvalidArgument(f"the host's end of a device: {why}", "INVALID_NAME")
        unknown = set(filters) - FILTERS
        if unknown:
            raise errors.Internal(f"no such filter: {sorted(unknown)}")
        network = up.network
        static = tuple(str(ipaddress.ip_interface(text).ip) for text in addresses)
        others = self.connected(network.name)
        for address in static:
            self._require_nobodys(network, address, others)
        label = ports.dns_label(name)
        if any(other.dns_name == label for other in others):
            label = ""
        own = network.ipv4_interface
        inside = [
            text for text in static if own is not None and ipaddress.ip_address(text) in own.network
        ]
        # A second device of the same container has forwards only once.
        first = not any(
            (other.lxcpath, other.container) == (lxcpath, name) for other in self.connected()
        )
        port = Port(
            network=network.name,
            lxcpath=lxcpath,
            container=name,
            device_number=device_number,
            host_name=host_name,
            hwaddr=hwaddr.lower(),
            ipv4=inside[0] if inside else self._reserve(up, lxcpath, name, device_number, hwaddr),
            static=static,
            filter=tuple(sorted(filters)),
            dns_name=label,
        )
        return replace(port, forwards=self._wanted_forwards(port)) if first else port

    @staticmethod
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

    def _reserve(self, up: _Up, lxcpath: str, name: str, device_number: int, hwaddr: str) -> str:
        """An address that stays the same, also when it is started again. Raises
        ResourceExhausted.
        """
        network = up.network
        if not network.ipv4 or not network.ipv4_dhcp:
            return ""
        key = reservations.key(lxcpath, name, device_number)
        connected = self.connected(network.name)
        taken = {text for port in connected for text in (port.ipv4, *port.static)}
        keys = {reservations.key(p.lxcpath, p.container, p.device_number) for p in connected}
        known = {p.hwaddr for p in connected} | {hwaddr.lower()}
        # Somebody on the bridge whom we know nothing of, and who got an address all the same.
        reserved_to = set(up.reserved.values())
        strangers = {
            lease.address
            for lease in self.store.leases(network.name)
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
            self.store.write_reserved(network.name, up.reserved)
        return found

    async def disconnect(self, host_name: str) -> None:
        """Undo `connect`; nothing if it was not connected."""
        port = self._ports.pop(host_name, None)
        if port is None:
            return
        self._forget_files(port)
        try:
            await self._ruleset.remove_port(port)
            if port.forwards:
                await self._ruleset.publish(self._published)
        except errors.LxcdError as error:
            # Rules of a name that nothing has do no harm; the next rebuild leaves them out.
            _log.warning("rules of port %s: %s", host_name, error)
        if host_name not in self._ports:
            self.store.delete_port(port)

    def _forget_files(self, port: Port) -> None:
        files = self.store.files(port.network)
        for directory in (files.reservations, files.hosts):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, port.host_name))
        up = self._up.get(port.network)
        if up is not None:
            up.server.reload()

    def follow(self, container: Container, picture: Picture | None) -> None:
        """What a container's devices have changed to."""
        for interface in picture.interfaces if picture is not None else ():
            far = [str(one.address) for one in interface.addresses if one.far]
            self.note_addresses(container.lxcpath, container.name, interface.hardware_address, far)

    def note_addresses(
        self, lxcpath: str, name: str, hwaddr: str, addresses: Iterable[str]
    ) -> None:
        """What addresses a container's device really has: those are what its name stands for."""
        seen = tuple(
            sorted({str(ipaddress.ip_interface(text.partition("%")[0]).ip) for text in addresses})
        )
        for port in self.connected():
            same = (port.lxcpath, port.container, port.hwaddr) == (lxcpath, name, hwaddr.lower())
            up = self._up.get(port.network)
            if not same or port.seen == seen or up is None:
                continue
            noted = replace(port, seen=seen)
            self._ports[port.host_name] = noted
            try:
                self.store.write_port(noted)
                self.store.write_files(up.network, noted)
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
        before = self._ports[port.host_name]
        self._ports[port.host_name] = replace(before, forwards=forwards)
        try:
            await self._publish(port.network)
        except errors.LxcdError:
            self._ports[port.host_name] = before
            raise
        self.store.write_port(self._ports[port.host_name])

    async def _publish(self, network: str) -> None:
        await asyncio.to_thread(bridge.route_localhost, network)
        await self._ruleset.publish(self._published)

    def _published(self) -> tuple[firewall.Published, ...]:
        found: list[firewall.Published] = []
        for port in self._ports.values():
            up = self._up.get(port.network)
            if up is None or not port.forwards:
                continue
            target = ports.target_ipv6(port, up.network)
            ipv6 = str(target) if target is not None else ""
            found += [firewall.Published(one, port.ipv4, ipv6) for one in port.forwards]
        return tuple(found)

    # ---- from one lxcd to the next

    def adopt(self) -> set[str]:
        """Read what an earlier lxcd has left; ids of the keeper's children that are networks'. What
        is to be done with it is done beside everything else, see `recover`.
        """
        self._left = self.store.up()
        return {record.child for record in self._left.values() if record.child}

    async def recover(self) -> None:
        """Take up what is up, remove what was to go. Until then nobody is connected."""
        try:
            await self._recover()
        except Exception:  # noqa: BLE001 - containers go on, whatever has become of networks
            _log.exception("networks of an earlier lxcd")
        finally:
            self._recovered.set()

    async def _recover(self) -> None:
        present = await asyncio.to_thread(_link_names)
        for port in self.store.ports():
            if port.host_name in present and port.network in self._left:
                self._ports[port.host_name] = port
            else:
                self.store.delete_port(port)
        async with self._lock:
            for name, record in self._left.items():
                await self._take_up(name, record)
            for up in [one for one in self._up.values() if one.record.going or not one.index]:
                # Cut short on its way, or its bridge was removed: whoever needs it makes it.
                await self._go_down(up.network.name)
            if self._up:
                # Once, with all of them: what is not said then is not there.
                await self._rebuild()
            for up in self._up.values():
                try:
                    up.index = await asyncio.to_thread(_make, up.network)
                    await self._serve(up)
                except (errors.LxcdError, OSError) as error:
                    _log.error("network %s: %s", up.network.name, error)

    async def _take_up(self, name: str, record: UpRecord) -> None:
        try:
            network = definition.from_toml(name, record.text.encode())
        except errors.LxcdError:
            network = definition.ManagedNetwork(name)
            record = replace(record, going=True)
        reserved = await asyncio.to_thread(self.store.reserved, name)
        server = self._server(name)
        index = await asyncio.to_thread(_index_of_ours, network)
        self._up[name] = _Up(network, index, record, server, reserved)
        child = self._house.keeper.children.get(record.child)
        if child is not None and child.exited is None:
            server.adopt(child)
            return
        if child is not None:
            self._house.keeper.forget(child)
        await asyncio.to_thread(nameserver.end_orphan, record.pid, record.start_time_ticks)

    def _server(self, name: str) -> Nameserver:
        return Nameserver(
            self._house, name, lambda: self._command(name), lambda child: self._note(name, child)
        )

    def close(self) -> None:
        """Lxcd leaves; networks stay up."""
        for up in self._up.values():
            up.server.close()

    def _tell(self, type_: str, name: str, message: str = "") -> None:
        self._house.events.add(type_, message=message, details={"network": name})


def _make(network: ManagedNetwork) -> int:
    """Blocks. Raises OSError."""
    with namespace.rtnetlink() as opened:
        index = bridge.make(opened, network)
    failed = bridge.forward(network)
    if failed:
        _log.warning("network %s: could not be set: %s", network.name, " ".join(failed))
    return index


def _remove(network: ManagedNetwork) -> None:
    with namespace.rtnetlink() as opened:
        bridge.remove(opened, network)


def _index_of_ours(network: ManagedNetwork) -> int:
    with namespace.rtnetlink() as opened:
        return bridge.find_own(opened, network)


def _is_there(name: str) -> bool:
    return _index(name) != 0


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _link_names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _is_gone(key: str) -> bool:
    """The container of a reservation is not defined any more."""
    found = reservations.container_of(key)
    return found is None or not os.path.exists(os.path.join(*found, CONFIG_NAME))
