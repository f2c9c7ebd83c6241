"""Streams and ports made by hand: rings without a keeper, and a side that does what it would."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lxcd.console.port import Port, Start
from lxcd.console.session import PAUSE_SECONDS, WINDOW_BYTES, Frame, Role, Session
from lxcd.console.stream import Stream
from lxcd.keeper.ring import INPUT_CAPACITY_BYTES, Ring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lxcd import errors

ALL = Start()


class Ends:
    """Takes what is typed as far as there is room; `feed` is the process that reads it."""

    def __init__(self) -> None:
        self.drains: list[str] = []
        self.finished: list[str] = []
        self.read = b""

    def drained(self, stream: Stream) -> None:
        self.drains.append(stream.name)

    def put(self, stream: Stream, data: memoryview) -> int:
        if stream.input is None:
            stream.input = Ring.create("input", hold=True, capacity=INPUT_CAPACITY_BYTES)
        count = min(len(data), stream.input.room())
        stream.input.append(data[:count])
        return count

    def finish(self, stream: Stream) -> None:
        self.put(stream, memoryview(b""))
        assert stream.input is not None
        stream.input.finish()
        self.finished.append(stream.name)

    async def feed(self, stream: Stream, limit: int = 1 << 30) -> None:
        """The process reads so much; whoever waits for room hears of it."""
        assert stream.input is not None
        piece = stream.input.read(stream.input.acked, limit)
        assert piece.gap_bytes == 0
        self.read += piece.data
        stream.input.acknowledge(piece.offset + len(piece.data))
        stream.wake()
        await settled()


class Made:
    """A port, its streams and what is behind it. Close it."""

    def __init__(self, *names: str, hold: bool = False, stdin: bool = True) -> None:
        self.ends = Ends()
        self.streams = [Stream(name, ring=Ring.create(name, hold=hold)) for name in names]
        self.terminal = names == ("console",)
        self.stdin = self.streams[0] if self.terminal else Stream("stdin") if stdin else None
        self.port = Port(self.ends, tuple(self.streams), self.stdin, terminal=self.terminal)

    def close(self) -> None:
        for stream in {id(s): s for s in (*self.streams, self.stdin) if s is not None}.values():
            stream.close()

    def write(self, data: bytes, place: int = 0) -> None:
        """As the keeper does: at most as much as there is room for."""
        ring = self.streams[place].ring
        assert ring is not None
        assert len(data) <= ring.room()
        ring.append(data)
        self.streams[place].wake()

    def attach(self, role: Role = Role.VIEWER, start: Start = ALL, **more: Any) -> Session:
        more.setdefault("window", WINDOW_BYTES)
        return self.port.attach(role, start, **more)


class Reader:
    """Takes what a session has to say, as it comes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.frames: list[Frame] = []
        self.task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for frame in self.session.frames():
            self.frames.append(frame)

    async def take(self) -> list[Frame]:
        """What has come since the last time."""
        await settled()
        found, self.frames = self.frames, []
        return found

    async def over(self) -> list[Frame]:
        """What comes to the end."""
        await self.task
        return self.frames

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def settled() -> None:
    """Every task has gone as far as it can: each of its steps takes a turn of the loop or two, and
    a session pauses a moment behind what it has sent: timers of one loop go off in their order.
    """
    for _ in range(4):
        for _ in range(10):
            await asyncio.sleep(0)
        await asyncio.sleep(2 * PAUSE_SECONDS)


@contextmanager
def refused(kind: type[errors.LxcdError], reason: str) -> Iterator[None]:
    """It is, for this reason."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.value.reason == reason
