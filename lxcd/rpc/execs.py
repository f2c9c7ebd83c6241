"""ExecService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lxcd import errors
from lxcd.console.session import INPUT_WINDOW_BYTES
from lxcd.rpc import attaching, convert, requests
from lxcd.rpc.status import Context, duplex, unary
from lxcd.supervisor import entering, execs
from lxcd.supervisor.exec import TERMINAL
from lxcd.supervisor.ports import OUTPUT
from lxcd.v1 import exec_pb2 as pb
from lxcd.v1 import exec_pb2_grpc, stream_pb2

if TYPE_CHECKING:
    from lxcd.rpc.replay import Replays
    from lxcd.rpc.side import Side
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.exec import Exec
    from lxcd.supervisor.house import House
    from lxcd.supervisor.registry import Registry

_PAGE = 1000
_ROWS, _COLUMNS = 24, 80
_POLICIES = {
    pb.DISCONNECT_POLICY_UNSPECIFIED: False,
    pb.DISCONNECT_POLICY_KEEP: False,
    pb.DISCONNECT_POLICY_KILL: True,
}
_PRIVILEGES = {
    pb.PRIVILEGE_CGROUP: entering.Elevation.CGROUP,
    pb.PRIVILEGE_CAPABILITIES: entering.Elevation.CAPABILITIES,
    pb.PRIVILEGE_SECURITY: entering.Elevation.SECURITY,
}


class Execs(exec_pb2_grpc.ExecServiceServicer):
    """Commands that join a container."""

    def __init__(
        self,
        house: House,
        registry: Registry,
        known: execs.Execs,
        replays: Replays,
        side: Side,
    ) -> None:
        self._house = house
        self._registry = registry
        self._known = known
        self._replays = replays
        self._side = side

    @unary
    async def CreateExec(self, request: pb.CreateExecRequest, context: Context) -> pb.Exec:
        """See exec.proto."""
        del context
        return await self._replays.once(request, lambda: self._create(request))

    async def _create(self, request: pb.CreateExecRequest) -> pb.Exec:
        if request.validate_only:
            actor, command, _ = self._asked(request)
            await entering.trial(self._house, actor, command)
            return pb.Exec(container=actor.name, lxcpath=actor.lxcpath, command=request.command)
        # Before anything is refused: whoever reads from what was handed over would wait for its end
        # until that is too old.
        with self._side.redeem(request.descriptors_token) as given:
            actor, command, wanted = self._asked(request)
            if request.tty and given:
                raise errors.InvalidArgument(
                    "a terminal and descriptors of the caller's", "DESCRIPTORS_WITH_TTY"
                )
            made = await self._known.create(actor, command, wanted, given)
        return _message(made)

    def _asked(
        self, request: pb.CreateExecRequest
    ) -> tuple[Container, entering.Command, execs.Wanted]:
        actor = self._registry.get(request.lxcpath, request.container)
        command = _command(request, stdin=request.stdin, tty=request.tty)
        if request.on_disconnect not in _POLICIES:
            raise errors.InvalidArgument(
                f"no such policy: {request.on_disconnect}", "INVALID_POLICY"
            )
        wanted = execs.Wanted(
            kill_on_disconnect=_POLICIES[request.on_disconnect],
            delete_on_exit=request.delete_on_exit,
            lossless=request.lossless,
        )
        return actor, command, wanted

    @unary
    async def RunExec(self, request: pb.RunExecRequest, context: Context) -> pb.RunExecResponse:
        """See exec.proto."""
        del context
        if request.request_id:
            answer = await self._replays.once(request, lambda: self._run(request))
            self._replays.forget_soon(request.request_id)
            return answer
        # Whoever does not wait any more has it killed.
        return await self._run(request)

    async def _run(self, request: pb.RunExecRequest) -> pb.RunExecResponse:
        actor = self._registry.get(request.lxcpath, request.container)
        if not request.command:
            raise errors.InvalidArgument("no command was given", "INVALID_COMMAND")
        command = _command(request)
        if request.validate_only:
            await entering.trial(self._house, actor, command)
            return pb.RunExecResponse()
        result = await execs.run(
            self._house,
            actor,
            command,
            request.stdin,
            limit=request.max_output_bytes or execs.DEFAULT_OUTPUT_BYTES,
            timeout_seconds=requests.seconds(request, "timeout", None),
        )
        return pb.RunExecResponse(
            stdout=result.stdout,
            stderr=result.stderr,
            exit=convert.exit_(result.exit),
            timed_out=result.timed_out,
            output_truncated=result.output_truncated,
            pid=result.pid,
        )

    @duplex
    async def AttachExec(self, context: Context) -> None:
        """See exec.proto."""
        start: pb.AttachExecStart = await attaching.first_frame(context)
        found = self._known.get(start.id)
        session = found.port.attach(
            attaching.role_of(start.role),
            attaching.start_of(dict(start.offsets), live=start.live_only),
            window=attaching.window_of(start),
            label=attaching.label_of(start),
            steal=start.steal,
            waits=start.lossless and found.record.lossless,
        )
        try:
            await context.write(
                pb.AttachExecResponse(
                    started=pb.AttachExecStarted(
                        session_id=session.id,
                        exec=_message(found),
                        input_offset=found.port.input_offset,
                        input_window_bytes=INPUT_WINDOW_BYTES,
                    )
                )
            )
        except BaseException:
            found.port.leave(session)
            raise

        async def end() -> pb.AttachExecEnd:
            message = pb.AttachExecEnd(reason=attaching.end_of(session))
            if message.reason == stream_pb2.SESSION_END_STOPPED:
                message.exit.CopyFrom(convert.exit_(await found.ended()))
            return message

        def other(kind: str, request: Any) -> None:  # noqa: ANN401
            if kind != "signal":
                raise errors.InvalidArgument(f"no such frame: {kind}", "FRAME_OUT_OF_ORDER")
            if session is not found.port.controller:
                raise errors.PermissionDenied("a viewer may not signal", "NOT_THE_CONTROLLER")
            if found.running:
                found.signal(request.signal)

        await attaching.Attachment(context, session, pb.AttachExecResponse, other).frames(end)

    @unary
    async def GetExec(self, request: pb.GetExecRequest, context: Context) -> pb.Exec:
        """See exec.proto."""
        del context
        return _message(self._known.get(request.id))

    @unary
    async def ListExecs(
        self, request: pb.ListExecsRequest, context: Context
    ) -> pb.ListExecsResponse:
        """See exec.proto."""
        del context
        lxcpath = self._registry.lxcpath(request.lxcpath)
        found = sorted(self._known.find(lxcpath, request.container), key=_place)
        if request.page_token:
            last = requests.read_token(request.page_token)
            found = [each for each in found if _place(each) > last]
        size = request.page_size if request.page_size > 0 else _PAGE
        page = found[:size]
        token = requests.write_token(_place(page[-1])) if len(found) > size else ""
        return pb.ListExecsResponse(execs=map(_message, page), next_page_token=token)

    @unary
    async def WaitExec(self, request: pb.WaitExecRequest, context: Context) -> pb.Exec:
        """See exec.proto."""
        del context
        found = self._known.get(request.id)
        await requests.in_time(found.ended(), requests.seconds(request, "timeout", None))
        return _message(found)

    @unary
    async def SignalExec(
        self, request: pb.SignalExecRequest, context: Context
    ) -> pb.SignalExecResponse:
        """See exec.proto."""
        del context

        async def signal() -> pb.SignalExecResponse:
            self._known.get(request.id).signal(request.signal, trial=request.validate_only)
            return pb.SignalExecResponse()

        return await self._replays.once(request, signal)

    @unary
    async def ResizeExec(
        self, request: pb.ResizeExecRequest, context: Context
    ) -> pb.ResizeExecResponse:
        """See exec.proto."""
        del context

        async def resize() -> pb.ResizeExecResponse:
            port, size = self._known.get(request.id).port, request.size
            port.resize(size.rows, size.columns, trial=request.validate_only)
            return pb.ResizeExecResponse()

        return await self._replays.once(request, resize)

    @unary
    async def DeleteExec(
        self, request: pb.DeleteExecRequest, context: Context
    ) -> pb.DeleteExecResponse:
        """See exec.proto."""
        del context

        async def delete() -> pb.DeleteExecResponse:
            found = self._known.get(request.id)
            await found.delete(force=request.force, trial=request.validate_only)
            return pb.DeleteExecResponse()

        return await self._replays.once(request, delete)


def _command(
    request: pb.CreateExecRequest | pb.RunExecRequest, *, stdin: bool = False, tty: bool = False
) -> entering.Command:
    size = None
    if tty and isinstance(request, pb.CreateExecRequest):
        size = (_ROWS, _COLUMNS)
        if request.HasField("size"):
            size = (request.size.rows, request.size.columns)
    unknown = [value for value in request.elevate if value not in _PRIVILEGES]
    if unknown:
        raise errors.InvalidArgument(f"no such privilege: {unknown[0]}", "INVALID_PRIVILEGE")
    return entering.Command(
        argv=tuple(request.command),
        environment=tuple(request.env),
        user=request.user,
        cwd=request.cwd,
        umask=request.umask if request.HasField("umask") else 0o022,
        groups=tuple(request.groups) if request.groups else None,
        namespaces=tuple(request.namespaces),
        elevate=frozenset(_PRIVILEGES[value] for value in request.elevate),
        size=size,
        stdin=stdin,
    )


def _place(found: Exec) -> str:
    """Where it stands in a list, whatever else comes and goes meanwhile: by its time."""
    return f"{found.record.created_ns:020} {found.id}"


def _message(found: Exec) -> pb.Exec:
    record, port = found.record, found.port
    terminal = TERMINAL if record.tty else OUTPUT
    message = pb.Exec(
        id=record.id,
        container=convert.text_of(record.container),
        lxcpath=convert.text_of(record.lxcpath),
        generation=record.generation,
        command=[convert.text_of(word) for word in record.command],
        tty=record.tty,
        pid=found.child.pid if found.running else 0,
        create_time=convert.timestamp(record.created_ns),
        streams=[convert.stream_state(stream) for stream in port.outputs],
        sessions=[
            attaching.session_message(session, terminal) for session in port.sessions.values()
        ],
        size=attaching.size(*port.size) if record.tty else None,
        user=record.user,
    )
    if record.exit is not None:
        message.exit.CopyFrom(convert.exit_(record.exit))
    return message
