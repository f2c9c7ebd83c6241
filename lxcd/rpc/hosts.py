"""HostService."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from lxcd import __version__
from lxcd.rpc import convert
from lxcd.rpc.status import Context, unary
from lxcd.supervisor import host
from lxcd.threads import in_thread
from lxcd.v1 import host_pb2 as pb
from lxcd.v1 import host_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lxcd.rpc.replay import Replays
    from lxcd.supervisor.house import House
    from lxcd.supervisor.registry import Registry


class Hosts(host_pb2_grpc.HostServiceServicer):
    """The host, and the end of the daemon."""

    def __init__(
        self,
        house: House,
        registry: Registry,
        replays: Replays,
        drain: Callable[[bool], Awaitable[tuple[list[str], list[str]]]],
        default_config: str,
    ) -> None:
        self._house = house
        self._registry = registry
        self._replays = replays
        self._drain = drain
        self._default_config = default_config
        self._started_ns = time.time_ns()

    @unary
    async def GetHost(self, request: pb.GetHostRequest, context: Context) -> pb.GetHostResponse:
        """See host.proto."""
        del request, context
        found = await in_thread(host.probe)
        running = self._registry.running()
        known = {*await self._registry.containers(""), *running}
        paths = self._house.paths
        uname = os.uname()
        return pb.GetHostResponse(
            version=__version__,
            kernel_release=uname.release,
            architecture=uname.machine,
            hostname=socket.gethostname(),
            lxcpath=paths.lxcpath,
            runtime_dir=paths.runtime_dir,
            state_dir=paths.state_dir,
            pid=os.getpid(),
            keeper_pid=self._house.keeper.pid,
            start_time=convert.timestamp(self._started_ns),
            cgroup_layout=self._house.trees.layout,
            features=[
                pb.KernelFeature(
                    group=feature.group,
                    name=feature.name,
                    available=feature.available,
                    required=feature.required,
                    needed_by=feature.needed_by,
                    detail=feature.detail,
                )
                for feature in found
            ],
            missing_capabilities=host.missing_capabilities(),
            containers=len(known),
            running=len(running),
            default_config=self._default_config,
        )

    @unary
    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        """See host.proto."""
        del context
        if request.validate_only:
            return pb.DrainResponse(stopped=[one.name for one in self._registry.unstopped()])

        async def work() -> pb.DrainResponse:
            stopped, killed = await self._drain(request.leave)
            return pb.DrainResponse(stopped=stopped, killed=killed)

        return await self._replays.once(request, work)
