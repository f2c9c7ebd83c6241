"""A session over a bidirectional call: frames of either service in, frames out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from lxcd import errors
from lxcd.console import session as console
from lxcd.console.port import Start
from lxcd.console.session import Reason, Role, Session
from lxcd.rpc import convert
from lxcd.rpc.status import readable
from lxcd.v1 import stream_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.rpc.status import Context

INPUT_FRAME_BYTES = 32 * 1024
_LABEL_LENGTH = 200
# How long a client may take to hang up behind the last frame.
_PARTING_SECONDS = 5.0

_ROLES = {Role.VIEWER: pb.SESSION_ROLE_VIEWER, Role.CONTROLLER: pb.SESSION_ROLE_CONTROLLER}
_ENDS = {
    Reason.STOPPED: pb.SESSION_END_STOPPED,
    Reason.REBOOT: pb.SESSION_END_REBOOT,
    Reason.KICKED: pb.SESSION_END_KICKED,
    Reason.LEAVING: pb.SESSION_END_DAEMON_LEAVES,
}


class AttachStart(Protocol):
    """The first frame, of either service."""

    role: pb.SessionRole.ValueType
    label: str
    window_bytes: int

    def HasField(self, name: Any, /) -> bool:  # noqa: ANN401, D102 - as messages have it
        ...


async def first_frame(context: Context) -> Any:  # noqa: ANN401 - a start of either service
    """The `start` that a call begins with. Raises InvalidArgument for anything else."""
    request: Any = readable(await context.read())
    if request is grpc.aio.EOF or request.WhichOneof("frame") != "start":
        raise errors.InvalidArgument("the first frame must be `start`", "FRAME_OUT_OF_ORDER")
    return request.start


def role_of(value: pb.SessionRole.ValueType) -> Role:
    """A role as asked for. Raises InvalidArgument."""
    if value == pb.SESSION_ROLE_UNSPECIFIED:
        return Role.VIEWER
    for role, number in _ROLES.items():
        if number == value:
            return role
    raise errors.InvalidArgument(f"no such role: {value}", "INVALID_ROLE")


def label_of(start: AttachStart) -> str:
    """What a client calls itself. Raises InvalidArgument for what would spoil a list."""
    if len(start.label) > _LABEL_LENGTH or not start.label.isprintable():
        raise errors.InvalidArgument("a label is one short line", "INVALID_LABEL")
    return start.label


def window_of(start: AttachStart) -> int:
    """How much may be under way. Raises InvalidArgument."""
    return console.window_of(start.window_bytes if start.HasField("window_bytes") else None)


def start_of(offsets: dict[str, int], *, live: bool = False, tail: int | None = None) -> Start:
    """Where a session begins."""
    return Start(dict(offsets), tail, live)


def size(rows: int, columns: int) -> pb.TerminalSize:
    """A size as a message."""
    return pb.TerminalSize(rows=rows, columns=columns)


def role_message(role: Role) -> pb.SessionRole.ValueType:
    """A role as the enum."""
    return _ROLES[role]


def session_message(session: Session, terminal: str) -> pb.Session:
    """One who is attached."""
    return pb.Session(
        id=session.id,
        role=_ROLES[session.role],
        label=session.label,
        attach_time=convert.timestamp(session.since_ns),
        terminal=terminal,
        consumed_offsets={name: cursor.consumed for name, cursor in session.cursors.items()},
    )


def end_of(session: Session) -> pb.SessionEnd.ValueType:
    """Why it ended."""
    if session.detached:
        return pb.SESSION_END_DETACHED
    return _ENDS[session.ending or Reason.STOPPED]


class Attachment:
    """One call. `response` makes its messages; `other` hears frames that only one service has."""

    def __init__(
        self,
        context: Context,
        session: Session,
        response: Callable[..., Any],
        other: Callable[[str, Any], None],
    ) -> None:
        self._context = context
        self._session = session
        self._response = response
        self._other = other
        self._input_ended = False

    async def frames(self, end: Callable[[], Any]) -> None:
        """Serve until the session ends, and say last what `end` makes of it."""
        try:
            async with asyncio.TaskGroup() as group:
                hearing = group.create_task(self._hear())
                async for frame in self._session.frames():
                    await self._context.write(self._message(frame))
                last = self._response(end=await end())
                listens = not hearing.done()
                await self._context.write(last)
                if listens:
                    await self._parted(hearing)
                hearing.cancel()
        except* errors.LxcdError as found:
            # Its first is the cause.
            raise found.exceptions[0] from None
        finally:
            self._session.port.leave(self._session)

    async def _parted(self, hearing: asyncio.Task[None]) -> None:
        """A client that has the last frame says nothing more: then it will not come back for it."""
        done, _ = await asyncio.wait([hearing], timeout=_PARTING_SECONDS)
        self._session.detached = bool(done)

    async def _hear(self) -> None:
        while not self._session.detached:
            request: Any = readable(await self._context.read())
            if request is grpc.aio.EOF:
                # It says nothing more, and goes on reading.
                return
            self._obey(request.WhichOneof("frame"), request)

    def _obey(self, kind: str | None, request: Any) -> None:  # noqa: ANN401
        session, port = self._session, self._session.port
        match kind:
            case "input":
                if len(request.input) > INPUT_FRAME_BYTES:
                    raise errors.InvalidArgument(
                        f"a frame of {len(request.input)} bytes of input; {INPUT_FRAME_BYTES} is"
                        " the most",
                        "FRAME_TOO_LARGE",
                    )
                port.type(session, request.input)
            case "input_end":
                port.end_input(session)
            case "resize":
                port.resize(request.resize.rows, request.resize.columns, session)
            case "credit":
                session.credit(request.credit.stream, request.credit.offset)
            case "role":
                if role_of(request.role.role) is Role.CONTROLLER:
                    port.take_control(session, steal=request.role.steal)
                else:
                    port.release_control(session)
            case "detach":
                session.detached = True
                session.end(Reason.KICKED)
            case "start" | None:
                raise errors.InvalidArgument(
                    "a frame that is `start` again, or nothing", "FRAME_OUT_OF_ORDER"
                )
            case _:
                self._other(kind, request)

    def _message(self, frame: console.Frame) -> Any:  # noqa: ANN401
        match frame:
            case console.Output():
                output = pb.Output(stream=frame.stream, offset=frame.offset, data=frame.data)
                return self._response(output=output)
            case console.Gap():
                gap = pb.Gap(stream=frame.stream, begin_offset=frame.begin, end_offset=frame.end)
                return self._response(gap=gap)
            case console.Taken():
                return self._response(input_ack=pb.InputAck(offset=frame.offset))
            case console.RoleChanged():
                change = pb.RoleChange(role=_ROLES[frame.role], by=frame.by)
                return self._response(role=change)
            case console.Resized():
                return self._response(resized=size(frame.rows, frame.columns))
