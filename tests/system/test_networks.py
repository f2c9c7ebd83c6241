"""Managed networks on a machine of their own: real bridges, nftables, dnsmasq, and a real DHCP client."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Self

import pytest

from tests.system.connected import (
    BOXES,
    Box,
    RefusedError,
    call,
    ethernet,
    inside,
    ipv4,
    network,
    start,
    tables,
    udp,
)
from tests.system.host import Host
from tests.system.machine import DEADLINE, until


def events(host: Host) -> list[str]:
    shown = host.ctl("--format", "json", "events", "--since", "1h", "--type", "network.*").stdout
    return [json.loads(line)["type"] for line in shown.splitlines()]


def reachable(source: Box | Host, address: str, port: int) -> str:
    """Connect; the address that the other side sees is what it sends."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    pid = source.pid if isinstance(source, Box) else source.machine.pid
    with inside(pid, lambda: socket.socket(family, socket.SOCK_STREAM)) as asking:
        asking.settimeout(DEADLINE)
        asking.connect((address, port))
        seen: bytes = asking.recv(100)
        return seen.decode()


class Echo:
    """Tells whoever connects by which address it sees them."""

    def __init__(self, box: Box, port: int, address: str = "") -> None:
        self.listening = box.serve(port, address)
        self.listening.settimeout(None)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, peer = self.listening.accept()
            except OSError:
                return
            with connection:
                connection.sendall(peer[0].encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


# ---- up and down


def test_a_network_goes_up_when_it_is_needed_and_goes_with_lxcd(wired: Host) -> None:
    assert network(wired)["up"] is False
    found = call(wired.run_dir, "ensure", "lxcbr0")
    assert found["ipv4"] == "10.0.3.1/24"
    shown = network(wired)
    assert shown["up"] is True
    assert shown["defined"] is False
    links = json.loads(wired.machine.run("ip", "-j", "addr", "show", "lxcbr0").stdout)
    (link,) = [link for link in links if link.get("ifname") == "lxcbr0"]
    assert "UP" in link["flags"]
    assert link["address"] == shown["hwaddr"]
    addresses = {f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"]}
    assert addresses == {shown["ipv4"], shown["ipv6"]}
    assert tables(wired) == ["table inet lxcd", "table bridge lxcd"]
    assert call(wired.run_dir, "ensure", "lxcbr0") == found
    assert call(wired.run_dir, "ensure", "br0") is None
    assert events(wired) == ["network.up"]
    wired.shutdown()
    assert tables(wired) == []
    assert wired.machine.traces() == []


def test_networks_are_made_changed_and_deleted(wired: Host) -> None:
    wired.ctl(
        "network", "create", "lan0", "ipv4=192.0.2.1/25", "ipv6=none", "domain=test", "mtu=1400"
    )
    shown = network(wired, "lan0")
    assert (shown["ipv4"], shown["ipv6"], shown["up"], shown["defined"]) == (
        "192.0.2.1/25",
        "",
        True,
        True,
    )
    # The one that was not told an address takes what is free.
    wired.ctl("network", "create", "lan1")
    assert network(wired, "lan1")["ipv4"] == "10.0.3.1/24" or network(wired, "lan1")[
        "ipv4"
    ].endswith(".3.1/24")
    assert wired.ctl("network", "create", "lan0", check=False).returncode == 4
    refused = wired.ctl("network", "create", "lan2", "ipv4=192.0.2.100/24", check=False)
    assert refused.returncode == 4
    assert "lan0" in refused.stderr
    wired.ctl("network", "set", "lan0", "ipv4=192.0.2.129/25", "domain=none")
    shown = network(wired, "lan0")
    assert (shown["ipv4"], shown["domain"]) == ("192.0.2.129/25", "")
    text = wired.machine.run("ip", "-4", "addr", "show", "lan0").stdout
    assert "192.0.2.129/25" in text
    assert "192.0.2.1/25" not in text
    names = [line.split()[0] for line in wired.ctl("network", "list").stdout.splitlines()]
    assert names == ["NAME", "lan0", "lan1", "lxcbr0"]
    wired.ctl("network", "delete", "lan0", "lan1")
    assert wired.ctl("network", "show", "lan0", check=False).returncode == 3
    assert tables(wired) == []


def test_what_cannot_be_is_refused(wired: Host) -> None:
    for settings in (
        ["lan0", "ipv4=10.0.0.0/24"],
        ["lan0", "ipv4=10.0.0.1/31"],
        ["lan0", "ipv4=300.0.0.1/24"],
        ["lan0", "ipv4_range=10.9.0.1-10.9.0.2"],
        ["lan0", "ipv6=fe80::1/64"],
        ["lan0", "ipv6=fd00::1/80"],
        ["lan0", "domain=a b"],
        ["lan0", "domain=lxc\nserver=1.2.3.4"],
        ["lan0", "dnsmasq_conf=/etc/a\nb"],
        ["lan0", "hwaddr=01:00:00:00:00:00"],
        ["lan0", "mtu=100"],
        ["a-name-that-is-too-long"],
        ["la n"],
        ["lo"],
        ['x"*'],
    ):
        done = wired.ctl("network", "create", *settings, check=False)
        assert done.returncode == 2, (settings, done.stderr)
    assert wired.machine.traces() == []
    assert wired.ctl("network", "delete", "lan0", check=False).returncode == 3


def test_a_bridge_of_somebody_else_is_left_alone(wired: Host) -> None:
    wired.machine.run("ip", "link", "add", "lxcbr0", "type", "bridge")
    assert call(wired.run_dir, "ensure", "lxcbr0") is None
    done = wired.ctl("network", "create", "lxcbr0", check=False)
    assert (done.returncode, "not lxcd's" in done.stderr) == (4, True)
    assert "state DOWN" in wired.machine.run("ip", "link", "show", "lxcbr0").stdout
    assert tables(wired) == []
    wired.machine.run("ip", "link", "delete", "lxcbr0")


def test_an_address_of_the_host_is_not_given_away(wired: Host) -> None:
    wired.machine.run("ip", "addr", "add", "10.0.3.77/32", "dev", "lo")
    with pytest.raises(RefusedError) as refused:
        call(wired.run_dir, "ensure", "lxcbr0")
    assert refused.value.reason == "ADDRESS_IN_USE"
    assert wired.machine.traces() == []
    wired.ctl("network", "create", "lan0")
    assert network(wired, "lan0")["ipv4"] != "10.0.3.1/24"


def test_what_the_script_of_lxc_is_told_counts(unwired: Host) -> None:
    file = unwired.root / "lxc-net"
    file.write_text(
        'USE_LXC_BRIDGE="true"\nLXC_BRIDGE=br-own\nLXC_ADDR="10.7.7.1"\nLXC_NETWORK="10.7.7.0/24"\n'
        'LXC_DHCP_RANGE="10.7.7.100,10.7.7.100"\nLXC_DHCP_MAX=1\nLXC_DOMAIN="own"\nLXC_IPV6_ENABLE=true\n'
        'LXC_BRIDGE_MAC="00:16:3e:00:00:00"\n$(touch /tmp/lxc-net-was-run)\n'
    )
    unwired.config.write_text(f'lxc_net = "{file}"\n')
    start(unwired)
    box = Box(unwired, "web", link="br-own")
    assert box.port["ipv4"] == "10.7.7.100"
    assert box.dhcp() == "bound 10.7.7.100 router 10.7.7.1 dns 10.7.7.1 domain own"
    assert network(unwired, "br-own")["ipv6"] == "fc42:5009:ba4b:5ab0::1/64"
    assert network(unwired, "br-own")["hwaddr"] == "00:16:3e:00:00:00"
    assert not os.path.exists("/tmp/lxc-net-was-run")
    file.write_text("USE_LXC_BRIDGE=false\n")
    assert call(unwired.run_dir, "ensure", "lxcbr0") is None


# ---- addresses and names


def test_containers_have_addresses_and_names(wired: Host) -> None:
    web, db = Box(wired, "web", number=1), Box(wired, "db", number=2)
    bound = web.dhcp()
    assert bound == f"bound {web.port['ipv4']} router 10.0.3.1 dns 10.0.3.1 domain lxc"
    assert db.dhcp().startswith(f"bound {db.port['ipv4']} ")
    web.ping(db.port["ipv4"])
    web.ping("10.0.3.1")
    assert web.ask("db") == web.ask("db.lxc") == [db.port["ipv4"]]
    (address6,) = web.ask("db", 28)

    def has_address6() -> bool:
        text = db.run("ip", "-6", "-j", "addr", "show", "dev", "eth0").stdout
        found = {one["local"] for link in json.loads(text) for one in link.get("addr_info", [])}
        return address6 in found

    until(has_address6, "it has made itself an address of what the bridge advertises")
    until(
        lambda: web.run("busybox", "ping6", "-c1", "-W5", address6, check=False).returncode == 0,
        "it answers by IPv6",
    )
    assert web.ask("nobody") == []
    leases = json.loads(wired.ctl("--format", "json", "network", "leases", "lxcbr0").stdout)
    by_name = {one["container"]: one for one in leases if "." in one["address"]}
    assert by_name["web"]["hwaddr"] == web.hwaddr
    assert by_name["web"]["expire_time"]
    # What the kernel says counts, as far as it may send from there.
    call(
        wired.run_dir,
        "note_addresses",
        str(wired.lxcpath),
        "db",
        db.hwaddr,
        [db.port["ipv4"] + "/24", "10.0.3.1/24"],
    )
    until(lambda: web.ask("db", 28) == [], "the address that it does not have is not told")
    assert web.ask("db") == [db.port["ipv4"]]
    db.disconnect()
    until(lambda: web.ask("db") == [], "its name goes with it")


def test_an_address_stays_that_of_a_container(wired: Host) -> None:
    web = Box(wired, "web", number=1)
    web.dhcp()
    first = web.port["ipv4"]
    web.disconnect()
    other = Box(wired, "other", number=9)
    assert other.port["ipv4"] != first
    # Another life has another hardware address, and there is a lease of the first still.
    web.hwaddr = "02:00:00:00:00:07"
    web.connect()
    assert web.port["ipv4"] == first
    assert web.dhcp().startswith(f"bound {first} ")
    web.ping("10.0.3.1")


def test_a_static_address_is_kept_from_others(wired: Host) -> None:
    web = Box(wired, "web", number=1, addresses=["10.0.3.200/24"])
    assert web.port["ipv4"] == "10.0.3.200"
    with pytest.raises(RefusedError) as refused:
        Box(wired, "db", number=2, addresses=["10.0.3.200"])
    assert refused.value.reason == "ADDRESS_IN_USE"
    with pytest.raises(RefusedError) as refused:
        Box(wired, "db2", number=3, addresses=["10.0.3.1/24"])
    assert refused.value.reason == "ADDRESS_IN_USE"
    web.run("ip", "addr", "add", "10.0.3.200/24", "dev", "eth0")
    web.ping("10.0.3.1")
    assert len(network(wired)["ports"]) == 1


# ---- the way out, and in


@pytest.fixture
def outside(wired: Host) -> Box:
    """A host beyond the machine: 198.51.100.2, which knows no way to any network of lxcd."""
    box = Box.__new__(Box)
    box.host, box.name = wired, "outside"
    box.pid = wired.machine.spawn(
        ["/usr/bin/unshare", "--net", "sleep", "infinity"], wired.environment, wired.log
    )
    machine = os.stat(f"/proc/{wired.machine.pid}/ns/net").st_ino
    own = os.stat("/proc/self/ns/net").st_ino
    until(lambda: os.stat(f"/proc/{box.pid}/ns/net").st_ino not in (machine, own), "a namespace")
    run = wired.machine.run
    run(
        "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0", "netns", str(box.pid)
    )
    run("ip", "addr", "add", "198.51.100.1/24", "dev", "uplink")
    run("ip", "addr", "add", "2001:db8:1::1/64", "dev", "uplink", "nodad")
    run("ip", "link", "set", "uplink", "up")
    box.run("ip", "addr", "add", "198.51.100.2/24", "dev", "eth0")
    box.run("ip", "addr", "add", "2001:db8:1::2/64", "dev", "eth0", "nodad")
    box.run("ip", "link", "set", "eth0", "up")
    BOXES.append(box)
    return box


def test_containers_go_out_with_the_address_of_the_host(wired: Host, outside: Box) -> None:
    web = Box(wired, "web")
    web.dhcp()
    with Echo(outside, 80):
        assert reachable(web, "198.51.100.2", 80) == "198.51.100.1"
    until(lambda: "default" in web.run("ip", "-6", "route").stdout, "it has a router")
    until(
        lambda: "tentative" not in web.run("ip", "-6", "addr").stdout, "its addresses are its own"
    )
    with Echo(outside, 80, "2001:db8:1::2"):
        assert reachable(web, "2001:db8:1::2", 80) == "2001:db8:1::1"


def test_a_port_of_the_host_leads_to_a_container(wired: Host, outside: Box) -> None:
    wired.ctl("create", "web")
    web, db = Box(wired, "web", number=1), Box(wired, "db", number=2)
    web.dhcp()
    db.dhcp()
    wired.ctl("network", "forward", "web", "tcp", "8080:80")
    with Echo(web, 80):
        assert reachable(outside, "198.51.100.1", 8080) == "198.51.100.2"
        # Of the host itself, also by the address that never leaves it.
        assert reachable(wired, "198.51.100.1", 8080) in ("198.51.100.1", "10.0.3.1")
        assert reachable(wired, "127.0.0.1", 8080) == "10.0.3.1"
        # From a neighbour, by any address of the host.
        assert reachable(db, "10.0.3.1", 8080) == "10.0.3.1"
        assert reachable(db, "198.51.100.1", 8080) == "10.0.3.1"
    taken = wired.ctl("create", "db")
    taken = wired.ctl("network", "forward", "db", "tcp", "8080:80", check=False)
    assert (taken.returncode, "leads to web already" in taken.stderr) == (4, True)
    (shown,) = json.loads(wired.ctl("--format", "json", "network", "forward", "web").stdout)
    assert (shown["listen"], shown["connect"], shown["active"]) == (8080, 80, True)
    # It is written down: the next life has it again.
    web.disconnect()
    with pytest.raises(OSError, match="refused"):
        reachable(wired, "127.0.0.1", 8080)
    assert wired.ctl("network", "forward", "db", "udp", "53").returncode == 0
    web.connect()
    web.dhcp()
    with Echo(web, 80):
        assert reachable(outside, "198.51.100.1", 8080) == "198.51.100.2"
        wired.ctl("network", "forward", "web", "tcp", "8080:80", "--remove")
        with pytest.raises(OSError, match="refused"):
            reachable(outside, "198.51.100.1", 8080)
    assert (
        wired.ctl("network", "forward", "web", "tcp", "8080:80", "--remove", check=False).returncode
        == 3
    )
    assert "forward" not in (wired.lxcpath / "web/lxcd.toml").read_text()
    assert 'protocol = "udp"' in (wired.lxcpath / "db/lxcd.toml").read_text()


def test_a_forward_of_127_0_0_1_is_the_hosts_alone(wired: Host, outside: Box) -> None:
    wired.ctl("create", "web")
    web = Box(wired, "web", number=1)
    web.dhcp()
    wired.ctl("network", "forward", "web", "tcp", "127.0.0.1:8080:80")
    # A service of the host's, which only the host may reach (CVE-2020-8558).
    with Echo(web, 80):
        assert reachable(wired, "127.0.0.1", 8080) == "10.0.3.1"
        with pytest.raises(OSError, match="refused"):
            reachable(outside, "198.51.100.1", 8080)
    web.run(
        "ip",
        "route",
        "add",
        "127.0.0.0/8",
        "via",
        "10.0.3.1",
        "dev",
        "eth0",
        "table",
        "main",
        check=False,
    )
    web.run("ip", "route", "del", "local", "127.0.0.0/8", "table", "local", check=False)
    web.run("ip", "route", "del", "local", "127.0.0.1", "table", "local", check=False)
    with web.open(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.settimeout(1)
        with pytest.raises(OSError, match=r"timed out|refused|unreachable"):
            asking.connect(("127.0.0.1", 8080))


def test_what_is_of_127_0_0_1_is_not_led_from_elsewhere(wired: Host, outside: Box) -> None:
    wired.ctl("create", "web")
    web = Box(wired, "web", number=1)
    web.dhcp()
    wired.ctl("network", "forward", "web", "udp", "127.0.0.1:5353:53")
    wired.ctl("network", "forward", "web", "udp", "5354:54")
    uplink = wired.machine.run("cat", "/sys/class/net/uplink/address").stdout.strip()
    with web.packets() as ears, outside.packets() as mouth:

        def send(destination: str, port: int, mark: bytes) -> None:
            packet = ipv4("198.51.100.2", destination, 17, udp(7, port, mark))
            mouth.send(ethernet(uplink, "02:00:00:00:00:77", 0x0800, packet))

        marks = [os.urandom(8) for _ in range(3)]
        send("127.0.0.1", 5353, marks[0])
        send("127.0.0.1", 5354, marks[1])
        # What may pass comes behind them.
        send("198.51.100.1", 5354, marks[2])
        heard: list[bytes] = []
        while marks[2] not in heard:
            frame = ears.recv(4096)
            heard += [mark for mark in marks if mark in frame]
    assert heard == [marks[2]]


# ---- trouble


def test_a_network_that_is_used_is_not_deleted(wired: Host) -> None:
    web = Box(wired, "web")
    done = wired.ctl("network", "delete", "lxcbr0", check=False)
    assert (done.returncode, "used by web" in done.stderr) == (4, True)
    done = wired.ctl("network", "set", "lxcbr0", "ipv4=10.8.0.1/24", check=False)
    assert done.returncode == 4
    wired.ctl("network", "set", "lxcbr0", "domain=else")
    assert web.dhcp().endswith("domain else")
    assert web.ask("web.else") == [web.port["ipv4"]]
    wired.ctl("network", "delete", "--force", "lxcbr0")
    assert tables(wired) == []
    web.disconnect()
    # The default one is there again, as it was.
    assert network(wired)["domain"] == "lxc"


def test_dnsmasq_comes_back(wired: Host) -> None:
    web = Box(wired, "web")
    web.dhcp()
    pid = network(wired)["dnsmasq_pid"]
    wired.machine.run("kill", "-9", str(pid))
    until(lambda: network(wired)["dnsmasq_pid"] not in (0, pid), "there is another")
    assert web.ask("web") == [web.port["ipv4"]]
    assert events(wired)[-2:] == ["network.dnsmasq_exited", "network.dnsmasq_started"]


def test_without_dnsmasq_nothing_is_left(wired: Host) -> None:
    wired.machine.run("mount", "--bind", "/dev/null", "/usr/sbin/dnsmasq")
    try:
        with pytest.raises(RefusedError) as refused:
            call(wired.run_dir, "ensure", "lxcbr0")
        assert refused.value.reason == "DNSMASQ_MISSING"
        assert wired.machine.traces()[1:] == []
        assert tables(wired) == []
        done = wired.ctl("network", "create", "lan0", "ipv4_dhcp=no", "ipv6_ra=no", "domain=none")
        assert done.returncode == 0
    finally:
        wired.machine.run("umount", "/usr/sbin/dnsmasq")


def test_a_dnsmasq_that_fails_says_why(wired: Host) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM):
        conf = wired.root / "more.conf"
        conf.write_text("nonsense\n")
        done = wired.ctl("network", "create", "lan0", f"dnsmasq_conf={conf}", check=False)
    assert (done.returncode, "bad option" in done.stderr) == (4, True)
    assert wired.machine.traces() == []
    assert wired.ctl("network", "show", "lan0", check=False).returncode == 3


def test_without_nft_there_is_a_network_but_no_filter(wired: Host) -> None:
    wired.machine.run("mount", "--bind", "/dev/null", "/usr/sbin/nft")
    try:
        open_ = Box(wired, "open", filters=[])
        open_.dhcp()
        open_.ping("10.0.3.1")
        assert "network.firewall_unavailable" in events(wired)
        with pytest.raises(RefusedError) as refused:
            Box(wired, "web", number=2)
        assert refused.value.reason == "FIREWALL_UNAVAILABLE"
        assert len(network(wired)["ports"]) == 1
    finally:
        wired.machine.run("umount", "/usr/sbin/nft")


def test_tables_of_another_lxcd_stay_its_own(wired: Host) -> None:
    wired.machine.run("nft", 'add table inet lxcd { comment "/run/other"; }')
    wired.machine.run("nft", "add table ip lxcd-1")
    Box(wired, "web")
    assert set(tables(wired)) == {
        "table inet lxcd", "table ip lxcd-1", "table inet lxcd-1", "table bridge lxcd-1",
    }  # fmt: skip
    wired.shutdown()
    assert set(tables(wired)) == {"table inet lxcd", "table ip lxcd-1"}
    wired.machine.run("nft", "flush ruleset")


def test_tables_that_somebody_flushed_are_made_again(wired: Host) -> None:
    web = Box(wired, "web", number=1)
    wired.machine.run("nft", "flush", "ruleset")
    Box(wired, "db", number=2)
    chains = wired.machine.run("nft", "list", "chains", "bridge").stdout
    assert f"port.{web.end}" in chains
    assert "port.veth-db" in chains


def test_who_drops_what_is_routed_is_named(wired: Host) -> None:
    wired.machine.run("nft", "add table ip strict")
    wired.machine.run(
        "nft", "add chain ip strict forward { type filter hook forward priority 0; policy drop; }"
    )
    call(wired.run_dir, "ensure", "lxcbr0")
    shown = wired.ctl("events", "--since", "1h", "--type", "network.forward_dropped").stdout
    assert "ip strict forward" in shown
    wired.machine.run("nft", "delete table ip strict")
