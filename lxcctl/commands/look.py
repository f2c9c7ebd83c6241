"""`list` and `info`: containers as they are."""

from __future__ import annotations

from lxcctl import arguments, output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.commands.addresses import INET, INET6, far_words, route_words, words_of
from lxcctl.commands.several import each
from lxcctl.wire import exit_words, local_time, problem_line, state_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import Container

_PAGE = 1000
# A list leaves them out: they are the configuration, and empty in View BASIC.
_ONLY_FULL = ("config", "config_text")


def _yes(value: bool) -> str:  # noqa: FBT001 - it is what is shown
    return "yes" if value else "no"


_COLUMNS: tuple[tuple[str, Callable[[Container], str]], ...] = (
    ("NAME", lambda c: c.name),
    ("STATE", lambda c: state_name(c.state)),
    ("PID", lambda c: str(c.pid) if c.pid else "-"),
    ("STARTED", lambda c: local_time(c.start_time) if c.pid and c.HasField("start_time") else "-"),
    ("EXIT", lambda c: exit_words(c.exit) if c.HasField("exit") else "-"),
    ("AUTOSTART", lambda c: _yes(c.autostart)),
    ("GROUPS", lambda c: ",".join(c.groups)),
    ("IPV4", lambda c: far_words(c, INET)),
    ("IPV6", lambda c: far_words(c, INET6)),
    ("UNPRIVILEGED", lambda c: _yes(c.unprivileged)),
    ("ROOTFS", lambda c: c.rootfs),
)


def _list_options(parser: Parser) -> None:
    parser.add_argument(
        "--state",
        dest="states",
        metavar="S",
        type=arguments.states,
        action="extend",
        default=[],
        help="only in this state; may be repeated",
    )
    parser.add_argument("-1", dest="names_only", action="store_true", help="names only")


def _list(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import Container

    found = containers(session, args.states)
    if args.names_only:
        for container in found:
            output.line(output.harmless(container.name))
    elif session.form == "table":
        output.table(_COLUMNS, found)
    else:
        header = output.csv_header(Container.DESCRIPTOR, _ONLY_FULL)
        output.records(session.form, header, (output.plain(c, _ONLY_FULL) for c in found))
    return 0


def containers(session: Session, states: list[int]) -> Iterator[Container]:
    """Every container, page by page."""
    from lxcd.v1.container_pb2 import VIEW_BASIC, ListContainersRequest, ListContainersResponse

    request = ListContainersRequest(lxcpath=session.lxcpath, page_size=_PAGE, view=VIEW_BASIC)
    request.states.extend(states)  # type: ignore[arg-type]  # the stubs want the enum, not its number
    while True:
        page = session.channel.call(
            "ContainerService/ListContainers", request, ListContainersResponse, LOOK_SECONDS
        )
        yield from page.containers
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _info(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import VIEW_FULL, Container, GetContainerRequest

    found: list[Container] = []

    def begin(name: str) -> Callable[[], Container]:
        request = GetContainerRequest(name=name, lxcpath=session.lxcpath, view=VIEW_FULL)
        return session.channel.begin(
            "ContainerService/GetContainer", request, Container, LOOK_SECONDS
        )

    status = each(args.names, begin, lambda _, container: found.append(container))
    if session.form == "table":
        for position, container in enumerate(found):
            if position:
                output.line("")
            for label, value in describe(container):
                output.line(f"{label:<15} {output.harmless(value)}".rstrip())
    else:
        header = output.csv_header(Container.DESCRIPTOR)
        rows = map(output.plain, found)
        output.records(session.form, header, rows, single=len(args.names) == 1)
    return status


def describe(container: Container) -> Iterator[tuple[str, str]]:
    """What `info` tells, as label and value; further lines of a list have no label."""
    yield "Name:", container.name
    state = state_name(container.state)
    yield "State:", f"{state} ({container.state_reason})" if container.state_reason else state
    if container.pid:
        yield "PID:", str(container.pid)
    yield "Generation:", str(container.generation)
    if container.HasField("start_time") and container.pid:
        yield "Started:", local_time(container.start_time)
    if container.HasField("exit"):
        end = container.exit
        when = f", {local_time(end.time)}" if end.HasField("time") else ""
        yield "Exit:", f"{exit_words(end)}{when} (generation {end.generation})"
    if container.command:
        import shlex

        yield "Command:", shlex.join(container.command)
    yield "Rootfs:", container.rootfs or "-"
    yield "Lxcpath:", container.lxcpath
    yield "Unprivileged:", _yes(container.unprivileged)
    yield "Ephemeral:", _yes(container.ephemeral)
    yield "Application:", _yes(container.application)
    yield "Autostart:", _yes(container.autostart)
    if container.groups:
        yield "Groups:", ", ".join(container.groups)
    if not container.defined:
        yield "Defined:", "no, exists only while it runs"
    if container.streams:
        yield "Streams:", ", ".join(container.streams)
    yield from _network(container)
    idle = [item.key for item in container.config if item.not_in_force]
    yield from _block("Not in force:", idle)
    yield from _block("Problems:", [problem_line(problem) for problem in container.problems])
    groups = sorted(container.cgroups.items())
    yield from _block("Cgroups:", [f"{tree}:{path}" if tree else path for tree, path in groups])


def _network(container: Container) -> Iterator[tuple[str, str]]:
    if container.shares_network:
        yield "Network:", "not its own"
    devices = (text for one in container.network_interfaces for text in words_of(one))
    yield from _block("Network:", list(devices))
    yield from _block("Routes:", [route_words(route) for route in container.network_routes])
    if container.network_truncated:
        yield "", "... and more than are kept"


def _block(label: str, values: list[str]) -> Iterator[tuple[str, str]]:
    for position, value in enumerate(values):
        yield "" if position else label, value


VERBS = {"list": (_list_options, _list), "info": (arguments.add_names, _info)}
