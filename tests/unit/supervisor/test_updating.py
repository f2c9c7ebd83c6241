"""Live changes, and what becomes of a container's record beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lxcd.cgroup import devices
from lxcd.cgroup.devices import Node
from lxcd.supervisor import limiting, updating

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
    from tests.unit.supervisor.lives import Lives

NODE = Node("/dev/loop5", "b", 7, 5, devices.ALL, there=True)
BASE = devices.lines(devices.DEFAULT)
RULE = ("lxc.cgroup2.devices.allow", "c 1:3 rwm")


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change succeeds."""
    monkeypatch.setattr(limiting, "change", lambda *_, **__: [])


async def live(lives: Lives, made: Container, *changes: tuple[str, str]) -> None:
    """A change of what runs."""
    asked = tuple((key, (value,) if value else ()) for key, value in changes)
    change = updating.Change(None, asked, saved=False, live=True)
    async with made.lock:
        await updating.update(lives.house, made, change, validate_only=False)


async def given(lives: Lives, name: str = "box") -> Container:
    """One that runs and was given a node."""
    made = lives.define(name)
    await lives.start(made)
    made.record = made.record.but(device_rules=BASE, device_nodes=(NODE,))
    return made


async def test_rules_beside_a_node_stay_written_down(lives: Lives) -> None:
    made = await given(lives)
    await live(lives, made, ("limits.pids", "100"))
    assert lives.on_disk()[0].device_rules == BASE
    await live(lives, made, RULE)
    assert made.running is not None
    assert lives.on_disk()[0].device_rules == devices.lines(made.running.limits.policy) != BASE
    # The default is written out, too.
    await live(lives, made, (RULE[0], ""))
    assert made.running.limits.policy == devices.DEFAULT
    assert lives.on_disk()[0].device_rules == BASE
    assert lives.on_disk()[0].device_nodes == (NODE,)


async def test_without_a_node_only_rules_that_are_asked_for_are(lives: Lives) -> None:
    made = lives.define("box")
    await lives.start(made)
    await live(lives, made, ("limits.pids", "100"))
    assert lives.on_disk()[0].device_rules is None
    await live(lives, made, RULE)
    assert made.running is not None
    assert lives.on_disk()[0].device_rules == devices.lines(made.running.limits.policy)
    await live(lives, made, (RULE[0], ""))
    assert lives.on_disk()[0].device_rules is None
