"""Live changes, and what becomes of a container's record beside them."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from lxcd import errors
from lxcd.cgroup import devices
from lxcd.cgroup.devices import Node
from lxcd.network import namespace, wiring
from lxcd.supervisor import hotplug, limiting, nics, nodes, updating
from lxcd.supervisor.records import STOPPED
from lxcd.supervisor.state import State
from tests.unit.supervisor.lives import Work

if TYPE_CHECKING:
    from lxcd.config.model import Problem
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


# ---- beside what else happens to it


async def test_what_is_noted_during_a_change_stays_noted(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lives.define("box")
    await lives.start(made)
    monkeypatch.setattr(limiting, "change", work := Work([]))
    change = asyncio.ensure_future(live(lives, made, RULE))
    await work.begun.wait()
    made.record = made.record.but(oom_kills=7)
    work.done()
    await change
    (found,) = lives.on_disk()
    assert (found.oom_kills, found.device_rules is not None) == (7, True)
    assert found == made.record


async def test_what_ends_during_a_change_stays_ended(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lives.define("box")
    await lives.start(made)
    monkeypatch.setattr(limiting, "change", work := Work([]))
    change = asyncio.ensure_future(live(lives, made, RULE))
    await work.begun.wait()
    lives.end(made)
    await lives.settle()
    work.done()
    await change
    (found,) = lives.on_disk()
    assert (made.state, made.running) == (State.STOPPED, None)
    assert (found.phase, found.running, found.device_rules) == (STOPPED, None, None)
    assert found.exit is not None


async def test_what_has_ended_is_not_changed(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lives.define("box")
    await lives.start(made)
    monkeypatch.setattr(updating, "_read", work := Work(made.definition()))
    asked = (("limits.pids", ("100",)),)
    change = updating.Change(None, asked, saved=True, live=True)
    async with made.lock:
        update = asyncio.ensure_future(
            updating.update(lives.house, made, change, validate_only=False)
        )
        await work.begun.wait()
        lives.end(made)
        work.done()
        with pytest.raises(errors.FailedPrecondition):
            await update
    assert not os.path.exists(os.path.join(made.directory, "lxcd.toml"))  # noqa: ASYNC240


async def test_an_end_of_lxcd_waits_for_a_change_to_be_noted(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lives.define("box")
    await lives.start(made)
    monkeypatch.setattr(limiting, "change", work := Work([]))
    change = asyncio.ensure_future(live(lives, made, RULE))
    await work.begun.wait()
    change.cancel()
    await asyncio.sleep(0)
    work.done()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert lives.on_disk()[0].device_rules is not None


async def test_a_file_that_cannot_be_written_leaves_what_runs_as_it_was(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lives.define("box")
    await lives.start(made)
    running, before = made.running, made.record
    assert running is not None
    done: list[limiting.Limits] = []

    def note(
        _: object, __: object, was: object, becomes: limiting.Limits, **___: object
    ) -> list[Problem]:
        done.append(becomes)
        return []

    def refuse(*_: object, **__: object) -> None:
        raise errors.ResourceExhausted("the disk is full")

    monkeypatch.setattr(limiting, "change", note)
    monkeypatch.setattr(made.file, "write", refuse)
    change = updating.Change(None, ((RULE[0], (RULE[1],)),), saved=True, live=True)
    async with made.lock:
        with pytest.raises(errors.ResourceExhausted):
            await updating.update(lives.house, made, change, validate_only=False)
    assert [one.policy == devices.DEFAULT for one in done] == [False, True]
    assert (made.running, made.record) == (running, before)
    assert lives.on_disk() == [before]


async def test_a_node_is_given_beside_what_is_noted_meanwhile(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lives.define("box")
    await lives.start(made)
    work = _nodes(monkeypatch)
    async with made.lock:
        adding = asyncio.ensure_future(nodes.add(lives.house, made, "/dev/null", "", ""))
        await work.begun.wait()
        made.record = made.record.but(oom_kills=7)
        work.done()
        await adding
    (found,) = lives.on_disk()
    assert (found.oom_kills, [one.there for one in found.device_nodes]) == (7, [True])
    assert found.device_rules == BASE


async def test_no_node_is_given_to_what_has_ended(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lives.define("box")
    await lives.start(made)
    work = _nodes(monkeypatch)
    async with made.lock:
        adding = asyncio.ensure_future(nodes.add(lives.house, made, "/dev/null", "", ""))
        await work.begun.wait()
        lives.end(made)
        await lives.settle()
        work.done()
        with pytest.raises(errors.FailedPrecondition):
            await adding
    (found,) = lives.on_disk()
    assert (found.phase, found.device_nodes, found.device_rules) == (STOPPED, (), None)
    assert found.exit is not None
    assert found == made.record


def _nodes(monkeypatch: pytest.MonkeyPatch) -> Work:
    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(nodes, "_change", nothing)
    monkeypatch.setattr(nodes, "_walk", nothing)
    monkeypatch.setattr(nodes, "_root_of", lambda _: (0, 0))
    monkeypatch.setattr(nodes, "_base", work := Work(devices.DEFAULT))
    return work


@pytest.mark.parametrize("ends", [False, True])
async def test_a_device_is_attached_beside_what_happens_meanwhile(
    lives: Lives,
    monkeypatch: pytest.MonkeyPatch,
    ends: bool,  # noqa: FBT001
) -> None:
    made = lives.define("box")
    await lives.start(made)
    monkeypatch.setattr(wiring, "there", work := Work({"lo": 1}))
    monkeypatch.setattr(nics.Nics, "make", lambda *_: _nothing())
    monkeypatch.setattr(namespace, "open_of", lambda _: os.open("/dev/null", os.O_RDONLY))
    async with made.lock:
        settings = {"type": "veth", "veth.pair": "web0"}
        attaching = asyncio.ensure_future(hotplug.attach(lives.house, made, settings))
        await work.begun.wait()
        if ends:
            lives.end(made)
            await lives.settle()
        else:
            made.record = made.record.but(oom_kills=7)
        work.done()
        if ends:
            with pytest.raises(errors.FailedPrecondition):
                await attaching
        else:
            await attaching
    (found,) = lives.on_disk()
    assert found == made.record
    if ends:
        assert (found.phase, found.nics, found.exit is None) == (STOPPED, (), False)
    else:
        assert (found.oom_kills, [one.host_name for one in found.nics]) == (7, ["web0"])


async def _nothing() -> None:
    pass
