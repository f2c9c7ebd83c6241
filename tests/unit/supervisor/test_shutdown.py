"""Everything is stopped: also what is just being started, or is between two lives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from lxcd import errors
from lxcd.supervisor import shutdown
from lxcd.supervisor.state import State

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
    from tests.unit.supervisor.lives import Lives

ORDERED = "lxc.rootfs.path = /srv/root\nlxc.start.order = {}\n"


async def _drain(
    lives: Lives, *made: Container, leaving: bool = False
) -> tuple[list[str], list[str]]:
    """Each of these ends when it is asked to."""

    async def end(one: Container) -> None:
        await lives.reaches(one, State.STOPPING)
        lives.end(one, 9)

    async with asyncio.timeout(10):
        ends = asyncio.gather(*(end(one) for one in made))
        found = await shutdown.drain(lives.house, lives.registry, 0, leaving=leaving)
        await ends
    return found


async def test_what_is_being_started_is_stopped(lives: Lives) -> None:
    up, coming = lives.define("up", ORDERED.format(1)), lives.define("coming", ORDERED.format(2))
    await lives.start(up)
    lives.may_start.clear()
    lives.starting.clear()
    start = asyncio.ensure_future(lives.start(coming))
    await lives.starting.wait()
    drain = asyncio.ensure_future(_drain(lives, up, coming))
    await asyncio.sleep(0)
    assert {actor.state for actor in (up, coming)} == {State.RUNNING, State.STARTING}
    lives.may_start.set()
    await start
    assert await drain == (["coming", "up"], ["coming", "up"])
    assert {actor.state for actor in (up, coming)} == {State.STOPPED}


async def test_what_is_between_two_lives_has_no_other(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made)
    await lives.reboot(made)
    assert await _drain(lives) == (["box"], [])
    lives.pause.set()
    await lives.settle()
    assert (made.state, made.record.generation, made.rebooting) == (State.STOPPED, 1, False)
    assert [record.intent for record in lives.on_disk()] == [None]


async def test_what_reboots_meanwhile_does_not_come_up(lives: Lives) -> None:
    first, made = lives.define("first", ORDERED.format(5)), lives.define("box")
    await lives.start(first)
    await lives.start(made)
    drain = asyncio.ensure_future(_drain(lives))
    await lives.reaches(first, State.STOPPING)
    # Its turn has not come.
    await lives.reboot(made)
    lives.pause.set()
    await lives.settle()
    lives.end(first, 9)
    assert await drain == (["first"], ["first"])
    assert (made.state, made.record.generation) == (State.STOPPED, 1)


async def test_nothing_is_started_meanwhile(lives: Lives) -> None:
    up, other = lives.define("up"), lives.define("other")
    await lives.start(up)
    drain = asyncio.ensure_future(_drain(lives))
    await lives.reaches(up, State.STOPPING)
    with pytest.raises(errors.Unavailable, match="stopping all"):
        await lives.start(other)
    lives.end(up, 9)
    assert await drain == (["up"], ["up"])
    await lives.start(other)
    assert other.state is State.RUNNING


async def test_when_lxcd_leaves_nothing_is_started_any_more(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made)
    assert await _drain(lives, made, leaving=True) == (["box"], ["box"])
    with pytest.raises(errors.Unavailable, match="stopping all"):
        await lives.start(made)
