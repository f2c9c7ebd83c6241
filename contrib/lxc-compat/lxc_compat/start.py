"""lxc-start: a system, in the background; in 0.7 in the foreground."""

from __future__ import annotations

import os
import signal

from lxc_compat import starting
from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import foreground, output
from lxcctl.channel import GRACE_SECONDS, Channel
from lxcctl.commands.console import Viewer
from lxcctl.errors import CallError, ClientError, UsageError
from lxcctl.wire import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxcd.v1.container_pb2 import StartContainerRequest
    from lxcd.v1.types_pb2 import Exit

_REQUESTED = 2  # CAUSE_REQUESTED
_OVER = ("CONTAINER_NOT_RUNNING", "CONTAINER_NOT_FOUND")


def _start(call: Call) -> int:
    if call.given.has("daemon") and call.given.has("foreground"):
        raise UsageError("one of --daemon and --foreground")
    in_foreground = call.given.has("foreground") or (call.old and not call.given.has("daemon"))
    try:
        if in_foreground:
            return _watch(call)
        starting.start(call.session, _request(call))
    except CallError as error:
        if error.reason != "CONTAINER_RUNNING" or call.old:
            raise
        # LXC's tool says so and has no error in it.
        output.note(f"{call.name}: Container is already running")
    return 0


def _request(call: Call) -> StartContainerRequest:
    request = starting.request(call, call.words)
    request.system = bool(call.words)
    for key, value in _consoles(call):
        request.define.add(key=key, value=value)
    if not starting.is_defined(call):
        if not call.given.has("rcfile"):
            raise ClientError(f"{call.name}: No container config specified")
        # Where the text names no root file system, it is not the host's, but one beside it.
        request.ephemeral, request.image = True, "host"
    return request


def _consoles(call: Call) -> Iterator[tuple[str, str]]:
    """What becomes of its console."""
    if call.given.has("console"):
        path = call.given.last("console")
        if path == "none":
            yield "lxc.console.path", path
        elif call.old and (os.path.isfile(path) or not os.path.exists(path)):
            # A file, in which 0.7 wrote all that came.
            yield "lxc.console.logfile", os.path.abspath(path)
        else:
            raise UsageError(
                "--console: lxcd keeps the console itself: -L FILE logs it, lxc-console shows it"
            )
    if call.given.has("console-log"):
        # The daemon's working directory is not ours.
        yield "lxc.console.logfile", os.path.abspath(call.given.last("console-log"))


def _watch(call: Call) -> int:
    """At its console, from its first byte to its end."""
    session = call.session
    # Before the first call, whose threads must not have them.
    with foreground.signals() as signals:
        request = _request(call)

        def leave(number: int) -> None:
            if number == signal.SIGTERM or (number == signal.SIGHUP and call.old):
                _kill(call)
            else:
                output.note(f"left {call.name} running")

        generation = foreground.begin(
            signals,
            lambda: starting.start(session, request),
            lambda _: foreground.leaving(leave),
        )
        viewer = Viewer(session, call.name, "console")
        viewer.on_leaving = leave
        end = viewer.watch(b"", signals, generation=generation)
    return _status(end) if end is not None and call.old else 0


def _kill(call: Call) -> None:
    """End it, over a connection of its own: another thread may be about to make a new one."""
    from lxcd.v1.container_pb2 import StopContainerRequest, StopContainerResponse

    channel = Channel(call.session.channel.address)
    request = StopContainerRequest(name=call.name, lxcpath=call.session.lxcpath, kill=True)
    try:
        channel.call(
            "ContainerService/StopContainer", request, StopContainerResponse, 2 * GRACE_SECONDS
        )
    except CallError as error:
        # It may have ended meanwhile.
        if error.reason not in _OVER:
            output.note(f"{error.text}; {call.name} goes on without us")
    finally:
        channel.close()


def _status(end: Exit) -> int:
    """In 0.7 init's own, but for one that was stopped."""
    return 0 if end.cause == _REQUESTED else exit_status(end)


COMMANDS = {
    "start": Command(
        "--name=NAME [-- COMMAND]",
        "starts the container NAME, or COMMAND as its init",
        (
            Option("daemon", "d", "", "In the background (default, but not in 0.7)"),
            Option(
                "foreground",
                "F",
                "",
                "At its console, until it stops; SIGTERM kills it (default in 0.7; SIGHUP, too)",
            ),
            Option("console", "c", "FILE", "none: it has no console; in 0.7 a FILE is its log"),
            Option("console-log", "L", "FILE", "Log container console output to FILE"),
            Option("close-all-fds", "C", "", "Nothing of ours is ever inherited"),
            *starting.OPTIONS,
        ),
        _start,
        words=True,
        refused=(
            (
                Option("pidfile", "p", "FILE"),
                "there is no monitor for each container whose pid could be written",
            ),
        ),
    )
}
