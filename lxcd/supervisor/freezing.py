"""Freezing a container, and letting it go on: the caller holds its lock. Signals to what may be
frozen.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup import freezer
from lxcd.supervisor.state import State

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container


async def freeze(container: Container) -> None:
    """Freeze all its processes."""
    container.require_running()
    if container.state is State.FROZEN:
        return
    container.set_state(State.FREEZING)
    try:
        await freezer.freeze(container.payload, frozen=True)
    except BaseException as error:
        if container.state is State.FREEZING:
            container.set_state(State.RUNNING)
        if isinstance(error, OSError):
            raise errors.from_oserror(error, f"freezing {container.name}") from None
        raise
    if container.state is State.FREEZING:
        container.set_state(State.FROZEN)


async def thaw(container: Container) -> None:
    """Let them go on."""
    container.require_frozen()
    try:
        await freezer.freeze(container.payload, frozen=False)
    except OSError as error:
        raise errors.from_oserror(error, f"thawing {container.name}") from None
    if container.state is State.FROZEN:
        container.set_state(State.THAWED)
        container.set_state(State.RUNNING)


async def send_signal(container: Container, number: int) -> None:
    """Send a signal to init. What is frozen hears it when it goes on; SIGKILL does not wait for
    that: version 2 ends what is frozen (cgroup-v2.rst), version 1 has to let it go.
    """
    container.send_signal(number)
    if number == signal.SIGKILL and container.state in (State.FREEZING, State.FROZEN):
        # It may end right now.
        with contextlib.suppress(OSError, errors.LxcdError):
            await freezer.freeze(container.payload, frozen=False)
