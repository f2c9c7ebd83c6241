"""What sessions attach to: a terminal of a container or an exec, or the pipes of one.

A terminal never waits for long: the keeper waits for its slowest reader a moment at most, then
skips ahead (`keeper/child.py`). From then on only those are waited for who are close behind the
writer, or have caught up with them: one who stands still costs one moment, not one for every ring.
Pipes carry data: there the process waits for every session that wants all of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lxcd import errors
from lxcd.console.session import (
    INPUT_WINDOW_BYTES,
    Cursor,
    Reason,
    Resized,
    Role,
    RoleChanged,
    Session,
    Taken,
)
from lxcd.kernel import tty

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.console.stream import Stream

# Programs keep a size in a short.
_SIZE_LIMIT = 0x7FFF


class Ends(Protocol):
    """The other side of a port's streams: the keeper, for one child."""

    def drained(self, stream: Stream) -> None:
        """A held ring has room again."""
        ...

    def put(self, stream: Stream, data: memoryview) -> int:
        """Have bytes written when the stream takes them; how many there is room for now."""
        ...

    def finish(self, stream: Stream) -> None:
        """Close it behind what was put into it."""
        ...


@dataclass(frozen=True, slots=True)
class Start:
    """Where a session begins to read; one of them, or with the oldest byte that is there."""

    offsets: dict[str, int] | None = None
    tail_bytes: int | None = None
    live: bool = False

    def of(self, stream: Stream) -> int:
        """In this stream. Raises InvalidArgument for what was never written."""
        offset = (self.offsets or {}).get(stream.name)
        if offset is not None:
            if offset > stream.head:
                raise errors.InvalidArgument(
                    f"offset {offset} of {stream.name} is behind its end, {stream.head}",
                    "OFFSET_BEYOND_END",
                )
            return offset
        if self.live:
            return stream.head
        if self.tail_bytes is not None:
            return max(stream.tail, stream.head - self.tail_bytes)
        return stream.tail


class Port:
    """`outputs` are read, `input` is typed into (None: nobody can)."""

    def __init__(
        self, ends: Ends, outputs: tuple[Stream, ...], input_: Stream | None, *, terminal: bool
    ) -> None:
        self._ends = ends
        self.outputs = outputs
        self.input = input_
        self.terminal = terminal
        self.over = False  # the process has ended
        self.sessions: dict[str, Session] = {}
        self.controller: Session | None = None
        self.on_left: Callable[[Session], None] | None = None
        self._typed: deque[tuple[Session, memoryview]] = deque()
        self._finishing = False
        self._released = False

    # ---- who is there

    def attach(
        self,
        role: Role,
        start: Start,
        *,
        window: int,
        label: str = "",
        steal: bool = False,
        waits: bool = False,
    ) -> Session:
        """A new session. Raises FailedPrecondition if there is a controller already, NotFound for
        an offset in a stream that there is not.
        """
        unknown = set(start.offsets or ()).difference(stream.name for stream in self.outputs)
        if unknown:
            raise errors.NotFound(f"no stream {min(unknown)!r} here", "STREAM_NOT_FOUND")
        cursors = {stream.name: start.of(stream) for stream in self.outputs}
        if role is Role.CONTROLLER:
            self._require_control(label, steal=steal)
        session = Session(self, role, label, window, waits=waits)
        for stream in self.outputs:
            offset = cursors[stream.name]
            session.cursors[stream.name] = Cursor(stream, offset, offset)
        self.sessions[session.id] = session
        self._released = self._released and not waits
        if role is Role.CONTROLLER:
            self.controller = session
        for stream in self.outputs:
            self.settle(stream)
        return session

    def leave(self, session: Session) -> None:
        """It is no more."""
        if self.sessions.pop(session.id, None) is None:
            return
        if self.controller is session:
            self.controller = None
        for stream in self.outputs:
            self.settle(stream)
        if self.on_left is not None:
            self.on_left(session)

    def take_control(self, session: Session, *, steal: bool) -> None:
        """Make it the controller. Raises FailedPrecondition if there is another."""
        if self.controller is not session:
            self._require_control(session.label, steal=steal)
            self.controller = session
            session.role = Role.CONTROLLER
        session.notice(RoleChanged(Role.CONTROLLER, session.label))

    def release_control(self, session: Session) -> None:
        """It only reads from now on."""
        if self.controller is session:
            self.controller = None
        session.role = Role.VIEWER
        session.notice(RoleChanged(Role.VIEWER, session.label))

    def _require_control(self, by: str, *, steal: bool) -> None:
        other = self.controller
        if other is None:
            return
        if not steal:
            raise errors.FailedPrecondition(
                f"{other.label or 'somebody'} (session {other.id}) has control: steal it, or only"
                " read",
                "CONTROL_TAKEN",
                session=other.id,
            )
        other.role = Role.VIEWER
        other.notice(RoleChanged(Role.VIEWER, by))

    def end(self, reason: Reason | None = None) -> None:
        """The process has ended: sessions end with what it wrote, and at once for a `reason`."""
        self.over = self.over or reason is None
        for session in list(self.sessions.values()):
            if reason is not None:
                session.end(reason)
            session.wake()

    # ---- how far the writer may go

    def settle(self, stream: Stream) -> None:
        """Somebody has consumed, came or went: let the writer go on as far as that allows."""
        ring = stream.ring
        if ring is None:
            return
        consumed = [
            session.cursors[stream.name].consumed
            for session in self.sessions.values()
            if session.waits or self.terminal
        ]
        if self.terminal:
            # While the ring holds, whoever is behind what was acknowledged was not waited for.
            least = ring.acked if ring.hold else ring.head - ring.capacity // 2
            consumed = [offset for offset in consumed if offset >= least]
        was_full = ring.room() <= 0
        if not consumed:
            if self.terminal and ring.hold:
                ring.set_hold(hold=False)
        else:
            if not ring.hold:
                ring.set_hold(hold=True)
            ring.acknowledge(min(consumed))
        if was_full:
            self._ends.drained(stream)

    def release(self) -> None:
        """What it writes waits for nobody any more, until a session wants that."""
        self._released = True
        for stream in self.outputs:
            self.begun(stream)

    def begun(self, stream: Stream) -> None:
        """The ring of a stream has appeared, which may hold from its first byte on."""
        ring = stream.ring if stream in self.outputs else None
        if ring is not None and self.terminal and self.sessions:
            self.settle(stream)
        elif self._released and ring is not None and ring.hold:
            ring.set_hold(hold=False)
            self._ends.drained(stream)

    # ---- what is typed

    def type(self, session: Session, data: bytes) -> None:
        """Bytes of the controller's. Raises InvalidArgument, PermissionDenied."""
        self._require_input(session)
        if not data:
            return
        if session.typed + len(data) > INPUT_WINDOW_BYTES:
            raise errors.InvalidArgument(
                f"more than {INPUT_WINDOW_BYTES} bytes of input without waiting for input_ack",
                "INPUT_OVERFLOW",
            )
        session.typed += len(data)
        self._typed.append((session, memoryview(data)))
        self._push()

    def end_input(self, session: Session) -> None:
        """Nothing more will be typed: the process reads its end. Raises as `type`."""
        self._require_input(session)
        if self.terminal:
            raise errors.InvalidArgument(
                "a terminal has no end of input: type Ctrl-D", "NO_END_OF_INPUT"
            )
        self._finishing = True
        self._push()

    def _require_input(self, session: Session) -> None:
        if session.role is not Role.CONTROLLER:
            raise errors.PermissionDenied("a viewer may not type", "NOT_THE_CONTROLLER")
        if self.input is None:
            raise errors.InvalidArgument("it has no standard input to type into", "NO_INPUT")
        if self._finishing:
            raise errors.InvalidArgument("input behind its own end", "INPUT_AFTER_END")

    def _push(self) -> None:
        """Into the ring what there is room for; the rest when there is more."""
        stream = self.input
        if stream is None:
            return
        while self._typed:
            session, data = self._typed[0]
            # What nobody will ever read is as good as taken.
            count = len(data) if stream.closed else self._ends.put(stream, data)
            if count == 0:
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                waiter.add_done_callback(lambda _: self._push())
                stream.add_waiter(waiter)
                return
            session.typed -= count
            if count < len(data):
                self._typed[0] = (session, data[count:])
            else:
                self._typed.popleft()
            session.notice(Taken(self._taken_offset))
        if self._finishing and not stream.closed:
            self._ends.finish(stream)

    @property
    def input_offset(self) -> int:
        """How much was ever typed, with what waits for room: it need not be typed again, even if
        whoever did that is gone.
        """
        return self._taken_offset + sum(len(data) for _, data in self._typed)

    @property
    def _taken_offset(self) -> int:
        ring = self.input.input if self.input is not None else None
        return ring.head if ring is not None else 0

    # ---- its size

    def resize(self, rows: int, columns: int, by: Session | None = None) -> None:
        """Give the terminal another size; whoever is attached is told. Raises InvalidArgument,
        PermissionDenied.
        """
        require_size(rows, columns)
        if not self.terminal:
            raise errors.InvalidArgument("no terminal: it has no size", "NOT_A_TERMINAL")
        if by is not None and by.role is not Role.CONTROLLER:
            raise errors.PermissionDenied("a viewer may not resize", "NOT_THE_CONTROLLER")
        (stream,) = self.outputs
        if stream.fd is None or stream.fd.closed:
            return
        if tty.window_size(stream.fd.fileno()) == (rows, columns):
            return
        tty.set_window_size(stream.fd.fileno(), rows, columns)
        for session in self.sessions.values():
            if session is not by:
                session.notice(Resized(rows, columns))

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; zero for what is no terminal, or has hung up."""
        fd = self.outputs[0].fd if self.terminal else None
        return tty.window_size(fd.fileno()) if fd is not None and not fd.closed else (0, 0)


def require_size(rows: int, columns: int) -> None:
    """Raise InvalidArgument for a size that no terminal has."""
    if not (0 < rows <= _SIZE_LIMIT and 0 < columns <= _SIZE_LIMIT):
        raise errors.InvalidArgument(
            f"{rows} rows and {columns} columns: from 1 to {_SIZE_LIMIT} there may be",
            "INVALID_SIZE",
        )
