"""How long a start waits: for whom, and for as long as somebody waits for the start."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from lxcd.rpc.replay import Replays
from lxcd.storage.choice import ImageBusyError
from lxcd.supervisor import patience
from lxcd.supervisor.patience import Patience, awaited, on_its_own
from lxcd.v1 import container_pb2

STRANGER, OWN = ImageBusyError("in use"), ImageBusyError("in use", own=True)


@pytest.mark.parametrize(
    ("seen", "last"),
    [
        # Seconds since the first look, and whose it is.
        ([(0, STRANGER), (9, STRANGER)], (10, STRANGER)),
        ([(0, OWN), (11, OWN), (299, OWN)], (300, OWN)),
        # What comes after its own device has a stranger's time, from then on.
        ([(0, OWN), (200, OWN), (201, STRANGER), (209, STRANGER)], (210, STRANGER)),
        ([(0, OWN), (299, OWN), (301, STRANGER)], (309, STRANGER)),
        ([(0, STRANGER), (9, STRANGER), (12, OWN), (21, STRANGER)], (22, STRANGER)),
    ],
)
def test_there_is_more_of_it_with_the_life_before(
    seen: list[tuple[int, ImageBusyError]],
    last: tuple[int, ImageBusyError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: now[0]))
    one = Patience()
    for after, error in seen:
        now[0] = 1000.0 + after
        assert one.lasts(error), after
    now[0] = 1000.0 + last[0]
    assert not one.lasts(last[1])


async def test_it_ends_with_the_caller() -> None:
    begun, ended = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def work() -> None:
        one = Patience()
        assert one.lasts(OWN)
        begun.set()
        # As long as it takes: nothing but the caller ends this.
        while one.lasts(OWN):
            await one.pause()
        own = asyncio.create_task(_on_its_own())
        await own
        ended.set_result(None)

    async def caller() -> None:
        with awaited():
            await asyncio.shield(asyncio.create_task(work()))

    task = asyncio.create_task(caller())
    await begun.wait()
    task.cancel()
    await ended
    assert task.cancelled()
    # Who comes later has nothing to do with it.
    assert Patience().lasts(STRANGER)


async def _on_its_own() -> None:
    assert not Patience().lasts(OWN)
    on_its_own()
    assert Patience().lasts(OWN)


@pytest.mark.parametrize("request_id", ["", "may-come-back"])
async def test_a_caller_that_may_come_back_is_waited_for(request_id: str) -> None:
    begun, answer = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def work() -> None:
        one = Patience()
        assert one.lasts(OWN)
        begun.set()
        await answer
        gone.append(not one.lasts(OWN))

    gone: list[bool] = []
    tasks: list[asyncio.Task[None]] = []
    request = container_pb2.StartContainerRequest(name="c", request_id=request_id)
    async with asyncio.TaskGroup() as group:
        replays = Replays(lambda work: tasks.append(group.create_task(work)))
        call = asyncio.create_task(replays.once(request, work))
        await begun.wait()
        call.cancel()
        await asyncio.wait([call])
        answer.set_result(None)
    assert gone == [not request_id]
