"""`network …`: managed networks, who has which address, ports that lead into them."""

from __future__ import annotations

from lxcctl import arguments, output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.errors import UsageError
from lxcctl.wire import local_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    from google.protobuf.message import Message

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session
    from lxcd.v1.network_pb2 import Forward, Lease, Network

    Row = TypeVar("Row", bound=Message)

_PAGE = 1000
# What `create` and `set` take, and what each is.
_TEXTS = ("ipv4", "ipv4_range", "ipv6", "domain", "hwaddr", "dnsmasq_conf")
_FLAGS = ("ipv4_nat", "ipv4_dhcp", "ipv6_nat", "ipv6_ra", "dhcp_ping")
_NUMBERS = ("mtu", "dhcp_max")
_SETTINGS = (*_TEXTS, *_FLAGS, *_NUMBERS)
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_LARGEST_PORT = 65535


def _yes(value: bool) -> str:  # noqa: FBT001 - it is what is shown
    return "yes" if value else "no"


def _add_network(parser: Parser) -> None:
    parser.add_argument("name", metavar="NETWORK", help="name of the network, and of its bridge")


def _add_settings(parser: Parser) -> None:
    _add_network(parser)
    parser.add_argument(
        "settings",
        metavar="KEY=VALUE",
        type=arguments.key_value,
        nargs="*",
        help=", ".join(_SETTINGS),
    )


def _apply(network: Network, settings: list[tuple[str, str]]) -> list[str]:
    """Put what was said into the message; the names of it."""
    for key, text in settings:
        value: str | int | bool = text
        if key in _FLAGS:
            word = _WORDS.get(text.lower())
            if word is None:
                raise UsageError(f"network: {key}: not true or false: {text!r}")
            value = word
        elif key in _NUMBERS:
            if not (text.isascii() and text.isdigit() and len(text) < 10):  # noqa: PLR2004 - uint32
                raise UsageError(f"network: {key}: not a number: {text!r}")
            value = int(text)
        elif key not in _TEXTS:
            raise UsageError(f"network: no such setting: {key} (one of {', '.join(_SETTINGS)})")
        setattr(network, key, value)
    return [key for key, _ in settings]


def _create(session: Session, args: Namespace) -> int:
    from lxcd.v1.network_pb2 import CreateNetworkRequest, Network

    request = CreateNetworkRequest(network=Network(name=args.name))
    _apply(request.network, args.settings)
    made = session.channel.call("NetworkService/CreateNetwork", request, Network)
    _show_one(session, made, quiet=True)
    return 0


def _set(session: Session, args: Namespace) -> int:
    from lxcd.v1.network_pb2 import Network, UpdateNetworkRequest

    if not args.settings:
        raise UsageError("network set: which KEY=VALUE?")
    request = UpdateNetworkRequest(network=Network(name=args.name))
    request.update_mask.paths.extend(_apply(request.network, args.settings))
    made = session.channel.call("NetworkService/UpdateNetwork", request, Network)
    _show_one(session, made, quiet=True)
    return 0


def _show(session: Session, args: Namespace) -> int:
    from lxcd.v1.network_pb2 import GetNetworkRequest, Network

    request = GetNetworkRequest(name=args.name)
    found = session.channel.call("NetworkService/GetNetwork", request, Network, LOOK_SECONDS)
    _show_one(session, found)
    return 0


def _show_one(session: Session, network: Network, *, quiet: bool = False) -> None:
    if session.form != "table":
        header = output.csv_header(network.DESCRIPTOR)
        output.records(session.form, header, [output.plain(network)], single=True)
    elif not quiet:
        for label, value in _describe(network):
            output.line(f"{label:<13} {output.harmless(value)}".rstrip())


def _describe(network: Network) -> Iterator[tuple[str, str]]:
    yield "Name:", network.name
    yield "Up:", _yes(network.up)
    yield "Defined:", _yes(network.defined)
    if network.dnsmasq_pid:
        yield "Dnsmasq:", str(network.dnsmasq_pid)
    for key in _SETTINGS:
        value = getattr(network, key)
        yield f"{key}:", _yes(value) if isinstance(value, bool) else str(value or "-")
    for place, port in enumerate(network.ports):
        words = [port.container, port.host_name, port.hwaddr, *port.addresses]
        yield "" if place else "Ports:", " ".join(words)


def _no_options(_parser: Parser) -> None:
    pass


_NETWORKS: tuple[tuple[str, Callable[[Network], str]], ...] = (
    ("NAME", lambda n: n.name),
    ("UP", lambda n: _yes(n.up)),
    ("IPV4", lambda n: n.ipv4),
    ("IPV6", lambda n: n.ipv6),
    ("DOMAIN", lambda n: n.domain),
    ("USED BY", lambda n: str(len(n.ports))),
)


def _list(session: Session, _args: Namespace) -> int:
    from lxcd.v1.network_pb2 import ListNetworksRequest, ListNetworksResponse, Network

    request = ListNetworksRequest(page_size=_PAGE)
    found: list[Network] = []
    while True:
        page = session.channel.call(
            "NetworkService/ListNetworks", request, ListNetworksResponse, LOOK_SECONDS
        )
        found += page.networks
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    if session.form == "table":
        output.table(_NETWORKS, found)
    else:
        header = output.csv_header(Network.DESCRIPTOR)
        output.records(session.form, header, map(output.plain, found))
    return 0


def _delete_options(parser: Parser) -> None:
    parser.add_argument("names", metavar="NETWORK", nargs="+", help="name of a network")
    parser.add_argument("--force", action="store_true", help="cut off whoever is connected")


def _delete(session: Session, args: Namespace) -> int:
    from lxcd.v1.network_pb2 import DeleteNetworkRequest, DeleteNetworkResponse

    for name in args.names:
        request = DeleteNetworkRequest(name=name, force=args.force)
        session.channel.call("NetworkService/DeleteNetwork", request, DeleteNetworkResponse)
    return 0


_LEASES: tuple[tuple[str, Callable[[Lease], str]], ...] = (
    ("ADDRESS", lambda lease: lease.address),
    ("HWADDR", lambda lease: lease.hwaddr),
    ("NAME", lambda lease: lease.name),
    ("CONTAINER", lambda lease: lease.container),
    ("KEPT", lambda lease: _yes(lease.reserved)),
    ("EXPIRES", lambda o: local_time(o.expire_time) if o.HasField("expire_time") else ""),
)


def _leases(session: Session, args: Namespace) -> int:
    from lxcd.v1.network_pb2 import Lease, ListLeasesRequest, ListLeasesResponse

    request = ListLeasesRequest(name=args.name, page_size=_PAGE)
    found: list[Lease] = []
    while True:
        page = session.channel.call(
            "NetworkService/ListLeases", request, ListLeasesResponse, LOOK_SECONDS
        )
        found += page.leases
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    _show_all(session, Lease, _LEASES, found)
    return 0


def _show_all(
    session: Session,
    kind: type[Row],
    columns: Sequence[tuple[str, Callable[[Row], str]]],
    found: Sequence[Row],
) -> None:
    if session.form == "table":
        output.table(columns, found)
    else:
        header = output.csv_header(kind.DESCRIPTOR)
        output.records(session.form, header, map(output.plain, found))


# ---- forwards


def _forward_options(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", default="", help="name of the container")
    parser.add_argument("protocol", metavar="tcp|udp", nargs="?", default="")
    parser.add_argument(
        "ports",
        metavar="[ADDRESS:]PORT[:PORT]",
        nargs="?",
        default="",
        help="of the host, and of the container if it is another one",
    )
    parser.add_argument("--remove", action="store_true", help="let it lead there no longer")


_FORWARDS: tuple[tuple[str, Callable[[Forward], str]], ...] = (
    ("CONTAINER", lambda forward: forward.container),
    ("PROTOCOL", lambda forward: forward.protocol),
    ("ADDRESS", lambda forward: forward.listen_address or "*"),
    ("LISTEN", lambda forward: str(forward.listen)),
    ("CONNECT", lambda forward: str(forward.connect)),
    ("ACTIVE", lambda forward: _yes(forward.active)),
)


def _forward(session: Session, args: Namespace) -> int:
    from lxcd.v1 import network_pb2 as pb

    if not args.protocol:
        if args.remove:
            raise UsageError("network forward: which one is to be removed?")
        return _list_forwards(session, args.name)
    listen_address, listen, connect = read_ports(args.ports)
    forward = pb.Forward(
        container=args.name,
        lxcpath=session.lxcpath,
        protocol=args.protocol.lower(),
        listen=listen,
        connect=connect,
        listen_address=listen_address,
    )
    if args.remove:
        session.channel.call(
            "NetworkService/RemoveForward",
            pb.RemoveForwardRequest(forward=forward),
            pb.RemoveForwardResponse,
        )
        return 0
    made = session.channel.call(
        "NetworkService/AddForward", pb.AddForwardRequest(forward=forward), pb.Forward
    )
    if session.form != "table":
        header = output.csv_header(pb.Forward.DESCRIPTOR)
        output.records(session.form, header, [output.plain(made)], single=True)
    elif not made.active:
        output.note(f"{args.name}: it leads there once the container is connected to a network")
    return 0


def _list_forwards(session: Session, name: str) -> int:
    from lxcd.v1.network_pb2 import Forward, ListForwardsRequest, ListForwardsResponse

    request = ListForwardsRequest(container=name, lxcpath=session.lxcpath, page_size=_PAGE)
    found: list[Forward] = []
    while True:
        page = session.channel.call(
            "NetworkService/ListForwards", request, ListForwardsResponse, LOOK_SECONDS
        )
        found += page.forwards
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    _show_all(session, Forward, _FORWARDS, found)
    return 0


def read_ports(text: str) -> tuple[str, int, int]:
    """`8080:80`, `80`, `127.0.0.1:8080:80`, `[::1]:8080:80`: address, port, container's port."""
    address, rest = "", text
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]:")
        if not bracket:
            rest = ""
    words = rest.split(":")
    if not address and words and "." in words[0]:
        address, *words = words
    good = 1 <= len(words) <= 2 and all(_is_port(word) for word in words)  # noqa: PLR2004
    if not good:
        raise UsageError(f"network forward: not [ADDRESS:]PORT[:PORT]: {text!r}")
    return address, int(words[0]), int(words[-1])


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) <= _LARGEST_PORT  # noqa: PLR2004


VERBS = {
    "network create": (_add_settings, _create),
    "network list": (_no_options, _list),
    "network show": (_add_network, _show),
    "network set": (_add_settings, _set),
    "network delete": (_delete_options, _delete),
    "network leases": (_add_network, _leases),
    "network forward": (_forward_options, _forward),
}
