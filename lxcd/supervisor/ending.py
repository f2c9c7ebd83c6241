"""The end of a life: what it leaves is cleaned up and told, then comes what it leads to: nothing,
the next life, or no container any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from lxcd import errors, log
from lxcd.cgroup import tree
from lxcd.supervisor import nics, patience
from lxcd.supervisor.definition import read_text
from lxcd.supervisor.records import STOPPED, Deed, Intent
from lxcd.supervisor.state import Cause, Exit, State, exit_of
from lxcd.supervisor.stop import exit_words
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.definition import Definition
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)
# reboot(2) over and over must not keep the host busy.
_REBOOT_PAUSE_SECONDS = 0.2


async def finish(house: House, container: Container, child: Held) -> None:
    """Its init has ended."""
    log.container.set(container.name)
    try:
        config = container.running.config if container.running is not None else None
        ephemeral = container.record.request.ephemeral or (config is not None and config.ephemeral)
        if container.state is not State.STOPPING:
            container.set_state(State.STOPPING)
        # What waits for the name of a device, or the device, shall have it first.
        await nics.take_away(house, config, container.record)
        await _clean_up(house, container, child, ephemeral=ephemeral)
    except Exception:  # noqa: BLE001 - see below
        # One container's mess must not end the supervision of all the others.
        _log.exception("cleaning up after %s", container.name)
        if container.state is State.STOPPING:
            container.set_state(State.STOPPED, "cleaning up failed: see the log of lxcd")
        return
    await follow_up(container)


async def follow_up(container: Container) -> None:
    """What an end leads to."""
    match container.record.intent:
        case Intent(deed=Deed.RESTART):
            await _start_again(container)
        case Intent(deed=Deed.VANISH):
            await _vanish(container)
        case _:
            pass


async def _clean_up(house: House, container: Container, child: Held, *, ephemeral: bool) -> None:
    exited = child.exited
    if exited is None:
        raise errors.Internal("an end without an exit")
    oom = await house.alarms.conclude(container)
    how = exit_of(
        exited.status,
        time_ns=exited.time_ns,
        generation=container.record.generation,
        requested=container.stop_requested,
        oom=oom,
        pid_namespace="pid" in container.record.namespaces
        and not container.record.request.application,
        application=container.record.request.application,
    )
    if not exited.known:
        how = Exit(0, 0, False, False, how.time_ns, how.generation, Cause.KEEPER_LOST)
    left = await in_thread(tree.remove, container.payload)
    if left:
        _log.error("cgroups could not be removed: %s", " ".join(left))
    follows = None
    if how.cause is Cause.REBOOT:
        follows = Intent(Deed.RESTART, house.events.last)
    elif ephemeral or not container.defined:
        follows = Intent(Deed.VANISH, house.events.last)
    container.record = container.record.but(
        phase=STOPPED,
        exit=how,
        pid=0,
        cgroups={},
        cgroups_made=(),
        running=None,
        nics=(),
        device_rules=None,
        device_nodes=(),
        stop_requested=False,
        intent=follows,
    )
    if container.write_record():
        with contextlib.suppress(errors.Unavailable):
            house.keeper.acknowledge(child)
    container.running = None
    container.set_state(State.STOPPED)
    _tell_exit(container, how)
    container.wake()


def _tell_exit(container: Container, how: Exit) -> None:
    message = f"{exit_words(how)}, {how.cause.value}"
    container.tell("container.exited", exit_=how, message=message)


def conclude(house: House, container: Container) -> None:
    """It was found stopped when this lxcd came: if the last one had no time to tell, tell
    now.
    """
    how = container.record.exit
    if how is None or how.generation != container.record.generation:
        return
    last = house.events.last_of(container.lxcpath, container.name)
    if last is not None and last.state is State.STOPPING:
        container.tell("container.state", state=State.STOPPED)
        _tell_exit(container, how)
    elif last is not None and last.type == "container.state" and last.state is State.STOPPED:
        _tell_exit(container, how)


async def _start_again(container: Container) -> None:
    """reboot(2) from inside: a new generation, with the configuration as it is now."""
    patience.on_its_own()
    container.rebooting = True
    await asyncio.sleep(_REBOOT_PAUSE_SECONDS)
    async with container.lock:
        if container.state is not State.STOPPED or container.deleted or not container.rebooting:
            return
        try:
            request, transient = container.record.request, container.record.transient_dir
            await container.start(_next_definition(container), request, transient_dir=transient)
        except errors.LxcdError as error:
            _log.error("%s did not come up again: %s", container.name, error)
            await stay_stopped(container)


async def stay_stopped(container: Container) -> None:
    """There is no next life after all: then it goes, if it was to go with its last. The caller
    holds the lock.
    """
    container.rebooting = False
    if _goes_with_its_end(container):
        container.intend(Deed.VANISH)
        await _delete(container)
    else:
        container.intend_nothing()


def _next_definition(container: Container) -> Definition:
    """What its next life is started with. Raises an LxcdError."""
    definition, defines = container.definition(), container.record.request.defines
    if container.defined and defines:
        return read_text(definition.text, definition.origin, defines, definition.settings)
    return definition


def _goes_with_its_end(container: Container) -> bool:
    if container.record.request.ephemeral or not container.defined:
        return True
    try:
        return _next_definition(container).config.ephemeral
    except errors.LxcdError:
        return False


async def _vanish(container: Container) -> None:
    async with container.lock:
        if container.state is State.STOPPED and not container.deleted:
            await _delete(container)


async def _delete(container: Container) -> None:
    try:
        await container.delete()
    except errors.LxcdError as error:
        _log.error("%s could not be deleted: %s", container.name, error)
        container.state_reason = error.text
