"""The rules of managed networks, as texts for nft(8). Pure; each text is one transaction.

Two tables of ours. `inet`: out of the networks with the host's address, and forwards of ports into
them. `bridge`: what may come in by each port, in a chain of its own that is found by the name of
the port, so that a thousand ports cost no more than one. Nothing is accepted here that somebody
else's table drops: an accept is the end of its own chain only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lxcd.network import port as ports

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lxcd.config.forwards import Forward
    from lxcd.network.definition import ManagedNetwork
    from lxcd.network.port import Port

_COMMENT = re.compile(r'^\s*comment "([^"]*)"', re.MULTILINE)
_COMMENT_BYTES = 127  # NFTNL_UDATA_COMMENT_MAXLEN
_PLAIN = re.compile(r"[A-Za-z0-9_./\-]+\Z")
# `dstnat` of nft, which does not take the word in the hook `output`.
_DNAT = -100
_ANY = "0.0.0.0"  # noqa: S104 - to look for, not to bind
# Bits behind the UDP header's begin: 8 bytes of UDP, then BOOTP's (RFC 951).
_BOOTP_HTYPE_HLEN, _ETHERNET_6 = (8 + 1) * 8, "0x0106"
_BOOTP_CHADDR = (8 + 28) * 8
_FRAGMENT = "ip frag-off & 0x3fff != 0"  # there are more, or it is not the first (RFC 791)
_BEFORE_IT_HAS_ONE = "{ nd-router-solicit, nd-neighbor-solicit, mld2-listener-report }"
_ND_TARGET = "@th,64,128"  # of neighbour solicitations and advertisements (RFC 4861, 4.3, 4.4)


@dataclass(frozen=True, slots=True)
class Published:
    """A forward, and the addresses that it leads to. An empty one: not by that family."""

    forward: Forward
    ipv4: str
    ipv6: str


@dataclass(frozen=True, slots=True)
class Rules:
    """All that the tables say."""

    networks: tuple[ManagedNetwork, ...]
    ports: tuple[Port, ...]
    published: tuple[Published, ...]


def owner_comment(runtime_dir: str) -> str:
    """What marks a table as that of the lxcd of this runtime directory."""
    if _PLAIN.match(runtime_dir) and len(runtime_dir) <= _COMMENT_BYTES:
        return runtime_dir
    from hashlib import blake2b  # noqa: PLC0415 - hardly ever

    return blake2b(runtime_dir.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def owner_of(listing: str) -> str:
    """The comment in what `nft list table` prints; empty if there is none."""
    found = _COMMENT.search(listing)
    return found.group(1) if found else ""


def dropping(listing: str) -> list[str]:
    """Chains of others that drop what is routed unless they know it, in what `nft -j list chains`
    prints: no accept of ours outweighs them.
    """
    table: dict[str, list[dict[str, dict[str, Any]]]] = json.loads(listing)
    chains = (one["chain"] for one in table.get("nftables", []) if "chain" in one)
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain["family"] in ("ip", "ip6", "inet")
    ]


def claim(table: str, owner: str) -> str:
    """Make both tables, which must not be there."""
    return "".join(
        f'create table {family} {table} {{ comment "{owner}"; }}\n' for family in ("inet", "bridge")
    )


def release(table: str) -> str:
    """Remove both."""
    return "".join(
        f"add table {family} {table}\ndelete table {family} {table}\n"
        for family in ("inet", "bridge")
    )


def whole(table: str, owner: str, rules: Rules) -> str:
    """Both tables as they are to be, in place of what they were."""
    return (
        release(table)
        + _inet(table, owner, rules)
        + _bridge(table, owner)
        + "".join(add_port(table, port, _network_of(port, rules)) for port in rules.ports)
    )


def _network_of(port: Port, rules: Rules) -> ManagedNetwork:
    return next(one for one in rules.networks if one.name == port.network)


# ---- into and out of the networks


def _inet(table: str, owner: str, rules: Rules) -> str:
    """What comes by a port comes from its bridge, also to where br_netfilter has it looked at.
    From the port itself comes what the bridge leaves alone, and so its filter does not see: frames
    to 01:80:c2:00:00:00 and its like (IEEE 802.1D), which may carry anything; and all, while the
    port is not in the bridge.

    What the host sends to 127.0.0.0/8 is led by `output`; from elsewhere it comes by mistake or
    worse, and must not be led before the kernel drops it (CVE-2020-8558). Whether others do that is
    the host's to say: it is not dropped here, but where it is us who have it routed. What it sends
    to ::1 stays: from there nothing leaves it, whatever it is led to, and whoever asked would wait
    in place of trying 127.0.0.1.
    """
    networks = rules.networks
    v4 = [(str(n.ipv4_interface.network), n.ipv4_nat) for n in networks if n.ipv4_interface]
    v6 = [(str(n.ipv6_interface.network), n.ipv6_nat) for n in networks if n.ipv6_interface]
    return f"""table inet {table} {{
  comment "{owner}"
  set ports {{ type ifname; }}
  set bridges {{ type ifname; {_elements(f'"{network.name}"' for network in networks)}}}
  set nets4 {{ type ipv4_addr; flags interval; {_elements(net for net, _ in v4)}}}
  set nets6 {{ type ipv6_addr; flags interval; {_elements(net for net, _ in v6)}}}
  set nat4 {{ type ipv4_addr; flags interval; {_elements(net for net, nat in v4 if nat)}}}
  set nat6 {{ type ipv6_addr; flags interval; {_elements(net for net, nat in v6 if nat)}}}
{_maps()}
  chain guard {{
    type filter hook prerouting priority raw
    iifname @ports drop
    iifname @bridges ip saddr 127.0.0.0/8 drop
    iifname @bridges ip daddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat
    ip daddr 127.0.0.0/8 return
    fib daddr type local goto publish
  }}
  chain output {{
    type nat hook output priority {_DNAT}
    fib daddr type local goto publish
  }}
  chain publish {{
    ip6 daddr ::1 return
    dnat ip to ip daddr . meta l4proto . th dport map @at4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
    dnat ip to meta l4proto . th dport map @any4
    dnat ip6 to meta l4proto . th dport map @any6
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
    oifname != @bridges ip saddr @nat4 masquerade
    oifname != @bridges ip6 saddr @nat6 masquerade
    ct status dnat ip saddr @nets4 ip daddr @nets4 masquerade
    ct status dnat ip6 saddr @nets6 ip6 daddr @nets6 masquerade
    ip saddr 127.0.0.0/8 ip daddr @nets4 masquerade
  }}
}}
{_published(table, rules.published)}"""


def _elements(values: Iterable[str]) -> str:
    text = ", ".join(values)
    return f"elements = {{ {text} }}; " if text else ""


def _maps() -> str:
    lines: list[str] = []
    for number, kind in (("4", "ipv4_addr"), ("6", "ipv6_addr")):
        to = f"inet_proto . inet_service : {kind} . inet_service"
        lines.append(f"  map any{number} {{ type {to}; }}")
        lines.append(f"  map at{number} {{ type {kind} . {to}; }}")
    return "\n".join(lines)


def _published(table: str, published: Sequence[Published]) -> str:
    found: dict[str, list[str]] = {}
    for one in published:
        forward = one.forward
        tail = f"{forward.protocol} . {forward.listen}"
        address = forward.listen_address
        for number, target in (("4", one.ipv4), ("6", one.ipv6)):
            if not target or (address and (":" in address) != (number == "6")):
                continue
            name = f"at{number}" if address else f"any{number}"
            head = f"{address} . {tail}" if address else tail
            found.setdefault(name, []).append(f"{head} : {target} . {forward.connect}")
    return "".join(
        f"add element inet {table} {name} {{ {', '.join(sorted(elements))} }}\n"
        for name, elements in sorted(found.items())
    )


def publish(table: str, published: Sequence[Published]) -> str:
    """All forwards, in place of those that were; connections that there are go on."""
    flushed = "".join(f"flush map inet {table} {name}\n" for name in ("any4", "any6", "at4", "at6"))
    return flushed + _published(table, published)


# ---- in by a port


def _bridge(table: str, owner: str) -> str:
    return f"""table bridge {table} {{
  comment "{owner}"
  map ports {{ type ifname : verdict; }}
  chain prerouting {{
    type filter hook prerouting priority filter
    iifname vmap @ports
  }}
}}
"""


def _chain(host_name: str) -> str:
    return f"port.{host_name}"


def add_port(table: str, port: Port, network: ManagedNetwork) -> str:
    """Let in by a port what its device may say; also in place of what that was."""
    if not port.filter:
        return ""
    chain = f"bridge {table} {_chain(port.host_name)}"
    rules = "\n".join(f"add rule {chain} {rule}" for rule in port_rules(port, network))
    name = f'"{port.host_name}"'
    return (
        f"add chain {chain}\nflush chain {chain}\n{rules}\n"
        f"add element bridge {table} ports {{ {name} : goto {_chain(port.host_name)} }}\n"
        f"add element inet {table} ports {{ {name} }}\n"
    )


def remove_port(table: str, port: Port) -> str:
    """The reverse."""
    if not port.filter:
        return ""
    return (
        f'delete element bridge {table} ports {{ "{port.host_name}" }}\n'
        f"delete chain bridge {table} {_chain(port.host_name)}\n"
        f'delete element inet {table} ports {{ "{port.host_name}" }}\n'
    )


def port_rules(port: Port, network: ManagedNetwork) -> list[str]:
    """What is dropped of what comes in. What is let through early comes behind all that could
    still forbid it (Incus, CVE-2025-52889).
    """
    rules: list[str] = []
    if "mac" in port.filter:
        rules += [
            f"ether saddr != {port.hwaddr} drop",
            f"arp saddr ether != {port.hwaddr} drop",
        ]
    known = [
        kind
        for kind, wanted in (("ip", "ipv4"), ("arp", "ipv4"), ("ip6", "ipv6"))
        if wanted in port.filter
    ]
    if {"ipv4", "ipv6"} <= set(port.filter):
        # What is neither could carry either: a VLAN's tag, for one.
        rules.append(f"ether type != {{ {', '.join(known)} }} drop")
    elif known:
        rules.append("ether type { 8021q, 8021ad } drop")
    if "ipv4" in port.filter:
        rules += _ipv4_rules(port)
    if "ipv6" in port.filter:
        rules += _ipv6_rules(port, network)
    return rules


def _ipv4_rules(port: Port) -> list[str]:
    addresses = [str(one) for one in ports.allowed_ipv4(port)]
    chaddr = port.hwaddr.replace(":", "")
    rules = [
        "arp htype != 1 drop",
        "arp ptype != ip drop",
        "arp hlen != 6 drop",
        "arp plen != 4 drop",
        # 0.0.0.0: is this address free (RFC 5227)?
        f"arp saddr ip != {{ {', '.join([_ANY, *addresses])} }} drop",
        "ip protocol udp udp sport 67 drop",
        # Clients look at the port that it comes to, not at the one that it comes from.
        "ip protocol udp udp dport 68 drop",
        # Of one in pieces what is looked at below may be in a later one.
        f"ip protocol udp udp dport 67 {_FRAGMENT} drop",
    ]
    if "mac" in port.filter:
        # Who wants a lease does so for itself: else one container could take all. A longer
        # address is another one to dnsmasq, too.
        asks = "ip protocol udp udp dport 67"
        rules += [
            f"{asks} @th,{_BOOTP_HTYPE_HLEN},16 != {_ETHERNET_6} drop",
            f"{asks} @th,{_BOOTP_CHADDR},48 != 0x{chaddr} drop",
        ]
    rules.append("ip saddr 0.0.0.0 udp sport 68 udp dport 67 return")
    rules.append(
        f"ip saddr != {{ {', '.join(addresses)} }} drop" if addresses else "ether type ip drop"
    )
    return rules


def _ipv6_rules(port: Port, network: ManagedNetwork) -> list[str]:
    addresses = ports.allowed_ipv6(port, network)
    listed = ", ".join(str(one) for one in addresses)
    targets = ", ".join(f"0x{int(one):032x}" for one in addresses)
    return [
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
        "meta protocol ip6 udp sport 547 drop",
        "meta protocol ip6 udp dport 546 drop",
        f"icmpv6 type nd-neighbor-advert {_ND_TARGET} != {{ {targets} }} drop",
        # Without an address yet: is one free that it may have, who is a router, what it listens to.
        f"ip6 saddr :: icmpv6 type nd-neighbor-solicit {_ND_TARGET} != {{ {targets} }} drop",
        f"ip6 saddr :: icmpv6 type {_BEFORE_IT_HAS_ONE} return",
        f"ip6 saddr != {{ {listed} }} drop",
    ]
