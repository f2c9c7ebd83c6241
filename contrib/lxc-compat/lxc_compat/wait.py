"""lxc-wait: for one of several states."""

from __future__ import annotations

import argparse

from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import arguments
from lxcctl.commands import wait
from lxcctl.errors import CallError, UsageError


def _wait(call: Call) -> int:
    from lxcd.v1.container_pb2 import WaitContainerRequest
    from lxcd.v1.types_pb2 import STATE_STOPPED

    if not call.given.has("state"):
        raise UsageError("--state: which?")
    try:
        states = arguments.states(call.given.last("state"))
    except argparse.ArgumentTypeError as error:
        raise UsageError(str(error)) from error
    request = WaitContainerRequest(name=call.name, lxcpath=call.session.lxcpath)
    request.states.extend(states)  # type: ignore[arg-type]  # the stubs want the enum
    span = _span(call.given.last("timeout", "-1"))
    try:
        reply = wait.until(call.session, request, span)
    except CallError as error:
        # What is not there does not run.
        if error.reason == "CONTAINER_NOT_FOUND" and STATE_STOPPED in states:
            return 0
        raise
    return 0 if reply.reached else call.failed


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
