"""The network side of a test host: bridges and other devices on it, and what containers have of them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.boxes import KERNEL_MOUNTS, Box, Refused, over
from tests.system.calls import state
from tests.system.consistency import private
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


def nic(*options: str, number: int = 0, kind: str = "veth") -> str:
    """Lines of one device: `nic("link = br0", "flags = up")`."""
    return "".join(f"lxc.net.{number}.{line}\n" for line in (f"type = {kind}", *options))


@contextmanager
def pair(host: Host, name: str, peer: str = "") -> Iterator[str]:
    """One end of a veth, which stands for a card of the test host; its cable goes to `peer`."""
    with device(host, name, "type", "veth", "peer", "name", peer or f"{name}.cable"):
        ip(host, "link", "set", peer or f"{name}.cable", "up")
        yield name


def file_of(host: Host, path: str) -> str:
    """What a file of the test host says."""
    return host.machine.run("cat", path).stdout.strip()


def sysctl_inside(host: Host, pid: int, path: str) -> str:
    """A sysctl of the network of a process: `net/ipv4/…`."""
    inside_ = ("nsenter", f"--target={pid}", "--net", "--mount", "--", "/bin/cat")
    return host.machine.run(*inside_, f"/proc/sys/{path}").stdout.strip()


def kept(host: Host) -> list[str]:
    """Network namespaces that are kept for what has to come home."""
    above = private(host) / "namespaces"
    return sorted(os.listdir(above)) if above.exists() else []


def settled(host: Host, before: set[str]) -> None:
    """The host's devices become those that there were."""
    until(lambda: set(links(host)) == before, f"devices are {sorted(before)} again")


def start(made: Box) -> int:
    """Start it; the pid of its init."""
    return made.start().pid


def refusal(act: Callable[[], object]) -> Refused | None:
    """How this was refused, if it was."""
    try:
        act()
    except Refused as error:
        return error
    return None


def origin_of(made: Box, text: str) -> str:
    """Which line of the configuration says this: the last one."""
    path = made.directory / "config"
    lines = path.read_text().splitlines()
    number = max(number for number, line in enumerate(lines, 1) if text in line)
    return f"{path}:{number}"


def refused(made: Box, line: str, match: str) -> Refused:
    """It does not start, the error names this line and says that; nothing is there of it."""
    before, held = links(made.host).keys(), kept(made.host)
    with pytest.raises(Refused, match=match) as caught:
        made.start()
    error = caught.value
    assert error.reason == "START_FAILED", error
    assert error.metadata["step"] == "network", error
    assert error.metadata["origin"] == origin_of(made, line), error
    assert error.metadata["origin"] in error.text, error
    assert state(made.info()) == "STOPPED"
    settled(made.host, set(before))
    assert kept(made.host) == held
    return error


def script(host: Host, name: str, text: str) -> Path:
    """A program of the test host."""
    path = host.root / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path
