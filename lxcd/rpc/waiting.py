"""WaitContainer: for a state, for an end, or for a condition."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.rpc import convert, requests
from lxcd.supervisor.state import State
from lxcd.v1 import container_pb2 as pb

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.registry import Registry


async def wait(registry: Registry, request: pb.WaitContainerRequest) -> pb.WaitContainerResponse:
    """Answer when it is so, or the time is over. Raises an LxcdError."""
    find = registry.get_or_ended if request.generation else registry.get
    actor = find(request.lxcpath, request.name)
    seconds = requests.seconds(request, "timeout", None)
    if request.condition:
        return await _for_condition(actor, request, seconds)
    wanted = convert.states(request.states)
    generation = request.generation or actor.record.generation
    if not wanted and not request.generation and not actor.state.alive:
        # "The present or next": there is no present one.
        generation += 1

    def holds() -> bool:
        if actor.deleted:
            return True
        if wanted:
            return actor.state in wanted
        ended = actor.record.exit
        return ended is not None and ended.generation >= generation

    reached = True
    try:
        async with asyncio.timeout(seconds):
            await actor.until(holds)
    except TimeoutError:
        reached = holds()
    reached = reached and (not wanted or actor.state in wanted)
    message = pb.WaitContainerResponse(reached=reached, state=convert.state(actor.state))
    if actor.record.exit is not None and not wanted:
        message.exit.CopyFrom(convert.exit_(actor.record.exit))
    return message


async def _for_condition(
    actor: Container, request: pb.WaitContainerRequest, seconds: float | None
) -> pb.WaitContainerResponse:
    if request.condition != pb.CONDITION_NETWORK:
        raise errors.InvalidArgument(f"no such condition: {request.condition}", "INVALID_CONDITION")
    if request.states:
        raise errors.InvalidArgument("states and a condition", "INVALID_CONDITION")
    named = request.generation

    def reached() -> bool:
        right = not named or actor.record.generation == named
        return right and actor.network is not None and actor.network.reachable

    def over() -> bool:
        present = actor.record.generation
        down = actor.state in (State.STOPPED, State.ABORTING)
        return actor.deleted or (named > 0 and (present > named or (present == named and down)))

    def in_vain() -> bool:
        return actor.state.alive and "net" not in actor.record.namespaces

    try:
        async with asyncio.timeout(seconds):
            await actor.until(lambda: reached() or over() or in_vain())
    except TimeoutError:
        pass
    if in_vain() and not over():
        raise errors.FailedPrecondition(
            f"container {actor.name} has no network of its own to wait for",
            "NETWORK_SHARED",
            container=actor.name,
        )
    message = pb.WaitContainerResponse(reached=reached(), state=convert.state(actor.state))
    if over() and actor.record.exit is not None:
        message.exit.CopyFrom(convert.exit_(actor.record.exit))
    return message
