"""Managed networks as data, as a text, and as LXC's own script has them."""

from __future__ import annotations

import ipaddress
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd import errors
from lxcd.network import definition, lxcnet
from lxcd.network.definition import ManagedNetwork

STEADY = settings(deadline=None, derandomize=True, database=None)
TEXT = st.text(max_size=20)

PREFIXES = st.integers(8, 30)


@st.composite
def networks(draw: st.DrawFn) -> ManagedNetwork:
    whole = ipaddress.IPv4Network(
        (draw(st.integers(0x0A000000, 0x0AFFFFFF)), draw(PREFIXES)), strict=False
    )
    own = ipaddress.IPv4Interface((int(whole.network_address) + 1, whole.prefixlen))
    last = int(whole.broadcast_address) - 1
    bounds = sorted(draw(st.lists(st.integers(int(own.ip), last), min_size=2, max_size=2)))
    names = [str(ipaddress.IPv4Address(one)) for one in bounds]
    span = draw(st.sampled_from(["", "-".join(names)])) if bounds != [int(own.ip)] * 2 else ""
    seed = draw(TEXT)
    return definition.require_sound(
        ManagedNetwork(
            draw(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,14}", fullmatch=True).filter(lambda n: n not in ("lo", "all", "default"))),
            ipv4=draw(st.sampled_from(["", str(own)])) if not span else str(own),
            ipv4_nat=draw(st.booleans()),
            ipv4_dhcp=draw(st.booleans()),
            ipv4_range=span,
            ipv6=draw(st.sampled_from(["", definition.stable_ula(seed, "x")])),
            ipv6_nat=draw(st.booleans()),
            ipv6_ra=draw(st.booleans()),
            domain=draw(st.sampled_from(["", "lxc", "a.b-c.d"])),
            hwaddr=definition.stable_hwaddr(seed, "x"),
            mtu=draw(st.sampled_from([0, 1280, 65535])),
            dhcp_max=draw(st.integers(0, 1000)),
            dhcp_ping=draw(st.booleans()),
            dnsmasq_conf=draw(st.sampled_from(["", '/etc/with "quotes" and ü'])),
        )
    )  # fmt: skip


@STEADY
@given(networks())
def test_a_network_comes_back_from_its_text(network: ManagedNetwork) -> None:
    text = definition.to_toml(network)
    assert definition.from_toml(network.name, text.encode()) == network
    assert definition.from_toml(network.name, text.encode()).etag == network.etag


@STEADY
@given(st.binary(max_size=200))
def test_a_text_is_a_network_or_refused(data: bytes) -> None:
    try:
        found = definition.from_toml("lan0", data)
    except errors.InvalidArgument:
        return
    assert definition.require_sound(found) == found


@STEADY
@given(
    st.dictionaries(
        st.sampled_from(definition.FIELDS),
        st.one_of(TEXT, st.booleans(), st.integers(-5, 70000)),
        max_size=4,
    )
)
def test_what_was_said_is_taken_or_refused(values: dict[str, Any]) -> None:
    try:
        made = definition.changed(ManagedNetwork("lan0"), values)
    except errors.InvalidArgument:
        return
    # Nothing that ends a line gets through (I8), and its text says what it is.
    text = definition.to_toml(made)
    assert definition.from_toml("lan0", text.encode()) == made
    assert set(tomllib.loads(text)) == set(definition.FIELDS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ipv4", "10.0.0.0/24"), ("ipv4", "10.0.0.255/24"), ("ipv4", "10.0.0.1"), ("ipv4", "127.0.0.1/8"),
        ("ipv4", "224.0.0.1/24"), ("ipv4", "10.0.0.1/31"), ("ipv4", "x"), ("ipv4", 5),
        ("ipv4_range", "10.0.3.9"), ("ipv4_range", "10.0.3.9-10.0.3.8"), ("ipv4_range", "10.0.4.1-10.0.4.2"),
        ("ipv6", "fe80::1/64"), ("ipv6", "fd00::1/65"), ("ipv6", "::1/64"), ("ipv6", "fd00::1%eth0/64"),
        ("domain", "-a"), ("domain", "a..b"), ("domain", "a b"), ("domain", "a\nb"), ("domain", "a" * 64),
        ("hwaddr", "01:00:00:00:00:00"), ("hwaddr", "1"), ("mtu", 67), ("mtu", 65536), ("mtu", True),
        ("dhcp_max", -1), ("dhcp_max", 10**7), ("dnsmasq_conf", "etc/x"), ("dnsmasq_conf", "/a\rb"),
        ("dnsmasq_conf", "/a\u2028b"), ("ipv4_nat", 1), ("name", "x"), ("nonsense", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_its_name(key: str, value: object) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        definition.changed(ManagedNetwork("lan0"), {key: value})
    assert refused.value.reason == "INVALID_NETWORK"
    assert refused.value.metadata["field"] in (key, key.replace("_range", ""))


def test_a_small_mtu_is_for_ipv4_alone() -> None:
    with pytest.raises(errors.InvalidArgument):
        definition.changed(ManagedNetwork("lan0"), {"mtu": 1000, "ipv6": "fd00::1/64"})
    assert definition.changed(ManagedNetwork("lan0"), {"mtu": 1000, "ipv6": "none"}).mtu == 1000


@pytest.mark.parametrize(
    "name",
    [
        "",
        "lo",
        "all",
        "default",
        ".",
        "..",
        "-a",
        ".a",
        "a" * 16,
        "a b",
        "a/b",
        "a*",
        'a"',
        "a\n",
        "ü",
        "a:b",
    ],
)
def test_names_that_no_device_of_ours_has(name: str) -> None:
    assert definition.device_problem(name)
    assert not definition.device_problem("lxcbr0")


def test_what_is_made_up_is_the_same_each_time_and_differs_by_host_and_name() -> None:
    for make in (definition.stable_hwaddr, definition.stable_ula):
        assert make("a", "x") == make("a", "x")
        assert len({make("a", "x"), make("b", "x"), make("a", "y")}) == 3
    assert ipaddress.IPv6Interface(definition.stable_ula("a", "x")).network.subnet_of(
        ipaddress.IPv6Network("fd00::/8")
    )


def test_eui64() -> None:
    prefix = ipaddress.IPv6Network("2001:db8:1:2::/64")
    # The example of RFC 4291, appendix A.
    assert str(definition.eui64(prefix, "34:56:78:9a:bc:de")) == "2001:db8:1:2:3656:78ff:fe9a:bcde"


def test_a_free_network_is_found_until_there_is_none() -> None:
    used: list[ipaddress.IPv4Network] = []
    for _ in range(256):
        found = definition.free_ipv4(used, "seed", "lan0")
        used.append(ipaddress.IPv4Interface(found).network)
    assert str(used[0]) == "10.0.3.0/24"
    assert len(set(used)) == 256
    with pytest.raises(errors.ResourceExhausted):
        definition.free_ipv4(used, "seed", "lan0")


# ---- /etc/default/lxc-net

SCRIPT = """\
# A comment
USE_LXC_BRIDGE="true"
export LXC_BRIDGE='br-lxc' # behind it, too
LXC_BRIDGE_MAC=00:16:3e:00:00:00
LXC_ADDR="192.168.9.1"
LXC_NETMASK="255.255.255.128"
LXC_DHCP_RANGE="192.168.9.10,192.168.9.20,255.255.255.128,1h"
LXC_DHCP_MAX="11"
LXC_DHCP_CONFILE=/etc/lxc/dnsmasq.conf
LXC_DHCP_PING="true"
LXC_DOMAIN="example"
LXC_IPV6_ADDR="fd00:1::1"
LXC_IPV6_MASK="64"
LXC_IPV6_NETWORK="fd00:1::/64"
LXC_IPV6_NAT="false"
"""


def test_all_that_the_script_knows() -> None:
    found = lxcnet.read(SCRIPT, "seed")
    assert found.problems == ()
    assert found.network == ManagedNetwork(
        "br-lxc",
        ipv4="192.168.9.1/25",
        ipv4_range="192.168.9.10-192.168.9.20",
        ipv6="fd00:1::1/64",
        ipv6_nat=False,
        domain="example",
        hwaddr="00:16:3e:00:00:00",
        dhcp_max=11,
        dhcp_ping=True,
        dnsmasq_conf="/etc/lxc/dnsmasq.conf",
    )


def test_without_a_word_it_is_the_bridge_of_lxc() -> None:
    network = lxcnet.read("", "seed").network
    assert network is not None
    assert (network.name, network.ipv4, network.domain) == ("lxcbr0", "10.0.3.1/24", "lxc")
    assert network.ipv6 == definition.stable_ula("seed", "lxcbr0")
    assert not network.dhcp_ping


@pytest.mark.parametrize(
    ("text", "ipv6"),
    [
        ("LXC_IPV6_ENABLE=true", "fc42:5009:ba4b:5ab0::1/64"),
        ("LXC_IPV6_ENABLE=false", ""),
        ("LXC_IPV6_ADDR=fd00::7\nLXC_IPV6_MASK=64", "fd00::7/64"),
    ],
)
def test_ipv6_of_the_script(text: str, ipv6: str) -> None:
    network = lxcnet.read(text, "seed").network
    assert network is not None
    assert network.ipv6 == ipv6


@pytest.mark.parametrize(
    ("text", "problems"),
    [("", 0), ("LXC_IPV6_ENABLE=false", 0), ("LXC_IPV6_ENABLE=true", 1), ("LXC_IPV6_ADDR=fd00::7", 1)],
)  # fmt: skip
def test_without_ipv6_there_is_none(text: str, problems: int) -> None:
    found = lxcnet.read(text, "seed", has_ipv6=False)
    assert found.network is not None
    assert (found.network.ipv4, found.network.ipv6) == ("10.0.3.1/24", "")
    assert len(found.problems) == problems
    assert definition.fresh("lan0", "seed", [], has_ipv6=False).ipv6 == ""


@pytest.mark.parametrize("text", ["USE_LXC_BRIDGE=false", "USE_LXC_BRIDGE=", "USE_LXC_BRIDGE='no'"])
def test_there_may_be_none(text: str) -> None:
    assert lxcnet.read(text, "seed") == lxcnet.LxcNet(None)


@pytest.mark.parametrize(
    "text",
    [
        "LXC_ADDR=$(hostname -i)", "LXC_ADDR=`id`", 'LXC_ADDR="$HOME"', "LXC_ADDR='unclosed", "LXC_ADDR=a b",
        "rm -rf /", "[ -f /x ] && . /x",
    ],
)  # fmt: skip
def test_nothing_is_run_or_expanded(text: str) -> None:
    found = lxcnet.read(text, "seed")
    assert len(found.problems) == 1
    assert found.network is not None
    assert found.network.ipv4 == "10.0.3.1/24"


@pytest.mark.parametrize(
    "text",
    [
        "LXC_ADDR=300.1.1.1",
        "LXC_DHCP_MAX=many",
        "LXC_BRIDGE='a b'",
        "LXC_DOMAIN='x y'",
        "LXC_NETWORK=x/99",
    ],
)
def test_nonsense_is_no_network_and_is_told(text: str) -> None:
    found = lxcnet.read(text, "seed")
    assert found.network is None
    assert found.problems


@STEADY
@given(st.text(alphabet=st.sampled_from("LXC_ADRUSEBIG=\"'$`\\ \n#;10.3/ab\x00\x1b"), max_size=80))
def test_any_file_is_read(text: str) -> None:
    for problem in lxcnet.read(text, "seed").problems:
        assert problem.isprintable()
