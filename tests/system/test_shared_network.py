"""lxc.namespace.share.net: a container in another's network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.boxes import IDMAP, Refused, defined
from tests.system.host import Host
from tests.system.wires import addresses_inside, config, start


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
