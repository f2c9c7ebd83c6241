"""netstat: as net-tools' prints it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from lxcctl.commands import addresses, netstat, wait
from lxcd.v1 import container_pb2, types_pb2
from tests.unit.lxcctl.test_look import container, networked

if TYPE_CHECKING:
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl

Socket = container_pb2.Socket
INET, INET6 = types_pb2.ADDRESS_FAMILY_INET, types_pb2.ADDRESS_FAMILY_INET6


def sockets(**options: Any) -> Any:
    listening = Socket(
        kind=Socket.KIND_TCP,
        family=INET,
        state=Socket.STATE_LISTEN,
        local_address="0.0.0.0",
        remote_address="0.0.0.0",
        local_port=22,
        backlog=1,
        backlog_max=128,
        uid=0,
        inode=100,
    )
    listening.holders.add(pid=900, container_pid=9, comm="sshd: \x1b")
    listening.holders.add(pid=800, container_pid=8, comm="sshd")
    connected = Socket(
        kind=Socket.KIND_TCP,
        family=INET6,
        state=Socket.STATE_ESTABLISHED,
        local_address="fd00::2",
        remote_address="fd00::1",
        local_port=22,
        remote_port=50000,
        receive_queue_bytes=5,
        send_queue_bytes=7,
        uid=100_000,
        inode=101,
    )
    bound = Socket(
        kind=Socket.KIND_UDP,
        family=INET,
        state=Socket.STATE_CLOSE,
        local_address="127.0.0.1",
        remote_address="0.0.0.0",
        local_port=1,
    )
    raw = Socket(
        kind=Socket.KIND_RAW,
        family=INET,
        state=Socket.STATE_CLOSE,
        local_address="0.0.0.0",
        remote_address="0.0.0.0",
        protocol=1,
    )
    near = [
        Socket(kind=Socket.KIND_UNIX, state=Socket.STATE_LISTEN, type="stream", inode=7, path="/s"),
        Socket(kind=Socket.KIND_UNIX, state=Socket.STATE_ESTABLISHED, type="dgram", inode=8),
    ]
    found = [listening, connected, bound, raw, *near]
    return lambda r: container_pb2.ListSocketsResponse(
        sockets=[one for one in found if not r.kinds or one.kind in r.kinds], **options
    )


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_numbers_are_the_apis() -> None:
    kinds = (Socket.KIND_TCP, Socket.KIND_UDP, Socket.KIND_RAW, Socket.KIND_UNIX)
    assert kinds == (netstat.TCP, netstat.UDP, netstat.RAW, netstat.UNIX)
    assert (netstat.ESTABLISHED, netstat.CLOSE, netstat.LISTEN) == (
        Socket.STATE_ESTABLISHED,
        Socket.STATE_CLOSE,
        Socket.STATE_LISTEN,
    )
    names = [name.removeprefix("STATE_") for name in Socket.State.keys()]  # noqa: SIM118
    assert list(netstat.STATES[1:-1]) == names[1:-1]
    assert len(netstat.STATES) == len(names)
    assert (addresses.INET, addresses.INET6) == (INET, INET6)
    assert wait.NETWORK == container_pb2.CONDITION_NETWORK


def test_without_options_what_is_connected(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ListSockets"] = sockets()
    result = lxcctl("netstat", "001")
    assert rows(result.out) == [
        ["Active", "Internet", "connections", "(w/o", "servers)"],
        ["Proto", "Recv-Q", "Send-Q", "Local", "Address", "Foreign", "Address", "State"],
        ["tcp6", "5", "7", "fd00::2:ssh", "fd00::1:50000", "ESTABLISHED"],
        ["Active", "UNIX", "domain", "sockets", "(w/o", "servers)"],
        ["Proto", "RefCnt", "Flags", "Type", "State", "I-Node", "Path"],
        ["unix", "-", "[", "]", "DGRAM", "CONNECTED", "8"],
    ]
    (request,) = daemon.asked("ListSockets")
    assert (request.name, list(request.kinds), request.with_holders) == ("001", [], False)


def test_all_with_programs(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ListSockets"] = sockets()
    result = lxcctl("netstat", "001", "--", "-anp")
    assert rows(result.out)[2:6] == [
        ["tcp", "1", "0", "0.0.0.0:22", "0.0.0.0:*", "LISTEN", "800/sshd"],
        ["tcp6", "5", "7", "fd00::2:22", "fd00::1:50000", "ESTABLISHED", "-"],
        ["udp", "0", "0", "127.0.0.1:1", "0.0.0.0:*", "-"],
        ["raw", "0", "0", "0.0.0.0:1", "0.0.0.0:*", "7", "-"],
    ]
    assert ["unix", "-", "[", "ACC", "]", "STREAM", "LISTENING", "7", "-", "/s"] in rows(result.out)
    assert daemon.asked("ListSockets")[0].with_holders


def test_columns_stand_where_netstat_has_them(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ListSockets"] = sockets()
    _, head, line = lxcctl("netstat", "001", "--", "-tnl").out.splitlines()
    assert head == ("Proto Recv-Q Send-Q Local Address           Foreign Address         State")
    assert line == "tcp        1      0 0.0.0.0:22              0.0.0.0:*               LISTEN"


def test_extended_names_users(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ListSockets"] = sockets()
    line = rows(lxcctl("netstat", "001", "--", "-t", "-l", "-e").out)[2]
    assert line[-3:] == ["LISTEN", "root", "100"]
    line = rows(lxcctl("netstat", "001", "--", "-te").out)[2]
    assert line[-2:] == ["100000", "101"]


@pytest.mark.parametrize(
    ("options", "kinds", "protocols"),
    [
        (["-t", "-a"], [1], {"tcp", "tcp6"}),
        (["-ua"], [2], {"udp"}),
        (["-wa"], [3], {"raw"}),
        (["-tul"], [1, 2], {"tcp", "udp"}),
        (["-xa"], [4], {"unix"}),
        (["-4a"], [1, 2, 3], {"tcp", "udp", "raw"}),
        (["-6a"], [1, 2, 3], {"tcp6"}),
        (["--tcp", "--listening", "--numeric"], [1], {"tcp"}),
    ],
)
def test_kinds(
    daemon: FakeDaemon, lxcctl: Lxcctl, options: list[str], kinds: list[int], protocols: set[str]
) -> None:
    daemon.on["ListSockets"] = sockets()
    found = {row[0] for row in rows(lxcctl("netstat", "001", "--", *options).out)}
    assert found - {"Active", "Proto"} == protocols
    assert list(daemon.asked("ListSockets")[0].kinds) == kinds
    # The same without the `--`.
    assert {row[0] for row in rows(lxcctl("netstat", *options, "001").out)} == found


def test_for_programs(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ListSockets"] = sockets()
    (one,) = json.loads(lxcctl("--format", "json", "netstat", "001", "--", "-tlp").out)
    assert (one["kind"], one["state"], one["family"]) == ("TCP", "LISTEN", "INET")
    assert one["holders"][1] == {"pid": 800, "container_pid": 8, "comm": "sshd"}
    text = lxcctl("--format", "csv", "netstat", "001", "--", "-tl").out
    assert text.startswith("kind,family,state,local_address,local_port,")
    assert lxcctl("--format", "json", "netstat", "001", "--", "-t", "-u").status == 0


def test_more_than_are_told_of(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["ListSockets"] = sockets(truncated=True)
    result = lxcctl("netstat", "001")
    assert result.status == 0
    assert "more sockets than are told of" in result.err


def test_names_cannot_move_the_cursor(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    evil = Socket(kind=Socket.KIND_UNIX, state=Socket.STATE_LISTEN, path="@\x1b[2J\n")
    evil.holders.add(pid=1, comm="\x1b")
    daemon.on["ListSockets"] = lambda _: container_pb2.ListSocketsResponse(sockets=[evil])
    result = lxcctl("netstat", "001", "--", "-xlp")
    assert result.out.splitlines()[2].endswith("1/\\x1b               @\\x1b[2J\\n")


def test_routes(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    message = networked()
    message.network_routes.add(
        family=INET, destination="10.0.0.1/32", interface="eth0", type="unicast"
    )
    message.network_routes.add(
        family=INET6,
        destination="::/0",
        gateway="fe80::1",
        interface="eth0",
        type="unicast",
        metric=5,
    )
    daemon.on["GetContainer"] = lambda _: message
    assert rows(lxcctl("netstat", "001", "--", "-rn").out)[1:] == [
        ["Destination", "Gateway", "Genmask", "Flags", "MSS", "Window", "irtt", "Iface"],
        ["0.0.0.0", "10.0.0.1", "0.0.0.0", "UG", "-", "-", "-", "eth0"],
        ["192.0.2.0", "0.0.0.0", "255.255.255.0", "!", "-", "-", "-", "*"],
        ["10.0.0.1", "0.0.0.0", "255.255.255.255", "UH", "-", "-", "-", "eth0"],
    ]
    assert rows(lxcctl("netstat", "001", "--", "-r", "-6").out)[-1] == [
        *("::/0", "fe80::1", "UG", "5", "eth0"),
    ]
    found = json.loads(lxcctl("--format", "json", "netstat", "001", "--", "-r").out)
    assert found[0]["gateway"] == "10.0.0.1"
    assert "more than lxcd keeps" in lxcctl("netstat", "001", "--", "-r").err


def test_interfaces(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    message = networked()
    message.network_interfaces.add(name="down0", index=3, mtu=1400, flags=0x1002)
    message.network_interfaces[1].counters.tx_overruns = 3
    message.network_interfaces[1].counters.rx_packets = 9
    daemon.on["GetContainer"] = lambda _: message
    table = rows(lxcctl("netstat", "001", "--", "-i").out)
    assert table[1] == [
        *("Iface", "MTU", "RX-OK", "RX-ERR", "RX-DRP", "RX-OVR"),
        *("TX-OK", "TX-ERR", "TX-DRP", "TX-OVR", "Flg"),
    ]
    assert table[2][0] == "lo"
    assert table[2][-1] == "LRU"
    assert table[3] == ["eth0\\x1b", "1500", "9", "0", "0", "0", "0", "0", "0", "3", "BMRU"]
    assert len(table) == 4
    assert rows(lxcctl("netstat", "001", "--", "-ia").out)[4][-1] == "BM"


@pytest.mark.parametrize(
    ("fields", "text"),
    [({}, "does not run"), ({"pid": 3, "shares_network": True}, "no network of its own")],
)
def test_without_a_network_of_its_own(
    daemon: FakeDaemon, lxcctl: Lxcctl, fields: dict[str, Any], text: str
) -> None:
    daemon.on["GetContainer"] = lambda _: container(**fields)
    result = lxcctl("netstat", "001", "--", "-r")
    assert result.status == 4
    assert text in result.err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["001", "--", "-z"], "unrecognized arguments: -z"),
        (["001", "--", "--num"], "unrecognized arguments: --num"),
        (["001", "--", "002"], "unrecognized arguments: 002"),
        (["001", "--", "-r", "-i"], "one of -r and -i"),
        (["001", "--"], "no command after --"),
        ([], "required: NAME"),
    ],
)
def test_what_netstat_would_not_take(lxcctl: Lxcctl, argv: list[str], text: str) -> None:
    result = lxcctl("netstat", *argv)
    assert result.status == 2
    assert text in result.err
    assert result.out == ""


def test_help_says_that_names_are_not_looked_up(lxcctl: Lxcctl) -> None:
    assert "no name server is asked" in lxcctl("netstat", "--help").out
