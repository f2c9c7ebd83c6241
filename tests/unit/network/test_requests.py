from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.config.loader import load
from lxcd.network import requests
from lxcd.network.device import Device, read_devices
from lxcd.network.netlink import Request, decode, encode
from lxcd.network.requests import Known

STEADY = settings(deadline=None, derandomize=True, database=None)
KNOWN = Known(host_namespace=71, namespace=72, link_index=9, link_mtu=1400, host_name="vethabcd")
_UP, _ONLINK = 1, 4


def device(*options: str, kind: str = "veth") -> Device:
    text = "".join(f"lxc.net.0.{line}\n" for line in (f"type = {kind}", *options))
    (found,) = read_devices(load(text.encode(), "c")[0], "seed")
    return found


def said(request: Request) -> dict[str, Any]:
    """Its attributes, as the kernel would read them."""
    if request.verb not in ("newlink", "newaddr", "newroute", "setlink"):
        return dict(request.attributes)
    (message,) = decode(encode(request, 1))
    return message.attributes


def inside(found: Device, known: Known = KNOWN) -> list[Request]:
    return requests.in_container(found, known)


def of_veth(found: Device) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both ends are told to be: the container's, the host's."""
    request = inside(found)[0]
    assert request.verb == "newlink"
    own = said(request)
    info = own.pop("IFLA_LINKINFO")
    assert info["IFLA_INFO_KIND"] == "veth"
    return own, info["IFLA_INFO_DATA"]["VETH_INFO_PEER"]


def test_a_pair() -> None:
    found = device("link = br0", "hwaddr = 00:16:3e:00:00:01")
    own, peer = of_veth(found)
    assert own == {"IFLA_IFNAME": "eth0", "IFLA_ADDRESS": "00:16:3e:00:00:01", "IFLA_MTU": 1400}
    assert peer == {
        "IFLA_IFNAME": "vethabcd",
        "IFLA_ADDRESS": "fe:16:3e:00:00:01",
        "IFLA_NET_NS_FD": 71,
        "IFLA_MTU": 1400,
    }
    assert inside(found)[0].fields == {"index": 64, "flags": 0, "change": _UP}
    assert inside(device("flags = up"))[0].fields["flags"] == _UP


@STEADY
@given(st.integers(68, 65535), st.integers(1, 4096), st.integers(1, 4096))
def test_both_ends_agree(mtu: int, receive: int, transmit: int) -> None:
    options = (f"mtu = {mtu}", f"veth.n_rxqueues = {receive}", f"veth.n_txqueues = {transmit}")
    own, peer = of_veth(device(*options))
    assert own["IFLA_MTU"] == peer["IFLA_MTU"] == mtu
    assert (own["IFLA_NUM_RX_QUEUES"], own["IFLA_NUM_TX_QUEUES"]) == (receive, transmit)
    assert (peer["IFLA_NUM_RX_QUEUES"], peer["IFLA_NUM_TX_QUEUES"]) == (transmit, receive)


def test_queues_that_are_not_given_are_the_kernels() -> None:
    own, peer = of_veth(device("veth.n_txqueues = 3"))
    assert "IFLA_NUM_RX_QUEUES" not in own
    assert own["IFLA_NUM_TX_QUEUES"] == peer["IFLA_NUM_RX_QUEUES"] == 3
    assert "IFLA_NUM_TX_QUEUES" not in peer


def test_whose_line_it_is() -> None:
    assert inside(device())[0].origin == "c:1"
    assert inside(device("veth.pair = web0"))[0].origin == "c:2"


def test_the_host_end_goes_into_its_bridge() -> None:
    (request,) = requests.host_end(device("link = br0"), KNOWN)
    assert said(request) == {"IFLA_IFNAME": "vethabcd", "IFLA_MASTER": 9}
    assert (request.fields["flags"], request.origin) == (_UP, "c:2")
    for alone in (device(), device("link = br0", "veth.mode = router")):
        (request,) = requests.host_end(alone, KNOWN)
        assert said(request) == {"IFLA_IFNAME": "vethabcd"}
    assert not requests.host_end(device("link = lan0", kind="macvlan"), KNOWN)
    assert not requests.from_host(device(), KNOWN)


@pytest.mark.parametrize("mode", ["private", "vepa", "bridge", "passthru"])
def test_a_macvlan(mode: str) -> None:
    found = device("link = lan0", f"macvlan.mode = {mode}", "mtu = 1300", kind="macvlan")
    (request,) = requests.from_host(found, KNOWN)
    attributes = said(request)
    assert request.fields == {"index": 64}
    assert (attributes["IFLA_LINK"], attributes["IFLA_NET_NS_FD"]) == (9, 72)
    assert attributes["IFLA_MTU"] == 1300
    info = attributes["IFLA_LINKINFO"]
    assert info["IFLA_INFO_KIND"] == "macvlan"
    assert info["IFLA_INFO_DATA"]["IFLA_MACVLAN_MODE"] == mode
    # Inside it is made already; up or not.
    (request,) = inside(found)
    assert (request.verb, request.fields["index"], request.attributes) == ("setlink", 64, [])


def test_one_that_passes_through_takes_an_address_afterwards() -> None:
    options = ("link = lan0", "macvlan.mode = passthru")
    given_ = device(*options, "hwaddr = 00:16:3e:00:00:01", kind="macvlan")
    assert said(inside(given_)[0]) == {"IFLA_ADDRESS": "00:16:3e:00:00:01"}
    # One that was drawn is not worth changing the link's.
    assert not inside(device(*options, kind="macvlan"))[0].attributes


def test_an_ipvlan_and_a_vlan() -> None:
    options = ("link = lan0", "ipvlan.mode = l3s", "ipvlan.isolation = vepa")
    (request,) = requests.from_host(device(*options, kind="ipvlan"), KNOWN)
    info = dict(request.attributes)["IFLA_LINKINFO"]["attrs"]
    assert ("IFLA_INFO_KIND", "ipvlan") in info
    data = dict(info)["IFLA_INFO_DATA"]["attrs"]
    assert data == [("IFLA_IPVLAN_MODE", 2), ("IFLA_IPVLAN_FLAGS", 2)]
    (request,) = requests.from_host(device("link = lan0", "vlan.id = 7", kind="vlan"), KNOWN)
    info = said(request)["IFLA_LINKINFO"]
    assert (info["IFLA_INFO_KIND"], info["IFLA_INFO_DATA"]["IFLA_VLAN_ID"]) == ("vlan", 7)


def test_one_that_is_made_by_way_of_the_host() -> None:
    known = replace(KNOWN, spare_index=0x20000001)
    found = device("link = lan0", "vlan.id = 7", "mtu = 1300", kind="vlan")
    made, moved, removed = requests.by_way_of_host(found, known)
    assert made.fields == moved.fields == removed.fields == {"index": 0x20000001}
    (direct,) = requests.from_host(found, KNOWN)
    expected = {**said(direct), "IFLA_IFNAME": "lxcd20000001"}
    del expected["IFLA_NET_NS_FD"]
    assert said(made) == expected
    assert len(expected["IFLA_IFNAME"]) < 16
    assert dict(moved.attributes) == {
        "IFLA_NET_NS_FD": 72,
        "IFLA_IFNAME": "eth0",
        "IFLA_NEW_IFINDEX": 64,
    }
    assert (moved.verb, removed.verb, removed.optional) == ("setlink", "dellink", True)
    card = device("link = lan0", kind="phys")
    assert requests.by_way_of_host(card, known) == requests.from_host(card, known)
    assert not requests.by_way_of_host(device(), known)


def test_a_card_moves_and_is_set_up() -> None:
    found = device("link = lan0", "name = x", "flags = up", "mtu = 1300", kind="phys")
    (move,) = requests.from_host(found, KNOWN)
    assert move.fields == {"index": 9}
    assert dict(move.attributes) == {
        "IFLA_NET_NS_FD": 72,
        "IFLA_IFNAME": "x",
        "IFLA_NEW_IFINDEX": 64,
    }
    assert move.origin == "c:2"
    (settle,) = inside(found)
    assert settle.fields == {"index": 64, "flags": _UP, "change": _UP}
    assert said(settle) == {"IFLA_IFNAME": "x", "IFLA_MTU": 1300}


# Addresses and routes


@STEADY
@given(st.ip_addresses(), st.data())
def test_any_address(address: Any, data: st.DataObject) -> None:
    prefix = data.draw(st.integers(0, address.max_prefixlen))
    found = device(f"ipv{address.version}.address = {address}/{prefix}")
    (request,) = requests.addressing(found, ())
    (message,) = decode(encode(request, 1))
    assert message.fields["family"] == requests.family(address.version)
    assert (message.fields["prefixlen"], message.fields["index"]) == (prefix, 64)
    for name in ("IFA_LOCAL", "IFA_ADDRESS"):
        assert ipaddress.ip_address(message.attributes[name]) == address
    assert ("IFA_BROADCAST" in message.attributes) == (address.version == 4 and prefix < 31)
    assert request.origin == "c:2"


def routes(*options: str) -> list[tuple[int, dict[str, Any]]]:
    """Flags and attributes of the default routes."""
    found = device("flags = up", "link = br0", *options)
    asked = requests.addressing(found, found.gateways)
    return [(r.fields["flags"], said(r)) for r in asked if r.verb == "newroute"]


def test_default_routes() -> None:
    four, six = "ipv4.address = 10.0.0.2/24", "ipv6.address = fd00::2/64"
    assert routes(four, "ipv4.gateway = 10.0.0.1") == [
        (0, {"RTA_OIF": 64, "RTA_GATEWAY": "10.0.0.1"})
    ]
    assert routes(four, "ipv4.gateway = 10.1.0.1") == [
        (_ONLINK, {"RTA_OIF": 64, "RTA_GATEWAY": "10.1.0.1"})
    ]
    assert routes(six, "ipv6.gateway = fe80::1") == [(0, {"RTA_OIF": 64, "RTA_GATEWAY": "fe80::1"})]
    assert routes("ipv4.gateway = dev", "ipv6.gateway = dev") == [(0, {"RTA_OIF": 64})] * 2


def test_what_the_host_has_of_a_router() -> None:
    found = device(
        *("veth.mode = router", "flags = up", "ipv4.address = 10.0.0.2/24"),
        *(
            "ipv6.address = fd00::2/64",
            "ipv4.gateway = 169.254.0.1",
            "veth.ipv4.route = 10.1.0.0/16",
        ),
    )
    asked = requests.host_routes(found, 5)
    assert [(r.verb, r.fields.get("dst_len")) for r in asked] == [
        ("newroute", 16),
        ("newroute", 32),
        ("newroute", 128),
        ("newneigh", None),
    ]
    assert [said(r).get("RTA_DST") for r in asked[:3]] == ["10.1.0.0", "10.0.0.2", "fd00::2"]
    assert dict(asked[3].attributes) == {"NDA_DST": "169.254.0.1"}
    # Of a bridge's port there are only those that are asked for.
    assert len(requests.host_routes(device("veth.ipv4.route = 10.1.0.0/16"), 5)) == 1


def test_the_end_of_answering_for_somebody() -> None:
    for address, family in (("10.0.0.2", 2), ("fd00::2", 10)):
        begin = requests.neighbour_proxy(requests.address(address), 5, "c:1")
        end = requests.without_proxy(address, 5)
        assert begin.attributes == end.attributes
        assert begin.fields["family"] == end.fields["family"] == family
        assert begin.fields["flags"] == end.fields["flags"] == 8
        assert (begin.replace, end.optional) == (True, True)


# VLANs


def vlans(default: int, *options: str) -> list[tuple[str, int, int]]:
    """Verb, number and flags of each."""
    found: list[tuple[str, int, int]] = []
    for request in requests.port_vlans(device("link = br0", *options), 5, default):
        assert request.fields == {"family": 7, "index": 5}
        info = dict(request.attributes)["IFLA_AF_SPEC"]["attrs"]
        told = dict(info)["IFLA_BRIDGE_VLAN_INFO"]
        found.append((request.verb, told["vid"], told["flags"]))
        assert encode(request, 1)
    return found


def test_the_vlans_of_a_port() -> None:
    assert vlans(1) == []
    assert vlans(1, "veth.vlan.id = 7") == [("unbridgelink", 1, 0), ("bridgelink", 7, 6)]
    # It is there already, or there is none to leave.
    assert vlans(7, "veth.vlan.id = 7") == []
    assert vlans(0, "veth.vlan.id = 7") == [("bridgelink", 7, 6)]
    assert vlans(5, "veth.vlan.id = none") == [("unbridgelink", 5, 0)]
    assert vlans(1, "veth.vlan.tagged.id = 8", "veth.vlan.tagged.id = 9") == [
        ("bridgelink", 8, 0),
        ("bridgelink", 9, 0),
    ]
