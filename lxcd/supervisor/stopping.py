"""The stop of a container: ask its init in the way that it understands, wait, kill."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors, log
from lxcd.cgroup import freezer, killing
from lxcd.supervisor import ending
from lxcd.supervisor.state import Exit, State
from lxcd.supervisor.stop import Method, ask_runlevel, choose, signal_name
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held

_log = logging.getLogger(__name__)
# How long a killed init may take to be gone: a process in uninterruptible sleep hears no SIGKILL.
_KILL_SECONDS = 30.0
_STOP_SIGNAL_SECONDS = 5.0
_CUT_OFF_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a stop went."""

    method: str
    killed: bool
    exit: Exit | None


async def stop(container: Container, patience: float | None, *, no_kill: bool) -> Stopped:
    """Stop it. `patience` is in seconds; None kills at once. The caller holds its lock.

    Raises DeadlineExceeded with `no_kill`, or when not even SIGKILL ends it; it goes on then.
    """
    await container.settled()
    if container.rebooting and container.state is State.STOPPED:
        await ending.stay_stopped(container)
        return Stopped("stopped between two lives", killed=False, exit=container.record.exit)
    child = container.require_running()
    log.container.set(container.name)
    container.note_stop(requested=True)
    try:
        if patience is None:
            return await _kill(container, child, "SIGKILL")
        return await _ask_and_wait(container, child, patience, no_kill=no_kill)
    except Exception:
        # It goes on: nobody asks it to stop any more. Where lxcd leaves, the next one sees to that.
        if child.exited is None:
            container.note_stop(requested=False)
            if container.state is State.STOPPING:
                container.set_state(State.RUNNING)
        raise


async def cut_off(container: Container, child: Held) -> None:
    """An earlier lxcd has begun to stop it, and was gone before it ended. If it was asked to end it
    does soon; else it goes on, and nobody asks it any more: its end is its own then, and so is a
    reboot.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CUT_OFF_SECONDS):
            await child.ended()
    async with container.lock:
        if container.child is child and child.exited is None and container.stop_requested:
            container.note_stop(requested=False)


async def _ask_and_wait(
    container: Container, child: Held, patience: float, *, no_kill: bool
) -> Stopped:
    generation = container.record.generation

    def over() -> bool:
        return container.state is State.STOPPED or container.record.generation > generation

    method = await _choose(container, child)
    was_frozen = _begin(container, child)
    try:
        await in_thread(_ask, child, method)
        if was_frozen:
            await freezer.freeze(container.payload, frozen=False)
    except (OSError, ValueError) as error:
        # It may have ended just now; else the time-out comes.
        _log.warning("asking by %s: %s", method.describe(), error)
    try:
        async with asyncio.timeout(patience):
            await container.until(lambda: over() or container.hurried)
    except TimeoutError:
        if no_kill:
            raise errors.DeadlineExceeded(
                f"{container.name} did not stop in {patience:g} s after {method.describe()}",
                "STOP_TIMEOUT",
                container=container.name,
            ) from None
        how = f"{method.describe()}, then SIGKILL after {patience:g} s"
        return await _kill(container, child, how)
    if not over():
        return await _kill(container, child, f"{method.describe()}, then SIGKILL on request")
    return Stopped(method.describe(), killed=False, exit=container.record.exit)


def _begin(container: Container, child: Held) -> bool:
    """Go to STOPPING, unless it has ended by itself meanwhile. True: it was frozen."""
    was_frozen = container.state in (State.FREEZING, State.FROZEN)
    if child.exited is None and container.state is not State.STOPPING:
        container.set_state(State.STOPPING)
    return was_frozen


async def _choose(container: Container, child: Held) -> Method:
    halt = container.running.config.signal_halt if container.running is not None else None
    # The reaping PID 1 forwards what it gets, or ends by it when it runs nothing.
    application = container.record.request.application or not container.record.command
    pidfd = child.pidfd.fileno() if not child.pidfd.closed else -1
    return await in_thread(
        lambda: choose(child.pid, pidfd, halt_signal=halt, application=application)
    )


def _ask(child: Held, method: Method) -> None:
    if method.signal:
        signal.pidfd_send_signal(child.pidfd.fileno(), method.signal)
    else:
        ask_runlevel(child.pid, child.pidfd.fileno(), "0")


async def _kill(container: Container, child: Held, method: str) -> Stopped:
    was_frozen = _begin(container, child)
    stop_signal = container.running.config.signal_stop if container.running is not None else None
    if stop_signal not in (None, signal.SIGKILL) and not was_frozen:
        # A program can ignore what lxc.signal.stop says, and this has to end.
        method = f"{method}: {signal_name(stop_signal)} (lxc.signal.stop), then SIGKILL"
        _send(child, stop_signal)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SIGNAL_SECONDS):
                await container.until(lambda: container.state is State.STOPPED)
    _send(child, signal.SIGKILL)
    # Whoever does not end with init; and the freezer of version 1 keeps even a killed process.
    await in_thread(killing.kill_once, container.payload.directories)
    try:
        async with asyncio.timeout(_KILL_SECONDS):
            await container.until(lambda: container.state is State.STOPPED)
    except TimeoutError:
        raise errors.DeadlineExceeded(
            f"init of {container.name} (pid {child.pid}) was killed but does not end",
            "KILL_TIMEOUT",
            container=container.name,
        ) from None
    return Stopped(method, killed=True, exit=container.record.exit)


def _send(child: Held, number: int) -> None:
    """To init, if it is still there."""
    with contextlib.suppress(OSError, ValueError):
        signal.pidfd_send_signal(child.pidfd.fileno(), number)
