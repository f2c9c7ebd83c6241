"""/etc/default/lxc-net: what LXC's own script knows of its bridge. Read as data: nothing in it is
expanded or run.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass

from lxcd import errors
from lxcd.config.characters import printable
from lxcd.network import definition
from lxcd.network.definition import ManagedNetwork

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)\Z", re.DOTALL)
_EXPANDED = re.compile(r"[$`]")
# What LXC 7.0 has where LXC_IPV6_ENABLE is true and nothing else is said.
_LXC_IPV6 = "fc42:5009:ba4b:5ab0::1"


@dataclass(frozen=True, slots=True)
class LxcNet:
    """What a file says: the network, or None where there is to be none; and what is wrong."""

    network: ManagedNetwork | None
    problems: tuple[str, ...] = ()


def variables(text: str) -> tuple[dict[str, str], list[str]]:
    """The variables that a file of a shell sets; what is more than that is told of."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        assignment = _ASSIGNMENT.match(stripped)
        if assignment is None:
            problems.append(f"line {number}: not KEY=value: ignored")
            continue
        key, raw = assignment.groups()
        try:
            words = shlex.split(raw, comments=True)
        except ValueError as error:
            problems.append(f"line {number}: {key}: {error}: ignored")
            continue
        if len(words) > 1:
            problems.append(f"line {number}: {key}: more than one word: ignored")
        elif _EXPANDED.search("".join(words)) and not raw.startswith("'"):
            problems.append(f"line {number}: {key}: nothing is expanded here: ignored")
        else:
            found[key] = words[0] if words else ""
    return found, [printable(problem) for problem in problems]


def read(text: str, seed: str, *, has_ipv6: bool = True) -> LxcNet:
    """The default network as this file has it; `seed` is what made-up addresses come from. Without
    IPv6 on the host it has none: nobody need say so for it to go up.
    """
    said, problems = variables(text)
    if said.get("USE_LXC_BRIDGE", "true").lower() != "true":
        return LxcNet(None, tuple(problems))
    name = said.get("LXC_BRIDGE") or definition.DEFAULT_NAME
    if not has_ipv6:
        if said.get("LXC_IPV6_ADDR") or said.get("LXC_IPV6_ENABLE", "").lower() == "true":
            problems.append("this host has no IPv6: LXC_IPV6_*: ignored")
        said["LXC_IPV6_ENABLE"] = "false"
    try:
        return LxcNet(_network(name, said, seed), tuple(problems))
    except (errors.InvalidArgument, ValueError) as error:
        text = error.text if isinstance(error, errors.LxcdError) else str(error)
        problems.append(printable(f"{text}: there is no network {name}"))
        return LxcNet(None, tuple(problems))


def _network(name: str, said: dict[str, str], seed: str) -> ManagedNetwork:
    values: dict[str, object] = {
        "ipv4": _ipv4(said),
        "ipv6": _ipv6(said, seed, name),
        "hwaddr": said.get("LXC_BRIDGE_MAC") or definition.stable_hwaddr(seed, name),
        "domain": said.get("LXC_DOMAIN") or definition.DOMAIN,
        "dhcp_ping": said.get("LXC_DHCP_PING", "false").lower() == "true",
        "dhcp_max": int(said.get("LXC_DHCP_MAX") or "0"),
        "dnsmasq_conf": said.get("LXC_DHCP_CONFILE", ""),
        "ipv6_nat": said.get("LXC_IPV6_NAT", "true").lower() == "true",
    }
    if said.get("LXC_DHCP_RANGE"):
        # dnsmasq would take a mask and a time behind the two; they are its own here.
        values["ipv4_range"] = "-".join(said["LXC_DHCP_RANGE"].split(",")[:2])
    return definition.changed(ManagedNetwork(name), values)


def _ipv4(said: dict[str, str]) -> str:
    """LXC wants address, mask and network, which can only agree: the address counts."""
    address = said.get("LXC_ADDR")
    _, slash, prefix = said.get("LXC_NETWORK", "").partition("/")
    mask = prefix if slash else said.get("LXC_NETMASK", "24")
    if address is None:
        if not slash:
            return definition.DEFAULT_IPV4
        address = str(ipaddress.IPv4Network(said["LXC_NETWORK"], strict=False)[1])
    return f"{address}/{mask}" if address else ""


def _ipv6(said: dict[str, str], seed: str, name: str) -> str:
    address = said.get("LXC_IPV6_ADDR", "")
    enable = said.get("LXC_IPV6_ENABLE", "").lower()
    _, slash, prefix = said.get("LXC_IPV6_NETWORK", "").partition("/")
    mask = prefix if slash else said.get("LXC_IPV6_MASK") or "64"
    if enable == "false":
        return ""
    if address:
        return f"{address}/{mask}"
    return f"{_LXC_IPV6}/64" if enable == "true" else definition.stable_ula(seed, name)
