"""`ps`: one table of processes with the container of each, as the host's own ps never shows it."""

from __future__ import annotations

from lxcctl import arguments, output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.errors import FAILED, ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import Process

_NOT_FOUND_BY_SHELL = 127

_COLUMNS: tuple[tuple[str, Callable[[Process], str]], ...] = (
    ("PID", lambda p: str(p.pid)),
    ("INSIDE", lambda p: str(p.container_pid or "-")),
    ("CONTAINER", lambda p: p.container or "-"),
    ("COMMAND", lambda p: " ".join(p.command) or f"[{p.comm}]"),
)


def _ps_options(parser: Parser) -> None:
    parser.command_style = "dashes"
    arguments.add_names(parser, "*")
    parser.add_argument("--all", action="store_true", help="the host's own processes, too")


def _ps(session: Session, args: Namespace) -> int:
    if args.command:
        return _host_ps(session, args)
    from lxcd.v1.container_pb2 import Process

    found = _processes(session, args)
    if session.form == "table":
        output.table(_COLUMNS, found)
    else:
        header = output.csv_header(Process.DESCRIPTOR)
        output.records(session.form, header, (output.plain(p) for p in found))
    return 0


def _processes(session: Session, args: Namespace) -> list[Process]:
    from lxcd.v1.container_pb2 import ListProcessesRequest, ListProcessesResponse

    request = ListProcessesRequest(lxcpath=session.lxcpath, names=args.names, include_host=args.all)
    reply = session.channel.call(
        "ContainerService/ListProcesses", request, ListProcessesResponse, LOOK_SECONDS
    )
    return list(reply.processes)


def _host_ps(session: Session, args: Namespace) -> int:
    """As lxc-ps did: the host's ps says what it wants about a process, we say whose it is."""
    import subprocess

    try:
        done = subprocess.run(["ps", *args.command], stdout=subprocess.PIPE, check=False)  # noqa: S603, S607 - the user's own ps
    except FileNotFoundError as error:
        raise ClientError("there is no ps on this host", _NOT_FOUND_BY_SHELL) from error
    owners = {process.pid: process.container for process in _processes(session, args)}
    lines = done.stdout.decode(errors="replace").splitlines()
    if lines and done.returncode == 0:
        for text in label(lines, owners, everything=args.all):
            output.line(text)
    return done.returncode if done.returncode >= 0 else FAILED


def label(lines: list[str], owners: dict[int, str], *, everything: bool) -> Iterator[str]:
    """Lines of ps with their container in front; without `everything` only those that have one."""
    head, *rest = lines
    # Numbers end where their title ends: a title further left may be empty or hold blanks, so
    # counting words is not enough. PPID and PGID end alike, hence the blanks.
    end = f" {head} ".find(" PID ") + len("PID")
    if end < len("PID"):
        raise ClientError("these options of ps do not show the PID column", FAILED)
    yield f"{'CONTAINER':<10} {head}".rstrip()
    for text in rest:
        owner = owners.get(_pid_at(text, end), "")
        if owner or everything:
            yield f"{output.harmless(owner) or '-':<10} {output.harmless(text)}".rstrip()


def _pid_at(text: str, end: int) -> int:
    first = text.rfind(" ", 0, end) + 1
    word = text[first:].split(" ", 1)[0]
    return int(word) if word.isascii() and word.isdigit() else 0


VERBS = {"ps": (_ps_options, _ps)}
