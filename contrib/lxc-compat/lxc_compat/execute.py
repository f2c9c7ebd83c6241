"""lxc-execute: a command as an application container, defined or not."""

from __future__ import annotations

from lxc_compat import starting
from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import foreground
from lxcctl.commands import run
from lxcctl.wire import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxcd.v1.container_pb2 import StartContainerRequest


def _execute(call: Call) -> int:
    if call.given.has("daemon"):
        starting.start(call.session, _request(call))
        return 0

    def define() -> StartContainerRequest:
        # Signals are taken by now: the threads of the first call must not have them.
        return _request(call)

    if foreground.wants_terminal(None):
        end = run.on_terminal(call.session, define, b"", starts=starting.start, outlives=False)
    else:
        end = run.with_streams(call.session, define, starts=starting.start)
    if end.WhichOneof("how") == "signal" and not call.old:
        # Somebody has stopped it. 0.7 said by what.
        return call.failed
    return exit_status(end)


def _request(call: Call) -> StartContainerRequest:
    request = starting.request(call, call.words)
    # Without a command it is lxc.execute.cmd.
    request.application = True
    if not starting.is_defined(call):
        # Where nothing says what its root file system is, it is not the host's, but one beside it.
        request.ephemeral, request.image = True, "host"
    for option, key in (("uid", "lxc.init.uid"), ("gid", "lxc.init.gid")):
        if call.given.has(option):
            request.define.add(key=key, value=call.given.last(option))
    return request


COMMANDS = {
    "execute": Command(
        "--name=NAME [-- COMMAND]",
        "runs COMMAND, or lxc.execute.cmd, as an application in NAME, which need not be defined",
        (
            Option("daemon", "d", "", "Leave it running"),
            *starting.OPTIONS,
            Option("uid", "u", "UID", "Execute COMMAND with UID inside the container"),
            Option("gid", "g", "GID", "Execute COMMAND with GID inside the container"),
        ),
        _execute,
        words=True,
    )
}
