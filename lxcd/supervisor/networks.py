"""Managed networks: up when somebody needs them, and who is connected to them.

A network is a bridge, rules, and a dnsmasq; it goes up with the first container that names its
bridge, and stays until it is deleted or lxcd is shut down. Before anything of it is made there is a
record of it, so that the next lxcd takes it up or removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config.daemon import FILTERS
from lxcd.kernel import procfs
from lxcd.network import bridge, definition, dnsmasq, firewall, namespace
from lxcd.supervisor import nameserver
from lxcd.supervisor.connecting import Connections, Device, Up
from lxcd.supervisor.nameserver import Nameserver
from lxcd.supervisor.network_store import Store, UpRecord
from lxcd.supervisor.ruleset import Ruleset
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lxcd.network.definition import ManagedNetwork
    from lxcd.network.picture import Picture
    from lxcd.network.port import Port
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)


class Networks:
    """All of one lxcd. `adopt` first, then the rest."""

    def __init__(self, house: House, lxc_net: str) -> None:
        self._house = house
        self.store = Store(house.paths, lxc_net)
        self._up: dict[str, Up] = {}
        self._ruleset = Ruleset(house, self._rules)
        self.connections = Connections(house, self.store, self._ruleset, self._up.get)
        self._lock = asyncio.Lock()  # of networks: going up, changing, going down
        self._recovered = asyncio.Event()
        self._gone: list[str] = []  # disconnected before that
        self._left: dict[str, UpRecord] = {}  # by an earlier lxcd
        self._warned = False

    # ---- what there is

    async def get(self, name: str) -> ManagedNetwork:
        """A network that is defined, or the default one. Raises NotFound."""
        found = await in_thread(self._defined, name)
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

        return await in_thread(read)

    def is_up(self, name: str) -> bool:
        """Its bridge is there."""
        return name in self._up

    def dnsmasq_pid(self, name: str) -> int:
        """Of the one that answers in it; 0 if none does."""
        up = self._up.get(name)
        return up.server.pid if up is not None else 0

    def _defined(self, name: str) -> ManagedNetwork | None:
        """Blocks."""
        found = self.store.read(name)
        if found is None:
            default = self.store.default().network
            if default is not None and default.name == name:
                found = default
        return found

    def _rules(self) -> firewall.Rules:
        return firewall.Rules(
            tuple(up.network for up in self._up.values()),
            tuple(port for port in self.connected() if port.network in self._up),
            self.connections.published(),
        )

    # ---- up and down

    async def ensure(self, link: str) -> ManagedNetwork | None:
        """Have the network whose bridge this is up. None if there is none, or if somebody else's
        device has the name of one that nobody has defined. Raises an LxcdError.
        """
        await self._recovered.wait()
        up = self._up.get(link)
        # One that is on its way has a bridge before it has all else.
        if up is not None and not self._lock.locked() and _index(link) == up.index:
            return up.network
        async with self._lock:
            network = await in_thread(self._defined, link)
            if network is None:
                return None
            await self._leave_to_others(link)
            up = self._up.get(link)
            if up is not None and _index(link) == up.index:
                return up.network
            if up is None and await in_thread(_is_there, link):
                if self.store.defined(link):
                    raise errors.FailedPrecondition(
                        f"network {link}: a device of that name is there, and is not lxcd's",
                        "DEVICE_EXISTS",
                        network=link,
                    )
                return None
            await self._go_up(network)
            return network

    async def _leave_to_others(self, name: str) -> None:
        """The caller holds the lock. A network that is up, and whose bridge was removed and is
        somebody else's by now, is up no longer; the bridge stays as it is.
        """
        up = self._up.get(name)
        try:
            is_others = up is not None and await in_thread(_is_others, up)
        except OSError as error:
            raise errors.from_oserror(error, f"network {name}", network=name) from None
        if is_others:
            await self._go_down(name)
            self._tell("network.down", name, f"the device {name} is somebody else's by now")

    async def _go_up(self, network: ManagedNetwork) -> None:
        """The caller holds the lock. It may be up already, and have lost its bridge."""
        name = network.name
        await in_thread(self._require_possible, network)
        server = self._server(name)
        record = UpRecord(definition.to_toml(network))
        before = self._up.get(name)
        if before is not None:
            server, record = before.server, replace(before.record, text=record.text)
        self.store.write_up(name, record)
        try:
            known = before.index if before is not None else 0
            index = await in_thread(_make, network, known)
            reserved = await in_thread(self.store.reserved, name)
            self._up[name] = up = Up(network, index, record, server, reserved)
            await self._rebuild()
            await self._serve(up)
            await self._warn_of_others(name)
        except BaseException as error:
            if before is None:
                await asyncio.shield(self._go_down(name, network))
            if isinstance(error, OSError):
                raise errors.from_oserror(error, f"network {name}", network=name) from None
            raise
        self._tell("network.up", name, f"{network.ipv4} {network.ipv6}".strip())

    async def _warn_of_others(self, name: str) -> None:
        """Nobody else's tables are touched: whoever has made them is told."""
        with contextlib.suppress(errors.LxcdError):
            for chain in await self._ruleset.dropping():
                text = f"what is routed is dropped by the chain {chain}, unless that knows {name}"
                _log.warning("network %s: %s", name, text)
                self._tell("network.forward_dropped", name, text)

    def _require_possible(self, network: ManagedNetwork) -> None:
        """Raise FailedPrecondition if its addresses are somebody else's, or of what the host does
        not do. Blocks.
        """
        if network.ipv6 and not bridge.has_ipv6():
            raise errors.FailedPrecondition(
                f"network {network.name}: its ipv6 is {network.ipv6}, and this host has no IPv6"
                " (ipv6.disable=1?): ipv6=none goes up",
                "IPV6_UNAVAILABLE",
                network=network.name,
            )
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
        """The rules. Without nftables there are networks all the same, but no way out of them, as
        long as no port is to be filtered. Raises FailedPrecondition if one is.
        """
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

    async def _serve(self, up: Up) -> None:
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
        await self._recovered.wait()
        async with self._lock:
            names = list(self._up)
        for name in names:
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
        self.connections.drop(name)
        try:
            if self._up:
                await self._ruleset.rebuild()
            else:
                await self._ruleset.release()
        except errors.LxcdError as error:
            _log.warning("rules of network %s: %s", name, error)
        try:
            if network is not None:
                await in_thread(_remove, network)
        except OSError as error:
            raise errors.from_oserror(error, f"removing network {name}", network=name) from None
        self.store.delete_up(name)

    async def apply(self, network: ManagedNetwork) -> None:
        """Have a network that is up be as it is defined now. Raises an LxcdError."""
        async with self._lock:
            await self._leave_to_others(network.name)
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

    def _require_up(self, name: str) -> Up:
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
        device = Device(
            lxcpath, name, device_number, host_name, hwaddr, tuple(addresses), frozenset(filter)
        )
        return await self.connections.add(up, device)

    async def disconnect(self, host_name: str) -> None:
        """Undo `connect`; nothing if it was not connected."""
        if not self._recovered.is_set():
            # What is taken up meanwhile is let go of then: nobody's recovery waits for networks.
            self._gone.append(host_name)
            return
        await self.connections.remove(host_name)

    def follow(self, container: Container, picture: Picture | None) -> None:
        """What a container's devices have changed to."""
        for interface in picture.interfaces if picture is not None else ():
            far = [str(one.address) for one in interface.addresses if one.far]
            self.note_addresses(container.lxcpath, container.name, interface.hardware_address, far)

    def note_addresses(
        self, lxcpath: str, name: str, hwaddr: str, addresses: Iterable[str]
    ) -> None:
        """What addresses a container's device really has: those are what its name stands for."""
        self.connections.note_addresses(lxcpath, name, hwaddr, addresses)

    def connected(self, name: str = "") -> list[Port]:
        """Who is connected to a network, or to any."""
        return self.connections.of(name)

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
        while self._gone:
            await self.connections.remove(self._gone.pop())

    async def _recover(self) -> None:
        present = await in_thread(_link_names)
        for port in self.store.ports():
            there = port.host_name in present and port.host_name not in self._gone
            if there and port.network in self._left:
                self.connections.adopt(port)
            else:
                self.store.delete_port(port)
        async with self._lock:
            for name, record in self._left.items():
                await self._take_up(name, record)
            for up in [one for one in self._up.values() if one.record.going or not one.index]:
                # Cut short on its way, or its bridge was removed: whoever needs it makes it.
                await self._go_down(up.network.name)
            await in_thread(self.store.sweep, set(self._up), self.connected())
            if self._up:
                # Once, with all of them: what is not said then is not there.
                await self._rebuild()
            for up in self._up.values():
                try:
                    up.index = await in_thread(_make, up.network, up.index)
                    await self._serve(up)
                except (errors.LxcdError, OSError) as error:
                    _log.error("network %s: %s", up.network.name, error)

    async def _take_up(self, name: str, record: UpRecord) -> None:
        try:
            network = definition.from_toml(name, record.text.encode())
        except errors.LxcdError:
            network = definition.ManagedNetwork(name)
            record = replace(record, going=True)
        reserved = await in_thread(self.store.reserved, name)
        server = self._server(name)
        index = await in_thread(_index_of_ours, network)
        self._up[name] = Up(network, index, record, server, reserved)
        child = self._house.keeper.children.get(record.child)
        if child is not None and child.exited is None:
            server.adopt(child)
            return
        if child is not None:
            self._house.keeper.forget(child)
        await in_thread(nameserver.end_orphan, record.pid, record.start_time_ticks)

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


def _make(network: ManagedNetwork, known: int) -> int:
    """Blocks. Raises OSError."""
    with namespace.rtnetlink() as opened:
        index = bridge.make(opened, network, known)
    failed = bridge.forward(network)
    if not bridge.learn_from_filtered(network.name):
        failed.append("no_linklocal_learn")
    if failed:
        _log.warning("network %s: could not be set: %s", network.name, " ".join(failed))
    return index


def _remove(network: ManagedNetwork) -> None:
    with namespace.rtnetlink() as opened:
        bridge.remove(opened, network)


def _index_of_ours(network: ManagedNetwork) -> int:
    with namespace.rtnetlink() as opened:
        return bridge.find_own(opened, network)


def _is_others(up: Up) -> bool:
    """Blocks. Raises OSError."""
    there = _index(up.network.name)
    return there not in (0, up.index) and there != _index_of_ours(up.network)


def _is_there(name: str) -> bool:
    return _index(name) != 0


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _link_names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}
