"""lxc-stop: a clean shutdown; in 0.7 SIGKILL."""

from __future__ import annotations

from lxc_compat import command
from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import output
from lxcctl.channel import GRACE_SECONDS
from lxcctl.errors import CallError, ClientError, UsageError
from lxcctl.wire import set_duration

_NOT_RUNNING = 2
# What LXC waits for a shutdown when nobody says so.
_SECONDS = 60
_FOR_EVER = 10 * 365 * 86400
# Enough for a signal, and not for an end.
_AT_ONCE = 0.001


def _stop(call: Call) -> int:
    given = call.given
    kill = given.has("kill") or call.old
    for option in ("timeout", "reboot", "nokill"):
        if given.has("kill") and given.has(option):
            raise UsageError(f"-k doesn't allow --{option}")
    if given.has("nolock") and not given.has("kill"):
        raise UsageError("--nolock is for -k alone")
    found = command.find(call)
    if found is None or not found.pid:
        if call.old:
            # 0.7 did not mind, nor know whether there is one at all.
            return 0
        output.note(f"{call.name} is not running")
        return _NOT_RUNNING
    seconds = _seconds(given.last("timeout", str(_SECONDS)))
    if given.has("reboot"):
        _reboot(call, 0.0 if given.has("nowait") else seconds)
    elif given.has("nowait") and not kill:
        _is_over(call, _AT_ONCE)
    else:
        _end(call, seconds, kill=kill)
    return 0


def _seconds(text: str) -> float:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 9):  # noqa: PLR2004 - 30 years
        raise UsageError(f"--timeout: not a number of seconds: {text!r}")
    return _FOR_EVER if text.startswith("-") else float(text)


def _end(call: Call, seconds: float, *, kill: bool) -> None:
    if not kill and (seconds or call.given.has("nokill")):
        # In two calls: the daemon goes on with one that nobody waits for any more, and nobody is to
        # be killed then.
        if _is_over(call, seconds):
            return
        if call.given.has("nokill"):
            raise ClientError(f"{call.name} did not stop in {seconds:g} s")
    _kill(call)


def _is_over(call: Call, seconds: float) -> bool:
    """Ask it to shut down; whether it does, in this time."""
    from lxcd.v1.container_pb2 import StopContainerRequest, StopContainerResponse

    request = StopContainerRequest(name=call.name, lxcpath=call.session.lxcpath, no_kill=True)
    set_duration(request.timeout, seconds)
    try:
        call.session.channel.call(
            "ContainerService/StopContainer",
            request,
            StopContainerResponse,
            seconds + GRACE_SECONDS,
        )
    except CallError as error:
        if error.reason != "STOP_TIMEOUT":
            raise
        return False
    return True


def _kill(call: Call) -> None:
    from lxcd.v1.container_pb2 import StopContainerRequest, StopContainerResponse

    request = StopContainerRequest(name=call.name, lxcpath=call.session.lxcpath, kill=True)
    try:
        call.session.channel.call(
            "ContainerService/StopContainer", request, StopContainerResponse, 2 * GRACE_SECONDS
        )
    except CallError as error:
        # It has ended in this very moment.
        if error.reason != "CONTAINER_NOT_RUNNING":
            raise


def _reboot(call: Call, seconds: float) -> None:
    """Have init do it: nobody is killed. Zero only asks."""
    from lxcd.v1.container_pb2 import RestartContainerRequest, RestartContainerResponse

    request = RestartContainerRequest(name=call.name, lxcpath=call.session.lxcpath, no_kill=True)
    set_duration(request.timeout, seconds)
    # No deadline: the second half is a start.
    call.session.channel.call(
        "ContainerService/RestartContainer", request, RestartContainerResponse
    )


COMMANDS = {
    "stop": Command(
        "--name=NAME",
        "stops the container NAME; in 0.7 by SIGKILL",
        (
            Option("reboot", "r", "", "Have it reboot: by lxc.signal.reboot, never by a kill"),
            Option("nowait", "W", "", "Don't wait for the shutdown or the reboot"),
            Option("timeout", "t", "T", "Wait T seconds (60), then kill it; -1 for ever"),
            Option("kill", "k", "", "Kill it rather than ask for a clean shutdown"),
            Option("nolock", "", "", "With -k; lxcd has no locks that one could wait for"),
            Option("nokill", "", "", "Only ask for a clean shutdown; fail rather than kill"),
        ),
        _stop,
    )
}
