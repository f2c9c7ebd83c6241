from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd import errors
from lxcd.config.loader import load
from lxcd.config.model import ContainerConfig
from lxcd.network.device import (
    Assigned,
    Device,
    Gateway,
    complete_hwaddr,
    fail,
    outside,
    read_devices,
    shares_host,
)

STEADY = settings(deadline=None, derandomize=True, database=None)
DIGITS = st.sampled_from("0123456789abcdefABCDEFxX")
PATTERNS = st.lists(st.tuples(DIGITS, DIGITS), min_size=6, max_size=6).map(
    lambda pairs: ":".join(f"{one}{two}" for one, two in pairs)
)


def config(text: str) -> ContainerConfig:
    return load(text.encode(), "c")[0]


def read(text: str, seed: str = "seed") -> tuple[Device, ...]:
    return read_devices(config(text), seed)


def nic(*options: str, number: int = 0, kind: str = "veth") -> str:
    return "".join(f"lxc.net.{number}.{line}\n" for line in (f"type = {kind}", *options))


def refused(text: str) -> errors.StartFailed:
    with pytest.raises(errors.StartFailed) as caught:
        read(text)
    assert caught.value.metadata["step"] == "network"
    return caught.value


# Hardware addresses


@STEADY
@given(PATTERNS, st.text(max_size=20))
def test_a_pattern_is_completed(pattern: str, seed: str) -> None:
    found = complete_hwaddr(pattern, seed)
    assert found == complete_hwaddr(pattern, seed)
    assert len(found) == 17
    for given_, drawn in zip(pattern, found, strict=True):
        assert drawn == given_.lower() or (given_ in "xX" and drawn in "0123456789abcdef")
    first = int(found[:2], 16)
    if pattern[1] in "xX":
        assert not first & 1, "of a group"
    if pattern[0] in "xX" and pattern[1] in "xX":
        assert first & 2, "of somebody's block"


@STEADY
@given(st.lists(st.text(max_size=10), min_size=2, max_size=30, unique=True))
def test_others_are_drawn_for_others(seeds: list[str]) -> None:
    assert len({complete_hwaddr("00:16:3e:xx:xx:xx", seed) for seed in seeds}) == len(seeds)


def test_they_are_of_the_container_and_the_device() -> None:
    text = nic() + nic(number=1)
    one, two = read(text)
    assert one.hwaddr != two.hwaddr
    assert {device.hwaddr[:9] for device in (one, two)} == {"10:66:6a:"}
    assert read(text) == (one, two)
    assert read(text, "other")[0].hwaddr != one.hwaddr
    # What else it has changes nothing.
    assert read(nic("mtu = 1400", number=1))[0].hwaddr == two.hwaddr


@pytest.mark.parametrize(
    ("kind", "beginning"),
    [("veth", "10:66:6a:"), ("macvlan", "10:66:6a:"), ("phys", ""), ("empty", "")],
)
def test_who_is_given_one(kind: str, beginning: str) -> None:
    (device,) = read(nic("link = lan0", kind=kind))
    assert device.hwaddr[:9] == beginning


# Addresses


@pytest.mark.parametrize(
    ("text", "interface", "broadcast"),
    [
        ("10.0.2.3/24", "10.0.2.3/24", "10.0.2.255"),
        ("10.0.2.3/24 10.0.2.4", "10.0.2.3/24", "10.0.2.4"),
        ("10.0.2.3", "10.0.2.3/8", "10.255.255.255"),
        ("127.0.0.1", "127.0.0.1/8", "127.255.255.255"),
        ("128.0.2.3", "128.0.2.3/16", "128.0.255.255"),
        ("191.0.2.3", "191.0.2.3/16", "191.0.255.255"),
        ("192.0.2.3", "192.0.2.3/24", "192.0.2.255"),
        ("223.0.2.3", "223.0.2.3/24", "223.0.2.255"),
        ("224.0.2.3", "224.0.2.3/32", ""),
        ("10.0.2.3/31", "10.0.2.3/31", ""),
        ("10.0.2.3/32", "10.0.2.3/32", ""),
        ("10.0.2.3/0", "10.0.2.3/0", "255.255.255.255"),
    ],
)
def test_an_ipv4_address(text: str, interface: str, broadcast: str) -> None:
    (device,) = read(nic(f"ipv4.address = {text}"))
    wanted = ipaddress.IPv4Address(broadcast) if broadcast else None
    assert device.assigned == (Assigned(ipaddress.ip_interface(interface), wanted, "c:2"),)


@pytest.mark.parametrize(("text", "prefix"), [("fd00::1", 64), ("fd00::1/48", 48), ("::/0", 0)])
def test_an_ipv6_address(text: str, prefix: int) -> None:
    (device,) = read(nic(f"ipv6.address = {text}"))
    (found,) = device.assigned
    assert found.interface.network.prefixlen == prefix
    assert found.broadcast is None


@STEADY
@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_any_ipv4_address(address: ipaddress.IPv4Address, prefix: int) -> None:
    (device,) = read(nic(f"ipv4.address = {address}/{prefix}"))
    (found,) = device.assigned
    assert (found.interface.ip, found.interface.network.prefixlen) == (address, prefix)
    assert found.broadcast is None or found.broadcast in found.interface.network


# Gateways


@pytest.mark.parametrize(
    ("gateway", "address", "wanted"),
    [
        ("10.0.0.1", "10.0.0.2/24", False),
        ("10.0.1.1", "10.0.0.2/24", True),
        ("10.0.0.1", "10.0.0.1/32", False),
        ("169.254.0.1", "10.0.0.2/32", True),
        ("169.254.0.1", "169.254.0.2/16", False),
        ("fd00::1", "fd00::2/64", False),
        ("fd01::1", "fd00::2/64", True),
        ("fe80::1", "fd00::2/64", False),
        ("10.0.0.1", "fd00::2/64", True),
    ],
)
def test_what_needs_a_route_of_its_own(gateway: str, address: str, wanted: object) -> None:
    found = ipaddress.ip_address(gateway)
    assigned = (Assigned(ipaddress.ip_interface(address), None, "c:1"),)
    assert outside(Gateway(found.version, found, "c:2"), assigned) == wanted
    assert not outside(Gateway(4, None, "c:2"), assigned)


def test_gateways() -> None:
    base = ("flags = up", "link = br0", "ipv4.address = 10.0.0.2/24", "ipv6.address = fd00::2")
    (device,) = read(nic(*base, "ipv4.gateway = auto", "ipv6.gateway = dev"))
    assert device.gateways == (Gateway(4, None, "c:6", auto=True), Gateway(6, None, "c:7"))
    (device,) = read(nic(*base, "ipv4.gateway = 10.0.0.1"))
    assert device.gateways == (Gateway(4, ipaddress.ip_address("10.0.0.1"), "c:6"),)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("ipv4.address = 10.0.0.2", "ipv4.gateway = 10.0.0.1"), "needs lxc.net.0.flags = up"),
        (("flags = up", "ipv4.gateway = 10.0.0.1"), "needs an address: lxc.net.0.ipv4.address"),
        (
            ("flags = up", "ipv4.address = 10.0.0.2", "ipv6.gateway = auto"),
            "needs an address: lxc.net.0.ipv6.address",
        ),
        (("flags = up", "ipv4.address = 10.0.0.2", "ipv4.gateway = auto"), "needs a link"),
    ],
)
def test_gateways_that_cannot_be(options: tuple[str, ...], match: str) -> None:
    error = refused(nic(*options))
    assert match in error.text
    assert error.metadata["origin"] == f"c:{len(options) + 1}"
    assert error.text.startswith(f"c:{len(options) + 1}: lxc.net.0.ipv")


def test_the_address_of_a_card_is_no_gateway() -> None:
    options = ("flags = up", "link = lan0", "ipv4.address = 10.0.0.2", "ipv4.gateway = auto")
    assert "needs a link whose address" in refused(nic(*options, kind="phys")).text


# Names


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["", "", ""], ["eth0", "eth1", "eth2"]),
        (["", "eth0", ""], ["eth1", "eth0", "eth2"]),
        (["eth%d", "", "eth%d"], ["eth0", "eth1", "eth2"]),
        (["lan%d", "lan0", "lan%d"], ["lan1", "lan0", "lan2"]),
        (["a%db", "", "a%db"], ["a0b", "eth0", "a1b"]),
    ],
)
def test_names_inside(names: list[str], wanted: list[str]) -> None:
    text = "".join(
        nic(*([f"name = {name}"] if name else []), number=number)
        for number, name in enumerate(names)
    )
    found = read(text)
    assert [device.name for device in found] == wanted
    assert [device.place for device in found] == [64, 65, 66]


@STEADY
@given(st.lists(st.sampled_from(["", "eth%d", "lan%d", "eth0", "eth1", "lan0"]), max_size=8))
def test_any_names_are_all_different(names: list[str]) -> None:
    given_ = [name for name in names if name and "%" not in name]
    text = "".join(
        nic(*([f"name = {name}"] if name else []), number=number)
        for number, name in enumerate(names)
    )
    if len(set(given_)) < len(given_):
        refused(text)
        return
    found = [device.name for device in read(text)]
    assert len(set(found)) == len(found) == len(names)
    assert not any("%" in name for name in found)


def test_a_card_keeps_its_name() -> None:
    text = nic("link = lan0", kind="phys") + nic("link = lan+", kind="phys", number=1)
    assert [device.name for device in read(text)] == ["lan0", "lan+"]
    # Each `prefix+` is another.
    assert len(read(text + nic("link = lan+", kind="phys", number=2))) == 3


@pytest.mark.parametrize(
    ("text", "origin", "match"),
    [
        (nic("name = a") + nic("name = a", number=1), "c:4", "a is lxc.net.0's already"),
        (nic("veth.pair = a") + nic("veth.pair = a", number=1), "c:4", "lxc.net.1.veth.pair: a"),
        (
            nic("hwaddr = 00:16:3e:00:00:01") + nic("hwaddr = 00:16:3E:00:00:01", number=1),
            "c:4",
            "hwaddr",
        ),
        (
            nic("link = a", kind="phys") + nic("link = a", "name = b", kind="phys", number=1),
            "c:4",
            "lxc.net.1.link: a",
        ),
        (nic("name = lo"), "c:2", "lo"),
        (nic("name = default"), "c:2", "default"),
        (nic("veth.pair = a%d"), "c:2", "no whole name"),
        (nic("mtu = 67"), "c:2", "68 to 65535"),
        (nic("mtu = 65536"), "c:2", "68 to 65535"),
        (nic("link = a", "mtu = 67", kind="macvlan"), "c:3", "not 67"),
        (nic("hwaddr = 01:00:5e:00:00:01"), "c:2", "no station"),
        (nic("hwaddr = 00:00:00:00:00:00"), "c:2", "no station"),
        (nic("hwaddr = ff:ff:ff:ff:ff:ff"), "c:2", "no station"),
        (nic(kind="macvlan"), "c:1", "needs lxc.net.0.link"),
        (nic("link = a", kind="vlan"), "c:1", "needs lxc.net.0.vlan.id"),
        (nic("l2proxy = 1"), "c:2", "l2proxy needs lxc.net.0.link"),
    ],
)
def test_what_cannot_be(text: str, origin: str, match: str) -> None:
    error = refused(text)
    assert error.metadata["origin"] == origin
    assert match in error.text


def test_a_macvlan_on_a_jumbo_link_takes_more() -> None:
    (device,) = read(nic("link = a", "mtu = 70000", kind="macvlan"))
    assert device.mtu == 70000


# The rest


def test_all_of_a_veth() -> None:
    (device,) = read(
        nic(
            *("link = br0", "flags = up", "mtu = 1400", "veth.mode = router", "veth.pair = web0"),
            *("veth.n_rxqueues = 2", "veth.n_txqueues = 3", "veth.ipv4.route = 10.1.2.3/8"),
            *("veth.ipv6.route = fd00::/8", "veth.vlan.id = none", "veth.vlan.tagged.id = 7"),
            *("veth.vlan.tagged.id = 8", "script.up = a b", "script.down = c", "l2proxy = 1"),
        )
    )
    assert (device.up, device.mtu, device.mode, device.pair) == (True, 1400, "router", "web0")
    assert device.queues == (2, 3)
    assert [str(route.network) for route in device.routes] == ["10.0.0.0/8", "fd00::/8"]
    assert (device.port_vlan, device.tagged_vlans) == (-1, (7, 8))
    assert (device.script_up, device.script_down, device.l2proxy) == ("a b", "c", True)
    assert device.line("mtu") == "c:4"
    assert device.line("hwaddr") == device.origin == "c:1"
    assert device.describe() == "veth eth0 on br0"


def test_what_is_not_given() -> None:
    (device,) = read(nic())
    assert (device.up, device.mtu, device.mode, device.pair) == (False, 0, "bridge", "")
    assert device.queues == (0, 0)
    assert (device.port_vlan, device.tagged_vlans) == (None, ())
    assert device.describe() == "veth eth0"
    kinds = {"macvlan": "private", "ipvlan": "l3"}
    for kind, mode in kinds.items():
        assert read(nic("link = a", kind=kind))[0].mode == mode


def test_none_is_none_and_empty_is_scripts() -> None:
    text = nic(kind="none") + nic("script.up = a", kind="empty", number=1) + nic(number=2)
    found = read(text)
    assert [(device.kind, device.name) for device in found] == [("empty", ""), ("veth", "eth0")]
    shared = shares_host(config(text))
    assert shared is not None
    assert shared.kind == "none"
    assert shares_host(config(nic())) is None
    assert read("") == ()


def test_an_error_without_a_line() -> None:
    error = fail("default", "text")
    assert (error.text, error.metadata["origin"]) == ("text", "default")
