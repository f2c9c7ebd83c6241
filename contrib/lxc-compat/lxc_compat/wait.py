"""lxc-wait: for one of several states."""

from __future__ import annotations

import argparse
import time

from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import arguments
from lxcctl.commands import wait
from lxcctl.errors import CallError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxcd.v1.container_pb2 import WaitContainerRequest

# How often somebody looks whether it has come.
_PAUSE_SECONDS = 0.5


def _wait(call: Call) -> int:
    from lxcd.v1.container_pb2 import WaitContainerRequest

    if not call.given.has("state"):
        raise UsageError("--state: which?")
    try:
        states = arguments.states(call.given.last("state"))
    except argparse.ArgumentTypeError as error:
        raise UsageError(str(error)) from error
    request = WaitContainerRequest(name=call.name, lxcpath=call.session.lxcpath)
    request.states.extend(states)  # type: ignore[arg-type]  # the stubs want the enum
    span = _span(call.given.last("timeout", "-1"))
    return 0 if _reached(call, request, span) else call.failed


def _reached(call: Call, request: WaitContainerRequest, span: float | None) -> bool:
    """Wait, also for a container that is yet to come: what is not there does not run."""
    from lxcd.v1.types_pb2 import STATE_STOPPED

    end = None if span is None else time.monotonic() + span
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        try:
            return wait.until(call.session, request, left).reached
        except CallError as error:
            if error.reason != "CONTAINER_NOT_FOUND":
                raise
        if STATE_STOPPED in request.states:
            return True
        if left == 0:
            return False
        time.sleep(_PAUSE_SECONDS if left is None else min(_PAUSE_SECONDS, left))


def _span(text: str) -> float | None:
    if text == "-1":
        return None
    try:
        return arguments.seconds(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--timeout: {error}") from error


COMMANDS = {
    "wait": Command(
        "--name=NAME --state=STATE",
        "waits until NAME is in one of the states",
        (
            Option("state", "s", "STATE", "One or several, with | between them"),
            Option("timeout", "t", "TMO", "Give up after TMO seconds; -1 never (default)"),
        ),
        _wait,
    )
}
