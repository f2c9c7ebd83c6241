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
        with self._side.redeem(request.descriptors_token) as given:
            return await self._with(request, given)

    async def _with(
        self, request: pb.StartContainerRequest, given: dict[str, int]
    ) -> pb.StartContainerResponse:
        defines = convert.defines(request.define)
        wanted = Request(
            command=requests.command(request.command),
            application=bool(request.command) and not request.system,
            pipes=request.stdio == pb.STDIO_PIPES,
            stdin=request.stdin,
            ephemeral=request.ephemeral,
            defines=defines,
        )
        if request.config_text or request.image:
            return await self._undefined(request, wanted, given)
        actor = self._registry.get(request.lxcpath, request.name)
        async with actor.lock:
            definition = actor.definition()
            if defines:
                definition = read_text(
                    definition.text, definition.origin, defines, definition.settings
                )
            if request.validate_only:
                actor.require_stopped()
                actor.compile(definition, wanted)
                return pb.StartContainerResponse()
            started = await actor.start(definition, wanted, given=given)
        return convert.started(definition, started)

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
        try:
            async with actor.lock:
                if request.validate_only:
                    actor.compile(definition, wanted)
                    await self._registry.discard(actor, transient)
                    return pb.StartContainerResponse()
                started = await actor.start(
                    definition, wanted, transient_dir=transient, given=given
                )
        except BaseException:
            await self._registry.discard(actor, transient)
            raise
        return convert.started(definition, started)
