"""What blocks, in a thread; what must not be cut short, to its end.

A thread does not stop where it is when whoever waits for it is cancelled. With
`asyncio.to_thread`, that one goes on at once: it removes what the thread is still making, or lets
the next one have what the thread still uses.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Given = ParamSpec("Given")
Found = TypeVar("Found")


async def in_thread(
    work: Callable[Given, Found], *args: Given.args, **kwargs: Given.kwargs
) -> Found:
    """What `work` returns, or raises; one that is cancelled meanwhile hears of it afterwards."""
    loop = asyncio.get_running_loop()
    given_up = False

    def do() -> Found:
        if given_up:
            # While it waited for a thread.
            raise asyncio.CancelledError
        return work(*args, **kwargs)

    future = loop.run_in_executor(None, do)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        given_up = True
        await _over(future)
        raise


async def to_its_end(work: Awaitable[Found]) -> Found:
    """The same for what is awaited."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _over(task)
        raise


async def _over(task: asyncio.Future[Any]) -> None:
    await asyncio.wait([task])
    if not task.cancelled():
        # Nobody is left to be told what has gone wrong.
        task.exception()
