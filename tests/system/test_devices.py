"""Every key of lxc.net.*, against what the kernel says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.boxes import IDMAP, Refused, defined
from tests.system.host import Host
from tests.system.wires import (
    addresses_inside,
    config,
    device,
    ip,
    link_inside,
    links,
    routes_inside,
    settled,
    start,
)


def test_a_veth_on_a_bridge(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = (
        "lxc.net.0.type = veth\nlxc.net.0.link = br0\nlxc.net.0.flags = up\n"
        "lxc.net.0.veth.pair = web0\nlxc.net.0.hwaddr = 00:16:3e:00:00:01\n"
        "lxc.net.0.ipv4.address = 10.9.0.2/24\nlxc.net.0.ipv4.gateway = 10.9.0.1\n"
        "lxc.net.0.ipv6.address = fd00:9::2/64\nlxc.net.0.ipv6.gateway = fd00:9::1\n"
    )
    with device(host, "br0", "type", "bridge"):
        before = set(links(host))
        with defined(host, config(host, busybox_root, text)) as made:
            for _ in range(2):
                pid = start(made)
                link = link_inside(host, pid, "eth0")
                assert link["address"] == "00:16:3e:00:00:01"
                assert "UP" in link["flags"]
                assert links(host)["web0"]["master"] == "br0"
                assert links(host)["web0"]["address"] == "fe:16:3e:00:00:01"
                assert addresses_inside(host, pid, "eth0") == {"10.9.0.2/24", "fd00:9::2/64"}
                assert ("default", "10.9.0.1", "eth0") in routes_inside(host, pid)
                assert ("default", "fd00:9::1", "eth0") in routes_inside(host, pid, 6)
                made.stop(kill=True)
                assert set(links(host)) == before


def test_a_bridge_that_is_not_there(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = "lxc.net.0.type = veth\nlxc.net.0.link = nobr\nlxc.net.0.flags = up\n"
    with defined(host, config(host, busybox_root, text)) as made:
        before = set(links(host))
        with pytest.raises(Refused, match="the host has no device nobr") as refused:
            made.start()
        line = next(
            n
            for n, line in enumerate((made.directory / "config").read_text().splitlines(), 1)
            if "nobr" in line
        )
        assert refused.value.metadata["origin"].endswith(f"/config:{line}")
        assert refused.value.metadata["step"] == "network"
        settled(host, before)


def test_a_physical_device_comes_home(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = (
        "lxc.net.0.type = phys\nlxc.net.0.link = phy0\nlxc.net.0.flags = up\n"
        "lxc.net.0.name = lan\nlxc.net.0.mtu = 1400\n"
    )
    with device(host, "phy0", "type", "veth", "peer", "name", "phy1"):
        ip(host, "link", "set", "phy0", "address", "00:16:3e:00:00:77")
        with defined(host, config(host, busybox_root, text)) as made:
            pid = start(made)
            assert "phy0" not in links(host)
            assert link_inside(host, pid, "lan")["mtu"] == 1400
            made.stop(kill=True)
            home = links(host)["phy0"]
            assert (home["mtu"], home["address"]) == (1500, "00:16:3e:00:00:77")
            assert "UP" in home["flags"]


@pytest.mark.parametrize("mapped", [False, True], ids=["privileged", "mapped"])
def test_a_shared_network(shared_host: Host, busybox_root: Path, *, mapped: bool) -> None:
    host = shared_host
    first = "lxc.net.0.type = veth\nlxc.net.0.flags = up\nlxc.net.0.ipv4.address = 10.9.0.2/24\n"
    ids = IDMAP if mapped else ""
    second = f"{ids}lxc.namespace.share.net = one\nlxc.net.0.type = veth\nlxc.mount.auto =\n"
    with (
        defined(host, config(host, busybox_root, first, "one"), "one") as one,
        defined(host, config(host, busybox_root, second, "two"), "two") as two,
    ):
        with pytest.raises(Refused, match="container one does not run"):
            two.start()
        pid, other = start(one), start(two)
        shared = {os.stat(f"/proc/{each}/ns/net").st_ino for each in (pid, other)}
        assert len(shared) == 1
        assert (
            os.readlink(f"/proc/{pid}/ns/user") != os.readlink(f"/proc/{other}/ns/user")
        ) == mapped
        assert addresses_inside(host, other, "eth0") == {"10.9.0.2/24"}
        assert two.run("ip", "-4", "addr", "show", "eth0").exit.code == 0
        one.stop(kill=True)
        two.stop(kill=True)
