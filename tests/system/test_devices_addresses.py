"""Addresses, gateways and routes of devices, against what the kernel says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.system.boxes import defined
from tests.system.host import Host
from tests.system.wires import (
    addresses_inside,
    config,
    device,
    file_of,
    inside,
    ip,
    links,
    nic,
    pair,
    refused,
    routes_inside,
    start,
    sysctl_inside,
)


def _proxies(host: Host) -> set[tuple[str, str]]:
    """Addresses that the test host answers for, and where."""
    found = json.loads(ip(host, "-j", "neigh", "show", "proxy") or "[]")
    return {(one["dst"], one["dev"]) for one in found}


def _set(host: Host, key: str, value: str) -> None:
    host.machine.run("sh", "-c", f"echo {value} > /proc/sys/net/{key}")


def test_lists_of_addresses(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic(
        *("flags = up", "ipv4.address = 10.9.0.2/24", "ipv4.address = 10.9.1.2/16 10.9.9.9"),
        *("ipv4.address = 192.0.2.1/31", "ipv4.address = 192.0.2.9/32"),
        # By their class, as LXC has it.
        *("ipv4.address = 10.1.0.1", "ipv4.address = 172.16.0.1", "ipv4.address = 192.168.7.1"),
        *(
            "ipv6.address = fd00:9::2/48",
            "ipv6.address = fd00:8::2",
            "ipv6.address = fd00:7::2/128",
        ),
        "ipv4.address = 10.66.0.1/0",
    )
    with defined(host, config(host, busybox_root, text)) as made:
        pid = start(made)
        (shown,) = inside(host, pid, "-4", "addr", "show", "dev", "eth0")
        found = {
            f"{one['local']}/{one['prefixlen']}": one.get("broadcast") for one in shown["addr_info"]
        }
        assert found == {
            "10.9.0.2/24": "10.9.0.255",
            "10.9.1.2/16": "10.9.9.9",
            "192.0.2.1/31": None,
            "192.0.2.9/32": None,
            "10.1.0.1/8": "10.255.255.255",
            "172.16.0.1/16": "172.16.255.255",
            "192.168.7.1/24": "192.168.7.255",
            "10.66.0.1/0": "255.255.255.255",
        }
        assert {one["scope"] for one in shown["addr_info"]} == {"global"}
        # In the order of the lines: the first is what packets go out with.
        assert shown["addr_info"][0]["local"] in ("10.9.0.2", "10.66.0.1")
        wanted = {"fd00:9::2/48", "fd00:8::2/64", "fd00:7::2/128"}
        assert addresses_inside(host, pid, "eth0") == {*found, *wanted}


def test_hundreds_of_addresses(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    many = [f"10.9.{high}.{low}/32" for high in range(10) for low in range(1, 101)]
    text = nic("flags = up", *(f"ipv4.address = {each}" for each in many))
    with defined(host, config(host, busybox_root, text)) as made:
        assert addresses_inside(host, start(made), "eth0") == set(many)


@pytest.mark.parametrize("kind", ["veth", "macvlan"])
def test_the_gateway_is_the_links_own_address(
    shared_host: Host, busybox_root: Path, kind: str
) -> None:
    host = shared_host
    text = nic(
        *("link = br0", "flags = up", "ipv4.address = 10.9.0.2/24", "ipv4.gateway = auto"),
        *("ipv6.address = fd00:9::2/64", "ipv6.gateway = auto"),
        kind=kind,
    )
    with device(host, "br0", "type", "bridge"):
        for address in ("10.9.0.7/24", "10.9.0.8/24", "fd00:9::7/64"):
            ip(host, "addr", "add", address, "dev", "br0")
        with defined(host, config(host, busybox_root, text)) as made:
            pid = start(made)
            assert ("default", "10.9.0.7", "eth0") in routes_inside(host, pid)
            assert ("default", "fd00:9::7", "eth0") in routes_inside(host, pid, 6)


@pytest.mark.parametrize("version", [4, 6])
def test_a_link_without_an_address_is_no_gateway(
    shared_host: Host, busybox_root: Path, version: int
) -> None:
    address = {4: "10.9.0.2/24", 6: "fd00:9::2/64"}[version]
    text = nic(
        *("link = br0", "flags = up", f"ipv{version}.address = {address}"),
        f"ipv{version}.gateway = auto",
    )
    with (
        device(shared_host, "br0", "type", "bridge"),
        defined(shared_host, config(shared_host, busybox_root, text)) as made,
    ):
        refused(made, "gateway", f"br0 has no IPv{version} address")


def test_a_device_route_is_a_gateway_without_addresses(
    shared_host: Host, busybox_root: Path
) -> None:
    host = shared_host
    text = nic("flags = up", "ipv4.gateway = dev", "ipv6.gateway = dev")
    with defined(host, config(host, busybox_root, text)) as made:
        pid = start(made)
        assert ("default", "", "eth0") in routes_inside(host, pid)
        assert ("default", "", "eth0") in routes_inside(host, pid, 6)


def test_a_gateway_outside_the_subnet_is_reached(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic(
        *("link = br0", "flags = up", "ipv4.address = 10.9.0.2/32", "ipv4.gateway = 10.5.0.1"),
        *("ipv6.address = fd00:9::2/128", "ipv6.gateway = fd00:5::1"),
    )
    with device(host, "br0", "type", "bridge"):
        ip(host, "addr", "add", "10.5.0.1/32", "dev", "br0")
        ip(host, "addr", "add", "fd00:5::1/128", "dev", "br0", "nodad")
        ip(host, "route", "add", "10.9.0.2/32", "dev", "br0")
        ip(host, "-6", "route", "add", "fd00:9::2/128", "dev", "br0")
        with defined(host, config(host, busybox_root, text)) as made:
            pid = start(made)
            assert ("default", "10.5.0.1", "eth0") in routes_inside(host, pid)
            assert ("default", "fd00:5::1", "eth0") in routes_inside(host, pid, 6)
            made.sh("ping -c 1 -W 20 10.5.0.1")


def test_link_local_gateways(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic(
        *("flags = up", "ipv4.address = 10.9.0.2/24", "ipv4.gateway = 169.254.0.1"),
        *("ipv6.address = fd00:9::2/64", "ipv6.gateway = fe80::1"),
    )
    with defined(host, config(host, busybox_root, text)) as made:
        pid = start(made)
        assert ("default", "169.254.0.1", "eth0") in routes_inside(host, pid)
        assert ("default", "fe80::1", "eth0") in routes_inside(host, pid, 6)


# What the host has of them


def _routes(host: Host) -> list[str]:
    """Of both versions, but not which device has no carrier: the bridge hears of that up to a second later."""
    lines = [*ip(host, "route").splitlines(), *ip(host, "-6", "route").splitlines()]
    return [" ".join(word for word in line.split() if word != "linkdown") for line in lines]


def test_routes_of_the_host(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic(
        *("link = br0", "veth.pair = web0", "flags = up"),
        *("veth.ipv4.route = 10.77.0.0/16", "veth.ipv4.route = 10.78.1.1/32"),
        *("veth.ipv6.route = fd00:77::/48", "veth.ipv6.route = fd00:78::1/128"),
        # Where the bits of the host are not 0, as an address is written.
        "veth.ipv4.route = 10.79.1.1/16",
    )
    with device(host, "br0", "type", "bridge"):
        before = _routes(host)
        with defined(host, config(host, busybox_root, text)) as made:
            start(made)
            four = json.loads(ip(host, "-j", "route"))
            six = json.loads(ip(host, "-6", "-j", "route"))
            found = {one["dst"] for one in four + six if one["dev"] == "web0"}
            wanted = {"10.77.0.0/16", "10.78.1.1", "10.79.0.0/16", "fd00:77::/48", "fd00:78::1"}
            assert found >= wanted
            assert not found - wanted - {"fe80::/64"}
            made.stop(kill=True)
        assert _routes(host) == before


def test_a_router(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic(
        *("veth.mode = router", "veth.pair = web0", "flags = up"),
        *("ipv4.address = 10.7.0.2/32", "ipv4.address = 10.7.1.2/24"),
        *("ipv4.gateway = 169.254.0.1", "ipv6.address = fd00:7::2/128", "ipv6.gateway = fe80::1"),
    )
    before = set(links(host))
    with (
        device(host, "side0", "type", "bridge"),
        defined(host, config(host, busybox_root, text)) as made,
    ):
        ip(host, "addr", "add", "10.6.0.1/24", "dev", "side0")
        # A host that has no route to an address does not answer for it.
        ip(host, "route", "add", "default", "via", "10.6.0.2", "dev", "side0")
        pid = start(made)
        routes = json.loads(ip(host, "-j", "route")) + json.loads(ip(host, "-6", "-j", "route"))
        found = {one["dst"] for one in routes if one["dev"] == "web0"}
        assert found >= {"10.7.0.2", "10.7.1.2", "fd00:7::2"}
        assert _proxies(host) == {("169.254.0.1", "web0"), ("fe80::1", "web0")}
        for key in ("ipv4/conf/web0/forwarding", "ipv6/conf/web0/forwarding"):
            assert file_of(host, f"/proc/sys/net/{key}") == "1"
        assert file_of(host, "/proc/sys/net/ipv6/conf/web0/proxy_ndp") == "1"
        assert ("default", "169.254.0.1", "eth0") in routes_inside(host, pid)
        assert "master" not in links(host)["web0"]
        # It gets through: the host answers for the gateway, and knows the way back.
        made.sh("ping -c 1 -W 20 10.6.0.1")
        host.machine.run("busybox", "ping", "-c", "1", "-W", "20", "10.7.0.2")
        made.stop(kill=True)
        assert not _proxies(host)
        assert set(links(host)) == before | {"side0"}


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("link = br0", "disable_ipv6", "1"),
        ("link = br0\nlxc.net.0.veth.ipv6.route = fd00:77::/48", "accept_ra", "0"),
        ("veth.mode = router", "accept_ra", "0"),
        ("mtu = 1400", "accept_ra", "0"),
    ],
    ids=["in a bridge", "in a bridge, with a route", "a router", "alone"],
)
def test_the_host_takes_no_word_of_a_container(
    shared_host: Host, busybox_root: Path, option: str, key: str, value: str
) -> None:
    host = shared_host
    text = config(host, busybox_root, nic(option, "veth.pair = web0", "flags = up"))
    with device(host, "br0", "type", "bridge"), defined(host, text) as made:
        start(made)
        assert file_of(host, f"/proc/sys/net/ipv6/conf/web0/{key}") == value


def test_a_router_of_a_link_with_its_address(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic(
        *("veth.mode = router", "link = br0", "veth.pair = web0", "flags = up"),
        *("ipv4.address = 10.7.0.2/32", "ipv4.gateway = auto"),
    )
    with device(host, "br0", "type", "bridge"):
        ip(host, "addr", "add", "10.9.0.7/24", "dev", "br0")
        ip(host, "link", "set", "br0", "mtu", "1400")
        with defined(host, config(host, busybox_root, text)) as made:
            pid = start(made)
            assert ("default", "10.9.0.7", "eth0") in routes_inside(host, pid)
            assert "master" not in links(host)["web0"]
            assert links(host)["web0"]["mtu"] == 1400
            made.sh("ping -c 1 -W 20 10.9.0.7")


# l2proxy


def _proxied() -> str:
    return nic(
        *("veth.mode = router", "link = lan0", "veth.pair = web0", "flags = up", "l2proxy = 1"),
        *("ipv4.address = 10.9.0.2/32", "ipv6.address = fd00:9::2/128"),
        *("ipv4.gateway = 169.254.0.1", "ipv6.gateway = fe80::1"),
    )


_NEEDED = ("ipv4/conf/lan0/forwarding", "ipv6/conf/lan0/forwarding", "ipv6/conf/lan0/proxy_ndp")


def test_the_link_answers_for_the_container(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with pair(host, "lan0"), pair(host, "card0"):
        for key in _NEEDED:
            _set(host, key, "1")
        with defined(host, config(host, busybox_root, _proxied())) as made:
            start(made)
            assert _proxies(host) >= {("10.9.0.2", "lan0"), ("fd00:9::2", "lan0")}
            made.stop(kill=True)
            assert not _proxies(host)
            # The same if it ends while no lxcd is there.
            pid = start(made)
            host.kill_daemon()
            host.machine.run("kill", "-9", str(pid))
            host.start_daemon()
            made.wait()
            assert not _proxies(host)


@pytest.mark.parametrize("without", _NEEDED)
def test_a_link_that_does_not_forward_cannot_answer(
    shared_host: Host, busybox_root: Path, without: str
) -> None:
    host = shared_host
    with pair(host, "lan0"):
        for key in _NEEDED:
            _set(host, key, "0" if key == without else "1")
        named = without.replace("/", ".")
        with defined(host, config(host, busybox_root, _proxied())) as made:
            refused(made, "l2proxy", f"l2proxy needs net.{named} = 1")
            assert not _proxies(host)
            _set(host, without, "1")
            start(made)


def test_sysctls_of_a_device(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic("flags = up", "name = lan") + (
        "lxc.sysctl.net.ipv4.conf.lan.rp_filter = 2\n"
        "lxc.sysctl.net.ipv6.conf.lan.accept_ra = 0\nlxc.sysctl.net.ipv4.ip_forward = 1\n"
    )
    with defined(host, config(host, busybox_root, text)) as made:
        pid = start(made)
        assert sysctl_inside(host, pid, "net/ipv4/conf/lan/rp_filter") == "2"
        assert sysctl_inside(host, pid, "net/ipv6/conf/lan/accept_ra") == "0"
        assert sysctl_inside(host, pid, "net/ipv4/ip_forward") == "1"
