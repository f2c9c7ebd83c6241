"""Rules as texts. That they do what they say, the system tests see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lxcd.config.forwards import Forward
from lxcd.network import firewall
from lxcd.network.definition import ManagedNetwork
from lxcd.network.firewall import Published, Rules
from lxcd.network.port import Port

NETWORK = ManagedNetwork("lxcbr0", ipv6="fd00::1/64")
PORT = Port(
    "lxcbr0",
    "/lxc",
    "web",
    0,
    "veth1",
    "02:00:00:00:00:01",
    ipv4="10.0.3.5",
    filter=("ipv4", "ipv6", "mac"),
)


def test_what_lets_through_comes_behind_what_forbids_more() -> None:
    rules = firewall.port_rules(PORT, NETWORK)
    first_return = next(place for place, rule in enumerate(rules) if rule.endswith("return"))
    for word in (
        "ether saddr", "arp saddr ether", "ether type !=",
        "udp sport 67 drop", "udp dport 68 drop", "udp dport 67 ip frag-off", "@th,72,16", "@th,288",
    ):  # fmt: skip
        assert any(word in rule for rule in rules[:first_return]), word
    # Each of both families lets one thing through, and forbids the rest of itself right behind.
    assert rules[first_return + 1] == "ip saddr != { 10.0.3.5 } drop"
    assert rules[-2].endswith("return")
    assert rules[-1].startswith("ip6 saddr != {")
    assert not any(rule.endswith("accept") for rule in rules)


def test_what_it_may_send_from() -> None:
    text = "\n".join(firewall.port_rules(PORT, NETWORK))
    assert "ip6 saddr != { fd00::ff:fe00:1, fe80::ff:fe00:1 } drop" in text
    static = replace(PORT, static=("192.0.2.7", "2001:db8::7"))
    text = "\n".join(firewall.port_rules(static, NETWORK))
    assert "ip saddr != { 10.0.3.5, 192.0.2.7 } drop" in text
    assert "2001:db8::7" in text
    assert f"0x{0x20010DB8 << 96 | 7:032x}" in text
    none = replace(PORT, ipv4="")
    assert "ether type ip drop" in firewall.port_rules(none, NETWORK)


@pytest.mark.parametrize(
    ("filters", "words", "without"),
    [
        (("mac",), ["ether saddr"], ["ip saddr", "ip6 saddr", "ether type"]),
        (("ipv4",), ["ip saddr", "8021q"], ["ether saddr", "ip6 saddr", "@th,288"]),
        (("ipv6",), ["ip6 saddr", "8021q"], ["ether saddr", "arp"]),
        ((), [], ["drop"]),
    ],
)
def test_what_is_not_wanted_is_not_filtered(
    filters: tuple[str, ...], words: list[str], without: list[str]
) -> None:
    port = replace(PORT, filter=filters)
    text = firewall.add_port("lxcd", port, NETWORK)
    for word in words:
        assert word in text
    # What the bridge leaves alone no filter sees.
    assert ('add element inet lxcd ports { "veth1" }' in text) is bool(filters)
    for word in without:
        assert word not in text
    assert bool(text) is bool(filters)
    assert bool(firewall.remove_port("lxcd", port)) is bool(filters)


def test_the_whole_begins_with_nothing() -> None:
    text = firewall.whole("lxcd-1", "/run/x", Rules((NETWORK,), (PORT,), ()))
    assert text.startswith("add table inet lxcd-1\ndelete table inet lxcd-1\n")
    assert text.index("delete table bridge lxcd-1") < text.index("table bridge lxcd-1 {")
    assert text.count('comment "/run/x"') == 2
    assert "port.veth1" in text
    assert " lxcd " not in text


def test_networks_without_nat_or_a_family() -> None:
    plain = ManagedNetwork("lan0", ipv4="10.9.0.1/24", ipv4_nat=False)
    text = firewall.whole("lxcd", "x", Rules((plain,), (), ()))
    assert "set nets4 { type ipv4_addr; flags interval; elements = { 10.9.0.0/24 }; }" in text
    assert "set nat4 { type ipv4_addr; flags interval; }" in text
    assert "set nets6 { type ipv6_addr; flags interval; }" in text


def test_forwards_go_by_their_family() -> None:
    both = Published(Forward("tcp", 8080, 80), "10.0.3.5", "fd00::5")
    four = Published(Forward("udp", 53, 53, "192.0.2.1"), "10.0.3.5", "fd00::5")
    six = Published(Forward("tcp", 443, 443, "2001:db8::1"), "10.0.3.5", "fd00::5")
    text = firewall.publish("lxcd", (both, four, six))
    assert "any4 { tcp . 8080 : 10.0.3.5 . 80 }" in text
    assert "any6 { tcp . 8080 : fd00::5 . 80 }" in text
    assert "at4 { 192.0.2.1 . udp . 53 : 10.0.3.5 . 53 }" in text
    assert "at6 { 2001:db8::1 . tcp . 443 : fd00::5 . 443 }" in text
    assert text.startswith("flush map inet lxcd any4\n")


def test_whose_a_table_is() -> None:
    owner = firewall.owner_comment("/run/lxcd")
    assert owner == "/run/lxcd"
    listing = f'table inet lxcd {{\n\tcomment "{owner}"\n\tset x {{\n\t\tcomment "y"\n\t}}\n}}\n'
    assert firewall.owner_of(listing) == owner
    assert firewall.owner_of("table inet lxcd {\n}\n") == ""
    for strange in ('/run/"x', "/run/ü", "/" + "x" * 200):
        made = firewall.owner_comment(strange)
        assert made.isalnum()
        assert made != firewall.owner_comment(strange + "y")


def test_who_drops_what_is_routed() -> None:
    listing = """{"nftables": [{"metainfo": {"version": "1.0.6"}},
      {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
      {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
      {"chain": {"family": "bridge", "table": "b", "name": "f", "hook": "forward", "policy": "drop"}},
      {"chain": {"family": "inet", "table": "x", "name": "f", "hook": "forward", "policy": "accept"}},
      {"chain": {"family": "inet", "table": "x", "name": "plain"}}]}"""
    assert firewall.dropping(listing) == ["ip filter FORWARD"]
    assert firewall.dropping('{"nftables": []}') == []
