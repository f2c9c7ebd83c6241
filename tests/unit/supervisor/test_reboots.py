"""Between two lives: who starts, stops or deletes a container while it pauses before its next one."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from lxcd import errors
from lxcd.supervisor import removal
from lxcd.supervisor.records import Deed, Request
from lxcd.supervisor.state import State
from tests.unit.supervisor.lives import CONFIG

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
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


# ---- of what is to go when it ends


def _there(path: str) -> bool:
    return os.path.exists(path)


async def _gone(lives: Lives, made: Container) -> None:
    await lives.settle()
    assert made.deleted
    assert not _there(made.directory)
    assert lives.on_disk() == []
    assert lives.told("container.deleted") == 1
    with pytest.raises(errors.NotFound):
        lives.registry.get("", made.name)


async def _running(lives: Lives, how: str) -> tuple[Container, str]:
    """One that goes with its end, and a directory that goes with it."""
    if how == "undefined":
        return await lives.undefined("box")
    made = lives.define("box", CONFIG + ("lxc.ephemeral = 1\n" if how == "configured" else ""))
    await lives.start(
        made,
        Request(
            ephemeral=how == "requested",
            defines=(("lxc.ephemeral", "1"),) if how == "given" else (),
        ),
    )
    return made, made.directory


EPHEMERAL = pytest.mark.parametrize("how", ["undefined", "requested", "configured", "given"])


@EPHEMERAL
async def test_stopped_between_two_lives_it_goes(lives: Lives, how: str) -> None:
    made, directory = await _running(lives, how)
    await lives.reboot(made)
    async with made.lock:
        assert (await made.stop(None)).method == "stopped between two lives"
    lives.pause.set()
    await _gone(lives, made)
    assert not _there(directory)


@EPHEMERAL
async def test_when_it_does_not_come_up_again_it_goes(lives: Lives, how: str) -> None:
    made, directory = await _running(lives, how)
    await lives.reboot(made)
    lives.failure = errors.StartFailed("not so")
    lives.pause.set()
    await _gone(lives, made)
    assert not _there(directory)


@EPHEMERAL
async def test_after_a_reboot_it_goes_with_its_next_end(lives: Lives, how: str) -> None:
    made, directory = await _running(lives, how)
    await lives.reboot(made)
    lives.pause.set()
    await lives.reaches(made, State.RUNNING)
    lives.end(made)
    await _gone(lives, made)
    assert not _there(directory)


async def test_what_cannot_be_deleted_then_stays(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise errors.FailedPrecondition("something is mounted there")

    made, directory = await _running(lives, "requested")
    await lives.reboot(made)
    monkeypatch.setattr(removal, "remove", refuse)
    async with made.lock:
        await made.stop(None)
    lives.pause.set()
    await lives.settle()
    assert (made.state, made.state_reason) == (State.STOPPED, "something is mounted there")
    assert _there(directory)
    assert [record.intent for record in lives.on_disk()] == [None]
