"""veth devices on bridges, against what the kernel says: every key of theirs, of old and of now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.system.boxes import IDMAP, defined, generation_runs
from tests.system.host import Host
from tests.system.wires import (
    addresses_inside,
    config,
    device,
    inside,
    ip,
    link_inside,
    links,
    nic,
    pair,
    refused,
    routes_inside,
    start,
)

_RANDOM = "10:66:6a:"


def test_a_veth_on_a_bridge(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic(
        *("link = br0", "flags = up", "veth.pair = web0", "hwaddr = 00:16:3e:00:00:01"),
        *("ipv4.address = 10.9.0.2/24", "ipv4.gateway = 10.9.0.1"),
        *("ipv6.address = fd00:9::2/64", "ipv6.gateway = fd00:9::1"),
    )
    with device(host, "br0", "type", "bridge"):
        before = set(links(host))
        with defined(host, config(host, busybox_root, text)) as made:
            for _ in range(2):
                pid = start(made)
                link = link_inside(host, pid, "eth0")
                assert link["address"] == "00:16:3e:00:00:01"
                assert "UP" in link["flags"]
                outer = links(host)["web0"]
                assert (outer["master"], outer["address"]) == ("br0", "fe:16:3e:00:00:01")
                assert "UP" in outer["flags"]
                assert addresses_inside(host, pid, "eth0") == {"10.9.0.2/24", "fd00:9::2/64"}
                assert ("default", "10.9.0.1", "eth0") in routes_inside(host, pid)
                assert ("default", "fd00:9::1", "eth0") in routes_inside(host, pid, 6)
                made.stop(kill=True)
                assert set(links(host)) == before


def test_two_containers_hear_each_other(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with device(host, "br0", "type", "bridge"):
        ip(host, "addr", "add", "10.9.0.1/24", "dev", "br0")
        one, two = (
            nic("link = br0", "flags = up", f"ipv4.address = 10.9.0.{n}/24") for n in (2, 3)
        )
        with (
            defined(host, config(host, busybox_root, one, "one"), "one") as first,
            defined(host, config(host, busybox_root, two, "two"), "two") as second,
        ):
            start(first)
            start(second)
            first.sh("ping -c 1 -W 20 10.9.0.3")
            second.sh("ping -c 1 -W 20 10.9.0.1")
            host.machine.run("busybox", "ping", "-c", "1", "-W", "20", "10.9.0.2")


def test_a_veth_that_hangs_on_nothing(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    before = set(links(host))
    with defined(host, config(host, busybox_root, nic())) as made:
        pid = start(made)
        (outer,) = set(links(host)) - before
        assert outer.startswith("veth")
        assert len(outer) == 12
        found = links(host)[outer]
        assert "master" not in found
        assert "UP" in found["flags"]
        # Without flags it is there, and down.
        assert "UP" not in link_inside(host, pid, "eth0")["flags"]
        assert "UP" in link_inside(host, pid, "lo")["flags"]
        made.stop(kill=True)
        assert set(links(host)) == before


def test_the_name_inside(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = (
        nic("name = eth1", "flags = up")
        + nic("flags = up", number=3)
        + nic("flags = up", number=4)
        + nic("name = fifteen.letters", number=9)
        + nic("name = eth%d", number=10)
        + nic("name = a%db", number=11)
        + nic("name = a%db", number=12)
    )
    with defined(host, config(host, busybox_root, text)) as made:
        pid = start(made)
        found = {link["ifname"]: link["ifindex"] for link in inside(host, pid, "link")}
        # Names as the kernel would give them, in the order of the numbers.
        names = ["eth1", "eth0", "eth2", "fifteen.letters", "eth3", "a0b", "a1b"]
        assert found == {"lo": 1} | {name: index for index, name in enumerate(names, 64)}


def test_hardware_addresses_are_drawn_once(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = (
        nic("hwaddr = 00:16:3e:xx:xx:xx")
        + nic("hwaddr = xx:xx:xx:xx:xx:XX", number=1)
        + nic(number=2)
        + nic("hwaddr = 4A:49:43:49:79:BF", number=3)
    )
    seen: dict[str, list[list[str]]] = {}
    for name in ("one", "two"):
        with defined(host, config(host, busybox_root, text, name), name) as made:
            for _ in range(2):
                pid = start(made)
                names = ("eth0", "eth1", "eth2", "eth3")
                found = [link_inside(host, pid, each)["address"] for each in names]
                seen.setdefault(name, []).append(found)
                made.stop(kill=True)
    # The same at every start; others in another container.
    assert seen["one"][0] == seen["one"][1]
    assert seen["two"][0] == seen["two"][1]
    one, two = seen["one"][0], seen["two"][0]
    assert not set(one[:3]) & set(two[:3])
    for found in (one, two):
        assert found[0].startswith("00:16:3e:")
        # Of one station, and nobody's block.
        assert int(found[1][:2], 16) & 3 == 2
        assert found[2].startswith(_RANDOM)
        assert found[3] == "4a:49:43:49:79:bf"


@pytest.mark.parametrize(("of_link", "given", "has"), [(1400, "", 1400), (1400, "1300", 1300)])
def test_the_mtu_is_the_links_unless_given(
    shared_host: Host, busybox_root: Path, of_link: int, given: str, has: int
) -> None:
    host = shared_host
    text = nic("link = br0", "veth.pair = web0", *([f"mtu = {given}"] if given else []))
    with device(host, "br0", "type", "bridge"):
        ip(host, "link", "set", "br0", "mtu", str(of_link))
        with defined(host, config(host, busybox_root, text)) as made:
            pid = start(made)
            assert link_inside(host, pid, "eth0")["mtu"] == has
            assert links(host)["web0"]["mtu"] == has


def test_a_jumbo_mtu(shared_host: Host, busybox_root: Path) -> None:
    with defined(shared_host, config(shared_host, busybox_root, nic("mtu = 9000"))) as made:
        assert link_inside(shared_host, start(made), "eth0")["mtu"] == 9000


def _queues(link: dict[str, Any]) -> tuple[int, int]:
    return link["num_rx_queues"], link["num_tx_queues"]


def test_queues(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = (
        nic("veth.pair = web0", "veth.n_rxqueues = 4", "veth.n_txqueues = 2")
        + nic("veth.pair = web1", "veth.n_txqueues = 3", number=1)
        + nic("veth.pair = web2", number=2)
    )
    with defined(host, config(host, busybox_root, text)) as made:
        pid = start(made)
        with pair(host, "any"):
            kernels = _queues(links(host)["any"])
        for number, queues in enumerate([(4, 2), (kernels[0], 3), kernels]):
            assert _queues(link_inside(host, pid, f"eth{number}")) == queues
        # What one end sends the other receives.
        assert _queues(links(host)["web0"]) == (2, 4)
        assert _queues(links(host)["web1"]) == (3, kernels[1])
        assert _queues(links(host)["web2"]) == kernels


def test_many_devices_of_many_kinds(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = "".join(
        [
            nic("link = br0", "flags = up", "ipv4.address = 10.9.0.2/24"),
            nic("link = lan0", "flags = up", "macvlan.mode = bridge", number=1, kind="macvlan"),
            nic(number=2, kind="empty"),
            nic("link = card0", "flags = up", number=5, kind="phys"),
            *(nic("link = br0", "flags = up", number=number) for number in range(10, 20)),
        ]
    )
    with device(host, "br0", "type", "bridge"), pair(host, "lan0"), pair(host, "card0"):
        before = set(links(host))
        with defined(host, config(host, busybox_root, text)) as made:
            pid = start(made)
            found = {link["ifname"] for link in inside(host, pid, "link")}
            names = {f"eth{number}" for number in range(12)}
            assert found == {"lo", "card0", *names}
            assert len([link for link in links(host).values() if link.get("master") == "br0"]) == 11
            made.stop(kill=True)
        assert set(links(host)) == before


def test_the_same_for_mapped_users(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = (
        IDMAP
        + "lxc.rootfs.options = idmap=container\n"
        + nic(
            *("link = br0", "flags = up", "veth.pair = web0", "name = lan", "mtu = 1400"),
            *("ipv4.address = 10.9.0.2/24", "ipv4.gateway = 10.9.0.1"),
            *("ipv6.address = fd00:9::2/64", "veth.n_rxqueues = 2"),
        )
        + nic("link = lan0", "flags = up", number=1, kind="macvlan")
        + nic("link = card0", "name = card", "flags = up", number=2, kind="phys")
        + nic(
            *("veth.mode = router", "veth.pair = web1", "flags = up"),
            *("ipv4.address = 10.8.0.2/32", "veth.ipv4.route = 10.8.9.0/24"),
            number=3,
        )
    )
    root = f"lxc.rootfs.path = {busybox_root}\n"
    with device(host, "br0", "type", "bridge"), pair(host, "lan0"), pair(host, "card0"):
        before = set(links(host))
        lines = config(host, busybox_root, text).partition("\n")[2]
        with defined(host, root + lines) as made:
            pid = start(made)
            assert links(host)["web0"]["master"] == "br0"
            assert link_inside(host, pid, "lan")["mtu"] == 1400
            assert addresses_inside(host, pid, "lan") == {"10.9.0.2/24", "fd00:9::2/64"}
            assert ("default", "10.9.0.1", "lan") in routes_inside(host, pid)
            kinds = {
                link["ifname"]: link.get("linkinfo", {}).get("info_kind")
                for link in inside(host, pid, "link")
            }
            assert kinds == {
                "lo": None,
                "lan": "veth",
                "eth0": "macvlan",
                "card": "veth",
                "eth1": "veth",
            }
            assert "10.8.9.0/24 dev web1" in ip(host, "route")
            # It is theirs: they may change it.
            made.sh("ip link set lan down && ip addr add 10.77.0.1/24 dev lan")
            made.stop(kill=True)
        assert set(links(host)) == before


def test_a_reboot_has_them_again(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic("link = br0", "flags = up", "veth.pair = web0", "ipv4.address = 10.9.0.2/24") + nic(
        "link = card0", "name = lan", number=1, kind="phys"
    )
    with device(host, "br0", "type", "bridge"), pair(host, "card0"):
        before = set(links(host))
        with defined(host, config(host, busybox_root, text)) as made:
            reply = made.start()
            first = links(host)["web0"]["ifindex"]
            made.run("/bin/busybox", "reboot", "-f")
            generation_runs(made, reply.generation + 1)
            assert links(host)["web0"]["ifindex"] != first
            pid = made.info().pid
            assert addresses_inside(host, pid, "eth0") == {"10.9.0.2/24"}
            assert link_inside(host, pid, "lan")
            made.stop(kill=True)
        assert set(links(host)) == before


def test_keys_of_old(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    up, down = host.root / "up", host.root / "down"
    text = (
        "lxc.network.type = veth\nlxc.network.flags = up\nlxc.network.link = br0\n"
        "lxc.network.name = lan\nlxc.network.hwaddr = 00:16:3e:00:00:05\nlxc.network.mtu = 1400\n"
        "lxc.network.veth.pair = web0\n"
        "lxc.network.ipv4 = 10.9.0.2/24 10.9.0.250\nlxc.network.ipv4.gateway = 10.9.0.1\n"
        "lxc.network.ipv6 = fd00:9::2\nlxc.network.ipv6.gateway = fd00:9::1\n"
        f"lxc.network.script.up = touch {up} --\nlxc.network.script.down = touch {down} --\n"
        "lxc.network.type = macvlan\nlxc.network.link = lan0\n"
        "lxc.network.macvlan.mode = vepa\n"
        "lxc.network.type = phys\nlxc.network.link = card0\nlxc.network.flags = up\n"
        "lxc.network.type = empty\n"
        # By number, as 2.1 had it.
        "lxc.network.7.type = veth\nlxc.network.7.ipv4 = 10.7.0.2/16\n"
    )
    with device(host, "br0", "type", "bridge"), pair(host, "lan0"), pair(host, "card0"):
        before = set(links(host))
        with defined(host, config(host, busybox_root, text)) as made:
            pid = start(made)
            link = link_inside(host, pid, "lan")
            assert (link["address"], link["mtu"]) == ("00:16:3e:00:00:05", 1400)
            assert "UP" in link["flags"]
            assert links(host)["web0"]["master"] == "br0"
            assert addresses_inside(host, pid, "lan") == {"10.9.0.2/24", "fd00:9::2/64"}
            (shown,) = inside(host, pid, "-4", "addr", "show", "dev", "lan")
            assert shown["addr_info"][0]["broadcast"] == "10.9.0.250"
            assert ("default", "10.9.0.1", "lan") in routes_inside(host, pid)
            assert ("default", "fd00:9::1", "lan") in routes_inside(host, pid, 6)
            other = link_inside(host, pid, "eth0")
            assert other["linkinfo"]["info_data"]["mode"] == "vepa"
            assert "UP" in link_inside(host, pid, "card0")["flags"]
            assert addresses_inside(host, pid, "eth1") == {"10.7.0.2/16"}
            assert up.exists()
            assert not down.exists()
            made.stop(kill=True)
            assert down.exists()
        assert set(links(host)) == before
    up.unlink()
    down.unlink()


def test_old_keys_of_a_vlan(shared_host: Host, busybox_root: Path) -> None:
    text = "lxc.network.type = vlan\nlxc.network.link = lan0\nlxc.network.vlan.id = 7\n"
    with (
        pair(shared_host, "lan0"),
        defined(shared_host, config(shared_host, busybox_root, text)) as made,
    ):
        refused(made, "network.type", "CONFIG_VLAN_8021Q")


@pytest.mark.parametrize("clear", ["lxc.net =\n", "lxc.network =\n", "lxc.net.0 =\n"])
def test_cleared_devices_are_not_made(shared_host: Host, busybox_root: Path, clear: str) -> None:
    host = shared_host
    text = nic("link = nobr") + clear
    with defined(host, config(host, busybox_root, text)) as made:
        assert {link["ifname"] for link in inside(host, start(made), "link")} == {"lo"}
