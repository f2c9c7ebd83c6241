"""`run`: a command as an application container, in the foreground."""

from __future__ import annotations

import os

from lxcctl import arguments, output
from lxcctl.channel import GRACE_SECONDS, Channel
from lxcctl.errors import CallError, UsageError
from lxcctl.wire import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from argparse import Namespace
    from typing import Self

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.console_pb2 import ReadConsoleLogResponse
    from lxcd.v1.types_pb2 import Exit

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
# A host name, and a directory beside others; LXC itself allows more.
_NAME_LENGTH = 40


def _run_options(parser: Parser) -> None:
    parser.command_style = "dashes"
    parser.add_argument("image", metavar="IMAGE", help="root file system; `host` is the host's own")
    parser.add_argument("--name", metavar="N", default="", help="default: IMAGE-xxxxxx")
    parser.add_argument("--rm", action="store_true", help="leave nothing behind")
    arguments.add_define(parser)
    parser.add_argument(
        "--config", metavar="FILE", default="", help="text of the configuration; - is stdin"
    )


def _run(session: Session, args: Namespace) -> int:
    if not args.command:
        raise UsageError("run: which command?", "usage: lxcctl run IMAGE [OPTIONS] -- CMD...")
    text, origin = arguments.read_text(args.config)
    name = args.name or random_name(args.image)
    if not args.name and not args.rm:
        import sys

        # On stderr, which is the command's: only where a person is looking.
        if sys.stderr.isatty():
            output.note(f"container {name}")
    with SignalRelay(session, name) as relay:
        generation = _begin(session, args, name, text, origin)
        relay.has_started()
        end = _follow(session, name, generation)
    return exit_status(end)


def _begin(session: Session, args: Namespace, name: str, text: str, origin: str) -> int:
    from lxcctl.commands import create, several
    from lxcd.v1 import container_pb2

    start = container_pb2.StartContainerRequest(
        name=name,
        lxcpath=session.lxcpath,
        command=args.command,
        stdio=container_pb2.STDIO_PIPES,
    )
    if args.rm:
        what: container_pb2.StartContainerRequest | container_pb2.CreateContainerRequest = start
        start.ephemeral = True
    else:
        what = container_pb2.CreateContainerRequest(name=name, lxcpath=session.lxcpath)
    what.image = args.image
    what.config_text = text
    what.config_origin = origin
    for key, value in args.define:
        what.define.add(key=key, value=value)
    if isinstance(what, container_pb2.CreateContainerRequest):
        create.define(session, what)
    try:
        reply = session.channel.call(
            "ContainerService/StartContainer", start, container_pb2.StartContainerResponse
        )
    except CallError as error:
        several.report(error, name)
        raise SystemExit(error.status) from None
    several.note_problems(reply.problems, name)
    return reply.generation


def _follow(session: Session, name: str, generation: int) -> Exit:
    from lxcctl.commands.follow import read_log
    from lxcctl.commands.wait import until
    from lxcd.v1.console_pb2 import ReadConsoleLogRequest
    from lxcd.v1.container_pb2 import WaitContainerRequest

    request = ReadConsoleLogRequest(
        name=name,
        lxcpath=session.lxcpath,
        stream="output",
        offset=0,
        lossless=True,
        follow=True,
        generation=generation,
    )
    end = read_log(session, request, _show)
    if end is None:
        # The stream may end before the container does: a command can close its output and go on.
        wait = WaitContainerRequest(name=name, lxcpath=session.lxcpath, generation=generation)
        end = until(session, wait, None).exit
    return end


def _show(message: ReadConsoleLogResponse) -> None:
    if message.gap_bytes:
        output.note(f"{message.gap_bytes} bytes of output are lost")
    if message.stream == "stderr":
        output.write_stderr(message.data)
    else:
        output.write_stdout(message.data)


def random_name(image: str) -> str:
    """`IMAGE-xxxxxx`, with only what a name may hold."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in image)
    kept = kept[:_NAME_LENGTH].strip("-.") or "run"
    # 252 is the largest multiple of 36 below 256, so that every letter is as likely.
    letters = [_LETTERS[b % 36] for b in os.urandom(64) if b < 252]  # noqa: PLR2004 - see above
    return f"{kept}-{''.join(letters[:6])}"


class SignalRelay:
    """Passes SIGINT and SIGTERM on to the container; the second SIGINT kills it.

    A thread takes the signals by sigwait. A handler would run in the main thread, in the middle of
    a call of gRPC's whose locks it must not take again, and only when that call comes up for air.
    The signals are blocked before gRPC makes its threads, which inherit that.
    """

    def __init__(self, session: Session, name: str) -> None:
        import threading

        # A channel of its own: the main thread replaces its channel when the daemon goes away.
        self._channel = Channel(session.channel.address)
        self._lxcpath = session.lxcpath
        self._name = name
        self._started = False
        self._interrupts = 0
        self._leaving = False
        self._previous: set[int | signal.Signals] = set()
        self._thread = threading.Thread(target=self._pass_on, name="signals", daemon=True)

    def __enter__(self) -> Self:
        import signal

        self._previous = signal.pthread_sigmask(signal.SIG_BLOCK, _signals())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        import signal

        self._leaving = True
        if self._thread.ident is not None:
            # To this thread, not to the process: it ends the sigwait and nothing else.
            signal.pthread_kill(self._thread.ident, signal.SIGTERM)
        self._thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous)
        self._channel.close()

    def has_started(self) -> None:
        """From now on there is somebody to pass signals to."""
        self._started = True

    def _pass_on(self) -> None:
        import signal

        while True:
            number = signal.sigwait(_signals())
            if self._leaving:
                return
            if not self._started:
                # Leaving cancels the call, and the daemon takes back what it began.
                os._exit(128 + number)
            self._send(number)

    def _send(self, number: int) -> None:
        import signal

        from lxcd.v1.container_pb2 import SignalContainerRequest, SignalContainerResponse

        to_send = number
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                to_send = signal.SIGKILL
        request = SignalContainerRequest(
            name=self._name, lxcpath=self._lxcpath, signal=int(to_send)
        )
        try:
            self._channel.call(
                "ContainerService/SignalContainer",
                request,
                SignalContainerResponse,
                GRACE_SECONDS,
            )
        except CallError as error:
            if error.is_lost_connection:
                output.note(f"{error.text}; {self._name} goes on without us")
                os._exit(128 + number)
            # It ended meanwhile; the main thread is about to learn that, too.


def _signals() -> set[signal.Signals]:
    import signal

    return {signal.SIGINT, signal.SIGTERM}


VERBS = {"run": (_run_options, _run)}
