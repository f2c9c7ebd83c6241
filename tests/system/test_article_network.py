"""The network of the article: a bridge that has the host's address and its network card, containers on it with static
addresses, sshd inside, somebody who logs in from another machine of that segment.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import types_pb2
from tests.system.boxes import Box, defined
from tests.system.calls import IDLE, application
from tests.system.elsewhere import Elsewhere, elsewhere
from tests.system.host import Host
from tests.system.machine import until
from tests.system.wires import addresses_inside, device, ip, routes_inside

# Word for word, and one line more: without a gateway the article's containers reach no other network.
NETWORK = """\
# network configuration
lxc.utsname = {name}
lxc.network.type = veth
lxc.network.name = eth0
lxc.network.flags = up
lxc.network.link = br0
lxc.network.ipv4 = 192.168.122.{number}/24
lxc.network.ipv4.gateway = 192.168.122.1
"""
OPTIONS = (
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR"),
)


@pytest.fixture
def segment(host: Host) -> Iterator[Elsewhere]:
    """br0 with eth0 in it, and a machine at the other end of eth0's cable."""
    with device(host, "br0", "type", "bridge"), elsewhere(host, "eth0") as other:
        ip(host, "link", "set", "eth0", "master", "br0")
        ip(host, "addr", "add", "192.168.122.199/24", "dev", "br0")
        other.run("ip", "addr", "add", "192.168.122.1/24", "dev", "wire0")
        # Of another network, which only that machine knows.
        other.run("ip", "addr", "add", "10.20.30.40/32", "dev", "lo")
        yield other


def _server(host: Host, sysv_root: Path, name: str, number: int) -> tuple[Box, str]:
    """A container's configuration, and the file with the key that opens it."""
    delta = host.root / "upper" / name / "delta"
    key = host.root / f"key-{name}"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    ssh = delta / "root/.ssh"
    ssh.mkdir(parents=True, mode=0o700)
    (delta / "root").chmod(0o700)
    (ssh / "authorized_keys").write_bytes(key.with_suffix(".pub").read_bytes())
    text = application(host, sysv_root, name) + NETWORK.format(name=name, number=number)
    return Box(host, name, text), str(key)


def _reaches(where: Any, address: str) -> bool:
    done: subprocess.CompletedProcess[str] = where.run(
        "busybox", "ping", "-c", "1", "-W", "1", address, check=False
    )
    return done.returncode == 0


def test_a_bridge_without_the_physical_device(
    host: Host, segment: Elsewhere, busybox_root: Path
) -> None:
    """Nothing is wrong with it, but that it leads nowhere; once the card is in it, it does."""
    ip(host, "link", "set", "eth0", "nomaster")
    config = application(host, busybox_root, "001") + NETWORK.format(name="001", number=101)
    with defined(host, config, "001") as made:
        assert not made.start(*IDLE).problems
        until(lambda: _reaches(host.machine, "192.168.122.101"), "the host reaches it")
        assert not _reaches(segment, "192.168.122.101")
        ip(host, "link", "set", "eth0", "master", "br0")
        until(lambda: _reaches(segment, "192.168.122.101"), "the other machine reaches it")


def test_the_same_address_twice(host: Host, segment: Elsewhere, busybox_root: Path) -> None:
    """Both run, as with LXC; but whoever starts the second is told, with its line."""
    del segment
    config = {
        name: application(host, busybox_root, name) + NETWORK.format(name=name, number=101)
        for name in ("001", "002", "003")
    }
    config["003"] = config["003"].replace("link = br0", "link = br1")
    with (
        device(host, "br1", "type", "bridge"),
        defined(host, config["001"], "001") as first,
        defined(host, config["002"], "002") as second,
        defined(host, config["003"], "003") as elsewhere_,
    ):
        assert not first.start(*IDLE).problems
        line = 1 + config["002"].split("\n").index("lxc.network.ipv4 = 192.168.122.101/24")
        for restarted in (False, True):
            if restarted:
                host.kill_daemon()
                host.start_daemon()
            (problem,) = second.start(*IDLE).problems
            assert problem.severity == types_pb2.Problem.SEVERITY_WARNING
            assert problem.message == "192.168.122.101 is also 001's, on br0"
            assert problem.origin.endswith(f"/002/config:{line}")
            second.stop(kill=True)
        # On another network it is another address.
        assert not elsewhere_.start(*IDLE).problems
        told = host.ctl("start", "002").stderr
        assert "192.168.122.101 is also 001's, on br0" in told
        second.stop(kill=True)
        first.stop(kill=True)
        assert not second.start(*IDLE).problems


@pytest.mark.slow
def test_the_articles_containers(host: Host, segment: Elsewhere, sysv_root: Path) -> None:
    servers = [_server(host, sysv_root, f"00{n}", 100 + n) for n in (1, 2)]
    for (made, key), address in zip(servers, ("192.168.122.101", "192.168.122.102"), strict=True):
        pid = made.start("/bin/sh", "-c", "mkdir -p /run/sshd; exec /usr/sbin/sshd").pid
        assert addresses_inside(host, pid, "eth0") == {f"{address}/24"}
        assert ("192.168.122.0/24", "", "eth0") in routes_inside(host, pid)
        assert ("default", "192.168.122.1", "eth0") in routes_inside(host, pid)
        # The daemon has left its parent; the container goes on.
        login = ("ssh", *OPTIONS, "-i", key, f"root@{address}", "uname -n")

        def answers(login: tuple[str, ...] = login) -> bool:
            return segment.run(*login, check=False).returncode == 0

        until(answers, f"somebody can log in at {address}")
        assert segment.run(*login).stdout.strip() == made.name
        assert host.machine.run(*login).stdout.strip() == made.name
        # A network that is not this one, by the gateway.
        assert made.run("ping", "-c", "1", "-W", "20", "10.20.30.40").exit.code == 0
    # Each has its own port 22, and they reach each other.
    first, second = (made for made, _ in servers)
    assert first.run("ping", "-c", "1", "-W", "20", "192.168.122.102").exit.code == 0
    for made in (first, second):
        made.delete(force=True)
