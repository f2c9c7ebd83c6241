"""What can wait does, while somebody waits for a start or an exec: both want the processors.

A lull begins a moment after the last of them: what that one has left to say comes first, and who
starts many one after the other has the next one on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

_MOMENT_SECONDS = 0.005
_LONGEST_SECONDS = 0.25


class Lull:
    """Of one lxcd."""

    def __init__(self) -> None:
        self._under_way = 0
        self._begun = asyncio.Event()
        self._begun.set()
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def broken(self) -> Generator[None]:
        """Somebody waits for what is done in here."""
        self._under_way += 1
        self._begun.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(_MOMENT_SECONDS, self._begun.set)

    async def wait(self, longest_seconds: float = _LONGEST_SECONDS) -> None:
        """Return with the next lull; at once if this is one, and after so long if none comes."""
        if not self._begun.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest_seconds):
                    await self._begun.wait()
