"""StartContainer of what is being deleted, started or taken back meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from lxcd import errors
from lxcd.rpc.starting import Starting
from lxcd.supervisor import updating
from lxcd.supervisor.state import State
from lxcd.v1 import container_pb2 as pb
from tests.unit.supervisor.lives import CONFIG

if TYPE_CHECKING:
    from tests.unit.supervisor.lives import Lives


def _starting(lives: Lives) -> Starting:
    side = SimpleNamespace(redeem=lambda _: contextlib.nullcontext({}))
    return Starting(lives.registry, cast("Any", side))


async def _turn() -> None:
    """Let what can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def _there(path: str) -> bool:
    return os.path.exists(path)


async def test_an_undefined_one_that_is_started_by_name_keeps_its_root(lives: Lives) -> None:
    made, transient = await lives.undefined("box")
    await lives.reboot(made)
    await _starting(lives).start(pb.StartContainerRequest(name="box"))
    assert (made.state, made.record.generation) == (State.RUNNING, 2)
    assert [record.transient_dir for record in lives.on_disk()] == [transient]
    lives.pause.set()
    lives.end(made)
    await lives.settle()
    assert made.deleted
    assert not _there(transient)


async def test_what_was_deleted_meanwhile_is_not_started(lives: Lives) -> None:
    made, _ = await lives.undefined("box")
    await lives.reboot(made)
    async with made.lock:
        start = asyncio.ensure_future(_starting(lives).start(pb.StartContainerRequest(name="box")))
        await _turn()
        await made.delete()
    with pytest.raises(errors.NotFound):
        await start
    assert made.state is State.STOPPED
    assert lives.on_disk() == []


async def test_another_of_the_same_name_is_another_one(lives: Lives) -> None:
    old = lives.define("box")
    change = updating.Change(CONFIG.encode() + b"# mine\n", ())
    async with old.lock:
        start = asyncio.ensure_future(_starting(lives).start(pb.StartContainerRequest(name="box")))
        await _turn()
        await old.delete()
        new = lives.define("box")
    with pytest.raises(errors.NotFound):
        await start
    async with old.lock:
        with pytest.raises(errors.NotFound):
            await updating.update(lives.house, old, change, validate_only=False)
        with pytest.raises(errors.NotFound):
            await lives.registry.rename(old, "other")
    assert (new.state, new.definition().text) == (State.STOPPED, CONFIG.encode())


async def test_one_that_does_not_start_is_taken_back_before_anybody_else_comes(
    lives: Lives,
) -> None:
    lives.may_start.clear()
    lives.failure = errors.StartFailed("not so")
    request = pb.StartContainerRequest(name="box", config_text=CONFIG)
    first = asyncio.ensure_future(_starting(lives).start(request))
    await lives.starting.wait()
    second = asyncio.ensure_future(_starting(lives).start(pb.StartContainerRequest(name="box")))
    await _turn()
    lives.may_start.set()
    with pytest.raises(errors.StartFailed):
        await first
    with pytest.raises(errors.NotFound):
        await second
    assert lives.told("container.deleted") == 1
