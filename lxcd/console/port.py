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
            require_written(stream, offset)
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
        self._free = False  # what it writes waits for nobody
        self._typed: deque[tuple[Session, memoryview]] = deque()  # empty: the end
        self._pushing = False  # it waits for room
        self._dropped = 0  # bytes that were typed to what had closed

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
        if role is Role.CONTROLLER:
            self._give_control(session)
        for stream in self.outputs:
            self.settle(stream)
        return session

    def leave(self, session: Session) -> None:
        """It is no more."""
        if self.sessions.pop(session.id, None) is None:
            return
        if self.controller is session:
            self.controller = None
        if not session.detached:
            # Whoever comes back sends again what was not acknowledged.
            self._drop_typed(session)
        for stream in self.outputs:
            self.settle(stream)
        if self.on_left is not None:
            self.on_left(session)

    def take_control(self, session: Session, *, steal: bool) -> None:
        """Make it the controller. Raises FailedPrecondition if there is another."""
        if self.controller is not session:
            self._require_control(session.label, steal=steal)
            self._give_control(session)
        session.notice(RoleChanged(Role.CONTROLLER, session.label))

    def release_control(self, session: Session) -> None:
        """It only reads from now on."""
        if self.controller is session:
            self.controller = None
        session.role = Role.VIEWER
        session.notice(RoleChanged(Role.VIEWER, session.label))

    def _give_control(self, session: Session) -> None:
        # It is told how far the input has come: that must not shrink when one that is cut off, and
        # may be this one's former self, is found to be gone.
        for other in {by for by, _ in self._typed}:
            if other is not session and not other.detached:
                self._drop_typed(other)
        self.controller = session
        session.role = Role.CONTROLLER
        session.had_control = True

    def kick(self, session: Session) -> None:
        """End it for its client, who may not be listening: what it holds is free at once."""
        session.end(Reason.KICKED)
        self.leave(session)

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

    def close(self) -> None:
        """Its streams are let go of: what a session has not had yet is lost to it."""
        for session in self.sessions.values():
            session.lose_the_rest()
        self.end()

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
        if not consumed:
            if self.terminal and ring.hold:
                ring.set_hold(hold=False)
                self._ends.drained(stream)
            return
        self._free = False
        if not ring.hold:
            ring.set_hold(hold=True)
        if ring.acknowledge(min(consumed)):
            self._ends.drained(stream)

    def release(self) -> None:
        """What it writes waits for nobody, until somebody comes who wants all of it."""
        self._free = True
        for stream in self.outputs:
            if stream.ring is not None and stream.ring.hold:
                stream.ring.set_hold(hold=False)
                self._ends.drained(stream)

    def begun(self, stream: Stream) -> None:
        """Its first output is here, and so is its ring, which may hold from its first byte on."""
        if self._free:
            self.release()
        else:
            self.settle(stream)

    # ---- what is typed

    def type(self, session: Session, data: bytes) -> None:
        """Bytes of the controller's. Raises InvalidArgument, PermissionDenied."""
        if not self._may_type(session) or not data:
            return
        if session.typed + len(data) > INPUT_WINDOW_BYTES:
            raise errors.InvalidArgument(
                f"more than {INPUT_WINDOW_BYTES} bytes of input without waiting for input_ack",
                "INPUT_OVERFLOW",
            )
        if self._ended or any(by is session and not left for by, left in self._typed):
            raise errors.InvalidArgument("input behind its own end", "INPUT_AFTER_END")
        session.typed += len(data)
        self._typed.append((session, memoryview(data)))
        self._push()

    def end_input(self, session: Session) -> None:
        """Nothing more will be typed: the process reads its end. Once is enough. Raises as
        `type`.
        """
        if not self._may_type(session) or self._ended:
            return
        if self.terminal:
            raise errors.InvalidArgument(
                "a terminal has no end of input: type Ctrl-D", "NO_END_OF_INPUT"
            )
        self._typed.append((session, memoryview(b"")))
        self._push()

    def _may_type(self, session: Session) -> bool:
        """False for one whose control was taken: what it sent before it knew is dropped."""
        if session.role is not Role.CONTROLLER:
            if session.had_control:
                return False
            raise errors.PermissionDenied("a viewer may not type", "NOT_THE_CONTROLLER")
        if self.input is None:
            raise errors.InvalidArgument("it has no standard input to type into", "NO_INPUT")
        return True

    @property
    def _ended(self) -> bool:
        """Its input has: an earlier lxcd may have ended it."""
        ring = self.input.input if self.input is not None else None
        return ring is not None and ring.closed

    def _drop_typed(self, by: Session) -> None:
        """What there was no room for yet; it knows that nobody has acknowledged it."""
        self._typed = deque(entry for entry in self._typed if entry[0] is not by)

    def _push(self) -> None:
        """Into the ring what there is room for; the rest when there is more."""
        stream = self.input
        while stream is not None and self._typed:
            session, data = self._typed[0]
            if not data:
                self._typed.popleft()
                if not stream.closed:
                    self._ends.finish(stream)
                continue
            if stream.closed:
                # What nobody will ever read is as good as taken.
                count = len(data)
                self._dropped += count
            else:
                count = self._ends.put(stream, data)
            if count == 0:
                self._push_later(stream)
                return
            session.typed -= count
            if count < len(data):
                self._typed[0] = (session, data[count:])
            else:
                self._typed.popleft()
            session.notice(Taken(self._taken_offset))

    def _push_later(self, stream: Stream) -> None:
        if self._pushing:
            return
        self._pushing = True

        def again(_: asyncio.Future[None]) -> None:
            self._pushing = False
            self._push()

        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(again)
        stream.add_waiter(waiter)

    @property
    def input_offset(self) -> int:
        """How much was ever typed, with what waits for room: it need not be typed again, even if
        whoever did that is gone.
        """
        return self._taken_offset + sum(len(data) for _, data in self._typed)

    @property
    def _taken_offset(self) -> int:
        ring = self.input.input if self.input is not None else None
        return (ring.head if ring is not None else 0) + self._dropped

    # ---- its size

    def resize(
        self, rows: int, columns: int, by: Session | None = None, *, trial: bool = False
    ) -> None:
        """Give the terminal another size; whoever is attached is told. Raises InvalidArgument,
        PermissionDenied.
        """
        require_size(rows, columns)
        if not self.terminal:
            raise errors.InvalidArgument("no terminal: it has no size", "NOT_A_TERMINAL")
        if by is not None and by.role is not Role.CONTROLLER:
            if by.had_control:
                return
            raise errors.PermissionDenied("a viewer may not resize", "NOT_THE_CONTROLLER")
        (stream,) = self.outputs
        if stream.fd is None or stream.fd.closed or trial:
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


def require_written(stream: Stream, offset: int) -> None:
    """Raise InvalidArgument for an offset that the stream has not come to."""
    if offset > stream.head:
        raise errors.InvalidArgument(
            f"offset {offset} of {stream.name} is behind its end, {stream.head}",
            "OFFSET_BEYOND_END",
        )


def require_size(rows: int, columns: int) -> None:
    """Raise InvalidArgument for a size that no terminal has."""
    if not (0 < rows <= _SIZE_LIMIT and 0 < columns <= _SIZE_LIMIT):
        raise errors.InvalidArgument(
            f"{rows} rows and {columns} columns: from 1 to {_SIZE_LIMIT} there may be",
            "INVALID_SIZE",
        )
