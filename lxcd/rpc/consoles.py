"""ConsoleService: history and what follows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.console import stream as console
from lxcd.rpc import convert
from lxcd.rpc.status import Context, stream
from lxcd.v1 import console_pb2 as pb
from lxcd.v1 import console_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lxcd.console.stream import Stream
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House
    from lxcd.supervisor.registry import Registry

OUTPUT = "output"
_PIPES = ("stdout", "stderr")


class Consoles(console_pb2_grpc.ConsoleServiceServicer):
    """Reading what containers have written."""

    def __init__(self, house: House, registry: Registry) -> None:
        self._house = house
        self._registry = registry

    @stream
    async def ReadConsoleLog(
        self, request: pb.ReadConsoleLogRequest, context: Context
    ) -> AsyncIterator[pb.ReadConsoleLogResponse]:
        """See console.proto."""
        del context
        actor = self._registry.get_or_ended(request.lxcpath, request.name)
        generation = actor.record.generation
        if request.generation not in (0, generation):
            raise errors.NotFound(
                f"the output of generation {request.generation} of {request.name} is gone",
                "GENERATION_GONE",
            )
        child = actor.child
        if child is None:
            if request.follow or actor.record.generation:
                return
            raise errors.NotFound(f"{request.name} has never run", "NO_OUTPUT")
        sources = [child.stream(name) for name in _names(child, request.stream)]
        lossless = request.lossless and request.follow
        held = [source for source in sources if lossless and source.name in _PIPES]
        for source in held:
            source.lossless_readers += 1
        try:
            places = [(source, _start(source, request)) for source in sources]
            async for source, piece in console.follow(places, until_head=not request.follow):
                yield pb.ReadConsoleLogResponse(
                    stream=source.name,
                    generation=generation,
                    offset=piece.offset,
                    data=piece.data,
                    gap_bytes=piece.gap_bytes,
                )
                if source in held:
                    self._consumed(child, source, piece.offset + len(piece.data))
        finally:
            for source in held:
                source.lossless_readers -= 1
                self._release(child, source)
        if request.follow:
            await actor.until(lambda: _ended(actor, generation))
            ended = actor.record.exit
            message = pb.ReadConsoleLogResponse(generation=generation)
            if ended is not None and ended.generation == generation:
                message.exit.CopyFrom(convert.exit_(ended))
            yield message

    def _release(self, child: Held, source: Stream) -> None:
        """Its last lossless reader has gone: the writer waits for nobody any more."""
        if source.ring is not None and not source.lossless_readers:
            source.ring.set_hold(hold=False)
            with contextlib.suppress(errors.Unavailable):
                self._house.keeper.drained(child, source)

    def _consumed(self, child: Held, source: Stream, offset: int) -> None:
        ring = source.ring
        if ring is None:
            return
        # It may have been made only now, with the first output.
        ring.set_hold(hold=True)
        full = ring.room() <= 0
        ring.acknowledge(offset)
        if full:
            self._house.keeper.drained(child, source)


def _ended(actor: Container, generation: int) -> bool:
    ended = actor.record.exit
    return actor.deleted or (ended is not None and ended.generation >= generation)


def _names(child: Held, asked: str) -> list[str]:
    if asked == OUTPUT:
        pipes = [name for name in _PIPES if name in child.streams]
        return pipes or ["console"]
    name = asked or "console"
    if name not in child.streams:
        known = ", ".join(sorted(child.streams)) or "none"
        raise errors.NotFound(f"no stream {name!r}; there are: {known}", "STREAM_NOT_FOUND")
    return [name]


def _start(source: Stream, request: pb.ReadConsoleLogRequest) -> int:
    if source.name in request.offsets:
        return request.offsets[source.name]
    match request.WhichOneof("from"):
        case "offset":
            return request.offset
        case "tail_bytes":
            return max(source.tail, source.head - request.tail_bytes)
        case "tail_lines":
            return console.offset_of_lines(source, request.tail_lines)
        case _:
            return source.tail
