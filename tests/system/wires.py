"""The network side of a test host: bridges and other devices on it, and what containers have of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.boxes import KERNEL_MOUNTS, Box, over
from tests.system.host import Host
from tests.system.machine import until

# Ends of its own accord with nobody's help, and does nothing.
IDLE_INIT = "lxc.init.cmd = /bin/sleep 1000000\n"


def ip(host: Host, *words: str) -> str:
    """`ip` on the test host."""
    return host.machine.run("ip", *words).stdout


def links(host: Host) -> dict[str, dict[str, Any]]:
    """Devices of the test host by name."""
    return {each["ifname"]: each for each in json.loads(ip(host, "-d", "-j", "link"))}


def inside(host: Host, pid: int, *words: str) -> Any:
    """What `ip -j` says in the network of a process."""
    done = host.machine.run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-d", "-j", *words)
    return json.loads(done.stdout or "[]")


def link_inside(host: Host, pid: int, name: str) -> dict[str, Any]:
    """One device in the network of a process."""
    found: dict[str, Any] = next(x for x in inside(host, pid, "link") if x["ifname"] == name)
    return found


def addresses_inside(host: Host, pid: int, name: str) -> set[str]:
    """Its addresses, with their prefixes; those of the link itself left out."""
    return {
        f"{one['local']}/{one['prefixlen']}"
        for each in inside(host, pid, "addr", "show", "dev", name)
        for one in each["addr_info"]
        if one["scope"] != "link"
    }


def routes_inside(host: Host, pid: int, version: int = 4) -> set[tuple[str, str, str]]:
    """Destination, gateway and device of each route."""
    return {
        (one["dst"], one.get("gateway", ""), one.get("dev", ""))
        for one in inside(host, pid, f"-{version}", "route")
    }


@contextmanager
def device(host: Host, name: str, *words: str) -> Iterator[str]:
    """A device of the test host: `device(host, "br0", "type", "bridge")`; up, and gone at the end."""
    ip(host, "link", "add", name, *words)
    ip(host, "link", "set", name, "up")
    try:
        yield name
    finally:
        if name in links(host):
            ip(host, "link", "del", name)


def config(host: Host, root: Path, lines: str, name: str = "box") -> str:
    """A container that does nothing, with these lines of network."""
    return over(host, root, name) + KERNEL_MOUNTS + IDLE_INIT + lines


def settled(host: Host, before: set[str]) -> None:
    """The host's devices become those that there were."""
    until(lambda: set(links(host)) == before, f"devices are {sorted(before)} again")


def start(made: Box) -> int:
    """Start it; the pid of its init."""
    return made.start().pid


class Elsewhere:
    """Another machine, as far as its network goes: a network namespace with one device, `wire0`, whose other end is a
    device of the test host.
    """

    def __init__(self, host: Host, end: str) -> None:
        self._host = host
        self.end = end
        log = host.root / "elsewhere.log"
        argv = ["/usr/bin/unshare", "--net", "/bin/sleep", "1000000"]
        self.pid = host.machine.spawn(argv, host.environment, log)
        own = Path("/proc/self/ns/net").readlink()
        here = Path(f"/proc/{host.machine.pid}/ns/net").readlink()
        until(
            lambda: Path(f"/proc/{self.pid}/ns/net").readlink() not in (own, here),
            "there is another network",
        )
        ip(
            host,
            "link",
            "add",
            end,
            "type",
            "veth",
            "peer",
            "name",
            "wire0",
            "netns",
            str(self.pid),
        )
        ip(host, "link", "set", end, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", "wire0", "up")

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        network = f"--net=/proc/{self.pid}/ns/net"
        return self._host.machine.run("nsenter", network, "--", *argv, check=check)

    def close(self) -> None:
        """Switch it off."""
        self._host.machine.kill(self.pid)
        self._host.machine.wait(self.pid)
        settled(self._host, set(links(self._host)) - {self.end})


@contextmanager
def elsewhere(host: Host, end: str) -> Iterator[Elsewhere]:
    """One, for the time of a test."""
    other = Elsewhere(host, end)
    try:
        yield other
    finally:
        other.close()
