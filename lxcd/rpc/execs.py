"""ExecService."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxcd.rpc import convert, requests
from lxcd.rpc.status import Context, unary
from lxcd.supervisor import execs
from lxcd.v1 import exec_pb2 as pb
from lxcd.v1 import exec_pb2_grpc

if TYPE_CHECKING:
    from lxcd.supervisor.house import House
    from lxcd.supervisor.registry import Registry


class Execs(exec_pb2_grpc.ExecServiceServicer):
    """Commands that join a container."""

    def __init__(self, house: House, registry: Registry) -> None:
        self._house = house
        self._registry = registry

    @unary
    async def RunExec(self, request: pb.RunExecRequest, context: Context) -> pb.RunExecResponse:
        """See exec.proto."""
        del context
        actor = self._registry.get(request.lxcpath, request.container)
        command = execs.Command(
            argv=tuple(request.command),
            environment=tuple(request.env),
            user=request.user,
            cwd=request.cwd,
            stdin=request.stdin,
            max_output_bytes=request.max_output_bytes or execs.DEFAULT_OUTPUT_BYTES,
            timeout_seconds=requests.seconds(request, "timeout", None),
        )
        result = await execs.run(self._house, actor, command)
        return pb.RunExecResponse(
            stdout=result.stdout,
            stderr=result.stderr,
            exit=convert.exit_(result.exit),
            timed_out=result.timed_out,
            output_truncated=result.output_truncated,
            pid=result.pid,
        )
