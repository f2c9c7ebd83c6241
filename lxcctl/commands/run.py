"""`run`: a command as an application container, in the foreground."""

from __future__ import annotations

import os

from lxcctl import arguments, output
from lxcctl.channel import GRACE_SECONDS, Channel
from lxcctl.errors import CallError, ClientError, UsageError
from lxcctl.keys import DEFAULT
from lxcctl.wire import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import Any

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import StartContainerRequest
    from lxcd.v1.types_pb2 import Exit

_STOPPED = 1  # SESSION_END_STOPPED
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
# A host name, and a directory beside others; LXC itself allows more.
_NAME_LENGTH = 40


def _run_options(parser: Parser) -> None:
    parser.command_style = "dashes"
    parser.add_argument("image", metavar="IMAGE", help="root file system; `host` is the host's own")
    parser.add_argument("--name", metavar="N", default="", help="default: IMAGE-xxxxxx")
    parser.add_argument("--rm", action="store_true", help="leave nothing behind")
    arguments.add_streams(parser)
    parser.add_argument(
        "--detach-keys", metavar="K", default=DEFAULT, help=f"keys that leave it ({DEFAULT})"
    )
    arguments.add_define(parser)
    parser.add_argument(
        "--config", metavar="FILE", default="", help="text of the configuration; - is stdin"
    )


def _run(session: Session, args: Namespace) -> int:
    from lxcctl import foreground

    if not args.command:
        raise UsageError("run: which command?", "usage: lxcctl run IMAGE [OPTIONS] -- CMD...")
    keys = foreground.keys_of(args.detach_keys)
    text, origin = arguments.read_text(args.config)
    name = args.name or random_name(args.image)
    if not args.name and not args.rm:
        import sys

        # On stderr, which is the command's: only where a person is looking.
        if sys.stderr.isatty():
            output.note(f"container {name}")

    def define() -> StartContainerRequest:
        return _request(session, args, name, text, origin)

    if foreground.wants_terminal(args.tty):
        end = on_terminal(session, define, keys)
    else:
        end = with_streams(session, define, streamed=args.streamed)
    return exit_status(end)


def _request(
    session: Session, args: Namespace, name: str, text: str, origin: str
) -> StartContainerRequest:
    from lxcd.v1.container_pb2 import StartContainerRequest

    start = StartContainerRequest(name=name, lxcpath=session.lxcpath, command=args.command)
    if args.rm:
        start.ephemeral = True
        start.image, start.config_text, start.config_origin = args.image, text, origin
        for key, value in args.define:
            start.define.add(key=key, value=value)
        return start
    from lxcctl.commands import create
    from lxcd.v1.container_pb2 import CreateContainerRequest

    request = CreateContainerRequest(
        name=name,
        lxcpath=session.lxcpath,
        image=args.image,
        config_text=text,
        config_origin=origin,
    )
    for key, value in args.define:
        request.define.add(key=key, value=value)
    create.define(session, request)
    return start


def start_noting(session: Session, start: StartContainerRequest) -> int:
    """Start it, telling of everything that is wrong; its generation."""
    from lxcctl.commands import several
    from lxcd.v1.container_pb2 import StartContainerResponse

    try:
        reply = session.channel.call(
            "ContainerService/StartContainer", start, StartContainerResponse
        )
    except CallError as error:
        several.report(error, start.name)
        raise SystemExit(error.status) from None
    several.note_problems(reply.problems, start.name)
    return reply.generation


def on_terminal(
    session: Session,
    define: Callable[[], StartContainerRequest],
    keys: bytes,
    *,
    starts: Callable[[Session, StartContainerRequest], int] = start_noting,
    outlives: bool = True,
) -> Exit:
    """Start what `define` makes, with the caller's terminal as its own; how it ends. `starts` does
    that and returns the generation. SystemExit if somebody leaves by `keys`. `outlives`: it goes on
    when a signal ends us.
    """
    from lxcctl import foreground
    from lxcctl.commands.console import Viewer

    with foreground.signals() as signals:
        start = define()
        term = os.environ.get("TERM", "")
        if term:
            start.define.add(key="lxc.environment", value=f"TERM={term}")

        def end_it(_: int) -> None:
            _send(session, start.name, 9)

        leave = foreground.leaving(end_it)
        generation = foreground.begin(signals, lambda: starts(session, start), lambda _: leave)
        viewer = Viewer(session, start.name, "console", at_end=b"\x04")
        if not outlives:
            viewer.on_leaving = end_it
        end = viewer.watch(keys, signals, generation=generation)
    if end is None:
        output.note(f"left {start.name} running; back with: lxcctl console {start.name}")
        raise SystemExit(0)
    return end


def with_streams(
    session: Session,
    define: Callable[[], StartContainerRequest],
    *,
    streamed: bool = False,
    starts: Callable[[Session, StartContainerRequest], int] = start_noting,
) -> Exit:
    """The same with the caller's standard streams."""
    from lxcctl import foreground
    from lxcctl.attach import Attachment
    from lxcctl.streams import OwnStreams
    from lxcctl.typist import Typist
    from lxcd.v1 import console_pb2, container_pb2

    with foreground.signals(at_terminal=False) as signals, OwnStreams() as streams:
        start = define()
        start.stdio = container_pb2.STDIO_PIPES
        if not streamed:
            start.descriptors_token = streams.hand_over(session.channel.address)
        own = bool(start.descriptors_token)
        start.stdin = not own
        relay = foreground.Relay(lambda number: _send(session, start.name, number))
        generation = foreground.begin(signals, lambda: starts(session, start), lambda _: relay)

        def fill(message: Any) -> None:  # noqa: ANN401
            message.name, message.lxcpath = start.name, session.lxcpath
            message.terminal, message.generation = "output", generation
            message.lossless = True
            foreground.as_controller(message)

        types = (console_pb2.AttachConsoleRequest, console_pb2.AttachConsoleResponse)
        attachment = Attachment(session, "ConsoleService/AttachConsole", types, fill, known=True)
        attachment.on_output = foreground.show
        attachment.on_gap = foreground.show_gap
        attachment.on_role = foreground.show_role
        relay.attachment = attachment
        if own:
            streams.begin()
        else:
            typist = Typist(0)
            attachment.on_started = lambda _: typist.type_into(attachment)
        end = attachment.run()
        if own:
            streams.finish()
    if end.reason != _STOPPED:
        raise ClientError("somebody has ended this session; the container goes on")
    exit_: Exit = end.exit
    return exit_


def _send(session: Session, name: str, number: int) -> None:
    """A signal, over a connection of its own: another thread may be about to make a new one."""
    from lxcd.v1.container_pb2 import SignalContainerRequest, SignalContainerResponse

    channel = Channel(session.channel.address)
    request = SignalContainerRequest(name=name, lxcpath=session.lxcpath, signal=number)
    try:
        channel.call(
            "ContainerService/SignalContainer", request, SignalContainerResponse, GRACE_SECONDS
        )
    except CallError as error:
        if error.is_lost_connection:
            output.note(f"{error.text}; {name} goes on without us")
            os._exit(128 + number)
        # It ended meanwhile; the main thread is about to learn that, too.
    finally:
        channel.close()


def random_name(image: str) -> str:
    """`IMAGE-xxxxxx`, with only what a name may hold."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in image)
    kept = kept[:_NAME_LENGTH].strip("-.") or "run"
    # 252 is the largest multiple of 36 below 256, so that every letter is as likely.
    letters = [_LETTERS[b % 36] for b in os.urandom(64) if b < 252]  # noqa: PLR2004 - see above
    return f"{kept}-{''.join(letters[:6])}"


VERBS = {"run": (_run_options, _run)}
