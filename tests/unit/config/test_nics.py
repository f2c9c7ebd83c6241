from __future__ import annotations

import pytest

from lxcd.config.loader import load
from lxcd.config.model import ContainerConfig, Nic
from lxcd.config.nic_keys import NIC_KEYS


def read(text: str) -> ContainerConfig:
    return load(text.encode(), "c")[0]


def shape(nics: tuple[Nic, ...]) -> list[tuple[int, str, list[tuple[str, str]]]]:
    return [(nic.index, nic.kind, [(o.name, o.value) for o in nic.options]) for nic in nics]


GOOD = {
    "type": "veth",
    "flags": "up",
    "link": "br0",
    "l2proxy": "1",
    "mtu": "1500",
    "name": "eth0",
    "hwaddr": "00:16:3e:xx:xx:Xx",
    "ipv4.address": "10.0.2.3/24",
    "ipv4.gateway": "auto",
    "ipv6.address": "2003:db8:1:0:214:1234:fe0b:3596/64",
    "ipv6.gateway": "dev",
    "script.up": "/bin/up x",
    "script.down": "/bin/down",
    "macvlan.mode": "bridge",
    "ipvlan.mode": "l3s",
    "ipvlan.isolation": "vepa",
    "vlan.id": "4094",
    "veth.mode": "router",
    "veth.pair": "veth001",
    "veth.n_rxqueues": "2",
    "veth.n_txqueues": "2",
    "veth.ipv4.route": "192.168.1.0/24",
    "veth.ipv6.route": "2003:db8::/32",
    "veth.vlan.id": "none",
    "veth.vlan.tagged.id": "5",
}
BAD = {
    "type": "wifi",
    "flags": "down",
    "link": "a" * 16,
    "l2proxy": "yes",
    "mtu": "0",
    "hwaddr": "00:16:3e:xx:xx",
    "ipv4.address": "10.0.2.3/33",
    "ipv4.gateway": "none",
    "ipv6.address": "10.0.2.3/24",
    "macvlan.mode": "bridged",
    "vlan.id": "4095",
    "veth.vlan.id": "-1",
}


def test_the_table_is_whole() -> None:
    assert {row.name for row in NIC_KEYS} == set(GOOD)


@pytest.mark.parametrize("name", [name for name in GOOD if name != "type"])
def test_set_and_clear_each(name: str) -> None:
    base = "lxc.net.3.type = veth\n"
    config = read(f"{base}lxc.net.3.{name} = {GOOD[name]}\n")
    assert config.problems == ()
    assert shape(config.nics) == [(3, "veth", [(name, GOOD[name])])]
    row = next(row for row in NIC_KEYS if row.name == name)
    assert config.origin(f"lxc.net.3.{name}") == ("default" if row.several else "c:2")
    again = read(f"{base}lxc.net.3.{name} = {GOOD[name]}\nlxc.net.3.{name} =\n")
    assert shape(again.nics) == [(3, "veth", [])]


@pytest.mark.parametrize("name", list(BAD))
def test_bad(name: str) -> None:
    config = read(f"lxc.net.0.type = veth\nlxc.net.0.{name} = {BAD[name]}\n")
    assert [(p.severity, p.origin) for p in config.problems] == [("error", "c:2")]
    assert shape(config.nics) == [(0, "veth", [])]


@pytest.mark.parametrize(
    "key",
    [
        "lxc.net.0.asdf",
        "lxc.net.2147483647.type",
        "lxc.net.0.",
        "lxc.net.x.type",
        "lxc.net.-1.type",
        "lxc.network.foo",
        "lxc.net.\uff10.type",
    ],
)
def test_unknown(key: str) -> None:
    config = read(f"{key} = veth\n")
    assert [p.severity for p in config.problems] == ["warning"]
    assert config.nics == ()


def test_gaps_order_and_options_before_the_type() -> None:
    config = read(
        "lxc.net.7.link = br7\nlxc.net.7.type = veth\nlxc.net.2147483646.type = empty\n"
        "lxc.net.0.type = macvlan\nlxc.net.7.flags = up\n"
    )
    assert config.problems == ()
    assert shape(config.nics) == [
        (0, "macvlan", []),
        (7, "veth", [("link", "br7"), ("flags", "up")]),
        (2147483646, "empty", []),
    ]
    assert config.nics[1].origin == "c:2"


def test_no_type_at_all() -> None:
    config = read("lxc.net.1.link = br0\n")
    assert [(p.severity, p.origin, p.key) for p in config.problems] == [
        ("error", "c:1", "lxc.net.1.type")
    ]
    assert config.nics == ()


def test_lists_add_and_keep_order_scalars_replace() -> None:
    config = read(
        "lxc.net.0.type = veth\nlxc.net.0.ipv4.address = 10.0.0.1/8\nlxc.net.0.name = a\n"
        "lxc.net.0.ipv4.address = 10.0.0.2/8\nlxc.net.0.name = b\n"
    )
    assert shape(config.nics)[0][2] == [
        ("ipv4.address", "10.0.0.1/8"),
        ("ipv4.address", "10.0.0.2/8"),
        ("name", "b"),
    ]
    assert [(p.severity, p.origin) for p in config.problems] == [("warning", "c:5")]


def test_type_again_keeps_the_options() -> None:
    config = read("lxc.net.0.type = veth\nlxc.net.0.link = br0\nlxc.net.0.type = macvlan\n")
    assert shape(config.nics) == [(0, "macvlan", [("link", "br0")])]


@pytest.mark.parametrize("clear", ["lxc.net =", "lxc.network ="])
def test_clear_all(clear: str) -> None:
    config = read(
        f"lxc.net.4.type = veth\nlxc.network.type = veth\n{clear}\nlxc.network.type = phys\n"
    )
    assert shape(config.nics) == [(0, "phys", [])]
    assert [p.severity for p in read(f"{clear} x\n").problems] == ["error"]


def test_clear_one() -> None:
    config = read("lxc.net.0.type = veth\nlxc.net.1.type = phys\nlxc.net.0 =\n")
    assert shape(config.nics) == [(1, "phys", [])]


def test_legacy_type_begins_a_device() -> None:
    config = read(
        "lxc.network.type = veth\nlxc.network.link = br0\nlxc.network.ipv4 = 10.0.0.1/24\n"
        "lxc.network.type = macvlan\nlxc.network.link = eth1\nlxc.network.macvlan.mode = vepa\n"
        "lxc.network.ipv6 = 2003::1/64\n"
    )
    assert config.problems == ()
    assert config.legacy
    assert shape(config.nics) == [
        (0, "veth", [("link", "br0"), ("ipv4.address", "10.0.0.1/24")]),
        (
            1,
            "macvlan",
            [("link", "eth1"), ("macvlan.mode", "vepa"), ("ipv6.address", "2003::1/64")],
        ),
    ]
    assert [line.name for line in config.lines] == [
        *("lxc.net.0.type", "lxc.net.0.link", "lxc.net.0.ipv4.address"),
        *("lxc.net.1.type", "lxc.net.1.link", "lxc.net.1.macvlan.mode", "lxc.net.1.ipv6.address"),
    ]


def test_numbered_legacy_and_unnumbered_modern() -> None:
    config = read(
        "lxc.network.2.type = veth\nlxc.network.2.ipv4 = 10.0.0.1\nlxc.net.type = phys\nlxc.net.link = eth3\n"
    )
    assert shape(config.nics) == [
        (2, "veth", [("ipv4.address", "10.0.0.1")]),
        (3, "phys", [("link", "eth3")]),
    ]
    assert config.problems == ()


def test_legacy_option_before_its_type_is_kept() -> None:
    config = read("lxc.network.link = br0\nlxc.network.type = veth\n")
    assert shape(config.nics) == [(0, "veth", [("link", "br0")])]
    assert [p.severity for p in config.problems] == ["warning"]
    config = read("lxc.network.link = br0\n")
    assert [p.severity for p in config.problems] == ["warning", "error"]


@pytest.mark.parametrize("bad", ["wifi", "ve\x01th", "v\udcffth"])
def test_options_of_a_bad_type_do_not_go_to_the_device_before(bad: str) -> None:
    text = f"lxc.network.type = veth\nlxc.network.type = {bad}\nlxc.network.link = br9\n"
    config, _ = load(text.encode("utf-8", "surrogateescape"), "c")
    assert shape(config.nics) == [(0, "veth", [])]
    assert "error" in {p.severity for p in config.problems}
