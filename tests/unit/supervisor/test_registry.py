"""Containers whose directories somebody else removes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from lxcd import errors

if TYPE_CHECKING:
    from tests.unit.supervisor.lives import Lives


async def test_one_that_was_removed_by_hand_leaves_nothing(lives: Lives) -> None:
    made = lives.define("box")
    child = await lives.start(made)
    lives.end(made)
    await lives.settle()
    assert len(lives.on_disk()) == 1
    shutil.rmtree(made.directory)
    for _ in range(2):
        with pytest.raises(errors.NotFound):
            lives.registry.get("", "box")
        assert await lives.registry.containers("") == []
    assert made.deleted
    assert lives.told("container.deleted") == 1
    assert lives.on_disk() == []
    assert lives.forgotten == [child]
    with pytest.raises(errors.NotFound):
        lives.registry.get_or_ended("", "box")


async def test_in_the_pause_of_a_reboot_too(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made)
    await lives.reboot(made)
    shutil.rmtree(made.directory)
    assert await lives.registry.containers("") == []
    again = lives.define("box")
    lives.pause.set()
    await lives.settle()
    assert (again.record.generation, again.state.alive, made.state.alive) == (0, False, False)


async def test_while_it_runs_it_stays_known(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made)
    shutil.rmtree(made.directory)
    assert lives.registry.get("", "box") is made
    lives.end(made)
    await lives.settle()
    assert made.deleted
    assert lives.told("container.deleted") == 1
