"""What somebody else may make wait for ever: a container's files may be on a file system of its own
(FUSE) whose server does not answer, a log file on one whose server is gone.

Each errand is a thread of its own, one at a time for each key: those of the daemon's pool are for
work that ends, and nobody waits for these when lxcd does.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

from lxcd import errors

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = 10.0

Found = TypeVar("Found")


class Errands:
    """Those that are under way, by their keys."""

    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Lock] = {}

    async def run(self, key: str, work: Callable[[], Found]) -> Found:
        """What `work` returns, or raises. Raises DeadlineExceeded if it does not in time, and as
        long as an earlier one with this key has not come back.
        """
        turn = self._turns.setdefault(key, asyncio.Lock())
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Found] = loop.create_future()

        def come_back(found: Found | None, error: BaseException | None) -> None:
            turn.release()
            if result.cancelled():
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(found)  # type: ignore[arg-type]

        def go() -> None:
            found, failure = None, None
            try:
                found = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
                failure = error
            try:
                loop.call_soon_threadsafe(come_back, found, failure)
            except RuntimeError:
                # The daemon has ended meanwhile.
                return

        try:
            async with asyncio.timeout(_SECONDS):
                await turn.acquire()
                threading.Thread(target=go, name="errand", daemon=True).start()
                return await result
        except TimeoutError:
            raise errors.DeadlineExceeded(f"{key} does not answer", "FILES_HANG") from None
