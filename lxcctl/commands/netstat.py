"""`netstat`: what net-tools' netstat would show inside, without it being there."""

from __future__ import annotations

from lxcctl import output
from lxcctl.arguments import Parser, add_name
from lxcctl.channel import LOOK_SECONDS
from lxcctl.errors import WRONG_STATE, ClientError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Iterator

    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import Container, Socket

# Of Socket.Kind and Socket.State (a test compares).
TCP, UDP, RAW, UNIX = 1, 2, 3, 4
ESTABLISHED, CLOSE, LISTEN, NEW_SYN_RECV = 1, 7, 10, 12
STATES = (
    "UNKNOWN", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT",
    "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "SYN_RECV",
)  # fmt: skip

# Letters and words of netstat(8), and what they mean here.
_OPTIONS = (
    ("a", "all", "sockets that listen, too; with -i devices that are down"),
    ("n", "numeric", "numbers of ports and users, no names"),
    ("t", "tcp", "of TCP"),
    ("u", "udp", "of UDP"),
    ("w", "raw", "raw ones"),
    ("x", "unix", "of the UNIX domain"),
    ("l", "listening", "only sockets that listen"),
    ("p", "programs", "the process that holds each, by its pid on the host"),
    ("e", "extend", "user and inode, too"),
    ("r", "route", "the routing table instead"),
    ("i", "interfaces", "the table of devices instead"),
    ("4", "inet", "of IPv4"),
    ("6", "inet6", "of IPv6"),
)
_NOTE = "Addresses are always numbers: no name server is asked, which could take its time."


def add_flags(parser: Parser) -> None:
    """Options of netstat itself."""
    for letter, word, text in _OPTIONS:
        parser.add_argument(f"-{letter}", f"--{word}", dest=word, action="store_true", help=text)
    parser.epilog = _NOTE


def _options(parser: Parser) -> None:
    parser.command_style = "dashes"
    add_name(parser)
    add_flags(parser)


def _netstat(session: Session, args: Namespace) -> int:
    if args.command:
        # Behind the `--`, as it was typed for netstat.
        behind = Parser("netstat", "NAME [-- NETSTAT-OPTIONS...]", "")
        add_flags(behind)
        behind.parse_args(args.command, args)
    if args.route and args.interfaces:
        raise UsageError("netstat: one of -r and -i")
    if args.route or args.interfaces:
        container = _container(session, args.name)
        if session.form != "table":
            _for_programs(session, container, args)
        elif args.route:
            _print(route_table(container, args))
        else:
            _print(interface_table(container, args))
        return 0
    found = [one for one in _sockets(session, args) if is_wanted(one, args)]
    if session.form == "table":
        _print(socket_tables(found, args))
        return 0
    from lxcd.v1.container_pb2 import Socket

    header = output.csv_header(Socket.DESCRIPTOR)
    output.records(session.form, header, (output.plain(one) for one in found))
    return 0


def _print(lines: Iterable[str]) -> None:
    for text in lines:
        output.line(output.harmless(text).rstrip())


def _for_programs(session: Session, container: Container, args: Namespace) -> None:
    from lxcd.v1 import types_pb2

    rows: list[types_pb2.NetworkRoute] | list[types_pb2.NetworkInterface]
    if args.route:
        kind, rows = types_pb2.NetworkRoute.DESCRIPTOR, list(container.network_routes)
    else:
        kind, rows = types_pb2.NetworkInterface.DESCRIPTOR, list(container.network_interfaces)
    output.records(session.form, output.csv_header(kind), (output.plain(one) for one in rows))


def _container(session: Session, name: str) -> Container:
    from lxcd.v1.container_pb2 import VIEW_BASIC, Container, GetContainerRequest

    request = GetContainerRequest(name=name, lxcpath=session.lxcpath, view=VIEW_BASIC)
    found = session.channel.call("ContainerService/GetContainer", request, Container, LOOK_SECONDS)
    if not found.pid:
        raise ClientError(f"container {name} does not run", WRONG_STATE)
    if found.shares_network:
        raise ClientError(f"container {name} has no network of its own", WRONG_STATE)
    if found.network_truncated:
        output.note(f"{name}: there is more than lxcd keeps")
    return found


def _sockets(session: Session, args: Namespace) -> list[Socket]:
    from lxcd.v1.container_pb2 import ListSocketsRequest, ListSocketsResponse

    asked = ((TCP, args.tcp), (UDP, args.udp), (RAW, args.raw), (UNIX, args.unix))
    kinds = [kind for kind, wanted in asked if wanted]
    if not kinds and (args.inet or args.inet6):
        kinds = [TCP, UDP, RAW]
    request = ListSocketsRequest(
        name=args.name, lxcpath=session.lxcpath, with_holders=args.programs
    )
    request.kinds.extend(kinds)  # type: ignore[arg-type]  # the stubs want the enum
    reply = session.channel.call(
        "ContainerService/ListSockets", request, ListSocketsResponse, LOOK_SECONDS
    )
    if reply.truncated:
        output.note(f"{args.name}: there are more sockets than are told of")
    return list(reply.sockets)


def is_wanted(socket: Socket, args: Namespace) -> bool:
    """Whether netstat would show it with these options."""
    if socket.kind != UNIX and args.inet != args.inet6:
        from lxcctl.commands.addresses import INET, INET6

        if socket.family != (INET if args.inet else INET6):
            return False
    if args.listening:
        return _listens(socket)
    return args.all or not _listens(socket)


def _listens(socket: Socket) -> bool:
    """It waits for whoever comes: a datagram socket does so until it is connected."""
    if socket.kind in (UDP, RAW):
        return socket.state == CLOSE
    return socket.state == LISTEN


def socket_tables(found: list[Socket], args: Namespace) -> Iterator[str]:
    """Both tables."""
    which = "(w/o servers)"
    if args.listening:
        which = "(only servers)"
    elif args.all:
        which = "(servers and established)"
    every = not (args.tcp or args.udp or args.raw or args.unix or args.inet or args.inet6)
    near = [one for one in found if one.kind == UNIX]
    far = [one for one in found if one.kind != UNIX]
    if every or args.tcp or args.udp or args.raw or args.inet or args.inet6:
        yield f"Active Internet connections {which}"
        yield from _inet_table(far, args)
    if every or args.unix:
        yield f"Active UNIX domain sockets {which}"
        yield from _unix_table(near, args)


def _inet_table(found: list[Socket], args: Namespace) -> Iterator[str]:
    yield _inet_line(
        ("Proto", "Recv-Q", "Send-Q", "Local Address", "Foreign Address", "State"),
        ["User", "Inode"] if args.extend else [],
        "PID/Program name" if args.programs else "",
    )
    user = _numbers if args.numeric else _user_names()
    for one in found:
        protocol = {TCP: "tcp", UDP: "udp"}.get(one.kind, "raw")
        name = _numbers if args.numeric else _port_names(protocol)
        # The kernel has a state for a datagram socket, but it means nothing to anybody.
        state = STATES[one.state] if one.state < len(STATES) else str(one.state)
        if one.kind == UDP and one.state == CLOSE:
            state = ""
        elif one.kind == RAW:
            state = str(one.state)
        near_port = one.protocol if one.kind == RAW else one.local_port
        yield _inet_line(
            (
                protocol + ("6" if ":" in one.local_address else ""),
                str(one.backlog if one.state == LISTEN else one.receive_queue_bytes),
                str(one.send_queue_bytes),
                f"{one.local_address}:{name(near_port) if near_port else '*'}",
                f"{one.remote_address}:{name(one.remote_port) if one.remote_port else '*'}",
                state,
            ),
            [user(one.uid), str(one.inode)] if args.extend else [],
            _holder(one) if args.programs else "",
        )


def _inet_line(cells: tuple[str, str, str, str, str, str], more: list[str], holder: str) -> str:
    protocol, received, sent, near, far, state = cells
    text = f"{protocol:<5} {received:>6} {sent:>6} {near:<23} {far:<23} {state:<11}"
    for cell in more:
        text += f" {cell:<10}"
    return f"{text} {holder}"


def _unix_table(found: list[Socket], args: Namespace) -> Iterator[str]:
    program = f" {'PID/Program name':<20}" if args.programs else ""
    yield f"Proto RefCnt Flags       Type       State         I-Node  {program} Path"
    for one in found:
        state = {LISTEN: "LISTENING", ESTABLISHED: "CONNECTED"}.get(one.state, "")
        flags = "[ ACC ]" if one.state == LISTEN else "[ ]"
        # How many refer to it the kernel does not say.
        head = f"unix  {'-':<6} {flags:<11} {one.type.upper():<10} {state:<13} {one.inode:<8}"
        holder = f" {_holder(one):<20}" if args.programs else ""
        yield f"{head}{holder} {one.path}"


def _holder(socket: Socket) -> str:
    """The first of those that have it; all others have it from that one, as a rule."""
    if not socket.holders:
        return "-"
    first = min(socket.holders, key=lambda one: one.pid)
    return f"{first.pid}/{output.harmless(first.comm)}"


def _numbers(number: int) -> str:
    return str(number)


def _port_names(protocol: str) -> Callable[[int], str]:
    """/etc/services of this host."""
    import socket

    def name(port: int) -> str:
        if protocol == "raw":
            return str(port)
        try:
            return socket.getservbyport(port, protocol)
        except OSError:
            return str(port)

    return name


def _user_names() -> Callable[[int], str]:
    """/etc/passwd of this host: the numbers are the host's."""
    import pwd

    def name(uid: int) -> str:
        try:
            return pwd.getpwuid(uid).pw_name
        except (KeyError, OverflowError):
            return str(uid)

    return name


# What netstat(8) has there; lxcd does not look at it.
_ROUTE_TITLES = ("MSS", "Window", "irtt")


def route_table(container: Container, args: Namespace) -> Iterator[str]:
    """`netstat -r`."""
    from lxcctl.commands.addresses import INET, INET6

    if args.inet or not args.inet6:
        yield "Kernel IP routing table"
        yield _route_line(("Destination", "Gateway", "Genmask", "Flags"), _ROUTE_TITLES, "Iface")
        for route in container.network_routes:
            if route.family == INET:
                where, _, length = route.destination.partition("/")
                mask = _mask(int(length or 32))
                flags = _route_flags(route.type, route.gateway, host=length == "32")
                gateway = route.gateway or "0.0.0.0"  # noqa: S104 - printed
                yield _route_line(
                    (where, gateway, mask, flags), ("-", "-", "-"), route.interface or "*"
                )
    if args.inet6:
        yield "Kernel IPv6 routing table"
        yield f"{'Destination':<30} {'Next Hop':<26} {'Flag':<4} {'Met':<6} If"
        for route in container.network_routes:
            if route.family == INET6:
                flags = _route_flags(
                    route.type, route.gateway, host=route.destination.endswith("/128")
                )
                yield (
                    f"{route.destination:<30} {route.gateway or '::':<26} {flags:<4}"
                    f" {route.metric:<6} {route.interface or '*'}"
                )


def _route_line(
    cells: tuple[str, str, str, str], metrics: tuple[str, str, str], device: str
) -> str:
    where, gateway, mask, flags = cells
    segment, window, trip = metrics
    head = f"{where:<15} {gateway:<15} {mask:<15} {flags:<5}"
    return f"{head} {segment:>5} {window:<6} {trip:>5} {device}"


def _mask(length: int) -> str:
    bits = (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF
    return ".".join(str(byte) for byte in bits.to_bytes(4, "big"))


def _route_flags(kind: str, gateway: str, *, host: bool) -> str:
    if kind != "unicast":
        return "!"
    return "U" + ("G" if gateway else "") + ("H" if host else "")


# IFF_* of netdevice(7), and the letters that netstat(8) has for them.
_FLAGS = (
    (0x2, "B"), (0x8, "L"), (0x100, "P"), (0x1000, "M"), (0x80, "O"), (0x10, "P"), (0x40, "R"),
    (0x1, "U"),
)  # fmt: skip


def interface_table(container: Container, args: Namespace) -> Iterator[str]:
    """`netstat -i`."""
    yield "Kernel Interface table"
    titles = ("RX-OK", "RX-ERR", "RX-DRP", "RX-OVR", "TX-OK", "TX-ERR", "TX-DRP", "TX-OVR")
    yield _interface_line(("Iface", "MTU"), titles, "Flg")
    for one in container.network_interfaces:
        if one.up or args.all:
            count = one.counters
            numbers = (
                *(count.rx_packets, count.rx_errors, count.rx_dropped, count.rx_overruns),
                *(count.tx_packets, count.tx_errors, count.tx_dropped, count.tx_overruns),
            )
            letters = "".join(letter for bit, letter in _FLAGS if one.flags & bit)
            yield _interface_line((one.name, str(one.mtu)), map(str, numbers), letters)


def _interface_line(head: tuple[str, str], numbers: Iterable[str], flags: str) -> str:
    name, mtu = head
    return f"{name:<15} {mtu:>5} {' '.join(f'{cell:>8}' for cell in numbers)} {flags}"


VERBS = {"netstat": (_options, _netstat)}
