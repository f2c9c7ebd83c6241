"""netstat of a container, with nothing of the kind inside."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import container_pb2 as pb
from lxcd.v1 import types_pb2
from tests.system.boxes import Box, defined
from tests.system.calls import application, idle, refused
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

Socket = pb.Socket

# Inside: one of each kind, and stays. A part of what is sent is never read.
_OPEN = """
import os, signal, socket as s
i, x, u = s.AF_INET, s.AF_INET6, s.AF_UNIX
kept = []
def bound(family, kind, where, protocol=0):
    one = s.socket(family, kind, protocol)
    if family == x and kind != s.SOCK_RAW:
        one.setsockopt(s.IPPROTO_IPV6, s.IPV6_V6ONLY, 1)
    one.bind(where)
    kept.append(one)
    return one
four = bound(i, s.SOCK_STREAM, ("127.0.0.1", 22))
four.listen(5)
bound(x, s.SOCK_STREAM, ("::", 22)).listen(7)
bound(i, s.SOCK_DGRAM, ("0.0.0.0", 53))
bound(x, s.SOCK_DGRAM, ("::1", 53))
bound(i, s.SOCK_RAW, ("127.0.0.1", 0), s.IPPROTO_ICMP)
bound(x, s.SOCK_RAW, ("::1", 0), s.IPPROTO_ICMPV6)
talk = s.create_connection(("127.0.0.1", 22))
other, _ = four.accept()
talk.send(b"0123456789")
waits = s.create_connection(("127.0.0.1", 22))
aside = s.socket(i, s.SOCK_DGRAM)
aside.connect(("127.0.0.1", 53))
aside.send(b"x")
bound(u, s.SOCK_STREAM, "/run/listening").listen(3)
bound(u, s.SOCK_DGRAM, b"\\0hidden")
bound(u, s.SOCK_SEQPACKET, "/run/packets").listen(1)
pair = s.socketpair()
print("all are open", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def busy(shared_host: Host) -> Iterator[Box]:
    """Of the image `host`, which has a Python: in a user namespace, too."""
    with defined(shared_host, "", "busy") as made:
        made.start("/usr/bin/python3", "-c", _OPEN)
        made.shows("all are open")
        yield made


def listed(made: Box, *kinds: int, holders: bool = False) -> list[Socket]:
    request = pb.ListSocketsRequest(
        name=made.name,
        kinds=kinds,  # type: ignore[arg-type]  # the stubs want the enum
        with_holders=holders,
    )
    reply = made.api.container.ListSockets(request, timeout=DEADLINE)
    assert not reply.truncated
    return list(reply.sockets)


def ends(one: Socket) -> tuple[str, int, str, int]:
    return one.local_address, one.local_port, one.remote_address, one.remote_port


def test_tcp(busy: Box) -> None:
    found = listed(busy, Socket.KIND_TCP)
    listening = {ends(one)[:2]: one for one in found if one.state == Socket.STATE_LISTEN}
    assert listening.keys() == {("127.0.0.1", 22), ("::", 22)}
    four, six = listening["127.0.0.1", 22], listening["::", 22]
    assert (four.family, six.family) == (
        types_pb2.ADDRESS_FAMILY_INET,
        types_pb2.ADDRESS_FAMILY_INET6,
    )
    assert (four.backlog, four.backlog_max, six.backlog_max) == (1, 5, 7)
    connected = [one for one in found if one.state == Socket.STATE_ESTABLISHED]
    # Both ends of both, of which nobody has accepted the second yet.
    assert len(connected) == 4
    assert sorted(one.receive_queue_bytes for one in connected) == [0, 0, 0, 10]
    far = {ends(one)[2:] for one in connected if one.local_port == 22}
    assert far == {ends(one)[:2] for one in connected if one.local_port != 22}


def test_udp_and_raw(busy: Box) -> None:
    found = listed(busy, Socket.KIND_UDP, Socket.KIND_RAW)
    udp = {ends(one)[:2]: one for one in found if one.kind == Socket.KIND_UDP}
    assert {("0.0.0.0", 53), ("::1", 53)} < udp.keys()
    assert udp["0.0.0.0", 53].state == Socket.STATE_CLOSE
    assert udp["0.0.0.0", 53].receive_queue_bytes > 0
    (aside,) = (one for one in udp.values() if one.remote_port)
    assert (aside.state, aside.remote_address) == (Socket.STATE_ESTABLISHED, "127.0.0.1")
    raw = {(one.local_address, one.protocol) for one in found if one.kind == Socket.KIND_RAW}
    assert raw == {("127.0.0.1", 1), ("::1", 58)}


def test_unix(busy: Box) -> None:
    found = listed(busy, Socket.KIND_UNIX)
    named = {one.path: one for one in found}
    assert (named["/run/listening"].type, named["/run/listening"].backlog_max) == ("stream", 3)
    assert named["/run/listening"].state == Socket.STATE_LISTEN
    assert named["@hidden"].type == "dgram"
    assert named["/run/packets"].type == "seqpacket"
    inodes = {one.inode for one in found}
    assert any(one.peer_inode in inodes for one in found if not one.path)


def test_holders_and_owners(busy: Box) -> None:
    inside = busy.run("cat", "/proc/self/uid_map").stdout.split()
    for one in listed(busy, holders=True):
        if one.local_port or one.path:
            assert one.uid == int(inside[1])
        if one.inode and (one.local_port or one.path):
            (holder,) = one.holders
            assert holder.comm == "python3"
            status = Path(f"/proc/{holder.pid}/status").read_text()
            assert f"NSpid:\t{holder.pid}\t{holder.container_pid}\n" in status
    assert not any(one.holders for one in listed(busy))


def test_only_its_own(busy: Box, shared_host: Host) -> None:
    with defined(shared_host, "", "quiet") as made:
        made.start("/bin/sleep", "1000")
        assert listed(made) == []
        inodes = {one.inode for one in listed(busy)}
        # Neither the host's, where lxcd itself listens, nor that of a neighbour.
        assert inodes.isdisjoint(one.inode for one in listed(made))
        lines = shared_host.machine.run("cat", "/proc/net/unix").stdout.splitlines()[1:]
        assert inodes.isdisjoint(int(line.split()[6]) for line in lines)


def test_as_netstat_prints_it(busy: Box) -> None:
    host = busy.host
    lines = host.ctl("netstat", "busy", "--", "-anp", "-t").stdout.splitlines()
    assert lines[0] == "Active Internet connections (servers and established)"
    rows = [line.split() for line in lines[2:]]
    (six,) = (row for row in rows if row[3] == ":::22")
    assert six[:6] == ["tcp6", "0", "0", ":::22", ":::*", "LISTEN"]
    assert six[6].endswith("/python3")
    text = host.ctl("netstat", "busy", "--", "--listening", "--unix").stdout
    assert "LISTENING" in text
    assert "/run/listening" in text
    assert "tcp" not in text
    name = "ssh" if _knows_ssh() else "22"
    assert f":::{name} " in host.ctl("netstat", "busy", "--", "-l").stdout
    rows_json: list[dict[str, Any]] = json.loads(
        host.ctl("--format", "json", "netstat", "busy", "--", "-tl").stdout
    )
    assert {row["state"] for row in rows_json} == {"LISTEN"}
    devices = host.ctl("netstat", "busy", "--", "-i").stdout.splitlines()
    assert devices[0] == "Kernel Interface table"
    assert devices[2].split()[0] == "lo"
    assert host.ctl("netstat", "busy", "--", "-r").stdout.startswith("Kernel IP routing table\n")


def _knows_ssh() -> bool:
    try:
        return socket.getservbyname("ssh", "tcp") == 22
    except OSError:
        return False


def test_on_the_hosts_network_what_it_holds(shared_host: Host, busybox_root: Path) -> None:
    script = (
        "import signal, socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
        "print('open', flush=True); signal.pause()"
    )
    said = shared_host.root / "outside"
    outside = shared_host.machine.spawn(
        ["/usr/bin/python3", "-c", script], shared_host.environment, said
    )
    try:
        until(lambda: said.exists() and "open" in said.read_text(), "another listens")
        text = application(shared_host, busybox_root, "box", "lxc.namespace.keep = net")
        with defined(shared_host, text) as made:
            made.start("/bin/busybox", "nc", "-l", "-p", "4567")
            until(lambda: listed(made, Socket.KIND_TCP) != [], "it listens")
            (one,) = listed(made, Socket.KIND_TCP)
            assert (one.local_port, len(one.holders)) == (4567, 0)
            (same,) = listed(made, Socket.KIND_TCP, holders=True)
            assert same.inode == one.inode
            assert [holder.comm for holder in same.holders] == ["busybox"]
    finally:
        shared_host.machine.kill(outside)
        shared_host.machine.wait(outside)


def test_of_one_that_does_not_run(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "box") as made:
        made.stop(kill=True)
        assert refused(lambda: listed(made)).reason == "CONTAINER_NOT_RUNNING"
        assert shared_host.ctl("netstat", "box", check=False).returncode == 4
        assert shared_host.ctl("netstat", "nobody", check=False).returncode == 3


def test_kinds_that_there_are_not(busy: Box) -> None:
    assert refused(lambda: listed(busy, 0)).reason == "INVALID_KIND"
    assert refused(lambda: listed(busy, Socket.KIND_TCP, 99)).reason == "INVALID_KIND"
