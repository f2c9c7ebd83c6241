"""`start`."""

from __future__ import annotations

import argparse

from lxcctl import arguments
from lxcctl.commands.several import each, note_problems, report, show_replies
from lxcctl.errors import FAILED, NO_DAEMON, CallError, UsageError
from lxcctl.wire import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcctl.signals import SignalThread
    from lxcd.v1.container_pb2 import StartContainerResponse


def _start_options(parser: Parser) -> None:
    parser.command_style = "dashes"
    arguments.add_names(parser)
    parser.add_argument(
        "--wait",
        metavar="WHAT",
        type=_wait_for,
        default="running",
        help="until it is `running`: init has been exec'ed (the default); or has a `network`: an"
        " address to talk to others with, and a route to them",
    )
    parser.add_argument("--console", action="store_true", help="stay at its console until it stops")
    arguments.add_define(parser)
    parser.add_argument(
        "--share-net",
        metavar="NAME|PID",
        help="join the network of a running container, or of a process",
    )
    parser.add_argument("--ephemeral", action="store_true", help="delete it when it stops")
    parser.add_argument(
        "--system",
        action="store_true",
        help="exec CMD as init itself, as lxc-start does (default: below lxcd's own PID 1)",
    )


def _wait_for(text: str) -> str:
    if text == "booted":
        raise argparse.ArgumentTypeError("booted is not yet available, only running and network")
    if text not in {"running", "network"}:
        raise argparse.ArgumentTypeError(f"not running, booted or network: {text!r}")
    return text


def _start(session: Session, args: Namespace) -> int:
    # A `running` container is what StartContainer returns.
    from lxcd.v1.container_pb2 import StartContainerRequest, StartContainerResponse

    replies: list[tuple[str, StartContainerResponse]] = []

    def begin(name: str) -> Callable[[], StartContainerResponse]:
        request = StartContainerRequest(
            name=name,
            lxcpath=session.lxcpath,
            command=args.command or (),
            system=args.system,
            ephemeral=args.ephemeral,
        )
        for key, value in args.define:
            request.define.add(key=key, value=value)
        if args.share_net:
            request.define.add(key="lxc.namespace.share.net", value=args.share_net)
        return session.channel.begin(
            "ContainerService/StartContainer", request, StartContainerResponse
        )

    def done(name: str, reply: StartContainerResponse) -> None:
        note_problems(reply.problems, name)
        replies.append((name, reply))

    if not args.console:
        status = each(args.names, begin, done)
        if args.wait == "network":
            status = max([status, *(_network(session, *reply) for reply in replies)])
        show_replies(session, args.names, replies)
        return status
    if args.wait == "network":
        raise UsageError("start: --console does not wait for a network")
    if len(args.names) != 1:
        raise UsageError("start: --console is for one container")
    from lxcctl import foreground

    with foreground.signals() as signals:
        status = each(args.names, begin, done)
        return _watch(session, args.names[0], replies[0][1], signals) if replies else status


def _network(session: Session, name: str, started: StartContainerResponse) -> int:
    """Wait for it; its end is a failure."""
    from lxcctl import output
    from lxcctl.commands import wait
    from lxcd.v1.container_pb2 import WaitContainerRequest

    request = WaitContainerRequest(
        name=name,
        lxcpath=session.lxcpath,
        condition=wait.NETWORK,  # type: ignore[arg-type]  # the stubs want the enum
        generation=started.generation,
    )
    try:
        if wait.until(session, request, None).reached:
            return 0
    except CallError as error:
        if error.status == NO_DAEMON:
            raise
        report(error, name)
        return error.status
    output.note(f"{name}: {wait.ENDED}")
    return FAILED


def _watch(
    session: Session, name: str, started: StartContainerResponse, signals: SignalThread
) -> int:
    """Be at its console from the first byte on; its exit status is ours."""
    from lxcctl.commands.console import Viewer
    from lxcctl.keys import DEFAULT, parse

    viewer = Viewer(session, name, "console")
    end = viewer.watch(parse(DEFAULT), signals, generation=started.generation)
    return 0 if end is None else exit_status(end)


VERBS = {"start": (_start_options, _start)}
