"""Freezing what is in a container's cgroups, on the host's real trees."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcd.cgroup import freezer, tree
from lxcd.cgroup.tree import Payload
from lxcd.errors import DeadlineExceeded
from tests.stuck import stuck


@pytest.fixture
def payload(unique: str) -> Iterator[Payload]:
    trees = tree.find_trees()
    made = tree.plan_payload(trees, f"{unique}/payload", relative=False)
    tree.make(trees, made)
    yield made
    assert tree.remove(made) == []


def _versions(payload: Payload) -> list[Payload]:
    """As the host has it, and as one with version 2 alone."""
    second = Payload({"": payload.directories[""]}, ()) if "" in payload.directories else payload
    return [payload] if second.directories == payload.directories else [payload, second]


def test_what_is_empty_is_frozen_and_thawed(payload: Payload) -> None:
    for one in _versions(payload):
        for frozen in (True, True, False, False, True, False):
            asyncio.run(freezer.freeze(one, frozen=frozen))
            assert freezer.is_frozen(one) == frozen


def test_a_freeze_that_does_not_come_about_is_taken_back(payload: Payload) -> None:
    for one in _versions(payload):
        with stuck(map(payload.home, payload.directories)):
            with pytest.raises(DeadlineExceeded):
                asyncio.run(freezer.freeze(one, frozen=True, deadline_seconds=0.2))
            assert not freezer.is_frozen(one)
        # Nobody is told to freeze any more, either.
        asyncio.run(freezer.freeze(one, frozen=False, deadline_seconds=0.2))
        asyncio.run(freezer.freeze(one, frozen=True))
        asyncio.run(freezer.freeze(one, frozen=False))


def _told(payload: Payload) -> str:
    """What its processes have been told to do."""
    for key, name in (("freezer", "freezer.state"), ("", "cgroup.freeze")):
        if key in payload.directories:
            return Path(payload.directories[key], name).read_text().strip()
    pytest.fail("nothing freezes it")


async def _cancelled(payload: Payload) -> None:
    task = asyncio.ensure_future(freezer.freeze(payload, frozen=True))
    await asyncio.sleep(0)
    assert _told(payload) in ("1", "FREEZING")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def test_a_freeze_that_is_cancelled_is_taken_back(payload: Payload) -> None:
    for one in _versions(payload):
        with stuck(map(payload.home, payload.directories)):
            asyncio.run(_cancelled(one))
            assert _told(one) in ("0", "THAWED")


def test_a_freeze_that_nobody_has_seen_the_end_of_is_taken_back(
    payload: Payload, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in _versions(payload):
        with stuck(map(payload.home, payload.directories)):
            with monkeypatch.context() as patch:
                patch.setattr(freezer, "take_back", lambda _: None)  # as if its lxcd had died
                with pytest.raises(DeadlineExceeded):
                    asyncio.run(freezer.freeze(one, frozen=True, deadline_seconds=0.0))
            assert _told(one) in ("1", "FREEZING")
            freezer.take_back(one)
            assert _told(one) in ("0", "THAWED")
        # One that has come about stays.
        asyncio.run(freezer.freeze(one, frozen=True))
        freezer.take_back(one)
        assert freezer.is_frozen(one)
        asyncio.run(freezer.freeze(one, frozen=False))
