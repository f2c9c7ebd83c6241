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


def test_a_network_is_shared_for_one_start(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with (
        defined(host, config(host, busybox_root, "", "one"), "one") as one,
        defined(host, config(host, busybox_root, "lxc.mount.auto =\n", "two"), "two") as two,
    ):
        pid = start(one)
        own = os.readlink(f"/proc/{pid}/ns/net")
        for whose in ("one", str(pid)):
            host.ctl("start", "two", "--share-net", whose)
            assert os.readlink(f"/proc/{two.info().pid}/ns/net") == own
            two.stop(kill=True)
        start(two)
        assert os.readlink(f"/proc/{two.info().pid}/ns/net") != own


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("pid", "one", "only net, ipc, uts can be shared"),
        ("net", "nobody", "container nobody does not run"),
        ("net", "/nowhere", "No such file"),
        ("net", "/proc/self/ns/uts", "NS_GET_NSTYPE"),
        ("net", "/etc/passwd", "NS_GET_NSTYPE"),
    ],
)
def test_what_cannot_be_shared(
    shared_host: Host, busybox_root: Path, key: str, value: str, text: str
) -> None:
    line = f"lxc.namespace.share.{key} = {value}\n"
    with defined(shared_host, config(shared_host, busybox_root, line)) as made:
        with pytest.raises(Refused, match=text) as refused:
            made.start()
        assert "/config:" in refused.value.metadata["origin"]
