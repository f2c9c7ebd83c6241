"""How a start waits for an image that somebody is about to let go of."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

from lxcd.storage.choice import ImageBusyError
from lxcd.supervisor.patience import Patience
from lxcd.supervisor.start import _Start

if TYPE_CHECKING:
    from lxcd.supervisor.pool import Prepared


class _Waiting(_Start):
    """Furnished once somebody else had a turn in the thread."""

    def __init__(self) -> None:
        self._patience = Patience()
        self.freed = False
        self.done: list[str] = []

    def _furnish(self, prepared: Prepared, own: str | None) -> None:
        self.done.append(f"furnish {own}")
        self._supply(prepared)

    def _supply(self, prepared: Prepared) -> None:
        if not self.freed:
            busy = ImageBusyError("in use")
            assert self._patience.lasts(busy)
            raise busy
        self.done.append(f"supply {prepared}")


async def test_starts_that_wait_leave_the_only_thread_to_others() -> None:
    waiting = [_Waiting() for _ in range(3)]
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        nothing = cast("Prepared", None)
        async with asyncio.TaskGroup() as group:
            for one in waiting:
                group.create_task(one._furnished(nothing, "own"))
            # Each has asked for the thread then, and comes before what follows.
            await asyncio.sleep(0)

            def free() -> None:
                for one in waiting:
                    one.freed = True

            await asyncio.to_thread(free)
    assert all(one.done == ["furnish own", "supply None"] for one in waiting)
