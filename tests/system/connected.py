"""lxcd with one more door, through which a test connects what is no container to managed networks; and what stands for
a container: a network namespace, and a veth pair into the bridge.

Run as a module it is the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lxcd import errors
from lxcd.network import namespace
from lxcd.supervisor.networks import Networks
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

DOOR = "networks.sock"
_FORWARDING = "3\n"  # BR_STATE_FORWARDING
SCRIPT = """#!/bin/sh
# What udhcpc calls: configure, and tell.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr replace "$ip/$mask" dev "$interface"
[ -z "$router" ] || ip route replace default via "$router"
echo "bound $ip router $router dns $dns domain $domain"
"""


# ---- the daemon's side


async def _answer(networks: Networks, call: dict[str, Any]) -> Any:
    method = getattr(networks, call["method"])
    found = method(*call["args"], **call["kwargs"])
    if asyncio.iscoroutine(found):
        found = await found
    return asdict(found) if found is not None else None


def _serving(networks: Networks) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            try:
                answer = {"value": await _answer(networks, json.loads(line))}
            except errors.LxcdError as error:
                answer = {"reason": error.reason, "text": error.text}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    return serve


def main() -> None:
    """Lxcd, and its networks' methods on a socket in the runtime directory."""
    from lxcd.__main__ import main as lxcd  # noqa: PLC0415

    recover = Networks.recover

    async def recover_and_serve(self: Networks) -> None:
        await recover(self)
        path = os.path.join(self._house.paths.runtime_dir, DOOR)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        # Kept: a server that nobody holds is closed.
        self.door = await asyncio.start_unix_server(_serving(self), path)  # type: ignore[attr-defined]

    Networks.recover = recover_and_serve  # type: ignore[method-assign]
    sys.argv[0] = "lxcd"
    lxcd()


# ---- the test's side


class RefusedError(Exception):
    """An LxcdError of the other side."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


def call(run_dir: Path, method: str, *args: Any, **kwargs: Any) -> Any:
    """A method of the daemon's Networks."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(DEADLINE)
        door.connect(str(run_dir / DOOR))
        door.sendall(
            json.dumps({"method": method, "args": args, "kwargs": kwargs}).encode() + b"\n"
        )
        with door.makefile("rb") as answers:
            answer = json.loads(answers.readline())
    if "reason" in answer:
        raise RefusedError(answer["reason"], answer["text"])
    return answer["value"]


# Those of the test that runs; its fixture ends them.
BOXES: list[Box] = []


class Box:
    """A network namespace whose device `eth0` is connected to a managed network."""

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        link: str = "lxcbr0",
        number: int = 1,
        filters: list[str] | None = None,
        **more: Any,
    ) -> None:
        self.host, self.name, self.link = host, name, link
        self.end = f"veth-{name}"
        self.hwaddr = f"02:00:00:00:00:{number:02x}"
        self.pid = host.machine.spawn(
            ["/usr/bin/unshare", "--net", "sh", "-c", "ip link set lo up; exec sleep infinity"],
            host.environment,
            host.log,
        )
        own = (
            os.stat("/proc/self/ns/net").st_ino,
            os.stat(f"/proc/{host.machine.pid}/ns/net").st_ino,
        )
        until(
            lambda: os.stat(f"/proc/{self.pid}/ns/net").st_ino not in own, "a namespace of its own"
        )
        BOXES.append(self)
        self.connect(filters, **more)

    def end_processes(self) -> None:
        """Let the namespace go, and with it the pair."""
        self.host.machine.kill(self.pid)
        self.host.machine.wait(self.pid)

    def connect(self, filters: list[str] | None = None, **more: Any) -> None:
        """As a start does: connect, then a pair, then up."""
        run = self.host.machine.run
        self.port = call(
            self.host.run_dir,
            "connect",
            str(self.host.lxcpath),
            self.name,
            link=self.link,
            device_number=0,
            host_name=self.end,
            hwaddr=self.hwaddr,
            filter=["mac", "ipv4", "ipv6"] if filters is None else filters,
            **more,
        )
        made = ["ip", "link", "add", self.end, "type", "veth", "peer", "name", "eth0"]
        run(*made, "address", self.hwaddr, "netns", str(self.pid))
        run("ip", "link", "set", self.end, "master", self.link, "up")
        self.run("ip", "link", "set", "eth0", "up")
        # The bridge learns of that some time later, and drops what comes before.
        state = ("cat", f"/sys/class/net/{self.end}/brport/state")
        until(lambda: run(*state).stdout == _FORWARDING, f"the port of {self.name} forwards")

    def disconnect(self) -> None:
        """As an end does."""
        self.host.machine.run("ip", "link", "delete", self.end, check=False)
        call(self.host.run_dir, "disconnect", self.end)

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command within."""
        return self.host.machine.run(
            "nsenter", f"--target={self.pid}", "--net", "--", *argv, check=check
        )

    def ping(self, address: str) -> None:
        """Be answered."""
        self.run("busybox", "ping", "-c1", f"-W{DEADLINE * 0.8:.0f}", address)

    def dhcp(self) -> str:
        """Be given an address by DHCP, and have it; what there was to know."""
        script = self.host.root / "udhcpc.sh"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        # It asks once in a second, and gives up before `run` does.
        tries = ("-t", f"{DEADLINE * 0.8:.0f}", "-T", "1")
        client = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", *tries]
        done = self.run(*client, "-s", str(script), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(line for line in done.stdout.splitlines() if line.startswith("bound "))

    def open(self, *kind: int) -> socket.socket:
        """A socket within."""
        opened: socket.socket = inside(self.pid, lambda: socket.socket(*kind))
        opened.settimeout(DEADLINE)
        return opened

    def packets(self) -> socket.socket:
        """All frames of eth0."""
        raw = self.open(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        inside(self.pid, lambda: raw.bind(("eth0", 0)))
        return raw

    def ask(self, name: str, kind: int = 1, server: str = "10.0.3.1") -> list[str]:
        """The addresses of a name, by DNS."""
        with self.open(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((server, 53))
            asking.send(query(name, kind))
            return answers(asking.recv(4096))

    def serve(self, port: int, address: str = "") -> socket.socket:
        """Listen."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listening = self.open(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen()
        return listening


def ethernet(destination: str, source: str, kind: int, payload: bytes) -> bytes:
    """A frame."""
    return mac(destination) + mac(source) + struct.pack("!H", kind) + payload


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def arp(operation: int, sender: tuple[str, str], target: tuple[str, str]) -> bytes:
    """Of RFC 826: (hardware address, address) of both."""
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + b"".join(
        mac(hw) + socket.inet_aton(ip) for hw, ip in (sender, target)
    )


def checksum(data: bytes) -> int:
    """Of the internet (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """A packet."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(source: int, destination: int, payload: bytes) -> bytes:
    """A datagram, without a checksum."""
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def ipv6(source: str, destination: str, header: int, payload: bytes) -> bytes:
    """A packet; the checksum of ICMPv6 is put in."""
    both = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(
        socket.AF_INET6, destination
    )
    if header == 58:
        pseudo = both + struct.pack("!II", len(payload), header)
        payload = payload[:2] + struct.pack("!H", checksum(pseudo + payload)) + payload[4:]
    return struct.pack("!IHBB", 6 << 28, len(payload), header, 255) + both + payload


def query(name: str, kind: int) -> bytes:
    """A question of DNS."""
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return (
        struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)
    )


def answers(data: bytes) -> list[str]:
    """The addresses in an answer of DNS, whose names are all the question's."""
    count = struct.unpack_from("!H", data, 6)[0]
    place = data.index(b"\0", 12) + 5
    found = []
    for _ in range(count):
        kind, _, _, length = struct.unpack_from("!HHIH", data, place + 2)
        value = data[place + 12 : place + 12 + length]
        family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
        if family is not None:
            found.append(socket.inet_ntop(family, value))
        place += 12 + length
    return sorted(found)


def inside(pid: int, work: Any) -> Any:
    """Do something in the network namespace of a process."""
    fd = namespace.open_of(pid)
    try:
        return namespace.inside(fd, work)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()


def start(host: Host) -> None:
    """Start lxcd, and wait for its networks."""
    door = host.run_dir / DOOR
    door.unlink(missing_ok=True)
    host.start_daemon()

    def opens() -> bool:
        # There is a moment between bind and listen.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(door)) == 0

    until(opens, "the door is open")


def network(host: Host, name: str = "lxcbr0") -> Any:
    """What lxcctl shows of a network."""
    return json.loads(host.ctl("--format", "json", "network", "show", name).stdout)


def tables(host: Host) -> list[str]:
    """Those of nftables."""
    return host.machine.run("nft", "list", "tables").stdout.splitlines()
