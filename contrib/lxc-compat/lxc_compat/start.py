"""lxc-start: a system, in the background; in 0.7 in the foreground."""

from __future__ import annotations

from lxc_compat import starting
from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import foreground, output
from lxcctl.commands.console import Viewer
from lxcctl.errors import CallError, ClientError, UsageError
from lxcctl.wire import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxcd.v1.container_pb2 import StartContainerRequest
    from lxcd.v1.types_pb2 import Exit

_KEYS = (("console", "lxc.console.path"), ("console-log", "lxc.console.logfile"))
_REQUESTED = 2  # CAUSE_REQUESTED


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
    if not starting.is_defined(call):
        if not call.given.has("rcfile"):
            raise ClientError(f"{call.name}: No container config specified")
        # Where the text names no root file system, it is not the host's, but one beside it.
        request.ephemeral, request.image = True, "host"
    for option, key in _KEYS:
        if call.given.has(option):
            request.define.add(key=key, value=call.given.last(option))
    return request


def _watch(call: Call) -> int:
    """At its console, from its first byte to its end."""
    session = call.session
    # Before the first call, whose threads must not have them.
    with foreground.signals() as signals:
        request = _request(call)
        # Nobody who leaves now has seen anything of it; it goes on.
        generation = foreground.begin(
            signals,
            lambda: starting.start(session, request),
            lambda _: foreground.leaving(lambda: None),
        )
        viewer = Viewer(session, call.name, "console")
        viewer.on_leaving = lambda: output.note(f"left {call.name} running")
        end = viewer.watch(b"", signals, generation=generation)
    return _status(end) if end is not None and call.old else 0


def _status(end: Exit) -> int:
    """In 0.7 init's own, but for one that was stopped."""
    return 0 if end.cause == _REQUESTED else exit_status(end)


COMMANDS = {
    "start": Command(
        "--name=NAME [-- COMMAND]",
        "starts the container NAME, or COMMAND as its init",
        (
            Option("daemon", "d", "", "In the background (default, but not in 0.7)"),
            Option("foreground", "F", "", "At its console, until it stops (default in 0.7)"),
            Option("console", "c", "FILE", "Use specified FILE for the container console"),
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
