"""`config check`: every problem of a configuration, a container's or a file's."""

from __future__ import annotations

from lxcctl import arguments, output
from lxcctl.commands.config import get_full
from lxcctl.errors import FAILED, CallError
from lxcctl.wire import ERROR_SEVERITY, problem_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.types_pb2 import Problem


def _check_options(parser: Parser) -> None:
    arguments.add_names(parser, "*")
    parser.add_argument(
        "--file",
        dest="files",
        metavar="FILE",
        nargs="+",
        action="extend",
        default=[],
        help="check these texts instead; - is stdin",
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")


def _check(session: Session, args: Namespace) -> int:
    if not args.names and not args.files:
        from lxcctl.errors import UsageError

        usage = "usage: lxcctl config check [NAME...] [--file FILE...] [--strict]"
        raise UsageError("config check: which container or file?", usage)
    from lxcd.v1.types_pb2 import Problem

    problems: list[Problem] = []
    for name in args.names:
        problems += get_full(session, name).problems
    for path in args.files:
        problems += check_file(session, path)
    if session.form == "table":
        for problem in problems:
            output.line(output.harmless(problem_line(problem)))
    else:
        header = output.csv_header(Problem.DESCRIPTOR)
        output.records(session.form, header, [output.plain(problem) for problem in problems])
    return FAILED if any(_counts(problem, strict=args.strict) for problem in problems) else 0


def _counts(problem: Problem, *, strict: bool) -> bool:
    return strict or problem.severity == ERROR_SEVERITY


def check_file(session: Session, path: str) -> list[Problem]:
    """The problems of a file's text."""
    return check_text(session, *arguments.read_text(path))


def check_text(session: Session, text: str, origin: str) -> list[Problem]:
    """Ask the daemon about a text, as if a container were to be made of it."""
    from lxcctl.commands.create import define
    from lxcctl.commands.run import random_name
    from lxcd.v1.container_pb2 import CreateContainerRequest
    from lxcd.v1.types_pb2 import Problem

    request = CreateContainerRequest(
        name="check",
        lxcpath=session.lxcpath,
        config_text=text,
        config_origin=origin,
        validate_only=True,
    )
    while True:
        try:
            return list(define(session, request).problems)
        except CallError as error:
            if error.code == "ALREADY_EXISTS":
                # Somebody has a container of that name; what it is called does not matter here.
                request.name = random_name("check")
                continue
            if error.code != "INVALID_ARGUMENT":
                raise
            severity = Problem.Severity.SEVERITY_ERROR
            where = error.metadata.get("origin", "") or origin
            key = error.metadata.get("key", "")
            return [Problem(severity=severity, origin=where, key=key, message=error.text)]


VERBS = {"config check": (_check_options, _check)}
