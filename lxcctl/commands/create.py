"""`create`, and the call behind it that `run` and `config check` use, too."""

from __future__ import annotations

import sys

from lxcctl import arguments, output
from lxcctl.commands.several import note_problems
from lxcctl.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import Container, CreateContainerRequest


def _create_options(parser: Parser) -> None:
    arguments.add_name(parser)
    parser.add_argument("--image", metavar="I", default="", help="host or none (default: host)")
    parser.add_argument(
        "--config", metavar="FILE", default="", help="text of the configuration; - is stdin"
    )
    arguments.add_define(parser)


def _create(session: Session, args: Namespace) -> int:
    text, origin = arguments.read_text(args.config)
    from lxcd.v1.container_pb2 import CreateContainerRequest

    request = CreateContainerRequest(
        name=args.name,
        lxcpath=session.lxcpath,
        image=args.image,
        config_text=text,
        config_origin=origin,
    )
    for key, value in args.define:
        request.define.add(key=key, value=value)
    container = define(session, request)
    note_problems(container.problems, args.name)
    if session.form != "table":
        header = output.csv_header(container.DESCRIPTOR)
        output.records(session.form, header, [output.plain(container)], single=True)
    return 0


def define(session: Session, request: CreateContainerRequest) -> Container:
    """Define a container; on a terminal, show what is being done meanwhile."""
    from lxcd.v1.container_pb2 import CreateContainerResponse

    on_terminal = sys.stderr.isatty()
    stream = session.channel.stream(
        "ContainerService/CreateContainer", request, CreateContainerResponse
    )
    shown = False
    try:
        for message in stream:
            if message.HasField("container"):
                return message.container
            if on_terminal:
                # Carriage return and erase-line: each step in place of the one before.
                sys.stderr.write(f"\r\x1b[K{output.harmless(message.progress)}")
                sys.stderr.flush()
                shown = True
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
    raise ClientError("the daemon ended the call without a result")


VERBS = {"create": (_create_options, _create)}
