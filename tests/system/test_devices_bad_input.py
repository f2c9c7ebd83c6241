"""Devices that cannot be as they are asked for: each has its own error with its line, and leaves nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.boxes import Box, Refused, defined
from tests.system.calls import state
from tests.system.host import Host
from tests.system.wires import (
    config,
    device,
    file_of,
    inside,
    ip,
    kept,
    link_inside,
    links,
    nic,
    origin_of,
    pair,
    refusal,
    refused,
    settled,
    start,
)

_UP = "flags = up"


@contextmanager
def _wires(host: Host) -> Iterator[None]:
    """A bridge, and a card that is none."""
    with device(host, "br0", "type", "bridge"), pair(host, "lan0"):
        yield


# What the configuration alone shows to be wrong


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("name = sixteen.letters.", "longer than the 15 bytes"),
        ("link = sixteen.letters.", "longer than the 15 bytes"),
        ("veth.pair = sixteen.letters.", "longer than the 15 bytes"),
        ("name = a/b", "cannot be the name"),
        ("name = ..", "cannot be the name"),
        ("name = a:b", "cannot be the name"),
        ("hwaddr = 00:16:3e:00:00", "not a hardware address"),
        ("hwaddr = 00:16:3e:00:00:0g", "not a hardware address"),
        ("ipv4.address = 10.9.0.256/24", "10.9.0.256"),
        ("ipv4.address = 10.9.0.2/33", "33"),
        ("ipv4.address = 10.9.0.2/24 everywhere", "everywhere"),
        ("ipv4.address = fd00::1/64", "fd00::1"),
        ("ipv6.address = fd00::1/129", "129"),
        ("ipv6.address = fd00:::1", "fd00:::1"),
        ("ipv4.gateway = 10.9.0", "10.9.0"),
        ("mtu = 0", "mtu"),
        ("mtu = many", "many"),
        ("mtu = 99999999999", "99999999999"),
        ("flags = down", "down"),
        ("l2proxy = 2", "l2proxy"),
        ("veth.mode = bridged", "bridged"),
        ("veth.vlan.id = 4095", "4095"),
        ("veth.vlan.tagged.id = 4095", "4095"),
        ("veth.n_rxqueues = 0", "n_rxqueues"),
        ("veth.n_txqueues = 4097", "4097"),
        ("veth.ipv4.route = 10.9.0.0/40", "40"),
        ("type = wifi", "wifi"),
    ],
)
def test_what_cannot_be_read(shared_host: Host, busybox_root: Path, line: str, match: str) -> None:
    text = nic("link = br0", _UP) + f"lxc.net.0.{line}\n"
    _does_not_start(shared_host, busybox_root, text, line, match)


@pytest.mark.parametrize(
    ("text", "line", "match"),
    [
        (nic("link = lan0", "vlan.id = 4095", kind="vlan"), "vlan.id", "4095"),
        (nic("link = lan0", kind="vlan"), "type = vlan", "vlan.id"),
        (nic(kind="macvlan"), "type = macvlan", "link"),
        (nic(kind="phys"), "type = phys", "link"),
        (nic(kind="ipvlan"), "type = ipvlan", "link"),
        (nic(_UP, "ipv4.gateway = 10.9.0.1"), "gateway", "needs an ipv4.address"),
        (nic(_UP, "ipv6.gateway = auto"), "gateway", "needs an ipv6.address"),
        (
            nic("ipv4.address = 10.9.0.2/24", "ipv4.gateway = 10.9.0.1"),
            "gateway",
            "needs flags = up",
        ),
        (
            nic(_UP, "ipv4.address = 10.9.0.2/24", "ipv4.gateway = auto"),
            "gateway",
            "address of the link",
        ),
        (nic("link = br0", "macvlan.mode = loud", kind="macvlan"), "macvlan.mode", "loud"),
        ("lxc.net.0.link = br0\n", "lxc.net.0.link", "no type"),
        ("lxc.network.type = veth\nlxc.network.ipv4 = 10.9.0.300\n", "ipv4", "10.9.0.300"),
    ],
)
def test_what_does_not_go_together(
    shared_host: Host, busybox_root: Path, text: str, line: str, match: str
) -> None:
    _does_not_start(shared_host, busybox_root, text, line, match)


def _does_not_start(host: Host, root: Path, text: str, line: str, match: str) -> None:
    """Neither is it taken, nor does one start whose file says so."""
    with defined(host, config(host, root, "")) as made:
        before = set(links(host))
        file = made.directory / "config"
        file.write_text(file.read_text() + text)
        with pytest.raises(Refused) as caught:
            made.start()
        error = caught.value
        assert error.reason == "INVALID_CONFIG", error
        assert match in str(error), error
        assert error.metadata["origin"] == origin_of(made, line), error
        with pytest.raises(Refused) as caught:
            Box(host, "other", config(host, root, text))
        assert caught.value.reason == "INVALID_CONFIG"
        assert state(made.info()) == "STOPPED"
        assert set(links(host)) == before


# What the host shows to be wrong


@pytest.mark.parametrize("kind", ["veth", "macvlan", "ipvlan", "phys", "vlan"])
def test_a_link_that_is_not_there(shared_host: Host, busybox_root: Path, kind: str) -> None:
    text = nic("link = nobr", _UP, *(["vlan.id = 7"] if kind == "vlan" else []), kind=kind)
    with defined(shared_host, config(shared_host, busybox_root, text)) as made:
        refused(made, "nobr", r"lxc\.net\.0\.link: the host has no device nobr")


_ADDRESS = "ipv4.address = 10.9.0.2/24"


@pytest.mark.parametrize(
    ("text", "line", "match"),
    [
        (nic("link = lan0"), "link", "lan0 is no bridge"),
        (nic("link = lo"), "link", "lo is no bridge"),
        (nic("veth.pair = br0"), "veth.pair", "br0 is taken on the host"),
        (nic("veth.pair = lan0"), "veth.pair", "lan0 is taken on the host"),
        (nic("mtu = 65536"), "mtu", "mtu"),
        (nic("mtu = 67"), "mtu", "mtu"),
        (nic("link = lan0", "mtu = 9000", kind="macvlan"), "mtu", "mtu"),
        (nic("link = lan0", "mtu = 70000", kind="phys"), "mtu", "mtu"),
        (nic("hwaddr = 01:00:5e:00:00:01"), "hwaddr", "hwaddr|address"),
        (nic("hwaddr = 00:00:00:00:00:00"), "hwaddr", "hwaddr|address"),
        (
            nic("link = lan0", "hwaddr = 01:00:5e:00:00:01", kind="macvlan"),
            "hwaddr",
            "hwaddr|address",
        ),
        (nic("link = lan0", "hwaddr = 01:00:5e:00:00:01", kind="phys"), "hwaddr", "address"),
        (nic("name = lo"), "net.0.name", "lo"),
        (nic("link = br0", "name = all"), "net.0.name", "all"),
        (nic("link = br0", "name = br%s"), "type", "br%s"),
        (nic("veth.pair = web%d"), "veth.pair", "web%d is no whole name"),
        (nic("link = br0", _ADDRESS, _ADDRESS), "10.9.0.2", "giving eth0 the address 10.9.0.2/24"),
        (nic(_UP, _ADDRESS, "ipv4.gateway = 10.9.0.255"), "gateway", "through 10.9.0.255"),
        (nic(_UP, "ipv6.address = ff02::1/64"), "ff02::1", "the address ff02::1"),
        (
            nic(
                "veth.ipv4.route = 10.9.0.0/16",
                "flags = up",
                "link = br0",
                "veth.ipv4.route = 10.9.0.0/16",
            ),
            "10.9.0.0",
            "the route 10.9.0.0/16",
        ),
        (nic("name = one") + nic("name = one", number=1), "1.name", "one is lxc.net.0's already"),
        (nic("veth.pair = one") + nic("veth.pair = one", number=1), "1.veth.pair", "already"),
        (
            nic("hwaddr = 00:16:3e:00:00:01") + nic("hwaddr = 00:16:3e:00:00:01", number=1),
            "1.hwaddr",
            "already",
        ),
        (
            nic("link = lan0", kind="phys")
            + nic("link = lan0", "name = two", number=1, kind="phys"),
            "1.link",
            "lan0 is lxc.net.0's already",
        ),
        (
            nic("name = lan0") + nic("link = lan0", number=1, kind="phys"),
            "1.type",
            "lan0 is lxc.net.0's already",
        ),
        (nic("l2proxy = 1", _ADDRESS), "l2proxy", "l2proxy needs lxc.net.0.link"),
    ],
)
def test_what_cannot_be_made(
    shared_host: Host, busybox_root: Path, text: str, line: str, match: str
) -> None:
    host = shared_host
    with _wires(host), defined(host, config(host, busybox_root, text)) as made:
        before = links(host)["lan0"]
        refused(made, line, match)
        now = links(host)["lan0"]
        assert [now[key] for key in ("mtu", "address", "flags")] == [
            before[key] for key in ("mtu", "address", "flags")
        ]


def test_what_fails_last_takes_all_away(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    many = "".join(
        nic(
            "link = br0",
            _UP,
            f"veth.pair = web{number}",
            f"ipv4.address = 10.9.{number}.2/24",
            number=number,
        )
        for number in range(10)
    )
    text = many + nic("link = lan0", kind="macvlan", number=10) + nic("link = lan0", number=11)
    with _wires(host), defined(host, config(host, busybox_root, text)) as made:
        refused(made, "11.link", "lan0 is no bridge")


def test_a_pair_of_another_container_is_left_to_it(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    # Copied with all that was given.
    text = nic("link = br0", _UP, "veth.pair = web0", "hwaddr = 00:16:3e:00:00:01", _ADDRESS)
    with (
        _wires(host),
        defined(host, config(host, busybox_root, text, "one"), "one") as one,
        defined(host, config(host, busybox_root, text, "two"), "two") as two,
    ):
        pid = start(one)
        index = links(host)["web0"]["ifindex"]
        for _ in range(3):
            refused(two, "veth.pair", "web0 is taken on the host")
            assert links(host)["web0"]["ifindex"] == index
            assert link_inside(host, pid, "eth0")["address"] == "00:16:3e:00:00:01"
        two.delete()
        assert links(host)["web0"]["ifindex"] == index


def test_of_two_that_want_one_pair_at_once_one_has_it(
    shared_host: Host, busybox_root: Path
) -> None:
    host = shared_host
    text = nic("link = br0", _UP, "veth.pair = web0", "hwaddr = 00:16:3e:00:00:01")
    with (
        _wires(host),
        defined(host, config(host, busybox_root, text, "one"), "one") as one,
        defined(host, config(host, busybox_root, text, "two"), "two") as two,
    ):
        for _ in range(10):
            with ThreadPoolExecutor(2) as pool:
                (error,) = filter(None, pool.map(refusal, (one.start, two.start)))
            assert "web0" in error.text
            assert "taken" in error.text
            winner = next(made for made in (one, two) if state(made.info()) == "RUNNING")
            assert links(host)["web0"]["master"] == "br0"
            winner.stop(kill=True)
            assert "web0" not in links(host)


def test_a_device_that_is_renamed_inside(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic("link = br0", _UP, "veth.pair = web0") + nic("link = lan0", kind="phys", number=1)
    with _wires(host):
        before = set(links(host))
        with defined(host, config(host, busybox_root, text)) as made:
            pid = start(made)
            made.sh("ip link set eth0 down && ip link set eth0 name x0 && ip link set lan0 name y0")
            assert {"x0", "y0"} < {link["ifname"] for link in inside(host, pid, "link")}
            made.stop(kill=True)
            assert set(links(host)) == before


def test_a_device_that_is_deleted_inside(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with _wires(host):
        before = set(links(host))
        with defined(host, config(host, busybox_root, nic("link = br0"))) as made:
            pid = start(made)
            # Both ends go, and the name may be somebody else's when the container ends.
            (outer,) = set(links(host)) - before
            host.machine.run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link", "del", "eth0")
            with device(host, outer, "type", "bridge"):
                made.stop(kill=True)
                assert set(links(host)) == before | {outer}
        assert set(links(host)) == before


def test_a_link_that_goes_while_it_runs(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic("link = br0", _UP, "veth.pair = web0")
    with _wires(host), defined(host, config(host, busybox_root, text)) as made:
        start(made)
        ip(host, "link", "del", "br0")
        made.stop(kill=True)
        assert "web0" not in links(host)
        refused(made, "link = br0", "the host has no device br0")


@pytest.mark.timeout(180)
def test_a_link_that_comes_and_goes_while_it_starts(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    text = nic("link = br9", _UP, "veth.pair = web0") + nic("link = br9", kind="macvlan", number=1)
    # In one process of its own: each ip would take longer than a start.
    script = "while :; do ip link add br9 type bridge; ip link set br9 up; ip link del br9; done"
    started = 0
    with defined(host, config(host, busybox_root, text)) as made:
        pid = host.machine.spawn(
            ["/bin/sh", "-c", script], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, host.log
        )
        try:
            for _ in range(30):
                time.sleep(chance.uniform(0, 0.02))
                error = refusal(made.start)
                if error is None:
                    started += 1
                    made.stop(kill=True)
                else:
                    assert error.metadata["step"] == "network", error
                    assert error.metadata["origin"].startswith(str(made.directory)), error
                assert state(made.info()) == "STOPPED"
                assert "web0" not in links(host)
        finally:
            host.machine.kill(pid)
            host.machine.wait(pid)
        print(f"{started} of 30 have started")
        host.machine.run("ip", "link", "del", "br9", check=False)
        settled(host, {"lo"})
        assert not kept(host)
        assert file_of(host, "/proc/sys/net/ipv4/ip_forward") in "01"
