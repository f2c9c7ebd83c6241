"""An orderly end: every container is stopped, those that were started last go first."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.supervisor.state import State

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.house import House
    from lxcd.supervisor.registry import Registry

_log = logging.getLogger(__name__)
_LATE_SECONDS = 30.0  # a kill takes that long before it is given up


async def drain(
    house: House, registry: Registry, patience: float, *, leaving: bool
) -> tuple[list[str], list[str]]:
    """Stop all containers, then the networks; `leaving`: the keeper goes, and lxcd is about to.
    Nothing is started meanwhile: it would be lost, or hold up the end for ever.

    Returns the names of those that were stopped, and of those among them that had to be killed.
    """
    house.drains += 1
    try:
        result = await _stop_all(registry, patience)
        await house.networks.shut_down()
        if leaving:
            await house.pool.close()
            house.keeper.leave()
            # For good.
            house.drains += 1
    finally:
        house.drains -= 1
    return result


async def _stop_all(registry: Registry, patience: float) -> tuple[list[str], list[str]]:
    """Those of one `lxc.start.order` at once, higher orders first."""
    stopped: list[str] = []
    killed: list[str] = []
    loop = asyncio.get_running_loop()

    async def stop(container: Container) -> None:
        # A stop that somebody has asked for may be meant to take hours.
        hurry = loop.call_later(patience, container.hurry)
        try:
            # Whoever has it now may wait for what never comes: the others shall not.
            async with asyncio.timeout(patience + _LATE_SECONDS):
                await container.lock.acquire()
            try:
                hurry.cancel()
                await container.settled()
                if container.state is State.STOPPED and not container.rebooting:
                    return
                result = await container.stop(patience or None)
            finally:
                container.lock.release()
        except TimeoutError:
            _log.error("%s could not be stopped: what is done to it does not end", container.name)
            return
        except errors.LxcdError as error:
            _log.error("%s could not be stopped: %s", container.name, error)
            return
        finally:
            hurry.cancel()
        stopped.append(container.name)
        if result.killed:
            killed.append(container.name)

    tiers: dict[int, list[Container]] = {}
    for container in registry.unstopped():
        order = container.running.config.start_order if container.running is not None else 0
        tiers.setdefault(order, []).append(container)
    for order in sorted(tiers, reverse=True):
        async with asyncio.TaskGroup() as group:
            for container in tiers[order]:
                group.create_task(stop(container))
    return sorted(stopped), sorted(killed)
