"""`stop`, `restart`, `freeze`, `thaw`, `signal`, `delete`, `rename`."""

from __future__ import annotations

from lxcctl import arguments, output
from lxcctl.channel import GRACE_SECONDS
from lxcctl.commands.several import each, show_replies
from lxcctl.wire import set_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1 import container_pb2

# What the daemon waits for a shutdown when nobody says so.
_STOP_SECONDS = 60.0


def _deadline(timeout: float | None) -> float:
    return (_STOP_SECONDS if timeout is None else timeout) + GRACE_SECONDS


def _add_timeout(parser: Parser) -> None:
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=arguments.seconds,
        help="for a clean shutdown; 60 if not given",
    )


def _stop_options(parser: Parser) -> None:
    arguments.add_names(parser)
    _add_timeout(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--kill", action="store_true", help="SIGKILL at once")
    how.add_argument("--no-kill", action="store_true", help="fail rather than kill")


def _stop(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import StopContainerRequest, StopContainerResponse

    replies: list[tuple[str, StopContainerResponse]] = []

    def begin(name: str) -> Callable[[], StopContainerResponse]:
        request = StopContainerRequest(
            name=name, lxcpath=session.lxcpath, kill=args.kill, no_kill=args.no_kill
        )
        if args.timeout is not None:
            set_duration(request.timeout, args.timeout)
        return session.channel.begin(
            "ContainerService/StopContainer",
            request,
            StopContainerResponse,
            _deadline(args.timeout),
        )

    def done(name: str, reply: StopContainerResponse) -> None:
        _note_method(name, reply.method)
        replies.append((name, reply))

    status = each(args.names, begin, done)
    show_replies(session, args.names, replies)
    return status


def _note_method(name: str, method: str) -> None:
    import sys

    if method:
        sys.stderr.write(f"{output.harmless(name)}: {output.harmless(method)}\n")


def _restart_options(parser: Parser) -> None:
    arguments.add_names(parser)
    _add_timeout(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--kill", action="store_true", help="SIGKILL at once")
    how.add_argument(
        "--no-kill", action="store_true", help="have init reboot by itself; fail rather than kill"
    )


def _restart(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import RestartContainerRequest, RestartContainerResponse

    replies: list[tuple[str, RestartContainerResponse]] = []

    def begin(name: str) -> Callable[[], RestartContainerResponse]:
        request = RestartContainerRequest(
            name=name, lxcpath=session.lxcpath, kill=args.kill, no_kill=args.no_kill
        )
        if args.timeout is not None:
            set_duration(request.timeout, args.timeout)
        # No deadline: the second half is a start.
        return session.channel.begin(
            "ContainerService/RestartContainer", request, RestartContainerResponse
        )

    def done(name: str, reply: RestartContainerResponse) -> None:
        _note_method(name, reply.method)
        replies.append((name, reply))

    status = each(args.names, begin, done)
    show_replies(session, args.names, replies)
    return status


def _freeze(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import FreezeContainerRequest, FreezeContainerResponse

    def begin(name: str) -> Callable[[], FreezeContainerResponse]:
        request = FreezeContainerRequest(name=name, lxcpath=session.lxcpath)
        return session.channel.begin(
            "ContainerService/FreezeContainer", request, FreezeContainerResponse
        )

    return each(args.names, begin, _say_nothing)


def _thaw(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import ThawContainerRequest, ThawContainerResponse

    def begin(name: str) -> Callable[[], ThawContainerResponse]:
        request = ThawContainerRequest(name=name, lxcpath=session.lxcpath)
        return session.channel.begin(
            "ContainerService/ThawContainer", request, ThawContainerResponse
        )

    return each(args.names, begin, _say_nothing)


def _say_nothing(_name: str, _reply: object) -> None:
    pass


def _signal_options(parser: Parser) -> None:
    arguments.add_name(parser)
    parser.add_argument(
        "signal",
        metavar="SIGNAL",
        type=arguments.signal_number,
        help="TERM, SIGTERM, 15, RTMIN+3",
    )


def _signal(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import SignalContainerRequest, SignalContainerResponse

    request = SignalContainerRequest(name=args.name, lxcpath=session.lxcpath, signal=args.signal)
    session.channel.call(
        "ContainerService/SignalContainer", request, SignalContainerResponse, GRACE_SECONDS
    )
    return 0


def _delete_options(parser: Parser) -> None:
    arguments.add_names(parser)
    parser.add_argument("--force", action="store_true", help="kill it first")


def _delete(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import DeleteContainerRequest, DeleteContainerResponse

    replies: list[tuple[str, DeleteContainerResponse]] = []

    def begin(name: str) -> Callable[[], DeleteContainerResponse]:
        request = DeleteContainerRequest(name=name, lxcpath=session.lxcpath, force=args.force)
        return session.channel.begin(
            "ContainerService/DeleteContainer", request, DeleteContainerResponse
        )

    def done(name: str, reply: DeleteContainerResponse) -> None:
        if reply.kept_rootfs:
            output.note(f"{name}: left the root file system at {reply.kept_rootfs} alone")
        replies.append((name, reply))

    status = each(args.names, begin, done)
    show_replies(session, args.names, replies)
    return status


def _rename_options(parser: Parser) -> None:
    arguments.add_name(parser)
    parser.add_argument("new_name", metavar="NEW", help="its new name")


def _rename(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import Container, RenameContainerRequest

    request = RenameContainerRequest(
        name=args.name, lxcpath=session.lxcpath, new_name=args.new_name
    )
    container: container_pb2.Container = session.channel.call(
        "ContainerService/RenameContainer", request, Container
    )
    if session.form != "table":
        header = output.csv_header(Container.DESCRIPTOR)
        output.records(session.form, header, [output.plain(container)], single=True)
    return 0


VERBS = {
    "stop": (_stop_options, _stop),
    "restart": (_restart_options, _restart),
    "freeze": (arguments.add_names, _freeze),
    "thaw": (arguments.add_names, _thaw),
    "signal": (_signal_options, _signal),
    "delete": (_delete_options, _delete),
    "rename": (_rename_options, _rename),
}
