"""Managed networks on request: defined, changed, deleted; who has which address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.network import bridge, definition, namespace, reservations
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from ipaddress import IPv4Network

    from lxcd.network.definition import ManagedNetwork
    from lxcd.network.port import Port
    from lxcd.supervisor.house import House
    from lxcd.supervisor.networks import Networks

# What containers that are connected have configured themselves by.
_UNDER_THEM = ("ipv4", "ipv6", "hwaddr", "mtu")


@dataclass(frozen=True, slots=True)
class Known:
    """An address of a network, and what is known of whose it is."""

    address: str
    hwaddr: str
    name: str = ""
    container: str = ""
    lxcpath: str = ""
    client_id: str = ""
    expires: int = 0  # seconds since 1970; 0: it does not
    reserved: bool = False


class NetworkChanges:
    """One at a time."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._lock = asyncio.Lock()

    @property
    def _networks(self) -> Networks:
        return self._house.networks

    async def create(
        self, name: str, values: dict[str, object], *, validate_only: bool = False
    ) -> ManagedNetwork:
        """Define a network and have it up. Raises an LxcdError; nothing is left then."""
        why = definition.device_problem(name)
        if why:
            raise errors.InvalidArgument(f"network: name: {why}", "INVALID_NETWORK", field="name")
        store = self._networks.store
        async with self._lock:
            if store.defined(name):
                raise errors.AlreadyExists(f"network {name} exists", "NETWORK_EXISTS", network=name)
            default = await in_thread(store.default)
            if default.network is not None and default.network.name == name:
                made = definition.changed(default.network, values)
            else:
                used = await self._used(name) if "ipv4" not in values else ()
                has_ipv6 = bridge.has_ipv6()
                first = definition.fresh(name, store.seed, used, has_ipv6=has_ipv6)
                made = definition.changed(first, values)
            await self._require_apart(made)
            if not self._networks.is_up(name):
                with contextlib.suppress(OSError):
                    socket.if_nametoindex(name)
                    raise errors.AlreadyExists(
                        f"a device {name} is there, and is not lxcd's",
                        "DEVICE_EXISTS",
                        network=name,
                    )
            if validate_only:
                return made
            if self._house.drains:
                raise errors.Unavailable("lxcd is taking all networks down", "DRAINING")
            store.write(made)
            try:
                await self._networks.apply(made)
                await self._networks.ensure(name)
            except BaseException:
                await in_thread(store.delete, name)
                raise
            self._tell("network.created", name)
        return made

    async def update(
        self, name: str, values: dict[str, object], etag: str, *, validate_only: bool = False
    ) -> ManagedNetwork:
        """Change a network. Raises an LxcdError; it is as it was then."""
        async with self._lock:
            before = await self._networks.get(name)
            _require_etag(before, etag)
            made = definition.changed(before, values)
            if not made.hwaddr:
                seed = self._networks.store.seed
                made = replace(made, hwaddr=definition.stable_hwaddr(seed, name))
            below = [key for key in _UNDER_THEM if getattr(made, key) != getattr(before, key)]
            if below and self._networks.connected(name):
                raise self._in_use(name, f"its {below[0]} cannot change")
            await self._require_apart(made)
            if validate_only or made == before:
                return made
            was_defined = self._networks.store.defined(name)
            self._networks.store.write(made)
            try:
                await self._networks.apply(made)
            except errors.LxcdError:
                if was_defined:
                    self._networks.store.write(before)
                else:
                    await in_thread(self._networks.store.delete, name)
                with contextlib.suppress(errors.LxcdError):
                    await self._networks.apply(before)
                raise
            self._tell("network.updated", name)
        return made

    async def delete(
        self, name: str, etag: str, *, force: bool = False, validate_only: bool = False
    ) -> None:
        """Take a network down and forget it. Raises an LxcdError."""
        async with self._lock:
            network = await self._networks.get(name)
            _require_etag(network, etag)
            if self._networks.connected(name) and not force:
                raise self._in_use(name, "stop them, or use force")
            if validate_only:
                return
            await self._networks.go_down(name)
            await in_thread(self._networks.store.delete, name)
            self._tell("network.deleted", name)

    def _in_use(self, name: str, what: str) -> errors.FailedPrecondition:
        users = sorted({port.container for port in self._networks.connected(name)})
        shown = ", ".join(users[:10]) + (" …" if len(users) > 10 else "")  # noqa: PLR2004
        return errors.FailedPrecondition(
            f"network {name} is used by {shown}: {what}", "NETWORK_IN_USE", network=name
        )

    async def _used(self, name: str) -> list[IPv4Network]:
        """What of IPv4 is somebody else's, up or not."""

        def look() -> list[IPv4Network]:
            with namespace.rtnetlink() as opened:
                return bridge.used_ipv4(opened, name)

        found = await in_thread(look)
        for other in await self._networks.all():
            if other.name != name and other.ipv4_interface is not None:
                found.append(other.ipv4_interface.network)
        return found

    async def _require_apart(self, network: ManagedNetwork) -> None:
        """Raise FailedPrecondition if it overlaps with another network that is defined."""
        for other in await self._networks.all():
            if other.name == network.name:
                continue
            for one, two in (
                (network.ipv4_interface, other.ipv4_interface),
                (network.ipv6_interface, other.ipv6_interface),
            ):
                if one is not None and two is not None and one.network.overlaps(two.network):
                    raise errors.FailedPrecondition(
                        f"network {network.name}: {one.network} is that of network {other.name}",
                        "ADDRESS_IN_USE",
                        network=network.name,
                    )

    async def addresses(self, name: str) -> list[Known]:
        """Who has which address of a network. Raises NotFound."""
        await self._networks.get(name)
        store = self._networks.store
        leases = await in_thread(store.leases, name)
        reserved = await in_thread(store.reserved, name)
        ports = {port.hwaddr: port for port in self._networks.connected(name)}
        found: dict[str, Known] = {}
        for key, address in reserved.items():
            owner = reservations.container_of(key)
            if owner is not None:
                lxcpath, container = owner
                found[address] = Known(
                    address, "", container=container, lxcpath=lxcpath, reserved=True
                )
        for port in ports.values():
            if port.ipv4:
                found[port.ipv4] = _of_port(port)
        for lease in leases:
            port_of = ports.get(lease.hwaddr)
            known = found.get(lease.address)
            if known is None:
                known = Known(lease.address, lease.hwaddr)
                if port_of is not None:
                    known = replace(_of_port(port_of), address=lease.address, reserved=False)
            found[lease.address] = replace(
                known,
                hwaddr=lease.hwaddr or known.hwaddr,
                name=lease.name or known.name,
                client_id=lease.client_id,
                expires=lease.expires,
            )
        # Numbers, not texts: .9 comes before .10.
        return sorted(found.values(), key=lambda one: (":" in one.address, _packed(one.address)))

    def _tell(self, type_: str, name: str) -> None:
        self._house.events.add(type_, message=name, details={"network": name})


def _of_port(port: Port) -> Known:
    return Known(
        port.ipv4,
        port.hwaddr,
        name=port.dns_name,
        container=port.container,
        lxcpath=port.lxcpath,
        reserved=True,
    )


def _packed(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address)


def _require_etag(network: ManagedNetwork, etag: str) -> None:
    if etag and etag != network.etag:
        raise errors.Aborted(f"network {network.name} was changed meanwhile", "ETAG_MISMATCH")
