"""lxc-stop: a clean shutdown; in 0.7 SIGKILL."""

from __future__ import annotations

from lxc_compat import command
from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import output
from lxcctl.channel import GRACE_SECONDS
from lxcctl.errors import CallError, UsageError
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
    if given.has("reboot") and (given.has("nowait") or given.has("nokill")):
        raise UsageError("--reboot: lxcd waits for it, and kills what does not end in time")
    found = command.find(call)
    if found is None or not found.pid:
        if call.old and found is not None:
            # 0.7 did not mind.
            return 0
        output.note(f"{call.name} is not running")
        return call.failed if call.old else _NOT_RUNNING
    seconds = _seconds(given.last("timeout", str(_SECONDS)))
    if given.has("reboot"):
        _restart(call, seconds)
    elif given.has("nowait") and not kill:
        _ask(call)
    else:
        _end(call, seconds, kill=kill)
    return 0


def _seconds(text: str) -> float:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 9):  # noqa: PLR2004 - 30 years
        raise UsageError(f"--timeout: not a number of seconds: {text!r}")
    return _FOR_EVER if text.startswith("-") else float(text)


def _end(call: Call, seconds: float, *, kill: bool) -> None:
    from lxcd.v1.container_pb2 import StopContainerRequest, StopContainerResponse

    request = StopContainerRequest(
        name=call.name,
        lxcpath=call.session.lxcpath,
        kill=kill,
        no_kill=not kill and call.given.has("nokill"),
    )
    if not kill:
        set_duration(request.timeout, seconds)
    call.session.channel.call(
        "ContainerService/StopContainer", request, StopContainerResponse, seconds + GRACE_SECONDS
    )


def _ask(call: Call) -> None:
    """Ask it to shut down, and do not wait."""
    from lxcd.v1.container_pb2 import StopContainerRequest, StopContainerResponse

    request = StopContainerRequest(name=call.name, lxcpath=call.session.lxcpath, no_kill=True)
    set_duration(request.timeout, _AT_ONCE)
    try:
        call.session.channel.call(
            "ContainerService/StopContainer", request, StopContainerResponse, GRACE_SECONDS
        )
    except CallError as error:
        if error.reason != "STOP_TIMEOUT":
            raise


def _restart(call: Call, seconds: float) -> None:
    from lxcd.v1.container_pb2 import RestartContainerRequest, RestartContainerResponse

    request = RestartContainerRequest(name=call.name, lxcpath=call.session.lxcpath)
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
            Option("reboot", "r", "", "Stop it and start it again"),
            Option("nowait", "W", "", "Don't wait for the shutdown"),
            Option("timeout", "t", "T", "Kill it after T seconds (60); -1 never"),
            Option("kill", "k", "", "Kill it rather than ask for a clean shutdown"),
            Option("nolock", "", "", "With -k; lxcd has no locks that one could wait for"),
            Option("nokill", "", "", "Only ask for a clean shutdown; fail rather than kill"),
        ),
        _stop,
    )
}
