"""Between two lives: who starts, stops or deletes a container while it pauses before its next one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from lxcd import errors
from lxcd.supervisor.records import Deed, Request
from lxcd.supervisor.state import State

if TYPE_CHECKING:
    from tests.unit.supervisor.lives import Lives


async def test_it_comes_up_again(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made)
    await lives.reboot(made)
    lives.pause.set()
    await lives.reaches(made, State.RUNNING)
    assert (made.record.generation, made.rebooting) == (2, False)


async def test_one_that_somebody_else_has_started_is_stopped_by_a_stop(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made)
    await lives.reboot(made)
    child = await lives.start(made)
    lives.pause.set()
    await lives.settle()
    assert (made.child, made.record.generation) == (child, 2)
    async with made.lock:
        stopping = asyncio.ensure_future(made.stop(None))
        await lives.reaches(made, State.STOPPING)
        lives.end(made, 9)
        stopped = await stopping
    assert (stopped.killed, made.state) == (True, State.STOPPED)


async def test_what_runs_is_not_deleted(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made)
    async with made.lock:
        with pytest.raises(errors.FailedPrecondition, match="RUNNING"):
            await made.delete()
    assert made.defined
    assert not made.deleted


async def test_a_failure_of_somebody_elses_start_does_not_keep_it_down(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made, Request(command=("/bin/own",)))
    await lives.reboot(made)
    lives.failure = errors.StartFailed("not so")
    with pytest.raises(errors.StartFailed):
        await lives.start(made, Request(command=("/bin/other",)))
    intent = lives.on_disk()[0].intent
    assert intent is not None
    assert intent.deed is Deed.RESTART
    lives.pause.set()
    await lives.reaches(made, State.RUNNING)
    assert made.record.request.command == ("/bin/own",)


async def test_a_stop_between_two_lives(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made)
    await lives.reboot(made)
    async with made.lock:
        assert (await made.stop(None)).method == "stopped between two lives"
    lives.pause.set()
    await lives.settle()
    assert (made.state, made.record.generation, made.defined) == (State.STOPPED, 1, True)
    assert lives.on_disk()[0].intent is None
    async with made.lock:
        with pytest.raises(errors.FailedPrecondition, match="STOPPED"):
            await made.stop(None)
