"""Work in threads: what becomes of whoever waits for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lxcd.threads import in_thread, to_its_end
from tests.patience import PATIENCE

_SECONDS = 10.0 * PATIENCE


def test_what_it_returns_is_the_answer() -> None:
    assert asyncio.run(in_thread(max, [1, 3, 2], key=lambda number: -number)) == 1


def test_what_it_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(divmod, 1, 0))


@pytest.mark.parametrize("failure", [None, OSError()])
def test_whoever_is_cancelled_hears_of_it_when_the_work_is_over(failure: OSError | None) -> None:
    go, order = threading.Event(), list[str]()
    begun = asyncio.Event()

    def work(loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(_SECONDS)
        order.append("done")
        if failure is not None:
            raise failure

    async def one() -> None:
        try:
            await in_thread(work, asyncio.get_running_loop())
        finally:
            order.append("undone")

    async def both() -> None:
        complaints: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        task = asyncio.ensure_future(one())
        await begun.wait()
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert order == []
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert order == ["done", "undone"]
        assert complaints == []

    asyncio.run(both())


def test_a_coroutine_is_not_cut_short_either() -> None:
    order: list[str] = []

    async def work() -> None:
        for number in "12":
            await asyncio.sleep(0)
            order.append(number)

    async def both() -> None:
        task = asyncio.ensure_future(to_its_end(work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert order == ["1", "2"]

    asyncio.run(both())


def test_work_that_was_cancelled_itself_is_cancelled() -> None:
    async def both() -> None:
        inner = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(to_its_end(inner))
        await asyncio.sleep(0)
        inner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(both())
