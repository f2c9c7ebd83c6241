"""What dnsmasq is told, and what it tells; ports, and the addresses that are kept for them."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd import errors
from lxcd.config.daemon import FILTERS
from lxcd.config.forwards import Forward
from lxcd.network import dnsmasq, port, reservations
from lxcd.network.definition import ManagedNetwork
from lxcd.network.dnsmasq import Files, Lease
from lxcd.network.port import Port

STEADY = settings(deadline=None, derandomize=True, database=None)
NETWORK = ManagedNetwork("lxcbr0", ipv6="fd00::1/64")
FILES = Files("/r", "/h", "/l", "dnsmasq")
PORT = Port(
    "lxcbr0", "/lxc", "web", 0, "veth1", "02:00:00:00:00:01",
    ipv4="10.0.3.5", filter=("ipv4", "ipv6", "mac"), dns_name="web",
)  # fmt: skip


def test_the_command_line() -> None:
    argv = dnsmasq.command_line(NETWORK, FILES)
    assert argv[:2] == ("dnsmasq", "--conf-file=")
    for word in (
        "--keep-in-foreground", "--strict-order", "--bind-dynamic", "--except-interface=lo", "--interface=lxcbr0",
        "--dhcp-authoritative", "--no-ping", "--dhcp-range=10.0.3.1,10.0.3.254,255.255.255.0,1h", "--dhcp-ignore-names", "--dhcp-ignore-clid",
        "--dhcp-range=fd00::,ra-stateless,64", "--enable-ra", "--local=/lxc/", "--dhcp-leasefile=/l", "--user=dnsmasq",
    ):  # fmt: skip
        assert word in argv, word


def test_what_is_not_wanted_is_not_served() -> None:
    argv = dnsmasq.command_line(replace(NETWORK, ipv4_dhcp=False, domain=""), FILES)
    assert not [
        word
        for word in argv
        if "domain-name" in word or "authoritative" in word or "10.0.3" in word
    ]
    argv = dnsmasq.command_line(
        replace(NETWORK, ipv6_ra=False, dhcp_ping=True, dhcp_max=7, mtu=1400), FILES
    )
    assert "--enable-ra" not in argv
    assert "--no-ping" not in argv
    assert argv.count("--dhcp-lease-max=7") == 1
    assert "--dhcp-option=option:mtu,1400" in argv
    assert "--conf-file=/x" in dnsmasq.command_line(replace(NETWORK, dnsmasq_conf="/x"), FILES)


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b", "\u2028", "\x85", "\t"])
def test_nothing_ends_a_line_but_we(character: str) -> None:
    evil = f"a{character}b"
    with pytest.raises(errors.InvalidArgument):
        dnsmasq.command_line(replace(NETWORK, domain=evil), FILES)
    with pytest.raises(errors.InvalidArgument):
        dnsmasq.hosts(replace(PORT, dns_name=evil), NETWORK)
    with pytest.raises(errors.InvalidArgument):
        dnsmasq.reservation(replace(PORT, hwaddr=evil))
    assert port.dns_label(evil) == ""


def test_files_of_a_port() -> None:
    assert (
        dnsmasq.reservation(PORT, ["02:00:00:00:00:09"])
        == "02:00:00:00:00:01,02:00:00:00:00:09,10.0.3.5\n"
    )
    assert dnsmasq.reservation(replace(PORT, ipv4="")) == ""
    assert dnsmasq.hosts(PORT, NETWORK) == "10.0.3.5 web.lxc web\nfd00::ff:fe00:1 web.lxc web\n"
    assert dnsmasq.hosts(PORT, replace(NETWORK, domain="")).startswith("10.0.3.5 web\n")
    assert dnsmasq.hosts(replace(PORT, dns_name=""), NETWORK) == ""


def test_a_name_stands_for_what_there_is_and_what_is_its_own() -> None:
    seen = replace(
        PORT,
        seen=("10.0.3.5", "10.0.3.1", "192.0.2.1", "fe80::ff:fe00:1", "fd00::ff:fe00:1", "fd00::2"),
    )
    assert port.named_addresses(seen, NETWORK) == ["10.0.3.5", "fd00::ff:fe00:1"]
    free = replace(seen, filter=())
    assert port.named_addresses(free, NETWORK) == [
        "10.0.3.5",
        "10.0.3.1",
        "fd00::ff:fe00:1",
        "fd00::2",
    ]
    assert port.named_addresses(replace(PORT, seen=()), NETWORK) == []


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("web", "web"),
        ("Web-1", "web-1"),
        ("001", "001"),
        ("a.b", ""),
        ("a_b", ""),
        ("-a", ""),
        ("ü", ""),
        ("a" * 64, ""),
    ],
)
def test_names_in_dns(name: str, label: str) -> None:
    assert port.dns_label(name) == label


def test_leases() -> None:
    text = (
        "1700000000 02:00:00:00:00:01 10.0.3.5 web 01:02:00:00:00:00:01\n"
        "0 06-02:00:00:00:00:02 10.0.3.6 * *\n"
        "duid 00:01:00:01\n"
        "1700000001 1193046 fd00::5 * 00:01:00:01:aa\n"
        "nonsense\n\nx y z u\n9 a 300.1.1.1 b c\n"
    )
    assert dnsmasq.read_leases(text) == [
        Lease("10.0.3.5", "02:00:00:00:00:01", "web", "01:02:00:00:00:00:01", 1700000000),
        Lease("10.0.3.6", "02:00:00:00:00:02", "", "", 0),
        Lease("fd00::5", "", "", "00:01:00:01:aa", 1700000001),
    ]


@STEADY
@given(st.text(alphabet=st.sampled_from("0123456789abcdef:. *\nduid-"), max_size=120))
def test_any_text_is_leases(text: str) -> None:
    for lease in dnsmasq.read_leases(text):
        ipaddress.ip_address(lease.address)


def test_a_complaint_is_the_last_line() -> None:
    assert dnsmasq.complaint(b"a\n\ndnsmasq: bad option\n \n") == "bad option"
    assert dnsmasq.complaint(b"") == ""


# ---- records

PORTS = st.builds(
    Port,
    network=st.just("lan0"),
    lxcpath=st.text(max_size=5),
    container=st.text(max_size=5),
    device_number=st.integers(0, 9),
    host_name=st.just("veth1"),
    hwaddr=st.just("02:00:00:00:00:01"),
    ipv4=st.sampled_from(["", "10.0.3.5"]),
    static=st.lists(st.sampled_from(["10.0.3.5", "fd00::5"]), max_size=2).map(tuple),
    filter=st.lists(st.sampled_from(sorted(FILTERS)), max_size=3).map(tuple),
    dns_name=st.sampled_from(["", "a"]),
    seen=st.none() | st.lists(st.just("10.0.3.6"), max_size=1).map(tuple),
    forwards=st.lists(st.builds(Forward, st.just("tcp"), st.integers(1, 65535), st.integers(1, 65535)), max_size=2).map(tuple),
)  # fmt: skip


@STEADY
@given(PORTS)
def test_a_port_comes_back_from_its_record(one: Port) -> None:
    assert port.decode(port.encode(one)) == one


# ---- reservations


def test_the_same_container_has_the_same_address() -> None:
    key = reservations.key("/lxc", "web", 0)
    first = reservations.choose(NETWORK, key, {}, ())
    assert reservations.choose(NETWORK, key, {key: first}, ()) == first
    assert reservations.choose(NETWORK, key, {key: "10.0.3.77"}, ()) == "10.0.3.77"
    # Outside of a range that was changed since, or somebody else's by now.
    small = replace(NETWORK, ipv4_range="10.0.3.100-10.0.3.101")
    assert reservations.choose(small, key, {key: "10.0.3.77"}, ()) in ("10.0.3.100", "10.0.3.101")
    assert reservations.choose(NETWORK, key, {key: "10.0.3.77"}, {"10.0.3.77"}) != "10.0.3.77"


def test_all_addresses_are_given_and_none_twice() -> None:
    network = replace(NETWORK, ipv4="10.0.3.1/28")
    reserved: dict[str, str] = {}
    for number in range(13):
        key = reservations.key("/lxc", f"c{number}", 0)
        reserved[key] = reservations.choose(network, key, reserved, ())
    found = set(reserved.values())
    assert found == {f"10.0.3.{number}" for number in range(2, 15)}
    assert reservations.choose(network, reservations.key("/lxc", "more", 0), reserved, ()) == ""


def test_reservations_on_disk() -> None:
    key = reservations.key("/lx\nc", 'a"b', 3)
    assert reservations.decode(reservations.encode({key: "10.0.3.9"})) == {key: "10.0.3.9"}
    assert reservations.container_of(key) == ("/lx\nc", 'a"b')
    for damaged in (b"", b"[]", b"{", b'{"a": "x"}', b'{"a": 5}', b"\xff"):
        assert reservations.decode(damaged) in ({}, {"a": "0.0.0.5"})
    for strange in ("", "[]", "5", '["a"]'):
        assert reservations.container_of(strange) is None
