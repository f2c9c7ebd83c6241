"""A child of the keeper, as lxcd holds it: a copy of its pidfd, of its terminals, of its rings."""

from __future__ import annotations

import asyncio
import contextlib
import select
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd.console.port import Port
from lxcd.console.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.keeper import protocol
    from lxcd.kernel.fd import Fd


@dataclass(slots=True)
class Held:
    """One child. `pid` and `pidfd` are those of the process that it goes on as (`forked`)."""

    id: str
    kind: str
    pid: int
    pidfd: Fd
    forked: bool = False
    exited: protocol.Exited | None = None
    acknowledged: bool = False  # its exit has been taken note of, durably
    under: int = 0  # which keeper has forked it, by the number of those lost before
    streams: dict[str, Stream] = field(default_factory=dict[str, Stream])
    on_exit: Callable[[Held], None] | None = None
    awaited: set[Stream] = field(default_factory=set[Stream])  # of all children
    ports: dict[str, Port] = field(default_factory=dict[str, Port])
    _waiters: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])

    def stream(self, name: str) -> Stream:
        """The stream of that name, which may not have written yet."""
        stream = self.streams.get(name)
        if stream is None:
            stream = Stream(name, self.awaited, closed=self.exited is not None)
            self.streams[name] = stream
        return stream

    def take_streams(self, fds: dict[str, Fd]) -> None:
        """Copies of its ends; those that are known stay."""
        for name, number in fds.items():
            if self.stream(name).fd is None:
                self.stream(name).fd = number
        self.wake()

    def wake(self) -> None:
        """Something about it has changed."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds` is true of it."""
        while not holds():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)

    def is_gone(self) -> bool:
        """It has ended, whether the keeper has said so yet or not."""
        if self.exited is not None or self.pidfd.closed:
            return True
        poll = select.poll()
        poll.register(self.pidfd.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def ended(self) -> None:
        """Wait until it is known how it ended."""
        await self.until(lambda: self.exited is not None)

    async def killed(self) -> None:
        """Kill it, whatever process it goes on as, and wait until it is gone."""
        while self.exited is None:
            pid = self.pid
            self.kill()
            await self.until(lambda: self.exited is not None or self.pid != pid)  # noqa: B023

    def kill(self) -> None:
        """SIGKILL; nothing if it is gone."""
        if self.exited is None:
            with contextlib.suppress(OSError, ValueError):
                signal.pidfd_send_signal(self.pidfd.fileno(), signal.SIGKILL)
