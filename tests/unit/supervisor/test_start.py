"""How a start waits for an image that somebody is about to let go of, and lets go of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel.fd import Fd
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


class _Failed(_Start):
    """With something open that nobody else has."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe2(os.O_CLOEXEC)
        self._fds = [-1, writer]


async def test_what_a_start_that_failed_has_opened_is_closed_in_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last close of a root file system unmounts it, and that may write for minutes."""
    threads: list[threading.Thread] = []
    close_all = kernel_fd.close_all

    def closing(numbers: list[int]) -> None:
        threads.append(threading.current_thread())
        close_all(numbers)

    monkeypatch.setattr(kernel_fd, "close_all", closing)
    one = _Failed()
    await one._close()
    with Fd(one.reader):
        assert os.read(one.reader, 1) == b""
    assert threading.main_thread() not in threads
    assert len(threads) == 1
