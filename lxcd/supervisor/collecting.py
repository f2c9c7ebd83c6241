"""All that a command writes, to its end, for somebody who wants it in one piece."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.supervisor.exec import exit_of

if TYPE_CHECKING:
    from lxcd.kernel.fd import Fd
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House
    from lxcd.supervisor.state import Exit

# How long a command that was killed is waited for: it may be frozen.
_KILL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    """How it went. Killed for its time or its output, it still has an exit."""

    stdout: bytes
    stderr: bytes
    exit: Exit
    pid: int
    timed_out: bool
    output_truncated: bool


class Collecting:
    """One command that somebody waits for."""

    def __init__(self, house: House, child: Held, generation: int, limit: int) -> None:
        self._house = house
        self._generation = generation
        self._child = child
        self._limit = limit

    async def to_the_end(self, feeding: Fd, stdin: bytes, deadline: float | None) -> Result:
        """Give it its standard input through `feeding`, and read until it ends; at the deadline it
        is killed. Raises DeadlineExceeded if it does not end even then.
        """
        child, timed_out = self._child, False
        async with asyncio.TaskGroup() as group:
            feeder = group.create_task(_feed(feeding, stdin))
            out = group.create_task(self._collect("stdout"))
            err = group.create_task(self._collect("stderr"))
            try:
                async with asyncio.timeout_at(deadline):
                    await child.ended()
            except TimeoutError:
                timed_out = True
                child.kill()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_KILL_SECONDS):
                        await child.ended()
                if child.exited is None:
                    out.cancel()
                    err.cancel()
            feeder.cancel()
        if child.exited is None:
            raise errors.DeadlineExceeded(
                "the command was killed, but does not end", "KILL_TIMEOUT"
            )
        (stdout, cut_out), (stderr, cut_err) = out.result(), err.result()
        cut = cut_out or cut_err
        sent = {9} if timed_out else set[int]()
        how = exit_of(child, self._generation, sent)
        return Result(stdout, stderr, how, child.pid, timed_out, cut)

    async def _collect(self, name: str) -> tuple[bytes, bool]:
        """All that it writes to one pipe; more than the limit ends it."""
        stream = self._child.stream(name)
        parts: list[bytes] = []
        offset = 0
        while await stream.grown(offset):
            piece = stream.read(offset)
            parts.append(piece.data)
            offset = piece.offset + len(piece.data)
            if stream.ring is not None and stream.ring.acknowledge(offset):
                self._house.keeper.drained(self._child, stream)
            if offset > self._limit:
                self._child.kill()
                return b"".join(parts)[: self._limit], True
        return b"".join(parts), False


async def _feed(feeding: Fd, stdin: bytes) -> None:
    """Write its standard input as it takes it, then close it."""
    if feeding.closed:
        return
    loop = asyncio.get_running_loop()
    number = feeding.fileno()
    os.set_blocking(number, False)
    view = memoryview(stdin)
    room = asyncio.Event()
    loop.add_writer(number, room.set)
    try:
        while view:
            try:
                view = view[os.write(number, view) :]
            except BlockingIOError:
                room.clear()
                await room.wait()
    except BrokenPipeError:
        return
    finally:
        loop.remove_writer(number)
        feeding.close()
