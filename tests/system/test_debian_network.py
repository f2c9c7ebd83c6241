"""Two containers with unmodified Debian on a network of lxcd's own: DHCP by systemd-networkd, names by systemd-resolved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.boxes import Box, over
from tests.system.elsewhere import elsewhere
from tests.system.host import Host
from tests.system.machine import until
from tests.system.wires import ip

_CONFIG = """\
lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed
lxc.tty.max = 1
lxc.pty.max = 64
lxc.net.0.type = veth
lxc.net.0.link = lxcbr0
lxc.net.0.flags = up
"""
# All that somebody has to say inside; without UseDomains= resolved knows names with their domain only.
_NETWORKD = "[Match]\nName=eth0\n[Network]\nDHCP=yes\n[DHCPv4]\nUseDomains=yes\n"
_UNITS = ("systemd-networkd.service", "systemd-resolved.service")
_WANTED = "etc/systemd/system/multi-user.target.wants"
# busybox is not in there, and Python neither.
_SERVER = """\
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die;
while (my $client = $server->accept) { print $client "this is $ARGV[0]\\n"; close $client }
"""


def _debian(host: Host, root: Path, name: str) -> Box:
    text = over(host, root, name) + _CONFIG
    delta = host.root / "upper" / name / "delta"
    (delta / _WANTED).mkdir(parents=True)
    for unit in _UNITS:
        (delta / _WANTED / unit).symlink_to(f"/lib/systemd/system/{unit}")
    (delta / "etc/systemd/network").mkdir(parents=True)
    (delta / "etc/systemd/network/eth0.network").write_text(_NETWORKD)
    return Box(host, name, text)


@pytest.fixture
def systems(host: Host, debian_root: Path) -> Iterator[dict[str, Box]]:
    found = {name: _debian(host, debian_root, name) for name in ("one", "two")}
    yield found
    for made in found.values():
        made.delete(force=True)


def _addresses(host: Host, name: str) -> dict[str, list[str]]:
    found = json.loads(host.ctl("--format", "json", "info", name).stdout)
    (eth0,) = (each for each in found["network_interfaces"] if each["name"] == "eth0")
    families: dict[str, list[str]] = {"4": [], "6": []}
    for each in eth0["addresses"]:
        if each["scope"] == "global":
            families["6" if ":" in each["address"] else "4"].append(each["address"])
    return families


@pytest.mark.slow
def test_two_systems_on_one_network(host: Host, systems: dict[str, Box]) -> None:
    one, two = systems.values()
    for made in (one, two):
        made.start()
    for made in (one, two):
        host.ctl("wait", made.name, "--for", "network", "--timeout", "60")
        until(lambda: all(_addresses(host, made.name).values()), "both kinds of address")  # noqa: B023
    leases = json.loads(host.ctl("--format", "json", "network", "leases", "lxcbr0").stdout)
    for made in (one, two):
        (address,) = _addresses(host, made.name)["4"]
        assert address in {lease["address"] for lease in leases if lease["name"] == made.name}
    # By name, both ways, in both families.
    for made, other in ((one, "two"), (two, "one")):
        for version in ("-4", "-6"):
            until(
                lambda: made.run("ping", version, "-c", "1", "-W", "5", other).exit.code == 0,  # noqa: B023
                f"{made.name} reaches {other} by its name, {version}",
            )
    # A machine out there, which knows nothing of this network.
    with elsewhere(host, "wan0") as third:
        ip(host, "addr", "add", "203.0.113.1/24", "dev", "wan0")
        ip(host, "addr", "add", "2001:db8::1/64", "dev", "wan0", "nodad")
        third.run("ip", "addr", "add", "203.0.113.9/24", "dev", "wire0")
        third.run("ip", "addr", "add", "2001:db8::9/64", "dev", "wire0", "nodad")
        for address in ("203.0.113.9", "2001:db8::9"):
            until(
                lambda: one.run("ping", "-c", "1", "-W", "5", address).exit.code == 0,  # noqa: B023
                f"behind NAT: {address}",
            )
        # A port of the host leads in: for that machine, for the host itself, for the other container.
        one.sh(f"nohup perl -e '{_SERVER}' one >/dev/null 2>&1 &")
        host.ctl("network", "forward", "one", "tcp", "8080:80")
        fetch = ("bash", "-c", "exec 3<>/dev/tcp/$0/8080 && cat <&3")

        def answers(run: object) -> bool:
            return getattr(run, "stdout", b"") in ("this is one\n", b"this is one\n")

        until(lambda: answers(third.run(*fetch, "203.0.113.1", check=False)), "from outside")
        until(lambda: answers(host.machine.run(*fetch, "127.0.0.1", check=False)), "from the host")
        until(lambda: answers(two.run(*fetch, "203.0.113.1")), "from the other container")
        host.ctl("network", "forward", "one", "tcp", "8080:80", "--remove")
        assert not answers(third.run(*fetch, "203.0.113.1", check=False))
    # Nobody is somebody else: two takes the address of one, whatever its root does.
    (theirs,) = _addresses(host, "one")["4"]
    two.sh("systemctl stop systemd-networkd.socket systemd-networkd")
    two.sh(f"ip addr flush dev eth0 && ip addr add {theirs}/24 dev eth0")
    assert two.run("ping", "-c", "1", "-W", "2", "10.0.3.1").exit.code == 1
    assert one.run("ping", "-c", "1", "-W", "20", "10.0.3.1").exit.code == 0
    two.sh("ip link set eth0 down && ip link set eth0 address 00:16:3e:00:00:66 up")
    assert two.run("ping", "-c", "1", "-W", "2", "10.0.3.1").exit.code == 1
