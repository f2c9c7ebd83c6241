"""lxc-kill, of 0.7: a signal for init."""

from __future__ import annotations

import signal

from lxc_compat.command import Call, Command
from lxcctl.channel import GRACE_SECONDS
from lxcctl.errors import UsageError


def _kill(call: Call) -> int:
    from lxcd.v1.container_pb2 import SignalContainerRequest, SignalContainerResponse

    if len(call.words) > 1:
        raise UsageError(f"too many arguments: {' '.join(call.words)}")
    text = call.words[0] if call.words else str(int(signal.SIGKILL))
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= signal.SIGRTMAX):
        raise UsageError(f"not the number of a signal: {text!r}")
    request = SignalContainerRequest(name=call.name, lxcpath=call.session.lxcpath, signal=int(text))
    call.session.channel.call(
        "ContainerService/SignalContainer", request, SignalContainerResponse, GRACE_SECONDS
    )
    return 0


COMMANDS = {
    "kill": Command(
        "--name=NAME [SIGNUM]",
        "sends SIGNUM, SIGKILL if none, to NAME's init",
        (),
        _kill,
        words=True,
    )
}
