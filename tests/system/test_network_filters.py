"""What a container cannot send into a managed network: frames as they are, made by hand."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from lxcd.network.definition import eui64
from tests.system.connected import (
    BOXES,
    Box,
    arp,
    call,
    checksum,
    ethernet,
    inside,
    ipv4,
    ipv6,
    mac,
    network,
    start,
    udp,
)
from tests.system.host import Host
from tests.system.machine import DEADLINE

BROADCAST = "ff:ff:ff:ff:ff:ff"
ANY6, ALL6 = "::", "ff02::1"
NODES = "33:33:00:00:00:01"
IP, ARP, VLAN, IP6 = 0x0800, 0x0806, 0x8100, 0x86DD
UDP, ICMP6 = 17, 58
ME, OTHER, STRANGER = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:99"
LINK = ipaddress.IPv6Network("fe80::/64")
MINE6, OTHERS6 = str(eui64(LINK, ME)), str(eui64(LINK, OTHER))


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Box, Box, Box]]:
    """One who is filtered, one who is not, and one who hears both."""
    host = Host()
    host.module = "tests.system.connected"
    host.config.write_text("prepared_max = 0\n")
    try:
        start(host)
        filtered = Box(host, "filtered", number=1)
        hearing = Box(host, "hearing", number=2)
        free = Box(host, "free", number=3, filters=[])
        yield filtered, free, hearing
    finally:
        for box in BOXES:
            box.end_processes()
        BOXES.clear()
        host.close()


@pytest.fixture(autouse=True)
def nothing_outlives_the_test() -> None:
    """The machine is that of all tests here, and looked at when it is closed."""


def heard(sender: Box, hearing: Box, frame: bytes) -> bool:
    """Whether a frame gets to a neighbour. One that may pass is sent behind it, and awaited."""
    mark = os.urandom(8)
    own = sender.port["ipv4"] if sender.port["filter"] else "10.0.3.99"
    after = ethernet(BROADCAST, sender.hwaddr, IP, ipv4(own, "10.0.3.255", UDP, udp(9, 9, mark)))
    # The tag of a VLAN is not part of what packet(7) tells.
    untagged = frame[:12] + frame[16:]
    with hearing.packets() as ears, sender.packets() as mouth:
        mouth.send(frame)
        mouth.send(after)
        found = False
        while True:
            got = ears.recv(4096)
            found = found or got[: len(frame)] == frame or got == untagged
            if mark in got:
                return found


def neighbour(kind: int, target: str, rest: bytes = b"") -> bytes:
    """Neighbour discovery (RFC 4861)."""
    return struct.pack("!BBHI", kind, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, target) + rest


ADVERTISED = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)


def behind_an_option(source: str, payload: bytes) -> bytes:
    """ICMPv6 behind a router alert: what looks for it right behind the header does not see it."""
    summed = ipv6(source, ALL6, ICMP6, payload)[40:]
    return ipv6(source, ALL6, 0, bytes([ICMP6, 0, 5, 2, 0, 0, 1, 0]) + summed)


DISCOVER, REQUEST, DECLINE = 1, 3, 4


def bootp(
    operation: int, chaddr: str, more: bytes = b"", kind: int = DISCOVER, options: bytes = b""
) -> bytes:
    """`more` makes the hardware address longer than one of Ethernet."""
    length = 6 + len(more)
    head = struct.pack("!BBBBIHH", operation, 1, length, 0, int.from_bytes(os.urandom(4)), 0, 0)
    filled = (mac(chaddr) + more).ljust(16 + 64 + 128, b"\0")
    said = b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + options
    return head + bytes(16) + filled + said + b"\xff"


def asks_for(address: str, client: bytes) -> bytes:
    """Options: what it wants, and the id that it has."""
    return b"\x32\x04" + socket.inet_aton(address) + bytes([61, len(client)]) + client


def in_pieces(packet: bytes, first: int) -> list[bytes]:
    """A packet as two: that many bytes of what it carries, and the rest."""
    found = []
    for place, data in ((0, packet[20 : 20 + first]), (first, packet[20 + first :])):
        flags = place // 8 | (0 if place else 0x2000)
        head = packet[:2] + struct.pack("!H", 20 + len(data)) + packet[4:6]
        head += struct.pack("!H", flags) + packet[8:10] + b"\0\0" + packet[12:20]
        found.append(head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data)
    return found


def own4(box: Box) -> str:
    return str(box.port["ipv4"])


FORBIDDEN = {
    "another hardware address": lambda b: ethernet(BROADCAST, STRANGER, IP, ipv4(own4(b), "10.0.3.255", UDP, udp(1, 1, b"a"))),
    "another IPv4 address": lambda b: ethernet(BROADCAST, b.hwaddr, IP, ipv4("10.0.3.1", "10.0.3.255", UDP, udp(1, 1, b"b"))),
    "an IPv4 address of elsewhere": lambda b: ethernet(BROADCAST, b.hwaddr, IP, ipv4("192.0.2.1", "10.0.3.255", UDP, udp(1, 1, b"c"))),
    "no IPv4 address, beside DHCP": lambda b: ethernet(BROADCAST, b.hwaddr, IP, ipv4("0.0.0.0", "10.0.3.255", UDP, udp(1, 1, b"d"))),
    "ARP: is the router": lambda b: ethernet(BROADCAST, b.hwaddr, ARP, arp(2, (b.hwaddr, "10.0.3.1"), (BROADCAST, "0.0.0.0"))),
    "ARP: asks as another": lambda b: ethernet(BROADCAST, b.hwaddr, ARP, arp(1, (b.hwaddr, "10.0.3.77"), (BROADCAST, "10.0.3.1"))),
    "ARP: for another hardware address": lambda b: ethernet(BROADCAST, b.hwaddr, ARP, arp(2, (STRANGER, own4(b)), (BROADCAST, "0.0.0.0"))),
    "ARP: of a strange kind": lambda b: ethernet(BROADCAST, b.hwaddr, ARP, struct.pack("!HHBBH", 6, 0x0800, 6, 4, 2) + arp(2, (b.hwaddr, "10.0.3.1"), (BROADCAST, "0.0.0.0"))[8:]),
    "DHCP: an answer": lambda b: ethernet(BROADCAST, b.hwaddr, IP, ipv4(own4(b), "255.255.255.255", UDP, udp(67, 68, bootp(2, OTHER)))),
    "DHCP: an answer, by another port": lambda b: ethernet(BROADCAST, b.hwaddr, IP, ipv4(own4(b), "255.255.255.255", UDP, udp(1067, 68, bootp(2, OTHER)))),
    "DHCP: for another": lambda b: ethernet(BROADCAST, b.hwaddr, IP, ipv4("0.0.0.0", "255.255.255.255", UDP, udp(68, 67, bootp(1, STRANGER)))),
    "DHCP: for one whose address is longer": lambda b: ethernet(BROADCAST, b.hwaddr, IP, ipv4("0.0.0.0", "255.255.255.255", UDP, udp(68, 67, bootp(1, b.hwaddr, b"x")))),
    "IPv6: another's address": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(OTHERS6, ALL6, UDP, udp(1, 1, b"e"))),
    "IPv6: an address of elsewhere": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6("2001:db8::1", ALL6, UDP, udp(1, 1, b"f"))),
    "IPv6: none": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(ANY6, ALL6, UDP, udp(1, 1, b"g"))),
    "NDP: is another": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(MINE6, ALL6, ICMP6, neighbour(136, OTHERS6))),
    "NDP: has what another wants": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(ANY6, ALL6, ICMP6, neighbour(135, OTHERS6))),
    "NDP: is a router": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(MINE6, ALL6, ICMP6, ADVERTISED)),
    "NDP: is a router, behind an option": lambda b: ethernet(NODES, b.hwaddr, IP6, behind_an_option(MINE6, ADVERTISED)),
    "NDP: knows a better way": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(MINE6, ALL6, ICMP6, neighbour(137, OTHERS6, bytes(16)))),
    "DHCPv6: an answer": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(MINE6, ALL6, UDP, udp(547, 546, b"h"))),
    "DHCPv6: an answer, by another port": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(MINE6, ALL6, UDP, udp(1547, 546, b"h"))),
    "a tag of a VLAN": lambda b: ethernet(BROADCAST, b.hwaddr, VLAN, struct.pack("!HH", 5, IP) + ipv4("10.0.3.1", "10.0.3.255", UDP, udp(1, 1, b"i"))),
    "two tags": lambda b: ethernet(BROADCAST, b.hwaddr, 0x88A8, struct.pack("!HHHH", 5, VLAN, 6, ARP) + arp(2, (b.hwaddr, "10.0.3.1"), (BROADCAST, "0.0.0.0"))),
    "a protocol that nobody knows": lambda b: ethernet(BROADCAST, b.hwaddr, 0x88B5, b"nobody knows what this may carry"),
    "a length in place of a protocol": lambda b: ethernet(BROADCAST, b.hwaddr, 38, b"\xaa\xaa\x03" + bytes(35)),
}  # fmt: skip
ALLOWED = {
    "IPv4": lambda b: ethernet(BROADCAST, b.hwaddr, IP, ipv4(own4(b), "10.0.3.255", UDP, udp(1, 1, b"k"))),
    "ARP": lambda b: ethernet(BROADCAST, b.hwaddr, ARP, arp(1, (b.hwaddr, own4(b)), (BROADCAST, "10.0.3.77"))),
    "ARP: is it free": lambda b: ethernet(BROADCAST, b.hwaddr, ARP, arp(1, (b.hwaddr, "0.0.0.0"), (BROADCAST, own4(b)))),
    "DHCP": lambda b: ethernet(BROADCAST, b.hwaddr, IP, ipv4("0.0.0.0", "255.255.255.255", UDP, udp(68, 67, bootp(1, b.hwaddr)))),
    "IPv6": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(MINE6, ALL6, UDP, udp(1, 1, b"l"))),
    "NDP: is it free": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(ANY6, ALL6, ICMP6, neighbour(135, MINE6))),
    "NDP": lambda b: ethernet(NODES, b.hwaddr, IP6, ipv6(MINE6, ALL6, ICMP6, neighbour(136, MINE6))),
}  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_is_forbidden_is_not_heard(pair: tuple[Box, Box, Box], name: str) -> None:
    filtered, free, hearing = pair
    assert not heard(filtered, hearing, FORBIDDEN[name](filtered))
    # That it would be heard: one who is not filtered says the same.
    assert heard(free, hearing, FORBIDDEN[name](free))


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_is_heard(pair: tuple[Box, Box, Box], name: str) -> None:
    filtered, _, hearing = pair
    assert heard(filtered, hearing, ALLOWED[name](filtered))


def test_one_container_cannot_take_all_addresses(pair: tuple[Box, Box, Box]) -> None:
    filtered, _, _ = pair
    bridge = network(filtered.host)["hwaddr"]
    with filtered.packets() as mouth:
        for number in range(50):
            chaddr = f"02:00:00:00:aa:{number:02x}"
            for source in (chaddr, filtered.hwaddr):
                packet = ipv4("0.0.0.0", "255.255.255.255", UDP, udp(68, 67, bootp(1, chaddr)))
                mouth.send(ethernet(BROADCAST, source, IP, packet))
        # In pieces, whose first does not say for whom it is.
        asked = bootp(1, "02:00:00:00:aa:ff", kind=REQUEST, options=asks_for("10.0.3.254", b"\0a"))
        packet = ipv4(own4(filtered), "10.0.3.1", UDP, udp(68, 67, asked))
        for piece in in_pieces(packet, 16):
            mouth.send(ethernet(bridge, filtered.hwaddr, IP, piece))
    filtered.dhcp()
    leases = (filtered.host.state_dir / "networks/lxcbr0.leases").read_text()
    assert ":aa:" not in leases
    assert filtered.hwaddr in leases


def test_one_container_is_one_whatever_ids_it_has(pair: tuple[Box, Box, Box]) -> None:
    filtered, _, _ = pair
    greedy, last = Box(filtered.host, "greedy", number=8), Box(filtered.host, "last", number=9)

    def send(mouth: socket.socket, said: bytes) -> None:
        packet = ipv4("0.0.0.0", "255.255.255.255", UDP, udp(68, 67, said))
        mouth.send(ethernet(BROADCAST, greedy.hwaddr, IP, packet))

    with greedy.packets() as mouth:
        # It does not want its own; dnsmasq gives it any for ten minutes then.
        server = b"\x36\x04" + socket.inet_aton("10.0.3.1")
        options = asks_for(own4(greedy), b"\0x") + server
        send(mouth, bootp(1, greedy.hwaddr, kind=DECLINE, options=options))
        for number in range(2, 255):
            options = asks_for(f"10.0.3.{number}", b"\0%d" % number)
            send(mouth, bootp(1, greedy.hwaddr, kind=REQUEST, options=options))
            time.sleep(0.002)  # else its socket overflows, and it is spared
    assert last.dhcp().startswith(f"bound {own4(last)} ")
    leases = (filtered.host.state_dir / "networks/lxcbr0.leases").read_text()
    assert leases.count(greedy.hwaddr) <= 1
    for box in (greedy, last):
        box.disconnect()


@pytest.mark.parametrize("last", ["00", "03", "0e"])
def test_what_the_bridge_leaves_alone_does_not_get_in(
    pair: tuple[Box, Box, Box], last: str
) -> None:
    """IEEE 802.1D: such frames are handed to the host as they are, by the port itself."""
    filtered, _, _ = pair
    host = filtered.host
    mark, nobody = os.urandom(8), f"02:00:00:00:99:{last}"
    with (
        inside(host.machine.pid, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as heard,
        filtered.packets() as mouth,
    ):
        heard.bind(("0.0.0.0", 0))
        heard.settimeout(DEADLINE)
        port = heard.getsockname()[1]
        packet = ipv4("10.0.3.77", "10.0.3.1", UDP, udp(9, port, b"as another"))
        mouth.send(ethernet(f"01:80:c2:00:00:{last}", nobody, IP, packet))
        packet = ipv4(own4(filtered), "10.0.3.1", UDP, udp(9, port, mark))
        mouth.send(ethernet(network(host)["hwaddr"], filtered.hwaddr, IP, packet))
        assert heard.recv(100) == mark
    # Nor does what is for others come here.
    learned = host.machine.run("bridge", "fdb", "show", "br", "lxcbr0").stdout
    assert filtered.hwaddr in learned
    assert nobody not in learned


def test_only_what_is_wanted_is_filtered(pair: tuple[Box, Box, Box]) -> None:
    filtered, _, hearing = pair
    host = filtered.host
    cases = {
        ("mac",): {"another IPv4 address": True, "another hardware address": False, "IPv6: another's address": True},
        ("ipv4",): {"another IPv4 address": False, "IPv6: another's address": True, "a tag of a VLAN": False},
        ("ipv6",): {"another IPv4 address": True, "IPv6: another's address": False, "two tags": False},
    }  # fmt: skip
    for filters, expected in cases.items():
        name = "-".join(filters)
        one = Box(host, name, number=1 + len(name), filters=list(filters))
        for case, passes in expected.items():
            assert heard(one, hearing, FORBIDDEN[case](one)) is passes, (filters, case)
        one.disconnect()
    call(host.run_dir, "disconnect", "nobody")
