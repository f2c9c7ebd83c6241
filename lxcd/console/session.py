"""One who is attached to a port: where he is in each of its streams, and how much he may be sent.

A session is a cursor and a window: it costs no buffer. What it has not acknowledged is never more
than its window; what it is too slow for it is told as a gap.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lxcd.console.port import Port
    from lxcd.console.stream import Stream

WINDOW_BYTES = 256 * 1024
WINDOW_LIMIT_BYTES = 16 << 20
# What is sent at once; a stream that has more waits for the others.
CHUNK_BYTES = 128 * 1024
# Behind the first piece, others that come so soon are sent as one.
PAUSE_SECONDS = 0.001
# What may be typed before it is acknowledged: so a frame that is no input never waits behind input.
INPUT_WINDOW_BYTES = 64 * 1024


class Role(enum.Enum):
    """A viewer only reads; at most one session of a port is its controller, and may type."""

    VIEWER = "VIEWER"
    CONTROLLER = "CONTROLLER"


class Reason(enum.Enum):
    """Why a session ended that nobody asked to end."""

    STOPPED = "STOPPED"  # the generation, or the exec, has ended
    REBOOT = "REBOOT"  # and the next generation follows
    KICKED = "KICKED"
    LEAVING = "LEAVING"  # lxcd ends; what the session was attached to goes on


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes of a stream."""

    stream: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that are lost to this session: [begin, end)."""

    stream: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Taken:
    """All that was typed before this offset is safe: whatever dies now, it will be written."""

    offset: int


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """The session's role; `by` tells who has taken or given up control."""

    role: Role
    by: str


@dataclass(frozen=True, slots=True)
class Resized:
    """The terminal has another size, by another session."""

    rows: int
    columns: int


Notice = Taken | RoleChanged | Resized | Gap
Frame = Output | Notice


@dataclass(slots=True, eq=False)
class Cursor:
    """Where a session is in one stream."""

    stream: Stream
    sent: int
    consumed: int
    gaps: deque[Gap] = field(default_factory=deque[Gap])  # sent, and not consumed yet

    def consume(self, offset: int) -> None:
        """It was processed up to here. Raises InvalidArgument for what was never sent."""
        if offset > self.sent:
            raise errors.InvalidArgument(
                f"credit for offset {offset} of {self.stream.name}; sent is {self.sent}",
                "INVALID_CREDIT",
            )
        self.consumed = max(self.consumed, offset)
        while self.gaps and self.gaps[0].end <= self.consumed:
            self.gaps.popleft()

    @property
    def unconsumed(self) -> int:
        """Bytes that are under way."""
        lost = sum(gap.end - max(gap.begin, self.consumed) for gap in self.gaps)
        return self.sent - self.consumed - lost

    @property
    def at_end(self) -> bool:
        """Nothing will come any more."""
        return self.stream.closed and self.stream.head <= self.sent


class Session:
    """Made by `Port.attach`. `frames` is for one reader."""

    def __init__(self, port: Port, role: Role, label: str, window: int, *, waits: bool) -> None:
        self.id = secrets.token_hex(6)
        self.port = port
        self.role = role
        self.had_control = False  # at some time
        self.label = label
        self.since_ns = time.time_ns()
        self.waits = waits  # it wants all of what pipes bring
        self.cursors: dict[str, Cursor] = {}
        self.typed = 0  # bytes that are not in the ring yet
        self.ending: Reason | None = None
        self.detached = False  # its client left on purpose
        self._window = window
        self._notices: deque[Notice] = deque()
        self._waiter: asyncio.Future[None] | None = None

    async def frames(self) -> AsyncIterator[Frame]:
        """What is to be sent, as it comes and as the window allows; ends with the streams, or with
        `ending`.
        """
        while True:
            busy = False
            while self._notices:
                yield self._notices.popleft()
            if self.ending is not None:
                return
            for cursor in self.cursors.values():
                for frame in self._next(cursor):
                    busy = True
                    yield frame
            if busy or self._notices:
                # Others have their turn; and what comes in small pieces is sent in larger ones.
                await asyncio.sleep(0 if self._is_behind() else PAUSE_SECONDS)
            elif self.port.over and all(cursor.at_end for cursor in self.cursors.values()):
                return
            else:
                await self._changed()

    def _is_behind(self) -> bool:
        return bool(self._notices) or any(
            cursor.stream.head - cursor.sent >= CHUNK_BYTES // 2 for cursor in self.cursors.values()
        )

    def _next(self, cursor: Cursor) -> list[Frame]:
        room = self._window - cursor.unconsumed
        if room <= 0 or cursor.stream.head <= cursor.sent:
            return []
        found: list[Frame] = []
        name = cursor.stream.name
        piece = cursor.stream.read(cursor.sent, min(room, CHUNK_BYTES))
        if piece.gap_bytes:
            gap = Gap(name, piece.offset - piece.gap_bytes, piece.offset)
            cursor.gaps.append(gap)
            found.append(gap)
        if piece.data:
            found.append(Output(name, piece.offset, piece.data))
        cursor.sent = piece.offset + len(piece.data)
        return found

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        streams = [cursor.stream for cursor in self.cursors.values()]
        for stream in streams:
            stream.add_waiter(waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            for stream in streams:
                stream.remove_waiter(waiter)

    def wake(self) -> None:
        """Something about it, or its port, has changed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def notice(self, notice: Notice) -> None:
        """Tell it something, in front of any more output."""
        if self._notices and type(self._notices[-1]) is type(notice) is not Gap:
            # Only the last of a kind is of interest.
            self._notices.pop()
        self._notices.append(notice)
        self.wake()

    def lose_the_rest(self) -> None:
        """What it was not sent yet is no more."""
        for name, cursor in self.cursors.items():
            if cursor.sent < cursor.stream.head:
                self.notice(Gap(name, cursor.sent, cursor.stream.head))
                cursor.sent = cursor.stream.head

    def credit(self, name: str, offset: int) -> None:
        """Its client has processed a stream up to this offset. Raises InvalidArgument, NotFound."""
        cursor = self.cursors.get(name)
        if cursor is None:
            raise errors.NotFound(f"no stream {name!r} here", "STREAM_NOT_FOUND")
        cursor.consume(offset)
        self.port.settle(cursor.stream)
        self.wake()

    def end(self, reason: Reason) -> None:
        """End it from our side."""
        self.ending = self.ending or reason
        self.wake()


def window_of(asked: int | None) -> int:
    """The window that a request means. Raises InvalidArgument."""
    if asked is None:
        return WINDOW_BYTES
    if not 0 < asked <= WINDOW_LIMIT_BYTES:
        raise errors.InvalidArgument(
            f"a window of {asked} bytes; from 1 to {WINDOW_LIMIT_BYTES} there may be",
            "INVALID_WINDOW",
        )
    return asked
