"""`config get`, `set`, `unset`, `show`: single keys and the text."""

from __future__ import annotations

from lxcctl import arguments, output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.commands.several import note_problems
from lxcctl.errors import NOT_FOUND, ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import Container
    from lxcd.v1.types_pb2 import ConfigItem


# What can be changed beside the keys of the file.
_LIMITS = ", or limits.NAME of its lxcd.toml"


def get_full(session: Session, name: str) -> Container:
    """A container with its configuration."""
    from lxcd.v1.container_pb2 import VIEW_FULL, Container, GetContainerRequest

    request = GetContainerRequest(name=name, lxcpath=session.lxcpath, view=VIEW_FULL)
    return session.channel.call("ContainerService/GetContainer", request, Container, LOOK_SECONDS)


def _add_key(parser: Parser, more: str = "") -> None:
    arguments.add_name(parser)
    parser.add_argument("key", metavar="KEY", help=f"a key of lxc.container.conf(5){more}")


def _get(session: Session, args: Namespace) -> int:
    container = get_full(session, args.name)
    # A value that is empty clears a list: what stood before it does not count.
    items: list[ConfigItem] = []
    for item in container.config:
        if item.key == args.key:
            items = [*items, item] if item.value else []
    if not items:
        raise ClientError(f"{args.name}: {args.key} is not set", NOT_FOUND)
    _show_items(session, items, lambda item: item.value)
    return 0


def _add_values(parser: Parser) -> None:
    _add_key(parser, _LIMITS)
    parser.add_argument("values", metavar="VALUE", nargs="+", help="one line of the file each")
    _add_scope(parser)


def _add_unset(parser: Parser) -> None:
    _add_key(parser, _LIMITS)
    _add_scope(parser)


def _add_scope(parser: Parser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--live",
        action="store_true",
        help="of the container that runs, too: limits.*, lxc.cgroup.*, lxc.cgroup2.*",
    )
    which.add_argument(
        "--live-only", action="store_true", help="of the container that runs, until it stops"
    )


def _set(session: Session, args: Namespace) -> int:
    return _change(session, args, args.values)


def _unset(session: Session, args: Namespace) -> int:
    return _change(session, args, [])


def _change(session: Session, args: Namespace, values: list[str]) -> int:
    from lxcd.v1 import container_pb2 as pb
    from lxcd.v1.container_pb2 import Container, UpdateContainerRequest

    name, key = args.name, args.key
    request = UpdateContainerRequest(container=Container(name=name, lxcpath=session.lxcpath))
    request.changes.add(key=key, values=values)
    if args.live or args.live_only:
        request.scope = pb.SCOPE_LIVE if args.live_only else pb.SCOPE_SAVED_AND_LIVE
    container = session.channel.call(
        "ContainerService/UpdateContainer", request, Container, LOOK_SECONDS
    )
    note_problems([problem for problem in container.problems if problem.key == key], name)
    return 0


def _show_options(parser: Parser) -> None:
    arguments.add_name(parser)
    parser.add_argument(
        "--resolved", action="store_true", help="key by key, includes resolved, with the origin"
    )


def _show(session: Session, args: Namespace) -> int:
    container = get_full(session, args.name)
    if args.resolved or session.form != "table":
        _show_items(session, list(container.config), _resolved)
    else:
        # The owner's own text, for a pipe or an editor: as it is.
        output.write_stdout(container.config_text.encode())
    return 0


def _resolved(item: ConfigItem) -> str:
    remark = f"{item.origin}, not in force" if item.not_in_force else item.origin
    return f"{item.key} = {item.value}" + (f"  # {remark}" if remark else "")


def _show_items(
    session: Session, items: list[ConfigItem], show: Callable[[ConfigItem], str]
) -> None:
    if session.form == "table":
        for item in items:
            output.line(output.harmless(show(item)))
        return
    from lxcd.v1.types_pb2 import ConfigItem

    header = output.csv_header(ConfigItem.DESCRIPTOR)
    output.records(session.form, header, [output.plain(item) for item in items])


VERBS = {
    "config get": (_add_key, _get),
    "config set": (_add_values, _set),
    "config unset": (_add_unset, _unset),
    "config show": (_show_options, _show),
}
