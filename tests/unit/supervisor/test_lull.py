"""What can wait does while somebody waits for a start."""

from __future__ import annotations

import asyncio

import pytest

from lxcd.supervisor.lull import Lull

DEADLINE = 30


async def test_at_once_where_nothing_is_under_way() -> None:
    await Lull().wait()


async def test_not_before_the_last_is_over() -> None:
    lull, order = Lull(), list[str]()

    async def wait() -> None:
        await lull.wait(DEADLINE)
        order.append("waited")

    with lull.broken():
        waiting = asyncio.ensure_future(wait())
        with lull.broken():
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.02)
        order.append("over")
    async with asyncio.timeout(DEADLINE):
        await waiting
    assert order == ["over", "waited"]


async def test_one_right_after_the_other_is_no_lull() -> None:
    lull = Lull()
    with lull.broken():
        waiting = asyncio.ensure_future(lull.wait(DEADLINE))
        await asyncio.sleep(0)
    for _ in range(20):
        with lull.broken():
            await asyncio.sleep(0)
        # A timer that was not cancelled would be due now and then.
    with lull.broken():
        await asyncio.sleep(0.05)
        assert not waiting.done()
    async with asyncio.timeout(DEADLINE):
        await waiting


async def test_nobody_waits_for_ever() -> None:
    lull = Lull()
    with lull.broken():
        async with asyncio.timeout(DEADLINE):
            await lull.wait(0.01)


async def test_one_that_fails_is_over_too() -> None:
    lull = Lull()
    with pytest.raises(ValueError, match="none"), lull.broken():
        int("none")
    async with asyncio.timeout(DEADLINE):
        await lull.wait(DEADLINE)
