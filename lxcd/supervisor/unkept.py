"""Children while no keeper can be had: their pidfds are watched, and the kernel says how they end
where it can.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from lxcd.keeper import protocol
from lxcd.kernel import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lxcd.supervisor.held import Held

_ASK_AGAIN_SECONDS = 0.01
_STATUS_TRIES = 500


class Unkept:
    """`ended` is told of each that ends. A keeper that comes finds out itself: then `unwatch`."""

    def __init__(self, ended: Callable[[Held, protocol.Exited], None]) -> None:
        self._ended = ended
        self._watched: set[str] = set()

    def watch(self, children: Iterable[Held]) -> None:
        """Those that have not ended."""
        loop = asyncio.get_running_loop()
        for child in children:
            if child.exited is None and not child.pidfd.closed:
                self._watched.add(child.id)
                # Readable at once if it has ended meanwhile.
                loop.add_reader(child.pidfd.fileno(), self._look, child)

    def unwatch(self, child: Held) -> None:
        """Its pidfd is about to be closed, or somebody knows better."""
        if child.id in self._watched:
            self._watched.discard(child.id)
            asyncio.get_running_loop().remove_reader(child.pidfd.fileno())

    def _look(self, child: Held, tries: int = _STATUS_TRIES) -> None:
        """It has ended; how is known once it is reaped."""
        if child.id not in self._watched:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.pidfd.fileno())
        status = process.ended_status(child.pidfd.fileno(), child.pid)
        if status is None and tries > 0:
            loop.call_later(_ASK_AGAIN_SECONDS, self._look, child, tries - 1)
            return
        known = status is not None
        how = protocol.Exited(child.id, child.pid, status or 0, time.time_ns(), known)
        self._ended(child, how)
