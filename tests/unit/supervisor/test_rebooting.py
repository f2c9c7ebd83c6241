"""A reboot that was asked for: what is waited for, and how that ends."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from lxcd import errors
from lxcd.supervisor import rebooting
from lxcd.supervisor.changes import Changes
from lxcd.supervisor.rebooting import Asked
from lxcd.supervisor.state import State

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container

ASKED = Asked("SIGINT (reboot)", 1)


class _Life(Changes):
    """Of a container what matters here."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "box"
        self.state = State.RUNNING
        self.state_reason = ""
        self.rebooting = self.deleted = False
        self.record = SimpleNamespace(generation=1)

    async def lead(self, step: tuple[State, int, bool]) -> None:
        """Go to a state and a generation, and be between two lives or not."""
        self.state, self.record.generation, self.rebooting = step
        self.wake()
        await asyncio.sleep(0)


async def _done(life: _Life, *steps: tuple[State, int, bool], patience: float = 30) -> int:
    """After how many steps it was over."""
    waiting = asyncio.create_task(rebooting.done(cast("Container", life), ASKED, patience))
    await asyncio.sleep(0)
    count = 0
    while count < len(steps) and not waiting.done():
        await life.lead(steps[count])
        await asyncio.sleep(0)
        count += 1
    await waiting
    return count


_ENDS = ((State.STOPPING, 1, False), (State.STOPPED, 1, True))


async def test_until_the_next_life_runs() -> None:
    steps = (*_ENDS, (State.STARTING, 2, False), (State.RUNNING, 2, False))
    assert await _done(_Life(), *steps) == 4


async def test_one_that_was_too_fast_to_be_seen() -> None:
    assert await _done(_Life(), (State.FROZEN, 3, False)) == 1


@pytest.mark.parametrize(
    "steps",
    [
        # It has halted; somebody stopped it between two lives; it did not come up again.
        ((State.STOPPING, 1, False), (State.STOPPED, 1, False)),
        (*_ENDS, (State.STOPPED, 1, False)),
        (*_ENDS, (State.STARTING, 2, False), (State.ABORTING, 2, False), (State.STOPPED, 2, False)),
    ],
)
async def test_one_that_does_not_run_again(steps: tuple[tuple[State, int, bool], ...]) -> None:
    life = _Life()
    life.state_reason = "no such root"
    with pytest.raises(errors.FailedPrecondition, match="does not run again: no such root"):
        await _done(life, *steps)


async def test_one_that_is_gone() -> None:
    life = _Life()
    life.deleted = True
    with pytest.raises(errors.FailedPrecondition):
        await _done(life)


async def test_one_that_goes_on() -> None:
    with pytest.raises(errors.DeadlineExceeded, match="did not reboot in 0 s after SIGINT"):
        await _done(_Life(), patience=0.0)


def test_signals() -> None:
    assert rebooting.choose(None) == (signal.SIGINT, "SIGINT (reboot)")
    assert rebooting.choose(10) == (10, "SIGUSR1 (lxc.signal.reboot)")
