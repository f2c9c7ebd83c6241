"""`logs`: what a container wrote; byte for byte where no terminal is to obey it."""

from __future__ import annotations

import os

from lxcctl import arguments, output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.errors import UsageError
from lxcctl.wire import moment, set_timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcctl.escapes import Harmless
    from lxcd.v1.console_pb2 import ReadConsoleLogResponse

_STDOUT = 1


def _logs_options(parser: Parser) -> None:
    arguments.add_name(parser)
    parser.add_argument("--follow", action="store_true", help="go on until the container stops")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tail", metavar="N", type=arguments.count, help="only the last N lines")
    size.add_argument("--since", metavar="T", help="so long ago (10m), or a time (RFC 3339)")
    size.add_argument("--bytes", metavar="N", type=arguments.count, help="only the last N bytes")
    parser.add_argument(
        "--stream",
        metavar="S",
        default="",
        help="console (the default), tty1 ..., stdout, stderr, output",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="every byte also to a terminal, which obeys what the container says",
    )


def _logs(session: Session, args: Namespace) -> int:
    from lxcctl.commands.follow import read_log
    from lxcd.v1.console_pb2 import ReadConsoleLogRequest
    from lxcd.v1.container_pb2 import Container, GetContainerRequest

    request = ReadConsoleLogRequest(
        name=args.name, lxcpath=session.lxcpath, stream=args.stream, follow=args.follow
    )
    if args.tail is not None:
        request.tail_lines = args.tail
    elif args.bytes is not None:
        request.tail_bytes = args.bytes
    elif args.since is not None:
        set_timestamp(request.since, _moment(args.since))
    if args.follow:
        # Which life is followed, in case the daemon goes away before the first byte; and a daemon
        # that is not there at all is told at once rather than waited for.
        look = GetContainerRequest(name=args.name, lxcpath=session.lxcpath)
        container = session.channel.call(
            "ContainerService/GetContainer", look, Container, LOOK_SECONDS
        )
        request.generation = container.generation
    show = _Shown(harmless=not args.raw and os.isatty(_STDOUT))
    try:
        read_log(session, request, show)
    finally:
        show.end()
    return 0


def _moment(text: str) -> int:
    import time

    try:
        return moment(text, time.time_ns())
    except ValueError:
        raise UsageError(f"logs: not a time: {text!r} (try 10m, or 2026-01-31T12:00:00)") from None


class _Shown:
    """Writes what is read to stdout. `harmless`: with nothing that a terminal would obey."""

    def __init__(self, *, harmless: bool) -> None:
        self._harmless = harmless
        self._streams: dict[str, Harmless] = {}

    def __call__(self, message: ReadConsoleLogResponse) -> None:
        """The next message of any of its streams."""
        if message.gap_bytes:
            self.end()
            output.note(f"{message.gap_bytes} bytes are lost")
        data = message.data
        if self._harmless:
            data = self._of(message.stream).feed(data)
        output.write_stdout(data)

    def _of(self, stream: str) -> Harmless:
        from lxcctl.escapes import Harmless

        if stream not in self._streams:
            self._streams[stream] = Harmless()
        return self._streams[stream]

    def end(self) -> None:
        """Nothing follows what was written until now."""
        for stream in self._streams.values():
            output.write_stdout(stream.end())


VERBS = {"logs": (_logs_options, _logs)}
