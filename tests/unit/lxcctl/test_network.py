"""network create, list, show, set, delete, leases, forward."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from lxcctl.commands.network import read_ports
from lxcctl.errors import UsageError
from lxcd.v1 import network_pb2 as pb

if TYPE_CHECKING:
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl


@pytest.fixture
def networked(daemon: FakeDaemon) -> Any:
    network = pb.Network(
        name="lan0", ipv4="10.0.3.1/24", ipv4_nat=True, up=True, dnsmasq_pid=7, domain=""
    )
    network.ports.add(container="web\x1b", host_name="veth1", addresses=["10.0.3.5"])
    for method in ("CreateNetwork", "GetNetwork", "UpdateNetwork"):
        daemon.on[method] = lambda _: network
    daemon.on["ListNetworks"] = lambda request: pb.ListNetworksResponse(
        networks=[network], next_page_token="" if request.page_token else "more"
    )
    daemon.on["DeleteNetwork"] = lambda _: pb.DeleteNetworkResponse()
    lease = pb.Lease(address="10.0.3.5", container="web", reserved=True)
    daemon.on["ListLeases"] = lambda _: pb.ListLeasesResponse(leases=[lease])
    daemon.on["AddForward"] = lambda request: request.forward
    daemon.on["RemoveForward"] = lambda _: pb.RemoveForwardResponse()
    forward = pb.Forward(container="web", protocol="tcp", listen=8080, connect=80, active=True)
    daemon.on["ListForwards"] = lambda _: pb.ListForwardsResponse(forwards=[forward])
    return daemon


def test_create_and_set(networked: FakeDaemon, lxcctl: Lxcctl) -> None:
    made = lxcctl(
        "network", "create", "lan0", "ipv4=10.0.3.1/24", "ipv4_nat=no", "mtu=1400", "domain="
    )
    assert (made.status, made.out) == (0, "")
    (request,) = networked.asked("CreateNetwork")
    assert request.network == pb.Network(
        name="lan0", ipv4="10.0.3.1/24", ipv4_nat=False, mtu=1400, domain=""
    )
    assert request.network.HasField("domain")
    assert not request.network.HasField("ipv6")
    assert lxcctl("network", "set", "lan0", "ipv6_ra=true", "ipv6=").status == 0
    (request,) = networked.asked("UpdateNetwork")
    assert list(request.update_mask.paths) == ["ipv6_ra", "ipv6"]
    assert request.network.ipv6_ra


@pytest.mark.parametrize(
    "argv",
    [
        ["create"], ["create", "lan0", "ipv4"], ["create", "lan0", "colour=red"], ["create", "lan0", "ipv4_nat=perhaps"],
        ["create", "lan0", "mtu=-1"], ["create", "lan0", "mtu=99999999999"], ["set", "lan0"], ["show"], ["delete"],
        ["forward", "web", "tcp"], ["forward", "web", "tcp", "x"], ["forward", "web", "--remove"], [], ["nonsense"],
    ],
)  # fmt: skip
def test_what_cannot_be_meant(networked: FakeDaemon, lxcctl: Lxcctl, argv: list[str]) -> None:
    assert lxcctl("network", *argv).status == 2
    assert networked.requests == []


def test_list_and_show(networked: FakeDaemon, lxcctl: Lxcctl) -> None:
    lines = lxcctl("network", "list").out.splitlines()
    assert lines[0].split() == ["NAME", "UP", "IPV4", "IPV6", "DOMAIN", "USED", "BY"]
    assert lines[1:] == [lines[1], lines[1]]
    shown = lxcctl("network", "show", "lan0").out
    assert "ipv4:         10.0.3.1/24\n" in shown
    assert "web\\x1b veth1" in shown
    row = json.loads(lxcctl("network", "show", "lan0", "--format", "json").out)
    assert (row["name"], row["up"], row["ports"][0]["addresses"]) == ("lan0", True, ["10.0.3.5"])
    header = lxcctl("network", "list", "--format", "csv").out.splitlines()[0]
    assert header.startswith("name,ipv4,")
    assert lxcctl("network", "delete", "lan0", "lan1", "--force").status == 0
    assert [(r.name, r.force) for r in networked.asked("DeleteNetwork")] == [
        ("lan0", True),
        ("lan1", True),
    ]
    assert "10.0.3.5" in lxcctl("network", "leases", "lan0").out


def test_forwards(networked: FakeDaemon, lxcctl: Lxcctl) -> None:
    made = lxcctl("network", "forward", "web", "TCP", "127.0.0.1:8080:80")
    assert made.status == 0
    assert "once the container is connected" in made.err
    assert lxcctl("network", "forward", "web", "udp", "53", "--remove").status == 0
    (added,) = networked.asked("AddForward")
    assert added.forward == pb.Forward(
        container="web", protocol="tcp", listen=8080, connect=80, listen_address="127.0.0.1"
    )
    (removed,) = networked.asked("RemoveForward")
    assert (removed.forward.listen, removed.forward.connect) == (53, 53)
    assert lxcctl("network", "forward").out.splitlines()[1].split() == [
        "web",
        "tcp",
        "*",
        "8080",
        "80",
        "yes",
    ]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("80", ("", 80, 80)),
        ("8080:80", ("", 8080, 80)),
        ("192.0.2.1:80", ("192.0.2.1", 80, 80)),
        ("192.0.2.1:8080:80", ("192.0.2.1", 8080, 80)),
        ("[2001:db8::1]:8080:80", ("2001:db8::1", 8080, 80)),
    ],
)
def test_ports(text: str, read: tuple[str, int, int]) -> None:
    assert read_ports(text) == read


@pytest.mark.parametrize(
    "text",
    ["", ":", "0", "65536", "1:2:3", "[::1]", "[::1]80", "192.0.2.1", "a:b", "80:", "-1"],
)
def test_what_are_no_ports(text: str) -> None:
    with pytest.raises(UsageError):
        read_ports(text)
