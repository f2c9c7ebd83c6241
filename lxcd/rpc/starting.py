"""StartContainer: of a container that is defined, or that only the request defines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.rpc import convert, requests
from lxcd.supervisor.definition import read_text
from lxcd.supervisor.records import Request
from lxcd.v1 import container_pb2 as pb

if TYPE_CHECKING:
    from lxcd.rpc.side import Side
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.definition import Definition
    from lxcd.supervisor.registry import Registry


class Starting:
    """What one needs to."""

    def __init__(self, registry: Registry, side: Side) -> None:
        self._registry = registry
        self._side = side

    async def start(self, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
        """Start it. Raises an LxcdError."""
        if request.stdio != pb.STDIO_PIPES and (request.stdin or request.descriptors_token):
            raise errors.InvalidArgument(
                "standard input and descriptors are for STDIO_PIPES", "INVALID_STDIO"
            )
        if request.application and request.system:
            raise errors.InvalidArgument("one of application and system", "INVALID_COMMAND")
        with self._side.redeem(request.descriptors_token) as given:
            return await self._with(request, given)

    async def _with(
        self, request: pb.StartContainerRequest, given: dict[str, int]
    ) -> pb.StartContainerResponse:
        defines = convert.defines(request.define)
        wanted = Request(
            command=requests.command(request.command),
            application=request.application or (bool(request.command) and not request.system),
            pipes=request.stdio == pb.STDIO_PIPES,
            stdin=request.stdin,
            ephemeral=request.ephemeral,
            defines=defines,
        )
        if self._makes(request):
            return await self._undefined(request, wanted, given)
        actor = self._registry.get(request.lxcpath, request.name)
        async with actor.lock:
            actor.require_existing()
            definition = actor.definition()
            if request.config_text:
                definition = await _in_place_of(definition, request, defines, actor)
            elif defines:
                definition = read_text(
                    definition.text, definition.origin, defines, definition.settings
                )
            if request.validate_only:
                actor.require_stopped()
                actor.compile(definition, wanted)
                return pb.StartContainerResponse()
            # What is not defined keeps what its root file system is in.
            transient = actor.record.transient_dir
            started = await actor.start(definition, wanted, transient_dir=transient, given=given)
        return convert.started(definition, started)

    def _makes(self, request: pb.StartContainerRequest) -> bool:
        """Whether it is of a container that only this request defines. A text alone may also be for
        one that has a configuration; one that is to go when it stops never is.
        """
        if request.image or (request.config_text and request.ephemeral):
            return True
        return bool(request.config_text) and not self._registry.is_defined(
            request.lxcpath, request.name
        )

    async def _undefined(
        self, request: pb.StartContainerRequest, wanted: Request, given: dict[str, int]
    ) -> pb.StartContainerResponse:
        actor, definition, transient = await self._registry.undefined(
            request.lxcpath,
            request.name,
            requests.text(request.config_text),
            request.config_origin,
            wanted.defines,
            request.image,
            validate_only=request.validate_only,
        )
        # It is taken back before anybody else has the lock: there is nothing left to start then.
        async with actor.lock:
            started = None
            try:
                if request.validate_only:
                    actor.compile(definition, wanted)
                else:
                    started = await actor.start(
                        definition, wanted, transient_dir=transient, given=given
                    )
            except BaseException:
                await self._registry.discard(actor, transient)
                raise
            if started is None:
                await self._registry.discard(actor, transient)
                return pb.StartContainerResponse()
        return convert.started(definition, started)


async def _in_place_of(
    own: Definition,
    request: pb.StartContainerRequest,
    defines: tuple[tuple[str, str], ...],
    actor: Container,
) -> Definition:
    """The request's text in place of the container's own. Raises an LxcdError; the first thing to
    say of one that runs is that.
    """
    await actor.settled()
    actor.require_stopped()
    origin = request.config_origin or "request"
    found = read_text(requests.text(request.config_text), origin, defines, own.settings)
    found.require_sound()
    if found.config.rootfs is None:
        # It has one, and would run on the host's own.
        raise errors.InvalidArgument(
            f"{origin}: names no root file system (lxc.rootfs.path)",
            "INVALID_CONFIG",
            origin=origin,
            key="lxc.rootfs.path",
        )
    return found
