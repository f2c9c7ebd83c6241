"""A restart that stops nothing: init is asked to reboot, which `ending` follows up as any other
reboot from inside.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.supervisor import freezing
from lxcd.supervisor.state import State
from lxcd.supervisor.stop import signal_name

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container


@dataclass(frozen=True, slots=True)
class Asked:
    """By what init was asked, and in which life."""

    method: str
    generation: int


def choose(signal_reboot: int | None) -> tuple[int, str]:
    """The signal for a configuration, and how a reply tells of it."""
    if signal_reboot is None:
        # What the kernel itself sends on Ctrl-Alt-Del: every init knows it.
        return signal.SIGINT, f"{signal_name(signal.SIGINT)} (reboot)"
    return signal_reboot, f"{signal_name(signal_reboot)} (lxc.signal.reboot)"


async def ask(container: Container) -> Asked:
    """Ask its init. The caller holds the lock. Raises an LxcdError."""
    running = container.running
    number, method = choose(running.config.signal_reboot if running is not None else None)
    container.send_signal(number)
    if container.state is State.FROZEN:
        await freezing.thaw(container)
    return Asked(method, container.record.generation)


async def done(container: Container, asked: Asked, patience: float) -> None:
    """Wait until its next life runs. Nobody holds the lock for that: the end of this life and the
    start of the next need it.

    Raises DeadlineExceeded if it goes on, FailedPrecondition if it has stopped.
    """

    def over() -> bool:
        if container.deleted:
            return True
        if container.state is State.STOPPED:
            return not container.rebooting
        reborn = container.record.generation > asked.generation
        return reborn and container.state not in (State.STARTING, State.ABORTING)

    try:
        async with asyncio.timeout(patience):
            await container.until(over)
    except TimeoutError:
        raise errors.DeadlineExceeded(
            f"{container.name} did not reboot in {patience:g} s after {asked.method}",
            "STOP_TIMEOUT",
            container=container.name,
        ) from None
    if container.deleted or container.state is State.STOPPED:
        why = f": {container.state_reason}" if container.state_reason else ""
        raise errors.FailedPrecondition(
            f"{container.name} has stopped after {asked.method}, and does not run again{why}",
            "CONTAINER_NOT_RUNNING",
            container=container.name,
        )
