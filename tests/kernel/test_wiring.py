"""Devices where there are others already."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace

import pytest

from lxcd.config.loader import load
from lxcd.kernel import process
from lxcd.network import bridge, namespace, wiring
from lxcd.network.definition import ManagedNetwork
from lxcd.network.device import read_devices
from lxcd.network.netlink import RefusedError, Request
from tests.kernel.forked import in_child

# What a kernel with all such modules puts into each namespace, from index 2 on.
FALLBACK = (
    "tunl0",
    "gre0",
    "gretap0",
    "erspan0",
    "ip_vti0",
    "ip6_vti0",
    "sit0",
    "ip6tnl0",
    "ip6gre0",
)


def test_the_kernels_own_devices_are_in_nobodys_way() -> None:
    text = "lxc.net.0.type = veth\nlxc.net.0.flags = up\nlxc.net.1.type = veth\n"

    def make() -> list[str]:
        host = namespace.open_own()
        process.unshare(process.CLONE_NEWNET)
        inside = namespace.open_own()
        any_kind = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
        with namespace.rtnetlink(inside) as opened:
            for name in FALLBACK:
                named = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", any_kind)]
                opened.run([Request("newlink", {}, named, name)])
        process.setns(host, process.CLONE_NEWNET)
        devices = read_devices(load(text.encode(), "c")[0], "seed")
        wires = wiring.Wires(devices, wiring.foresee(devices), inside)
        try:
            wires.make()
            wires.connect()
        finally:
            wires.close()
        process.setns(inside, process.CLONE_NEWNET)
        found = [name for _, name in socket.if_nameindex()]
        os.close(inside)
        os.close(host)
        return found

    found = in_child(make, unshare=process.CLONE_NEWNET)
    assert found == ["lo", *FALLBACK, "eth0", "eth1"]


@pytest.mark.parametrize("kind", ["bridge", "veth"])
def test_what_is_not_ours_is_not_made_ours(kind: str) -> None:
    ours = ManagedNetwork("lan0", ipv4="192.0.2.1/24", hwaddr="02:00:00:00:00:01")

    def make() -> list[int]:
        info = {"attrs": [("IFLA_INFO_KIND", kind)]}
        named = [("IFLA_IFNAME", "lan0"), ("IFLA_LINKINFO", info)]
        with namespace.rtnetlink() as opened:
            opened.run([Request("newlink", {}, named, "theirs")])
            before = bridge.find(opened, "lan0")
            with pytest.raises(RefusedError) as refused:
                bridge.make(opened, ours)
            assert refused.value.errno == errno.EEXIST
            assert bridge.find(opened, "lan0") == before
            opened.run([Request("dellink", {}, [("IFLA_IFNAME", "lan0")], "theirs")])
            first = bridge.make(opened, ours)
            # What is ours is brought in order, by either sign.
            changed = replace(ours, hwaddr="02:00:00:00:00:02")
            return [first, bridge.make(opened, ours), bridge.make(opened, changed, first)]

    assert len(set(in_child(make, unshare=process.CLONE_NEWNET))) == 1
