"""`plan`: what a start would do, and where the last one failed."""

from __future__ import annotations

from lxcctl import arguments, output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.commands.several import note_problems
from lxcctl.errors import errno_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.types_pb2 import Step


def _what(step: Step) -> str:
    text = step.description or step.name
    if not step.failed:
        return text
    parts = (
        step.failed_syscall,
        errno_words(step.failed_errno) if step.failed_errno else "",
        step.failed_text,
    )
    return f"{text} -- FAILED: {': '.join(part for part in parts if part)}"


_COLUMNS: tuple[tuple[str, Callable[[Step], str]], ...] = (
    ("STEP", lambda s: f"x {s.index}" if s.failed else f"  {s.index}"),
    ("SIDE", lambda s: s.side),
    ("WHAT", _what),
    ("ORIGIN", lambda s: s.origin),
)


def _plan_options(parser: Parser) -> None:
    parser.command_style = "dashes"
    arguments.add_name(parser)


def _plan(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import PlanContainerRequest, PlanContainerResponse
    from lxcd.v1.types_pb2 import Step

    request = PlanContainerRequest(
        name=args.name, lxcpath=session.lxcpath, command=args.command or ()
    )
    reply = session.channel.call(
        "ContainerService/PlanContainer", request, PlanContainerResponse, LOOK_SECONDS
    )
    note_problems(reply.problems, args.name)
    if session.form == "table":
        output.table(_COLUMNS, reply.steps)
    elif session.form == "csv":
        rows = (output.plain(step) for step in reply.steps)
        output.records("csv", output.csv_header(Step.DESCRIPTOR), rows)
    else:
        output.document(session.form, output.plain(reply))
    return 0


VERBS = {"plan": (_plan_options, _plan)}
