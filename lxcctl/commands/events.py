"""`events`: what happened, and what happens."""

from __future__ import annotations

import argparse
import sys
import time

from lxcctl import arguments, output
from lxcctl.channel import LOOK_SECONDS, Patience
from lxcctl.errors import CallError
from lxcctl.wire import exit_words, moment, rfc3339, set_timestamp, state_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.event_pb2 import Event

_PAGE = 1000


def _events_options(parser: Parser) -> None:
    arguments.add_names(parser, "*")
    parser.add_argument(
        "--since", metavar="S", type=_moment, help="10m, 2h, or a time such as 2026-01-31T12:00:00Z"
    )
    parser.add_argument(
        "--after", metavar="N", type=arguments.count, default=0, help="after this number"
    )
    parser.add_argument(
        "--follow", action="store_true", help="go on; alone: only what happens from now on"
    )
    parser.add_argument(
        "--type",
        dest="types",
        metavar="T",
        action="append",
        default=[],
        help="container.exited, container.* ...",
    )
    parser.add_argument(
        "--exclude", metavar="T", action="append", default=[], help="not of these types"
    )


def _moment(text: str) -> int:
    try:
        return moment(text, time.time_ns())
    except ValueError:
        message = f"not a time: {text!r} (try 10m, 2h, 2026-01-31T12:00:00Z)"
        raise argparse.ArgumentTypeError(message) from None


def _events(session: Session, args: Namespace) -> int:
    from lxcd.v1.event_pb2 import Event

    show = _printer(session.form, output.csv_header(Event.DESCRIPTOR))
    if args.follow:
        _follow(session, args, show)
    else:
        _history(session, args, show)
    return 0


def _history(session: Session, args: Namespace, show: Callable[[Event], None]) -> None:
    from lxcd.v1.event_pb2 import ListEventsRequest, ListEventsResponse

    request = ListEventsRequest(
        after_sequence=args.after,
        containers=args.names,
        types=args.types,
        exclude_types=args.exclude,
        lxcpaths=[session.lxcpath] if session.lxcpath else [],
        page_size=_PAGE,
    )
    if args.since is not None:
        set_timestamp(request.since, args.since)
    while True:
        page = session.channel.call(
            "EventService/ListEvents", request, ListEventsResponse, LOOK_SECONDS
        )
        for event in page.events:
            show(event)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _follow(session: Session, args: Namespace, show: Callable[[Event], None]) -> None:
    from lxcd.v1.event_pb2 import StreamEventsRequest, StreamEventsResponse
    from lxcd.v1.host_pb2 import GetHostRequest, GetHostResponse

    request = StreamEventsRequest(
        after_sequence=args.after,
        containers=args.names,
        types=args.types,
        exclude_types=args.exclude,
        lxcpaths=[session.lxcpath] if session.lxcpath else [],
    )
    if args.since is not None:
        set_timestamp(request.since, args.since)
    # A daemon that is not there at all is told at once; one that goes away later is waited for.
    session.channel.call("HostService/GetHost", GetHostRequest(), GetHostResponse, LOOK_SECONDS)
    begun = time.time_ns()
    patience = Patience()
    while True:
        try:
            for message in session.channel.stream(
                "EventService/StreamEvents", request, StreamEventsResponse
            ):
                patience.reset()
                if message.lost:
                    output.note(f"{message.lost} events are lost")
                if message.HasField("event"):
                    show(message.event)
                    sys.stdout.flush()
                    request.after_sequence = message.event.sequence
        except CallError as error:
            if not error.is_lost_connection:
                raise
        else:
            return
        if not (request.after_sequence or request.HasField("since")):
            # Otherwise "from now on" would begin anew and miss what happened meanwhile.
            set_timestamp(request.since, begun)
        patience.wait()
        session.channel.close()


def _printer(form: str, header: list[str]) -> Callable[[Event], None]:
    if form == "json":
        return lambda event: output.line(output.to_json(output.plain(event)))
    if form == "yaml":
        return lambda event: output.document("yaml", [output.plain(event)])
    if form == "csv":
        output.line(output.csv_head(header))
        return lambda event: output.line(output.csv_line(header, output.plain(event)))
    return lambda event: output.line(output.harmless(one_line(event)))


def one_line(event: Event) -> str:
    """`TIME SEQUENCE TYPE NAME`, then what the fields know and what the message says."""
    words = [rfc3339(event.time), str(event.sequence), event.type, event.container or "-"]
    known: list[str] = []
    if event.state:
        known.append(state_name(event.state))
    if event.HasField("exit"):
        known.append(exit_words(event.exit))
    if event.message:
        known.append(event.message)
    return " ".join(words + known)


VERBS = {"events": (_events_options, _events)}
