"""The nftables tables while their last network goes, and somebody is not done with them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from lxcd import errors
from lxcd.network.definition import ManagedNetwork
from lxcd.network.firewall import Rules
from lxcd.supervisor.ruleset import Ruleset

NETWORK = ManagedNetwork("lxcbr0")


class Tables(Ruleset):
    """With an nft that does one transaction whenever the test says so."""

    def __init__(self) -> None:
        self.networks: tuple[ManagedNetwork, ...] = (NETWORK,)
        self.done: list[str] = []
        self.failing = ""
        self.turns = asyncio.Semaphore(0)
        self.tasks: list[asyncio.Task[None]] = []
        finish = lambda work: self.tasks.append(asyncio.ensure_future(work))  # noqa: E731
        house: Any = SimpleNamespace(paths=SimpleNamespace(runtime_dir="/run/lxcd"), finish=finish)
        super().__init__(house, lambda: Rules(self.networks, (), ()))

    async def _claim(self) -> str:
        self.done.append("claim")
        return "lxcd"

    async def _find(self) -> str:
        return ""

    async def _nft_file(self, text: str) -> None:
        if not text:
            return
        await self.turns.acquire()
        if self.failing and self.failing in text:
            raise errors.FailedPrecondition("nft: no", "FIREWALL_UNAVAILABLE")
        self.done.append(text)


async def _made() -> Tables:
    tables = Tables()
    tables.turns.release()
    await tables.rebuild()
    tables.done.clear()
    return tables


async def _rest() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("under_way", [False, True])
async def test_a_change_behind_the_release_makes_nothing_again(*, under_way: bool) -> None:
    tables = await _made()
    waits = [asyncio.ensure_future(tables.publish(lambda: ()))] if under_way else []
    await _rest()
    tables.networks = ()
    waits.append(asyncio.ensure_future(tables.release()))
    await _rest()
    waits.append(asyncio.ensure_future(tables.publish(lambda: ())))
    await _rest()
    for _ in range(3):
        tables.turns.release()
    await asyncio.gather(*waits)
    await tables.publish(lambda: ())
    assert "claim" not in tables.done
    assert sum("destroy" in text or "delete table" in text for text in tables.done) == 1
    assert tables.done[-1].count("lxcd") > 0


async def test_tables_that_somebody_has_flushed_are_made_again() -> None:
    tables = await _made()
    tables.failing = "flush map"
    for _ in range(2):
        tables.turns.release()
    await tables.publish(lambda: ())
    assert len(tables.done) == 1


async def test_tables_that_could_not_be_released_are_still_ours() -> None:
    tables = await _made()
    tables.failing = "table"
    tables.turns.release()
    with pytest.raises(errors.FailedPrecondition):
        await tables.release()
    tables.failing = ""
    tables.turns.release()
    await tables.publish(lambda: ())
    assert "claim" not in tables.done
