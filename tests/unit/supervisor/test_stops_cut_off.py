"""A stop that lxcd did not live to see the end of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lxcd.supervisor import stopping
from lxcd.supervisor.state import Cause, State
from tests.unit.supervisor.lives import EXITED, REBOOT

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
    from tests.unit.supervisor.lives import Lives


async def _found(lives: Lives) -> Container:
    """One that runs and that an earlier lxcd was about to stop, as the next one finds it."""
    made = lives.define("box")
    child = await lives.start(made)
    made.note_stop(requested=True)
    (record,) = lives.on_disk()
    assert record.stop_requested
    made.adopt(child, record)
    return made


async def test_who_goes_on_is_not_to_end_any_more(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_CUT_OFF_SECONDS", 0.01)
    made = await _found(lives)
    await lives.settle()
    assert not made.stop_requested
    assert not lives.on_disk()[0].stop_requested
    await lives.reboot(made)
    lives.pause.set()
    await lives.reaches(made, State.RUNNING)
    assert made.record.exit is not None
    assert made.record.exit.cause is Cause.REBOOT


async def test_who_ends_soon_was_asked_to(lives: Lives) -> None:
    made = await _found(lives)
    lives.end(made, EXITED)
    await lives.reaches(made, State.STOPPED)
    assert made.record.exit is not None
    assert made.record.exit.cause is Cause.REQUESTED
    await lives.settle()
    assert made.state is State.STOPPED


async def test_a_reboot_that_was_asked_for_as_an_end(lives: Lives) -> None:
    made = await _found(lives)
    lives.end(made, REBOOT)
    await lives.reaches(made, State.STOPPED)
    await lives.settle()
    assert made.record.generation == 1


async def test_another_stop_takes_its_place(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_CUT_OFF_SECONDS", 0.01)
    made = await _found(lives)
    async with made.lock:
        made.note_stop(requested=True)
        lives.end(made, EXITED)
        await lives.reaches(made, State.STOPPED)
    await lives.settle()
    assert made.record.exit is not None
    assert made.record.exit.cause is Cause.REQUESTED
