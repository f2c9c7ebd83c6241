"""`wait`: for a state, for the end of a generation, or for a network."""

from __future__ import annotations

import argparse

from lxcctl import arguments, output
from lxcctl.channel import GRACE_SECONDS, LOOK_SECONDS, Patience
from lxcctl.errors import FAILED, CallError
from lxcctl.wire import set_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import WaitContainerRequest, WaitContainerResponse

# Of `Condition` (a test compares).
NETWORK = 1
ENDED = "it has ended before it had an address and a route"
_STOPPED = arguments.STATES.index("STOPPED")


def _wait_options(parser: Parser) -> None:
    arguments.add_name(parser)
    parser.add_argument(
        "--for",
        dest="goal",
        metavar="WHAT",
        type=_goal,
        required=True,
        help="states with | or , between them, or `exit`, or `network`: an address to talk to"
        " others with and a route to them",
    )
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=arguments.seconds,
        help="give up after this time, with exit status 1; 0 only looks",
    )


def _goal(text: str) -> tuple[list[int], int]:
    """States and condition; neither for an exit."""
    if text == "exit":
        return [], 0
    if text == "network":
        return [], NETWORK
    if text == "booted":
        raise argparse.ArgumentTypeError("booted is not yet available")
    return arguments.states(text), 0


def _wait(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import (
        Container,
        GetContainerRequest,
        WaitContainerRequest,
        WaitContainerResponse,
    )

    look = GetContainerRequest(name=args.name, lxcpath=session.lxcpath)
    container = session.channel.call("ContainerService/GetContainer", look, Container, LOOK_SECONDS)
    states, condition = args.goal
    request = WaitContainerRequest(
        name=args.name, lxcpath=session.lxcpath, states=states, condition=condition
    )
    if not states and container.state != _STOPPED:
        # So that an end is found also when the daemon is restarted while we wait.
        request.generation = container.generation
    reply = until(session, request, args.timeout)
    if session.form != "table":
        header = ["name", *output.csv_header(WaitContainerResponse.DESCRIPTOR)]
        row = {"name": args.name, **output.plain(reply)}
        output.records(session.form, header, [row], single=True)
    if condition and not reply.reached and reply.HasField("exit"):
        output.note(f"{args.name}: {ENDED}")
    return 0 if reply.reached else FAILED


def until(
    session: Session, request: WaitContainerRequest, span: float | None
) -> WaitContainerResponse:
    """Wait, also across restarts of the daemon."""
    import time

    from lxcd.v1.container_pb2 import WaitContainerResponse

    patience = Patience()
    end = None if span is None else time.monotonic() + span
    while True:
        left = None
        if end is not None:
            left = max(0.0, end - time.monotonic())
            set_duration(request.timeout, left)
        try:
            return session.channel.call(
                "ContainerService/WaitContainer",
                request,
                WaitContainerResponse,
                None if left is None else left + GRACE_SECONDS,
            )
        except CallError as error:
            if not error.is_lost_connection or left == 0:
                raise
        patience.wait(at_most=left)
        session.channel.close()


VERBS = {"wait": (_wait_options, _wait)}
