"""Devices in a namespace that is not empty."""

from __future__ import annotations

import os
import socket

from lxcd.config.loader import load
from lxcd.kernel import process
from lxcd.network import namespace, wiring
from lxcd.network.device import read_devices
from lxcd.network.netlink import Request
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
