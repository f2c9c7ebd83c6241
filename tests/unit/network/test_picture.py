"""A picture of a network namespace, from what dumps tell."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcd.network import picture
from lxcd.network.picture import Address, Interface, Picture, Route
from tests.unit.network import messages
from tests.unit.network.messages import attribute, u32

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)

LO = messages.link(1, "lo", u32(4, 65536), attribute(1, bytes(6)), flags=0x10049, kind=772)
VETH = messages.link(
    2,
    "eth0",
    u32(4, 1500),
    u32(5, 9),
    attribute(1, bytes.fromhex("020000000001")),
    attribute(18, attribute(1, b"veth\0")),
    attribute(37, struct.pack("=i", 0)),
)


def draw(links: list[bytes], addresses: list[bytes], routes: list[bytes], host: int = 0) -> Picture:
    return picture.compose(
        picture.told(links, addresses, routes), host, lambda index: f"host{index}"
    )


def test_an_interface() -> None:
    found = draw([LO, VETH], [messages.address(2, "10.0.0.2", 24)], [])
    lo, eth0 = found.interfaces
    assert lo == Interface(
        index=1, name="lo", kind="loopback", flags=0x10049, hardware_address="00:00:00:00:00:00", mtu=65536
    )  # fmt: skip
    assert eth0 == Interface(
        index=2,
        name="eth0",
        kind="veth",
        flags=0x11043,
        hardware_address="02:00:00:00:00:01",
        mtu=1500,
        peer_index=9,
        peer_name="host9",
        addresses=(Address(V4, "10.0.0.2", 24, "global"),),
    )
    assert (lo.loopback, eth0.loopback, eth0.up, eth0.carrier) == (True, False, True, True)
    assert not replace(eth0, flags=0x1003).carrier
    assert not replace(eth0, flags=0x1002).up


def test_a_peer_elsewhere_has_no_name_and_one_inside_is_none() -> None:
    assert draw([VETH], [], [], host=1).interfaces[0].peer_name == ""
    assert draw([VETH], [], [], host=-1).interfaces[0].peer_index == 9
    vlan = messages.link(3, "eth0.5", u32(5, 2), attribute(18, attribute(1, b"vlan\0")))
    assert draw([vlan], [], []).interfaces[0].peer_index == 0


def test_a_name_may_be_any_bytes() -> None:
    odd = messages.link(3, "x").replace(b"x\0", b"\xff\0")
    assert draw([odd], [], []).interfaces[0].name == "\udcff"


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (messages.address(2, "fe80::1", 64, scope=253), Address(V6, "fe80::1", 64, "link")),
        (messages.address(2, "fd00::1", 64, flags=0x40), Address(V6, "fd00::1", 64, "global", tentative=True)),
        (messages.address(2, "fd00::1", 64, flags=0x44), Address(V6, "fd00::1", 64, "global")),
        (messages.address(2, "fd00::1", 64, flags=0x48), Address(V6, "fd00::1", 64, "global", tentative=True, duplicate=True)),
        (messages.address(2, "fd00::1", 64, flags=0x20), Address(V6, "fd00::1", 64, "global", deprecated=True)),
        (messages.address(2, "10.0.0.1", 32, peer="10.0.0.9"), Address(V4, "10.0.0.1", 32, "global", peer="10.0.0.9")),
        (messages.address(2, "127.0.0.1", 8, scope=254), Address(V4, "127.0.0.1", 8, "host")),
    ],
)  # fmt: skip
def test_an_address(message: bytes, wanted: Address) -> None:
    assert picture.address(message) == (2, wanted)


def test_routes() -> None:
    found = draw(
        [VETH],
        [],
        [
            messages.route(2, "0.0.0.0/0", "10.0.0.1", u32(6, 5)),
            messages.route(2, "10.0.0.0/24", "", attribute(7, messages.ip("10.0.0.2"))),
            messages.route(2, "10.0.0.2/32", table=255, kind=2),
            messages.route(2, "10.3.0.0/16", table=1000),
            messages.route(0, "10.9.0.0/16", kind=6),
            messages.route(2, "::/0", "fe80::1"),
            messages.route(2, "fd00::5/128", flags=0x200),
            messages.route(7, "10.8.0.0/16"),
        ],
    )
    assert found.routes == (
        Route(V4, "0.0.0.0/0", "10.0.0.1", "eth0", metric=5),
        Route(V4, "10.0.0.0/24", "", "eth0", source="10.0.0.2"),
        Route(V4, "10.9.0.0/16", kind="blackhole"),
        Route(V6, "::/0", "fe80::1", "eth0"),
        Route(V4, "10.8.0.0/16"),
    )


def test_a_route_of_several_hops_and_a_gateway_of_another_family() -> None:
    def hop(index: int, *attributes: bytes) -> bytes:
        body = b"".join(attributes)
        return struct.pack("=HBBi", 8 + len(body), 0, 0, index) + body

    via = struct.pack("=H", V6) + messages.ip("fe80::7")
    both = hop(2, attribute(5, messages.ip("10.0.0.1"))) + hop(3, attribute(18, via))
    message = messages.route(0, "0.0.0.0/0", "", attribute(9, both))
    assert picture.hops(message) == [
        (2, Route(V4, "0.0.0.0/0", "10.0.0.1")),
        (3, Route(V4, "0.0.0.0/0", "fe80::7")),
    ]


def test_counters() -> None:
    stats = struct.pack("=24Q", *range(1, 25))
    index, found = picture.counters(messages.link(2, "eth0", attribute(23, stats)))
    assert (index, found) == (
        2,
        picture.Counters(
            rx_packets=1, tx_packets=2, rx_bytes=3, tx_bytes=4, rx_errors=5, tx_errors=6,
            rx_dropped=7, tx_dropped=8, rx_overruns=15, tx_overruns=19,
        ),
    )  # fmt: skip
    assert picture.counters(LO) == (1, None)


NEAR4 = messages.route(2, "10.0.0.0/24")
NEAR6 = messages.route(2, "fd00::/64")


@pytest.mark.parametrize(
    ("addresses", "routes", "reachable"),
    [
        ([], [NEAR4], False),
        ([messages.address(2, "10.0.0.2", 24)], [], False),
        ([messages.address(2, "10.0.0.2", 24)], [NEAR4], True),
        ([messages.address(2, "10.0.0.2", 24)], [NEAR6], False),
        ([messages.address(2, "10.0.0.2", 24)], [messages.route(0, "10.9.0.0/16", kind=6)], False),
        ([messages.address(1, "10.0.0.2", 24)], [NEAR4], False),
        ([messages.address(2, "169.254.0.2", 16)], [messages.route(2, "169.254.0.0/16")], False),
        ([messages.address(2, "fe80::2", 64, scope=253)], [messages.route(2, "fe80::/64")], False),
        ([messages.address(2, "fd00::2", 64)], [messages.route(2, "fe80::/64")], False),
        ([messages.address(2, "fd00::2", 64)], [NEAR6], True),
        ([messages.address(2, "fd00::2", 64)], [messages.route(2, "::/0", "fe80::1")], True),
        ([messages.address(2, "fd00::2", 64, flags=0x40)], [NEAR6], False),
        ([messages.address(2, "fd00::2", 64, flags=0x48)], [NEAR6], False),
        ([messages.address(2, "fd00::2", 64, flags=0x44)], [NEAR6], True),
    ],
)
def test_reachable(addresses: list[bytes], routes: list[bytes], reachable: bool) -> None:  # noqa: FBT001
    assert draw([LO, VETH], addresses, routes).reachable is reachable


def test_bare() -> None:
    assert Picture().bare
    assert draw([LO], [messages.address(1, "127.0.0.1", 8, scope=254)], []).bare
    assert not draw([LO, VETH], [], []).bare
    assert not draw([LO], [], [messages.route(0, "10.9.0.0/16", kind=6)]).bare


NAMES = st.sampled_from(["eth0", "eth1", "x"])
LINKS = st.builds(messages.link, st.integers(2, 5), NAMES)
ADDRESSES = st.builds(
    messages.address, st.integers(1, 6), st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), st.just(24)
)  # fmt: skip
ROUTES = st.builds(
    messages.route, st.integers(1, 6), st.sampled_from(["10.0.0.0/24", "::/0", "0.0.0.0/0"])
)


@given(st.lists(LINKS), st.lists(ADDRESSES), st.lists(ROUTES), st.randoms())
def test_what_is_told_twice_is_there_once(
    links: list[bytes], addresses: list[bytes], routes: list[bytes], chance: object
) -> None:
    found = draw(links, addresses, routes)
    assert draw(links + links, addresses + addresses, routes + routes) == found
    indexes = [one.index for one in found.interfaces]
    assert len(indexes) == len(set(indexes))
    assert len(found.routes) == len(set(found.routes))
    for one in found.interfaces:
        assert len(one.addresses) == len(set(one.addresses))


@given(st.permutations(range(6)))
def test_nothing_but_the_order_depends_on_the_order(order: list[int]) -> None:
    links = [messages.link(index, f"d{index}") for index in range(1, 7)]
    addresses = [messages.address(index, f"10.0.0.{index}", 24) for index in range(1, 7)]
    routes = [messages.route(index, f"10.{index}.0.0/16") for index in range(1, 7)]
    plain = draw(links, addresses, routes)
    mixed = draw(
        [links[place] for place in order],
        [addresses[place] for place in reversed(order)],
        [routes[place] for place in order],
    )
    assert set(mixed.interfaces) == set(plain.interfaces)
    assert set(mixed.routes) == set(plain.routes)
    assert mixed.reachable == plain.reachable


@given(st.lists(st.binary(max_size=80)), st.sampled_from([LO, VETH, NEAR4]), st.integers(0, 120))
def test_anything_can_be_read(torn: list[bytes], whole: bytes, cut: int) -> None:
    torn = [*torn, whole[:cut]]
    draw(torn, torn, torn)
    for message in torn:
        if len(message) >= 16:
            picture.counters(message)
