"""ContainerService. A method is: convert, call, convert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lxcd import errors
from lxcd.rpc import convert, requests, starting, waiting
from lxcd.rpc import sockets as socket_messages
from lxcd.rpc.status import Context, stream, unary
from lxcd.supervisor import freezing, nodes, processes, rebooting, sockets, updating
from lxcd.supervisor.container import Container
from lxcd.supervisor.definition import Definition, read_text
from lxcd.supervisor.records import Request
from lxcd.supervisor.state import State
from lxcd.supervisor.stopping import Stopped
from lxcd.threads import in_thread
from lxcd.v1 import container_pb2 as pb
from lxcd.v1 import container_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from lxcd.rpc.replay import Replays
    from lxcd.rpc.side import Side
    from lxcd.supervisor.house import House
    from lxcd.supervisor.registry import Registry

_STOP_SECONDS = 60.0
_PAGE = 100
_LARGEST_PAGE = 1000


class Containers(container_pb2_grpc.ContainerServiceServicer):
    """The life cycle."""

    def __init__(self, house: House, registry: Registry, replays: Replays, side: Side) -> None:
        self._house = house
        self._registry = registry
        self._replays = replays
        self._side = side

    # ---- what there is

    @unary
    async def GetContainer(self, request: pb.GetContainerRequest, context: Context) -> pb.Container:
        """See container.proto."""
        del context
        actor = self._registry.get(request.lxcpath, request.name)
        full = request.view != pb.VIEW_BASIC
        counters = await self._house.addresses.counters(actor)
        message = await in_thread(convert.container, actor, full=full)
        convert.add_counters(message, counters)
        return message

    @unary
    async def ListContainers(
        self, request: pb.ListContainersRequest, context: Context
    ) -> pb.ListContainersResponse:
        """See container.proto."""
        del context
        if request.page_size < 0:
            raise errors.InvalidArgument("page_size is negative", "INVALID_PAGE_SIZE")
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        after = requests.read_token(request.page_token)
        wanted = convert.states(request.states)
        full = request.view == pb.VIEW_FULL
        actors = await self._registry.containers(request.lxcpath)
        rest = [
            actor
            for actor in actors
            if actor.name > after and (not wanted or actor.state in wanted)
        ]
        page = rest[:size]
        messages = await in_thread(lambda: [convert.container(actor, full=full) for actor in page])
        token = requests.write_token(page[-1].name) if len(rest) > size else ""
        return pb.ListContainersResponse(containers=messages, next_page_token=token)

    @stream
    async def WatchContainers(
        self, request: pb.WatchContainersRequest, context: Context
    ) -> AsyncIterator[pb.WatchContainersResponse]:
        """See container.proto."""
        del context
        answer = pb.WatchContainersResponse
        lxcpath = self._registry.lxcpath(request.lxcpath)
        names = frozenset(request.names)
        # Before the first picture: what happens while it is drawn comes behind it.
        last = self._house.events.last
        for actor in await self._registry.containers(lxcpath):
            if not names or actor.name in names:
                yield answer(kind=answer.KIND_PRESENT, container=convert.container(actor))
        yield answer(kind=answer.KIND_SYNCED)
        async for event in self._house.events.follow(last):
            if event.lxcpath != lxcpath or (names and event.container not in names):
                continue
            try:
                actor = self._registry.get(lxcpath, event.container)
            except errors.NotFound:
                gone = pb.Container(name=convert.text_of(event.container), lxcpath=lxcpath)
                yield answer(kind=answer.KIND_REMOVED, container=gone)
                continue
            yield answer(kind=answer.KIND_CHANGED, container=convert.container(actor))

    @unary
    async def ListProcesses(
        self, request: pb.ListProcessesRequest, context: Context
    ) -> pb.ListProcessesResponse:
        """See container.proto."""
        del context
        running = self._registry.running()
        if request.names:
            wanted = [self._registry.get(request.lxcpath, name) for name in request.names]
            for actor in wanted:
                actor.require_running()
        else:
            lxcpath = self._registry.lxcpath(request.lxcpath)
            wanted = [actor for actor in running if actor.lxcpath == lxcpath]
        found = await in_thread(
            lambda: processes.list_processes(
                self._house.trees, wanted, include_host=request.include_host, running=running
            )
        )
        return pb.ListProcessesResponse(processes=[convert.process(value) for value in found])

    @unary
    async def ListSockets(
        self, request: pb.ListSocketsRequest, context: Context
    ) -> pb.ListSocketsResponse:
        """See container.proto."""
        del context
        actor = self._registry.get(request.lxcpath, request.name)
        query = sockets.Query(self._house.trees, actor, socket_messages.kinds(request.kinds))
        return await in_thread(
            lambda: socket_messages.listing(query.answer(holders=request.with_holders))
        )

    # ---- device nodes

    @unary
    async def AddDeviceNode(
        self, request: pb.AddDeviceNodeRequest, context: Context
    ) -> pb.AddDeviceNodeResponse:
        """See container.proto."""
        del context

        async def work() -> None:
            actor = self._registry.get(request.lxcpath, request.name)
            async with actor.lock:
                await nodes.add(
                    self._house,
                    actor,
                    request.path,
                    request.container_path,
                    request.access,
                    validate_only=request.validate_only,
                )

        await self._replays.once(request, work)
        return pb.AddDeviceNodeResponse()

    @unary
    async def RemoveDeviceNode(
        self, request: pb.RemoveDeviceNodeRequest, context: Context
    ) -> pb.RemoveDeviceNodeResponse:
        """See container.proto."""
        del context

        async def work() -> None:
            actor = self._registry.get(request.lxcpath, request.name)
            async with actor.lock:
                await nodes.remove(
                    self._house,
                    actor,
                    request.container_path,
                    validate_only=request.validate_only,
                )

        await self._replays.once(request, work)
        return pb.RemoveDeviceNodeResponse()

    # ---- defining

    @stream
    async def CreateContainer(
        self, request: pb.CreateContainerRequest, context: Context
    ) -> AsyncIterator[pb.CreateContainerResponse]:
        """See container.proto."""
        del context
        text = requests.text(request.config_text)
        defines = convert.defines(request.define)
        yield pb.CreateContainerResponse(progress=f"making {request.name}")

        async def work() -> Container | Definition:
            return await self._registry.create(
                request.lxcpath,
                request.name,
                text,
                request.config_origin,
                defines,
                request.image,
                validate_only=request.validate_only,
            )

        made = await self._replays.once(request, work)
        if isinstance(made, Definition):
            message = convert.definition_only(request.name, made)
        else:
            message = await in_thread(convert.container, made, full=True)
        yield pb.CreateContainerResponse(container=message)

    @unary
    async def UpdateContainer(
        self, request: pb.UpdateContainerRequest, context: Context
    ) -> pb.Container:
        """See container.proto."""
        del context
        wanted = request.container
        paths = list(request.update_mask.paths)
        if any(path != "config_text" for path in paths):
            raise errors.InvalidArgument(f"cannot update {', '.join(paths)}", "INVALID_MASK")
        actor = self._registry.get(wanted.lxcpath, wanted.name)
        change = updating.Change(
            requests.text(wanted.config_text) if paths else None,
            tuple((one.key, tuple(one.values)) for one in request.changes),
            wanted.etag,
            saved=request.scope != pb.SCOPE_LIVE,
            live=request.scope in (pb.SCOPE_LIVE, pb.SCOPE_SAVED_AND_LIVE),
        )

        async def work() -> pb.Container:
            async with actor.lock:
                after, problems = await updating.update(
                    self._house, actor, change, validate_only=request.validate_only
                )
            if request.validate_only:
                return convert.definition_only(actor.name, after)
            answer = await in_thread(convert.container, actor, full=True)
            answer.problems.extend(convert.problem(one) for one in problems)
            return answer

        return await self._replays.once(request, work)

    @unary
    async def DeleteContainer(
        self, request: pb.DeleteContainerRequest, context: Context
    ) -> pb.DeleteContainerResponse:
        """See container.proto."""
        del context

        async def work() -> pb.DeleteContainerResponse:
            actor = self._registry.get(request.lxcpath, request.name)
            if request.force and not request.validate_only:
                actor.hurry()
            async with actor.lock:
                await actor.settled()
                if request.etag and request.etag != actor.definition().etag:
                    raise errors.Aborted(f"{actor.name} was changed meanwhile", "ETAG_MISMATCH")
                if actor.state is not State.STOPPED and not request.force:
                    raise errors.FailedPrecondition(
                        f"container {actor.name} is {actor.state.value}: stop it, or use force",
                        "CONTAINER_RUNNING",
                        container=actor.name,
                    )
                if request.validate_only:
                    return pb.DeleteContainerResponse(kept_rootfs=":".join(actor.kept_paths()))
                if actor.state is not State.STOPPED:
                    await actor.stop(None)
                if actor.deleted:
                    return pb.DeleteContainerResponse()
                return pb.DeleteContainerResponse(kept_rootfs=await actor.delete())

        return await self._replays.once(request, work)

    @unary
    async def RenameContainer(
        self, request: pb.RenameContainerRequest, context: Context
    ) -> pb.Container:
        """See container.proto."""
        del context

        async def work() -> pb.Container:
            actor = self._registry.get(request.lxcpath, request.name)
            async with actor.lock:
                renamed = await self._registry.rename(
                    actor, request.new_name, validate_only=request.validate_only
                )
            return await in_thread(convert.container, renamed, full=True)

        return await self._replays.once(request, work)

    # ---- running

    @unary
    async def StartContainer(
        self, request: pb.StartContainerRequest, context: Context
    ) -> pb.StartContainerResponse:
        """See container.proto."""
        del context
        start = starting.Starting(self._registry, self._side)
        return await self._replays.once(request, lambda: start.start(request))

    @unary
    async def StopContainer(
        self, request: pb.StopContainerRequest, context: Context
    ) -> pb.StopContainerResponse:
        """See container.proto."""
        del context

        async def work() -> pb.StopContainerResponse:
            actor = self._registry.get(request.lxcpath, request.name)
            # Whoever wants it killed does not wait behind one who waits for a clean shutdown.
            hurried = request.kill and not request.validate_only and actor.hurry()
            async with actor.lock:
                if request.validate_only:
                    actor.require_running()
                    return pb.StopContainerResponse()
                if hurried and actor.state is State.STOPPED:
                    return convert.stopped(Stopped("SIGKILL", killed=True, exit=actor.record.exit))
                seconds = (
                    None if request.kill else requests.seconds(request, "timeout", _STOP_SECONDS)
                )
                if not seconds and not request.no_kill:
                    seconds = None
                stopped = await actor.stop(seconds, no_kill=request.no_kill)
            return convert.stopped(stopped)

        return await self._replays.once(request, work)

    @unary
    async def RestartContainer(
        self, request: pb.RestartContainerRequest, context: Context
    ) -> pb.RestartContainerResponse:
        """See container.proto."""
        del context

        async def work() -> pb.RestartContainerResponse:
            if request.kill and request.no_kill:
                raise errors.InvalidArgument("one of kill and no_kill", "KILL_AND_NO_KILL")
            actor = self._registry.get(request.lxcpath, request.name)
            async with actor.lock:
                actor.require_running()
                asked, transient = actor.record.request, actor.record.transient_dir
                definition = actor.definition()
                if actor.defined and asked.defines:
                    definition = read_text(
                        definition.text, definition.origin, asked.defines, definition.settings
                    )
                # A restart must not stop what would not start again.
                actor.compile(definition, asked)
                if request.validate_only:
                    return pb.RestartContainerResponse()
                seconds = (
                    None if request.kill else requests.seconds(request, "timeout", _STOP_SECONDS)
                )
                if not request.no_kill:
                    stopped = await actor.stop(seconds or None)
                    started = await actor.start(definition, asked, transient_dir=transient)
                    return pb.RestartContainerResponse(
                        pid=started.child.pid,
                        generation=started.record.generation,
                        method=stopped.method,
                    )
                reboot = await rebooting.ask(actor)
            if seconds:
                await rebooting.done(actor, reboot, seconds)
            return pb.RestartContainerResponse(
                pid=actor.record.pid, generation=actor.record.generation, method=reboot.method
            )

        return await self._replays.once(request, work)

    @unary
    async def FreezeContainer(
        self, request: pb.FreezeContainerRequest, context: Context
    ) -> pb.FreezeContainerResponse:
        """See container.proto."""
        del context
        await self._locked(request, Container.require_running, freezing.freeze)
        return pb.FreezeContainerResponse()

    @unary
    async def ThawContainer(
        self, request: pb.ThawContainerRequest, context: Context
    ) -> pb.ThawContainerResponse:
        """See container.proto."""
        del context
        await self._locked(request, Container.require_frozen, freezing.thaw)
        return pb.ThawContainerResponse()

    async def _locked(
        self,
        request: Any,  # noqa: ANN401 - whichever has name, lxcpath, validate_only
        check: Callable[[Container], object],
        act: Callable[[Container], Awaitable[None]],
    ) -> None:
        async def work() -> None:
            actor = self._registry.get(request.lxcpath, request.name)
            async with actor.lock:
                if request.validate_only:
                    check(actor)
                else:
                    await act(actor)

        await self._replays.once(request, work)

    @unary
    async def SignalContainer(
        self, request: pb.SignalContainerRequest, context: Context
    ) -> pb.SignalContainerResponse:
        """See container.proto."""
        del context
        if not 0 < request.signal <= 64:  # noqa: PLR2004
            raise errors.InvalidArgument(f"no signal has number {request.signal}", "INVALID_SIGNAL")

        async def work() -> pb.SignalContainerResponse:
            actor = self._registry.get(request.lxcpath, request.name)
            actor.require_running()
            if not request.validate_only:
                await freezing.send_signal(actor, request.signal)
            return pb.SignalContainerResponse()

        return await self._replays.once(request, work)

    @unary
    async def WaitContainer(
        self, request: pb.WaitContainerRequest, context: Context
    ) -> pb.WaitContainerResponse:
        """See container.proto."""
        del context
        return await waiting.wait(self._registry, request)

    @unary
    async def PlanContainer(
        self, request: pb.PlanContainerRequest, context: Context
    ) -> pb.PlanContainerResponse:
        """See container.proto."""
        del context
        defines = convert.defines(request.define)
        wanted = Request(
            command=requests.command(request.command),
            application=bool(request.command),
            defines=defines,
        )
        if request.config_text:
            definition = read_text(
                requests.text(request.config_text), request.config_origin or "request", defines
            )
            lxcpath = self._registry.lxcpath(request.lxcpath)
            actor = Container(self._house, lxcpath, request.name or "plan", lambda _: None)
        else:
            actor = self._registry.get(request.lxcpath, request.name)
            definition = actor.definition()
            if defines:
                definition = read_text(
                    definition.text, definition.origin, defines, definition.settings
                )
        plan = actor.compile(definition, wanted)
        return pb.PlanContainerResponse(
            steps=convert.steps(plan, definition.limits, actor.failure),
            problems=[convert.problem(value) for value in definition.problems],
        )
