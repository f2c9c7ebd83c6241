"""`console`: the terminal of a container, to look at and to type into."""

from __future__ import annotations

import os
import sys

from lxcctl import arguments, output
from lxcctl.errors import ClientError
from lxcctl.wire import exit_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import Any

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcctl.signals import SignalThread
    from lxcctl.typist import Typist
    from lxcd.v1.types_pb2 import Exit

_STOPPED, _REBOOT, _KICKED, _DETACHED = 1, 2, 3, 5
_VIEWER = 1
_STDIN = 0


def _console_options(parser: Parser) -> None:
    arguments.add_name(parser)
    parser.add_argument(
        "--tty", metavar="N", type=arguments.count, default=0, help="ttyN (default: the console)"
    )
    arguments.add_session(parser)


def _console(session: Session, args: Namespace) -> int:
    from lxcctl import foreground
    from lxcctl.keys import describe

    keys = foreground.keys_of(args.detach_keys)
    terminal = f"tty{args.tty}" if args.tty else "console"
    role = "watching" if args.read_only else "connected to"
    leave = f"; {describe(keys)} leaves" if keys and not args.read_only else ""
    greeting = f"{role} {terminal} of {args.name}{leave}"
    viewer = Viewer(
        session, args.name, terminal, greeting, read_only=args.read_only, steal=args.steal
    )
    with foreground.signals() as signals:
        end = viewer.watch(keys, signals, generation=0, live=args.no_replay)
    if end is not None:
        output.note(f"{args.name} has stopped: {exit_words(end)}")
    elif sys.stderr.isatty():
        sys.stderr.write("\n")
        output.note(f"left {terminal} of {args.name}")
    return 0


class Viewer:
    """One who looks at a terminal, from one generation of the container to the next."""

    def __init__(
        self,
        session: Session,
        name: str,
        terminal: str,
        greeting: str = "",
        *,
        at_end: bytes = b"",
        read_only: bool = False,
        steal: bool = False,
    ) -> None:
        self._session = session
        self._name = name
        self._terminal = terminal
        self._greeting = greeting
        self._at_end = at_end
        self._read_only = read_only
        self._steal = steal
        self._controls = True  # until somebody takes that away, for all lives that follow
        self._generation = 0  # the present one
        self._live = False
        # This signal ends us, and we typed.
        self.on_leaving: Callable[[int], None] = lambda _: None

    def watch(
        self, keys: bytes, signals: SignalThread, *, generation: int, live: bool = False
    ) -> Exit | None:
        """Until the container stops: how; or None, if the viewer leaves. A reboot is followed."""
        from lxcctl import foreground

        self._generation, self._live = generation, live
        types = foreground.typist(keys, self._at_end)
        while True:
            end = self._life(types, signals)
            if end.reason == _KICKED:
                raise ClientError("somebody has ended this session")
            if end.reason != _REBOOT:
                return end.exit if end.reason == _STOPPED else None
            output.note(f"{self._name} reboots")
            self._await_next()
            self._generation, self._live = end.next_generation, False

    def _life(self, types: Typist, signals: SignalThread) -> Any:  # noqa: ANN401 - AttachConsoleEnd
        """One session, to its end."""
        from lxcctl import foreground
        from lxcctl.attach import Attachment
        from lxcd.v1 import console_pb2

        frames = (console_pb2.AttachConsoleRequest, console_pb2.AttachConsoleResponse)
        attachment = Attachment(
            self._session,
            "ConsoleService/AttachConsole",
            frames,
            lambda _: None,
            known=self._generation > 0,
            controls=self._controls,
        )

        def start(message: Any) -> None:  # noqa: ANN401 - an AttachConsoleStart
            self._fill(message, resumed=bool(attachment.offsets))

        attachment.start = start
        attachment.on_output = foreground.show
        attachment.on_gap = foreground.show_gap
        attachment.on_role = self._has_role
        if self._read_only:
            attachment.on_started = self._has_started
            return attachment.run()
        with foreground.typing(
            attachment,
            signals,
            types,
            on_leaving=self.on_leaving,
            on_started=self._has_started,
        ):
            return attachment.run()

    def _has_started(self, frame: Any) -> None:  # noqa: ANN401 - AttachConsoleStarted
        self._generation = frame.generation
        if self._greeting and sys.stderr.isatty():
            output.note(self._greeting)
        self._greeting = ""

    def _has_role(self, controls: bool, by: str) -> None:  # noqa: FBT001
        from lxcctl import foreground

        self._controls = controls
        foreground.show_role(controls, by)

    def _fill(self, start: Any, *, resumed: bool) -> None:  # noqa: ANN401
        from lxcctl import foreground

        start.name = self._name
        start.lxcpath = self._session.lxcpath
        start.terminal = self._terminal
        start.generation = self._generation
        foreground.as_controller(start)
        if self._read_only:
            start.role = _VIEWER
        else:
            start.steal = self._steal
            if os.isatty(_STDIN):
                foreground.set_size(start.size)
        if self._live and not resumed:
            start.live_only = True

    def _await_next(self) -> None:
        """Wait for the next life."""
        from lxcctl.commands.wait import until
        from lxcd.v1.container_pb2 import WaitContainerRequest
        from lxcd.v1.types_pb2 import STATE_RUNNING

        wait = WaitContainerRequest(
            name=self._name, lxcpath=self._session.lxcpath, states=[STATE_RUNNING]
        )
        until(self._session, wait, None)


VERBS = {"console": (_console_options, _console)}
