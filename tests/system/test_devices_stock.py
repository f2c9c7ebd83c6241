"""Devices as stock LXC makes them of the same configuration, beside ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system import roots, stock
from tests.system.boxes import KERNEL_MOUNTS, defined
from tests.system.host import Host
from tests.system.wires import IDLE_INIT, device, inside, ip, links, nic, pair, start

_PLAIN = "lxc.apparmor.profile = unconfined\nlxc.pty.max = 16\nlxc.tty.max = 0\n"
# What LXC 3 and later are told; legacy keys it knows no more, so there it is told the same.
_NOW = nic(
    *("link = br0", "flags = up", "name = lan", "hwaddr = 00:16:3e:00:00:01", "mtu = 1400"),
    *("veth.pair = web0", "veth.n_rxqueues = 2", "veth.n_txqueues = 3"),
    *("ipv4.address = 10.9.0.2/24 10.9.0.250", "ipv4.address = 10.8.0.2 10.255.255.255"),
    *("ipv4.gateway = 10.9.0.1", "ipv6.address = fd00:9::2/64", "ipv6.gateway = auto"),
    *("veth.ipv4.route = 10.77.0.0/16", "veth.ipv6.route = fd00:77::/48"),
)
# Where no broadcast address is given stock LXC sets the host's part of it alone, 0.0.0.255.
_OF_OLD = (
    "lxc.network.type = veth\nlxc.network.link = br0\nlxc.network.flags = up\n"
    "lxc.network.name = lan\nlxc.network.hwaddr = 00:16:3e:00:00:01\n"
    "lxc.network.ipv4 = 192.168.122.101/24 192.168.122.255\nlxc.network.ipv4.gateway = auto\n"
    "lxc.network.veth.pair = web0\nlxc.network.ipv6 = fd00:9::3\n"
)
_OF_OLD_NOW = nic(
    *("link = br0", "flags = up", "name = lan", "hwaddr = 00:16:3e:00:00:01"),
    *(
        "ipv4.address = 192.168.122.101/24 192.168.122.255",
        "ipv4.gateway = auto",
        "veth.pair = web0",
    ),
    "ipv6.address = fd00:9::3",
)
_FEW_QUEUES = nic(
    *("link = br0", "hwaddr = 00:16:3e:00:00:01", "veth.pair = web0", "veth.n_txqueues = 3")
)
_NO_QUEUES = nic("link = br0", "hwaddr = 00:16:3e:00:00:01", "veth.pair = web0")
_OUTSIDE = nic(
    *("link = br0", "flags = up", "hwaddr = 00:16:3e:00:00:01", "veth.pair = web0"),
    *("ipv4.address = 10.9.0.2/32 10.9.0.2", "ipv4.gateway = 10.5.0.1"),
)
_ROUTER = nic(
    *("veth.mode = router", "link = br0", "flags = up", "hwaddr = 00:16:3e:00:00:01"),
    *("veth.pair = web0", "ipv4.address = 10.7.0.2/32 10.7.0.2", "ipv4.gateway = 169.254.0.1"),
    *("ipv6.address = fd00:7::2/128", "ipv6.gateway = fe80::1"),
)
_ROUTER_AUTO = nic(
    *("veth.mode = router", "link = br0", "flags = up", "hwaddr = 00:16:3e:00:00:01"),
    *("veth.pair = web0", "ipv4.address = 10.7.0.2/32 10.7.0.2", "ipv4.gateway = auto"),
)
_L2PROXY = nic(
    *("veth.mode = router", "link = lan0", "flags = up", "hwaddr = 00:16:3e:00:00:01"),
    *("veth.pair = web0", "ipv4.address = 10.7.0.2/32 10.7.0.2", "ipv6.address = fd00:7::2/128"),
    *("l2proxy = 1", "ipv4.gateway = 169.254.0.1", "ipv6.gateway = fe80::1"),
)
_MACVLAN = nic(
    *("link = lan0", "flags = up", "hwaddr = 00:16:3e:00:00:01", "mtu = 1400"),
    *("macvlan.mode = passthru", "ipv4.address = 10.9.0.2/24 10.9.0.255"),
    kind="macvlan",
)
CASES = {
    "now": (_NOW, _NOW),
    "of old": (_OF_OLD_NOW, _OF_OLD),
    "few queues": (_FEW_QUEUES, _FEW_QUEUES),
    "no queues": (_NO_QUEUES, _NO_QUEUES),
    "outside": (_OUTSIDE, _OUTSIDE),
    "router": (_ROUTER, _ROUTER),
    "router auto": (_ROUTER_AUTO, _ROUTER_AUTO),
    "l2proxy": (_L2PROXY, _L2PROXY),
    "macvlan": (_MACVLAN, _MACVLAN),
}


def _link(found: dict[str, Any]) -> dict[str, Any]:
    info = found.get("linkinfo", {})
    return {
        "up": "UP" in found["flags"],
        **{key: found.get(key) for key in ("mtu", "num_rx_queues", "num_tx_queues", "master")},
        "kind": info.get("info_kind"),
        "mode": info.get("info_data", {}).get("mode"),
    }


def _addresses(found: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    return {
        (one["ifname"], a["local"], a["prefixlen"], a.get("broadcast"), a["scope"])
        for one in found
        for a in one["addr_info"]
        if one["ifname"] != "lo" and not a["local"].startswith("fe80")
    }


def _routes(found: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Less those to gateways that no subnet holds: stock LXC has a route for each, we a flag of the default route."""
    through = {one.get("gateway") for one in found}
    return {
        (one["dst"], one.get("gateway"), one["dev"])
        for one in found
        if not one["dst"].startswith(("fe80:", "ff00:")) and one["dst"] not in through
    }


def _proxies(host: Host) -> set[tuple[Any, ...]]:
    found = json.loads(ip(host, "-j", "neigh", "show", "proxy") or "[]")
    return {(one["dst"], one["dev"]) for one in found}


def _world(host: Host, pid: int) -> dict[str, Any]:
    """All that counts of a container's devices, on both sides."""
    inner = {one["ifname"]: one for one in inside(host, pid, "link")}
    seen: dict[str, Any] = {
        "links": {name: _link(one) for name, one in inner.items() if name != "lo"},
        "hwaddr": {one["address"] for one in inner.values()},
        "addresses": _addresses(inside(host, pid, "addr")),
        "host": {n: _link(one) for n, one in links(host).items() if n.startswith("web")},
        "proxies": _proxies(host),
    }
    for version in ("-4", "-6"):
        seen[f"routes {version}"] = _routes(inside(host, pid, version, "route"))
        on_host = json.loads(ip(host, "-j", version, "route") or "[]")
        seen[f"routes of the host {version}"] = _routes(on_host)
    for key in (
        "ipv4/conf/web0/forwarding",
        "ipv6/conf/web0/forwarding",
        "ipv6/conf/web0/proxy_ndp",
    ):
        seen[key] = host.machine.run("cat", f"/proc/sys/net/{key}", check=False).stdout
    return seen


def _init_of(name: str) -> int:
    lines = subprocess.run(
        ["pgrep", "-f", "-P", _monitor(name), "sleep"], capture_output=True, text=True, check=True
    )
    return int(lines.stdout.split()[0])


def _monitor(name: str) -> str:
    found = subprocess.run(
        ["pgrep", "-f", f"lxc monitor.* {name}$"], capture_output=True, text=True, check=True
    )
    return found.stdout.split()[0]


@pytest.mark.parametrize("case", CASES)
def test_the_same_as_stock_lxc(shared_host: Host, busybox_root: Path, case: str) -> None:
    host = shared_host
    theirs, ours = CASES[case]
    root = roots.copy(busybox_root, host.root / case.replace(" ", "-"))
    common = f"lxc.rootfs.path = {root}\n{KERNEL_MOUNTS}{IDLE_INIT}{_PLAIN}"
    with device(host, "br0", "type", "bridge"), pair(host, "lan0"):
        before = set(links(host))
        ip(host, "addr", "add", "192.168.122.199/24", "dev", "br0")
        ip(host, "addr", "add", "fd00:9::1/64", "dev", "br0", "nodad")
        # What stock LXC wants of a host that routes.
        for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/lan0/proxy_ndp"):
            host.machine.run("sh", "-c", f"echo 1 > /proc/sys/net/{key}")
        name = "stock"
        with stock.started(host, name, common + theirs):
            wanted = _world(host, _init_of(name))
        with defined(host, common + ours) as made:
            assert _world(host, start(made)) == wanted
            made.stop(kill=True)
        assert not _proxies(host)
        assert set(links(host)) == before
