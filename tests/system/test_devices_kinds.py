"""Devices that are no veth: those on a device of the host, none at all, and those of a network that is not the container's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.boxes import defined
from tests.system.host import Host
from tests.system.machine import until
from tests.system.wires import (
    addresses_inside,
    config,
    device,
    inside,
    ip,
    kept,
    link_inside,
    links,
    nic,
    pair,
    refused,
    routes_inside,
    start,
)

pytestmark = pytest.mark.vm

_HWADDR = "00:16:3e:00:00:01"


@pytest.mark.parametrize("mode", ["private", "vepa", "bridge", "passthru", ""])
def test_a_macvlan(shared_host: Host, busybox_root: Path, mode: str) -> None:
    host = shared_host
    text = nic(
        *("link = lan0", "flags = up", "name = lan", f"hwaddr = {_HWADDR}", "mtu = 1400"),
        *("ipv4.address = 10.9.0.2/24", "ipv4.gateway = 10.9.0.1"),
        *([f"macvlan.mode = {mode}"] if mode else []),
        kind="macvlan",
    )
    with pair(host, "lan0"):
        ip(host, "addr", "add", "10.9.0.1/24", "dev", "lan0.cable")
        before, address = set(links(host)), links(host)["lan0"]["address"]
        with defined(host, config(host, busybox_root, text)) as made:
            for _ in range(2):
                pid = start(made)
                found = link_inside(host, pid, "lan")
                assert found["linkinfo"]["info_kind"] == "macvlan"
                assert found["linkinfo"]["info_data"]["mode"] == (mode or "private")
                assert (found["address"], found["mtu"]) == (_HWADDR, 1400)
                assert found["ifindex"] == 64
                assert found["link_index"] == links(host)["lan0"]["ifindex"]
                assert "UP" in found["flags"]
                assert addresses_inside(host, pid, "lan") == {"10.9.0.2/24"}
                assert ("default", "10.9.0.1", "lan") in routes_inside(host, pid)
                made.sh("ping -c 1 -W 20 10.9.0.1")
                made.stop(kill=True)
                assert set(links(host)) == before
                # The kernel gives the link its own address again, when the namespace goes.
                until(lambda: links(host)["lan0"]["address"] == address, "it has its own again")


@pytest.mark.parametrize("mode", ["bridge", "passthru"])
def test_a_macvlan_is_gone_with_its_container(
    shared_host: Host, busybox_root: Path, mode: str
) -> None:
    host = shared_host
    text = nic("link = lan0", "flags = up", f"macvlan.mode = {mode}", kind="macvlan")
    with (
        pair(host, "lan0"),
        defined(host, config(host, busybox_root, text)) as made,
    ):
        # The kernel ends a network in its own time, and a link has an address, or is passed through, once.
        for _ in range(8):
            start(made)
            made.stop(kill=True)
            found = links(host)["lan0"]
            assert not found["promiscuity"]
            assert not kept(host)


def test_a_macvlan_has_the_mtu_of_its_link(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with pair(host, "lan0"):
        ip(host, "link", "set", "lan0", "mtu", "1300")
        text = config(host, busybox_root, nic("link = lan0", kind="macvlan"))
        with defined(host, text) as made:
            assert link_inside(host, start(made), "eth0")["mtu"] == 1300


def test_two_macvlans_of_one_link_speak_in_bridge_mode(
    shared_host: Host, busybox_root: Path
) -> None:
    host = shared_host
    one, two = (
        nic(
            *("link = lan0", "flags = up", "macvlan.mode = bridge"),
            f"ipv4.address = 10.9.0.{n}/24",
            kind="macvlan",
        )
        for n in (2, 3)
    )
    with (
        pair(host, "lan0"),
        defined(host, config(host, busybox_root, one, "one"), "one") as first,
        defined(host, config(host, busybox_root, two, "two"), "two") as second,
    ):
        start(first)
        start(second)
        first.sh("ping -c 1 -W 20 10.9.0.3")


def test_one_link_is_passed_through_once(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic("link = lan0", "macvlan.mode = passthru", kind="macvlan")
    with (
        pair(host, "lan0"),
        defined(host, config(host, busybox_root, text, "one"), "one") as first,
        defined(host, config(host, busybox_root, text, "two"), "two") as second,
    ):
        start(first)
        refused(second, "lxc.net.0.type", "making macvlan eth0 on lan0: RTM_NEWLINK: Invalid arg")
        first.stop(kill=True)
        start(second)


# What this kernel does not have: the error says what it would need.

_IPVLAN = [(mode, isolation) for mode in ("l2", "l3", "l3s") for isolation in ("bridge", "private")]


def _has(host: Host, *words: str) -> bool:
    """Whether this kernel makes such a device."""
    done = host.machine.run("ip", "link", "add", "probe0", *words, check=False)
    if done.returncode == 0:
        ip(host, "link", "del", "probe0")
    return done.returncode == 0


@pytest.mark.parametrize(("mode", "isolation"), [*_IPVLAN, ("l3", "vepa"), ("", "")])
def test_an_ipvlan(shared_host: Host, busybox_root: Path, mode: str, isolation: str) -> None:
    host = shared_host
    text = nic(
        *("link = lan0", "flags = up"),
        *([f"ipvlan.mode = {mode}", f"ipvlan.isolation = {isolation}"] if mode else []),
        kind="ipvlan",
    )
    with pair(host, "lan0"), defined(host, config(host, busybox_root, text)) as made:
        if not _has(host, "link", "lan0", "type", "ipvlan"):
            error = refused(made, "lxc.net.0.type", r"no ipvlan devices \(CONFIG_IPVLAN\)")
            assert error.metadata["syscall"] == "RTM_NEWLINK"
            return
        found = link_inside(host, start(made), "eth0")["linkinfo"]["info_data"]
        assert found["mode"] == (mode or "l3")
        other = {"bridge", "private", "vepa"} - {isolation or "bridge"}
        assert not any(found.get(each) for each in other)


@pytest.mark.vm(short=True)
def test_a_vlan(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic("link = lan0", "flags = up", "vlan.id = 4094", kind="vlan")
    with pair(host, "lan0"), defined(host, config(host, busybox_root, text)) as made:
        if not _has(host, "link", "lan0", "type", "vlan", "id", "1"):
            refused(made, "lxc.net.0.type", r"no vlan devices \(CONFIG_VLAN_8021Q\)")
            return
        found = link_inside(host, start(made), "eth0")["linkinfo"]
        assert (found["info_kind"], found["info_data"]["id"]) == ("vlan", 4094)


@pytest.mark.vm(short=True)
@pytest.mark.parametrize(
    "line", ["veth.vlan.id = 7", "veth.vlan.id = none", "veth.vlan.tagged.id = 8"]
)
def test_vlans_of_a_port(shared_host: Host, busybox_root: Path, line: str) -> None:
    host = shared_host
    text = nic("link = br0", "veth.pair = web0", "flags = up", line)
    with (
        device(host, "br0", "type", "bridge"),
        defined(host, config(host, busybox_root, text)) as made,
    ):
        switch = Path(f"/proc/{host.machine.pid}/root/sys/class/net/br0/bridge/vlan_filtering")
        if not switch.exists():
            refused(made, line, r"knows VLANs \(CONFIG_BRIDGE_VLAN_FILTERING\)")
            return
        refused(made, line, "br0 lets all VLANs through")
        switch.write_text("1")
        start(made)
        shown = host.machine.run("bridge", "vlan", "show", "dev", "web0").stdout
        assert ("7 PVID" in shown) == line.endswith("7")
        assert ("8" in shown) == line.endswith("8")


# No device


def test_an_empty_network(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic("flags = up", "name = lan", "ipv4.address = 10.0.0.1/8", kind="empty")
    before = set(links(host))
    with defined(host, config(host, busybox_root, text)) as made:
        pid = start(made)
        assert [link["ifname"] for link in inside(host, pid, "link")] == ["lo"]
        assert "UP" in link_inside(host, pid, "lo")["flags"]
        assert os.readlink(f"/proc/{pid}/ns/net") != _network(host)
        assert set(links(host)) == before


def _network(host: Host) -> str:
    return os.readlink(f"/proc/{host.machine.pid}/ns/net")


def test_none_is_the_hosts_network(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    # Others beside it are not made: it would be in the host's network.
    text = nic(kind="none") + nic("name = made", number=1)
    with pair(host, "lan0"), defined(host, config(host, busybox_root, text)) as made:
        before = set(links(host))
        pid = start(made)
        assert os.readlink(f"/proc/{pid}/ns/net") == _network(host)
        assert "lan0" in made.sh("ip link")
        assert set(links(host)) == before
        made.stop(kill=True)
        assert set(links(host)) == before


def test_a_network_of_the_hosts_is_left_alone(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = "lxc.namespace.keep = net\n" + nic("name = made", "link = nobr")
    before = set(links(host))
    with defined(host, config(host, busybox_root, text)) as made:
        pid = start(made)
        assert os.readlink(f"/proc/{pid}/ns/net") == _network(host)
        assert set(links(host)) == before


def test_a_network_that_is_not_made_has_none(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = "lxc.namespace.clone = mnt pid uts ipc\n" + nic("name = made", "link = nobr")
    before = set(links(host))
    with defined(host, config(host, busybox_root, text)) as made:
        assert os.readlink(f"/proc/{start(made)}/ns/net") == _network(host)
        assert set(links(host)) == before


def test_a_network_of_another_container_is_left_alone(
    shared_host: Host, busybox_root: Path
) -> None:
    host = shared_host
    first = nic("link = br0", "flags = up", "ipv4.address = 10.9.0.2/24", "name = lan")
    with (
        device(host, "br0", "type", "bridge"),
        defined(host, config(host, busybox_root, first, "one"), "one") as one,
    ):
        pid = start(one)
        before = set(links(host))
        second = f"lxc.namespace.share.net = {pid}\n" + nic("name = made", "link = nobr")
        with defined(host, config(host, busybox_root, second, "two"), "two") as two:
            start(two)
            assert set(links(host)) == before
            two.stop(kill=True)
            # The one whose it is goes on with it.
            assert addresses_inside(host, pid, "lan") == {"10.9.0.2/24"}
            assert set(links(host)) == before
