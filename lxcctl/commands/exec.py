"""`exec`: a command in a running container, small in and small out."""

from __future__ import annotations

import os

from lxcctl import arguments, output
from lxcctl.channel import GRACE_SECONDS
from lxcctl.wire import exit_status, set_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session

_STDIN = 0
_CHUNK = 1 << 20


def _exec_options(parser: Parser) -> None:
    parser.command_style = "loose"
    arguments.add_name(parser)
    parser.add_argument(
        "--user", metavar="U", default="", help="name or number, with an optional :group"
    )
    parser.add_argument("--cwd", metavar="D", default="", help="directory (default: the user's)")
    parser.add_argument(
        "--env",
        metavar="K=V",
        type=_environment,
        action="append",
        default=[],
        help="add to the environment",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=arguments.seconds, help="kill the command after this time"
    )


def _environment(text: str) -> str:
    import argparse

    if not text.partition("=")[0] or "=" not in text:
        raise argparse.ArgumentTypeError(f"not NAME=VALUE: {text!r}")
    return text


def _exec(session: Session, args: Namespace) -> int:
    if not args.command:
        from lxcctl.errors import UsageError

        raise UsageError("exec: which command?", "usage: lxcctl exec NAME [OPTIONS] [--] CMD...")
    from lxcd.v1.exec_pb2 import RunExecRequest, RunExecResponse

    request = RunExecRequest(
        container=args.name,
        lxcpath=session.lxcpath,
        command=args.command,
        env=args.env,
        user=args.user,
        cwd=args.cwd,
        stdin=_standard_input(),
    )
    deadline = None
    if args.timeout is not None:
        set_duration(request.timeout, args.timeout)
        deadline = args.timeout + GRACE_SECONDS
    reply = session.channel.call("ExecService/RunExec", request, RunExecResponse, deadline)
    output.write_stdout(reply.stdout)
    output.write_stderr(reply.stderr)
    if reply.timed_out:
        output.note("the command was killed: it took longer than --timeout")
    if reply.output_truncated:
        output.note("the command was killed: it wrote more than the daemon keeps")
    return exit_status(reply.exit)


def _standard_input() -> bytes:
    """All of it; nothing from a terminal, where the command could not speak before it ends."""
    try:
        if os.isatty(_STDIN):
            return b""
        chunks: list[bytes] = []
        while chunk := os.read(_STDIN, _CHUNK):
            chunks.append(chunk)
    except OSError:
        # Closed, or opened for writing only: there is no input.
        return b""
    return b"".join(chunks)


VERBS = {"exec": (_exec_options, _exec)}
