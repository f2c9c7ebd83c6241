"""ConsoleService: history and what follows, and sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lxcd import errors
from lxcd.console import stream as console
from lxcd.console.port import require_written
from lxcd.console.session import INPUT_WINDOW_BYTES, Role
from lxcd.rpc import attaching, convert
from lxcd.rpc.status import Context, duplex, stream, unary
from lxcd.supervisor import ports
from lxcd.supervisor.state import Cause, State
from lxcd.v1 import console_pb2 as pb
from lxcd.v1 import console_pb2_grpc, stream_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lxcd.console.port import Port
    from lxcd.console.session import Session
    from lxcd.console.stream import Stream
    from lxcd.rpc.replay import Replays
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House
    from lxcd.supervisor.registry import Registry


class Consoles(console_pb2_grpc.ConsoleServiceServicer):
    """Terminals and pipes of containers."""

    def __init__(self, house: House, registry: Registry, replays: Replays) -> None:
        self._house = house
        self._registry = registry
        self._replays = replays

    # ---- history

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
        names = ports.names_of(child, request.stream or "console")
        places = [(source, _start(source, request)) for source in map(child.stream, names)]
        for source, offset in places:
            require_written(source, offset)
        async for source, piece in console.follow(places, until_head=not request.follow):
            yield pb.ReadConsoleLogResponse(
                stream=source.name,
                generation=generation,
                offset=piece.offset,
                data=piece.data,
                gap_bytes=piece.gap_bytes,
            )
        if request.follow:
            message = pb.ReadConsoleLogResponse(generation=generation)
            await actor.until(lambda: _ended(actor, generation))
            ended = actor.record.exit
            if ended is not None and ended.generation == generation:
                message.exit.CopyFrom(convert.exit_(ended))
            yield message

    # ---- sessions

    @duplex
    async def AttachConsole(self, context: Context) -> None:
        """See console.proto."""
        start: pb.AttachConsoleStart = await attaching.first_frame(context)
        actor = self._registry.get_or_ended(start.lxcpath, start.name)
        generation = start.generation or actor.record.generation
        if generation != actor.record.generation:
            raise errors.NotFound(
                f"generation {generation} of {start.name} is gone; it is at"
                f" {actor.record.generation}",
                "GENERATION_GONE",
                generation=str(actor.record.generation),
            )
        # Of a life that is over the last output can still be had by whoever was attached to it.
        child = actor.child if start.generation else actor.require_running()
        if child is None:
            child = actor.require_running()
        port = ports.container_port(self._house.keeper, child, start.terminal or "console")
        session = _attach(port, start)
        try:
            if start.HasField("size") and session.role is Role.CONTROLLER:
                port.resize(start.size.rows, start.size.columns, session)
            started = _started(actor, child, session)
            await context.write(pb.AttachConsoleResponse(started=started))
        except BaseException:
            port.leave(session)
            raise

        async def end() -> pb.AttachConsoleEnd:
            return await _end(actor, session, generation)

        await attaching.Attachment(context, session, pb.AttachConsoleResponse, _no_other).frames(
            end
        )

    @unary
    async def ListConsoleSessions(
        self, request: pb.ListConsoleSessionsRequest, context: Context
    ) -> pb.ListConsoleSessionsResponse:
        """See console.proto."""
        del context
        actor = self._registry.get(request.lxcpath, request.name)
        found = pb.ListConsoleSessionsResponse()
        for name, port in actor.child.ports.items() if actor.child is not None else ():
            found.sessions.extend(
                attaching.session_message(session, name) for session in port.sessions.values()
            )
        return found

    @unary
    async def EndConsoleSession(
        self, request: pb.EndConsoleSessionRequest, context: Context
    ) -> pb.EndConsoleSessionResponse:
        """See console.proto."""
        del context

        async def end() -> pb.EndConsoleSessionResponse:
            actor = self._registry.get(request.lxcpath, request.name)
            for port in actor.child.ports.values() if actor.child is not None else ():
                if request.session_id in port.sessions:
                    if not request.validate_only:
                        port.kick(port.sessions[request.session_id])
                    return pb.EndConsoleSessionResponse()
            raise errors.NotFound(
                f"{request.name} has no session {request.session_id!r}", "SESSION_NOT_FOUND"
            )

        return await self._replays.once(request, end)


def _attach(port: Port, start: pb.AttachConsoleStart) -> Session:
    offsets = dict(start.offsets)
    tail, live = None, False
    match start.WhichOneof("from"):
        case "offset":
            offsets = dict.fromkeys((stream.name for stream in port.outputs), start.offset)
            offsets |= start.offsets
        case "tail_bytes":
            tail = start.tail_bytes
        case "live_only":
            live = start.live_only
        case _:
            pass
    return port.attach(
        attaching.role_of(start.role),
        attaching.start_of(offsets, live=live, tail=tail),
        window=attaching.window_of(start),
        label=attaching.label_of(start),
        steal=start.steal,
        waits=start.lossless,
    )


def _started(actor: Container, child: Held, session: Session) -> pb.AttachConsoleStarted:
    port = session.port
    names = {port: name for name, port in child.ports.items()}
    return pb.AttachConsoleStarted(
        session_id=session.id,
        role=attaching.role_message(session.role),
        generation=actor.record.generation,
        streams=[convert.stream_state(stream) for stream in port.outputs],
        size=attaching.size(*port.size),
        input_offset=port.input_offset,
        input_window_bytes=INPUT_WINDOW_BYTES,
        sessions=[
            attaching.session_message(each, names.get(port, "")) for each in port.sessions.values()
        ],
    )


async def _end(actor: Container, session: Session, generation: int) -> pb.AttachConsoleEnd:
    reason = attaching.end_of(session)
    message = pb.AttachConsoleEnd(reason=reason)
    if reason != stream_pb2.SESSION_END_STOPPED:
        return message
    await actor.until(lambda: _ended(actor, generation))
    ended = actor.record.exit
    if ended is not None and ended.generation == generation:
        message.exit.CopyFrom(convert.exit_(ended))
        if ended.cause is Cause.REBOOT:
            message.reason = stream_pb2.SESSION_END_REBOOT
            message.next_generation = generation + 1
    return message


def _no_other(kind: str, request: Any) -> None:  # noqa: ANN401
    del request
    raise errors.InvalidArgument(f"no such frame: {kind}", "FRAME_OUT_OF_ORDER")


def _ended(actor: Container, generation: int) -> bool:
    ended = actor.record.exit
    # One whose end could not be cleaned up has no exit.
    over = actor.deleted or actor.state is State.STOPPED
    return over or (ended is not None and ended.generation >= generation)


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
        case "since":
            return source.since(convert.nanoseconds(request.since))
        case _:
            return source.tail
