"""Devices that come to a running container, and go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.boxes import IDMAP, Box, box
from tests.system.host import Host
from tests.system.machine import until
from tests.system.wires import (
    addresses_inside,
    config,
    device,
    inside,
    ip,
    link_inside,
    links,
    routes_inside,
)

NIC = "lxc.net.0.type = veth\nlxc.net.0.flags = up\n"


@pytest.fixture(params=["", IDMAP], ids=["privileged", "mapped"])
def running(shared_host: Host, busybox_root: Path, request: pytest.FixtureRequest) -> Iterator[Box]:
    with box(shared_host, config(shared_host, busybox_root, request.param + NIC)) as made:
        yield made


def names(made: Box) -> set[str]:
    return {link["ifname"] for link in inside(made.host, made.info().pid, "link")}


def test_a_veth_comes_and_goes(running: Box) -> None:
    host, pid = running.host, running.info().pid
    with device(host, "br0", "type", "bridge"):
        ip(host, "addr", "add", "10.9.0.1/24", "dev", "br0")
        before = set(links(host))
        words = ("type=veth", "link=br0", "flags=up", "ipv4.address=10.9.0.2/24")
        more = ("ipv4.address=10.9.0.3/24", "ipv4.gateway=10.9.0.1", "hwaddr=00:16:3e:00:00:09")
        done = host.ctl("--format", "json", "network", "attach", running.name, *words, *more)
        made = json.loads(done.stdout)
        assert (made["name"], made["number"], made["type"]) == ("eth1", 1, "veth")
        assert addresses_inside(host, pid, "eth1") == {"10.9.0.2/24", "10.9.0.3/24"}
        assert ("default", "10.9.0.1", "eth1") in routes_inside(host, pid)
        assert link_inside(host, pid, "eth1")["address"] == "00:16:3e:00:00:09"
        assert links(host)[made["host_name"]]["master"] == "br0"
        running.sh("ping -c 1 -W 20 10.9.0.1")
        # The next lxcd knows it, too.
        host.kill_daemon()
        host.start_daemon()
        host.ctl("network", "detach", running.name, "eth1")
        until(lambda: names(running) == {"lo", "eth0"}, "it is gone inside")
        assert set(links(host)) == before
        # One that it was started with, as well.
        host.ctl("network", "detach", running.name, "eth0")
        until(lambda: names(running) == {"lo"}, "that is gone inside")
        assert host.ctl("network", "attach", running.name, "type=veth").stdout == "eth0\n"
        running.stop(kill=True)
        assert set(links(host)) == {"lo", "br0"}


def test_a_card_comes_and_goes_home(running: Box) -> None:
    host, pid = running.host, running.info().pid
    with device(host, "card0", "type", "veth", "peer", "name", "card1"):
        address = links(host)["card0"]["address"]
        host.ctl(
            "network", "attach", running.name, "type=phys", "link=card0", "name=lan", "flags=up"
        )
        assert "card0" not in links(host)
        assert link_inside(host, pid, "lan")["address"] == address
        host.ctl("network", "detach", running.name, "lan")
        assert links(host)["card0"]["address"] == address
        assert "UP" in links(host)["card0"]["flags"]
        # Another time, and it comes home with the end of the container.
        host.ctl("network", "attach", running.name, "type=phys", "link=card0")
        assert "card0" in names(running)
        running.stop(kill=True)
        assert links(host)["card0"]["address"] == address


def test_a_macvlan_comes_and_goes(running: Box) -> None:
    host = running.host
    with device(host, "lan0", "type", "veth", "peer", "name", "lan1"):
        host.ctl(
            "network", "attach", running.name, "type=macvlan", "link=lan0", "macvlan.mode=passthru"
        )
        assert names(running) == {"lo", "eth0", "eth1"}
        host.ctl("network", "detach", running.name, "eth1")
        assert names(running) == {"lo", "eth0"}
        # Nobody has the link any more.
        host.ctl(
            "network", "attach", running.name, "type=macvlan", "link=lan0", "macvlan.mode=passthru"
        )
        host.ctl("network", "detach", running.name, "eth1")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("attach", "box"), 2, "KEY=VALUE"),
        (("attach", "box", "link=br0"), 2, "type=veth"),
        (("attach", "box", "type=none"), 2, "no device of that type"),
        (("attach", "box", "type=empty"), 2, "no device of that type"),
        (("attach", "box", "type=veth", "foo=1"), 2, "no option of a device: 'foo'"),
        (("attach", "box", "type=veth", "mtu=x"), 2, "lxc.net.1.mtu"),
        (("attach", "box", "type=veth", "link=nobr"), 1, "the host has no device nobr"),
        (("attach", "box", "type=veth", "name=eth0"), 1, "box has a device eth0"),
        (("attach", "box", "type=veth", "mtu=99999999"), 1, "mtu"),
        (("detach", "box", "lo"), 3, "box has no device lo of lxcd's"),
        (("detach", "box", "eth7"), 3, "box has no device eth7 of lxcd's"),
        (("detach", "nobody", "eth0"), 3, "no container nobody"),
    ],
)
def test_what_cannot_be(
    shared_host: Host, busybox_root: Path, words: tuple[str, ...], status: int, text: str
) -> None:
    host = shared_host
    with box(host, config(host, busybox_root, NIC)) as made:
        before = set(links(host))
        done = host.ctl("network", *words, check=False)
        assert done.returncode == status, done.stderr
        assert text in done.stderr
        assert names(made) == {"lo", "eth0"}
        assert set(links(host)) == before


def test_a_container_that_shares_the_hosts_network(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with box(host, config(host, busybox_root, "lxc.net.0.type = none\nlxc.mount.auto =\n")) as made:
        done = host.ctl("network", "attach", made.name, "type=veth", check=False)
        assert (done.returncode, "no net namespace of its own" in done.stderr) == (4, True)
