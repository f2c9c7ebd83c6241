"""NetworkService. A method is: convert, call, convert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from lxcd import errors
from lxcd.config import forwards
from lxcd.network import definition
from lxcd.network import port as ports
from lxcd.rpc import convert, requests
from lxcd.rpc.status import Context, unary
from lxcd.supervisor import hotplug
from lxcd.supervisor.forwarding import Forwarding
from lxcd.supervisor.network_changes import NetworkChanges
from lxcd.threads import in_thread
from lxcd.v1 import network_pb2 as pb
from lxcd.v1 import network_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.network.definition import ManagedNetwork
    from lxcd.network.port import Port
    from lxcd.network.wiring import Wired
    from lxcd.rpc.replay import Replays
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.forwarding import Known as KnownForward
    from lxcd.supervisor.house import House
    from lxcd.supervisor.network_changes import Known as KnownAddress
    from lxcd.supervisor.networks import Networks as Supervised
    from lxcd.supervisor.registry import Registry

_PAGE = 100
_LARGEST_PAGE = 1000

Item = TypeVar("Item")


class Networks(network_pb2_grpc.NetworkServiceServicer):
    """Managed networks, and forwards into them."""

    def __init__(self, house: House, registry: Registry, replays: Replays) -> None:
        self._house = house
        self._registry = registry
        self._replays = replays
        self._changes = NetworkChanges(house)
        self._forwarding = Forwarding(house)

    # ---- networks

    @unary
    async def CreateNetwork(self, request: pb.CreateNetworkRequest, context: Context) -> pb.Network:
        """See network.proto."""
        del context
        wanted = request.network
        # A field that was set counts, also if it was set to nothing.
        values: dict[str, object] = {
            field.name: value
            for field, value in wanted.ListFields()
            if field.name in definition.FIELDS
        }

        async def work() -> ManagedNetwork:
            return await self._changes.create(
                wanted.name, values, validate_only=request.validate_only
            )

        return self._message(await self._replays.once(request, work))

    @unary
    async def GetNetwork(self, request: pb.GetNetworkRequest, context: Context) -> pb.Network:
        """See network.proto."""
        del context
        return self._message(await self._house.networks.get(request.name))

    @unary
    async def ListNetworks(
        self, request: pb.ListNetworksRequest, context: Context
    ) -> pb.ListNetworksResponse:
        """See network.proto."""
        del context
        found = await self._house.networks.all()
        page, token = _page(request, found, lambda one: one.name)
        return pb.ListNetworksResponse(
            networks=[self._message(one) for one in page], next_page_token=token
        )

    @unary
    async def UpdateNetwork(self, request: pb.UpdateNetworkRequest, context: Context) -> pb.Network:
        """See network.proto."""
        del context
        wanted = request.network
        paths = list(request.update_mask.paths)
        wrong = [path for path in paths if path not in definition.FIELDS]
        if wrong or not paths:
            what = f"cannot update {', '.join(wrong)}" if wrong else "the mask names nothing"
            raise errors.InvalidArgument(what, "INVALID_MASK")
        values = {path: getattr(wanted, path) for path in paths}

        async def work() -> ManagedNetwork:
            return await self._changes.update(
                wanted.name, values, wanted.etag, validate_only=request.validate_only
            )

        return self._message(await self._replays.once(request, work))

    @unary
    async def DeleteNetwork(
        self, request: pb.DeleteNetworkRequest, context: Context
    ) -> pb.DeleteNetworkResponse:
        """See network.proto."""
        del context

        async def work() -> None:
            await self._changes.delete(
                request.name,
                request.etag,
                force=request.force,
                validate_only=request.validate_only,
            )

        await self._replays.once(request, work)
        return pb.DeleteNetworkResponse()

    @unary
    async def ListLeases(
        self, request: pb.ListLeasesRequest, context: Context
    ) -> pb.ListLeasesResponse:
        """See network.proto."""
        del context
        found = await self._changes.addresses(request.name)
        # Names of pages are texts that sort as the addresses do.
        order = {one.address: f"{number:08}" for number, one in enumerate(found)}
        page, token = _page(request, found, lambda one: order[one.address])
        return pb.ListLeasesResponse(leases=[_lease(one) for one in page], next_page_token=token)

    def _message(self, network: ManagedNetwork) -> pb.Network:
        supervised: Supervised = self._house.networks
        values: dict[str, Any] = {key: getattr(network, key) for key in definition.FIELDS}
        return pb.Network(
            **values,
            name=network.name,
            etag=network.etag,
            defined=supervised.store.defined(network.name),
            up=supervised.is_up(network.name),
            dnsmasq_pid=supervised.dnsmasq_pid(network.name),
            ports=[_port(one, network) for one in supervised.connected(network.name)],
        )

    # ---- forwards

    @unary
    async def AddForward(self, request: pb.AddForwardRequest, context: Context) -> pb.Forward:
        """See network.proto."""
        del context
        wanted = _wanted(request.forward)

        async def work() -> KnownForward:
            actor = self._actor(request.forward)
            return await self._forwarding.add(actor, wanted, validate_only=request.validate_only)

        return _forward(await self._replays.once(request, work))

    @unary
    async def RemoveForward(
        self, request: pb.RemoveForwardRequest, context: Context
    ) -> pb.RemoveForwardResponse:
        """See network.proto."""
        del context
        wanted = _wanted(request.forward)

        async def work() -> None:
            actor = self._actor(request.forward)
            await self._forwarding.remove(actor, wanted, validate_only=request.validate_only)

        await self._replays.once(request, work)
        return pb.RemoveForwardResponse()

    @unary
    async def ListForwards(
        self, request: pb.ListForwardsRequest, context: Context
    ) -> pb.ListForwardsResponse:
        """See network.proto."""
        del context
        if request.container:
            actors = [self._registry.get(request.lxcpath, request.container)]
        else:
            actors = await self._registry.containers(request.lxcpath)
        found = await in_thread(
            lambda: [one for actor in actors for one in self._forwarding.of(actor)]
        )
        found.sort(key=_place)
        page, token = _page(request, found, _place)
        return pb.ListForwardsResponse(
            forwards=[_forward(one) for one in page], next_page_token=token
        )

    # ---- devices of running containers

    @unary
    async def AttachDevice(
        self, request: pb.AttachDeviceRequest, context: Context
    ) -> pb.AttachedDevice:
        """See network.proto."""
        del context

        async def work() -> Wired:
            actor = self._registry.get(request.lxcpath, request.container)
            async with actor.lock:
                return await hotplug.attach(
                    self._house, actor, request.settings, validate_only=request.validate_only
                )

        made = await self._replays.once(request, work)
        return pb.AttachedDevice(
            name=made.name,
            number=made.number,
            type=made.kind,
            hwaddr=made.hwaddr,
            host_name=made.host_name,
        )

    @unary
    async def DetachDevice(
        self, request: pb.DetachDeviceRequest, context: Context
    ) -> pb.DetachDeviceResponse:
        """See network.proto."""
        del context

        async def work() -> None:
            actor = self._registry.get(request.lxcpath, request.container)
            async with actor.lock:
                await hotplug.detach(
                    self._house, actor, request.name, validate_only=request.validate_only
                )

        await self._replays.once(request, work)
        return pb.DetachDeviceResponse()

    def _actor(self, message: pb.Forward) -> Container:
        return self._registry.get(message.lxcpath, message.container)


def _place(known: KnownForward) -> str:
    one = known.forward
    return f"{known.container.name}\0{one.protocol}\0{one.listen:05}\0{one.listen_address}"


def _page(
    request: Any,  # noqa: ANN401 - whichever has page_size and page_token
    found: list[Item],
    name_of: Callable[[Item], str],
) -> tuple[list[Item], str]:
    """What goes into this page, and the token of the next."""
    if request.page_size < 0:
        raise errors.InvalidArgument("page_size is negative", "INVALID_PAGE_SIZE")
    size = min(request.page_size or _PAGE, _LARGEST_PAGE)
    after = requests.read_token(request.page_token)
    rest = [one for one in found if name_of(one) > after]
    page = rest[:size]
    return page, requests.write_token(name_of(page[-1])) if len(rest) > size else ""


def _port(port: Port, network: ManagedNetwork) -> pb.NetworkPort:
    return pb.NetworkPort(
        container=convert.text_of(port.container),
        lxcpath=convert.text_of(port.lxcpath),
        device=port.device_number,
        host_name=port.host_name,
        hwaddr=port.hwaddr,
        addresses=ports.named_addresses(port, network),
        dns_name=port.dns_name,
        filter=port.filter,
    )


def _lease(known: KnownAddress) -> pb.Lease:
    message = pb.Lease(
        address=known.address,
        hwaddr=known.hwaddr,
        name=convert.text_of(known.name),
        container=convert.text_of(known.container),
        lxcpath=convert.text_of(known.lxcpath),
        client_id=convert.text_of(known.client_id),
        reserved=known.reserved,
    )
    if known.expires:
        message.expire_time.CopyFrom(convert.timestamp(known.expires * 1_000_000_000))
    return message


def _wanted(message: pb.Forward) -> forwards.Forward:
    try:
        return forwards.forward(
            message.protocol,
            message.listen,
            message.connect or message.listen,
            message.listen_address,
        )
    except ValueError as error:
        raise errors.InvalidArgument(f"forward: {error}", "INVALID_FORWARD") from None


def _forward(known: KnownForward) -> pb.Forward:
    one = known.forward
    return pb.Forward(
        container=convert.text_of(known.container.name),
        lxcpath=convert.text_of(known.container.lxcpath),
        protocol=one.protocol,
        listen=one.listen,
        connect=one.connect,
        listen_address=one.listen_address,
        active=known.active,
    )
