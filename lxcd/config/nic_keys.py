"""The table of the options of a network device: what may stand behind `lxc.net.N.`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.config import values

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("veth", "macvlan", "ipvlan", "vlan", "phys", "empty", "none")
TYPE = "type"
# LXC's own limit: the index is an int, and INT_MAX is refused (parse_config_file.c).
LARGEST_INDEX = values.LARGEST_INT - 1
_INDEXED = re.compile(r"lxc\.(?:net|network)\.([0-9]{1,10})(?:\.(.*))?\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NicKey:
    """One row."""

    name: str
    read: Callable[[str], object]
    syntax: str
    help: str
    default: str = ""
    several: bool = False  # lines add up, an empty one clears
    kinds: tuple[str, ...] = ()  # the only types of device that have it; empty: all
    choices: tuple[str, ...] = ()
    in_force: bool = True


_vlan = values.number(0, 4094)
_queues = values.number(1, 4096)
_veth = ("veth",)


def _choice(
    name: str,
    words: tuple[str, ...],
    text: str,
    *,
    default: str = "",
    kinds: tuple[str, ...] = (),
) -> NicKey:
    return NicKey(
        name,
        values.one_of(*words),
        "|".join(words),
        text,
        default,
        kinds=kinds,
        choices=words,
    )


# fmt: off
NIC_KEYS: tuple[NicKey, ...] = (
    _choice(TYPE, KINDS, "kind of the device; empty: only lo; none: the host's own network"),
    _choice("flags", ("up",), "up: bring the device up"),
    NicKey("link", values.interface, "DEVICE", "device of the host: a bridge for veth"),
    _choice("l2proxy", ("0", "1"), "answer ARP and NDP for the container on the link", default="0"),
    NicKey("mtu", values.number(1, values.LARGEST_INT), "NUMBER", "largest packet"),
    NicKey("name", values.interface, "NAME", "name of the device in the container", "eth%d"),
    NicKey("hwaddr", values.hardware_address, "MAC", "hardware address; an x is a random digit"),
    NicKey("ipv4.address", values.network(4), "ADDRESS[/PREFIX] [BROADCAST]",
           "IPv4 address of the device", several=True),
    NicKey("ipv4.gateway", values.gateway(4), "ADDRESS|auto|dev", "IPv4 default route",
           choices=("auto", "dev")),
    NicKey("ipv6.address", values.network(6), "ADDRESS[/PREFIX]",
           "IPv6 address of the device", several=True),
    NicKey("ipv6.gateway", values.gateway(6), "ADDRESS|auto|dev", "IPv6 default route",
           choices=("auto", "dev")),
    NicKey("script.up", values.plain, "COMMAND LINE", "command on the host when it is made"),
    NicKey("script.down", values.plain, "COMMAND LINE", "command on the host before it goes"),
    _choice("macvlan.mode", ("private", "vepa", "bridge", "passthru"),
            "who may talk to whom on the link", default="private", kinds=("macvlan",)),
    _choice("ipvlan.mode", ("l3", "l3s", "l2"), "where packets are switched",
            default="l3", kinds=("ipvlan",)),
    _choice("ipvlan.isolation", ("bridge", "private", "vepa"),
            "who may talk to whom on the link", default="bridge", kinds=("ipvlan",)),
    NicKey("vlan.id", _vlan, "0-4094", "number of the VLAN", kinds=("vlan",)),
    _choice("veth.mode", ("bridge", "router"), "what the host's end does",
            default="bridge", kinds=_veth),
    NicKey("veth.pair", values.interface, "NAME", "name of the host's end", kinds=_veth),
    NicKey("veth.n_rxqueues", _queues, "NUMBER", "receive queues", kinds=_veth),
    NicKey("veth.n_txqueues", _queues, "NUMBER", "transmit queues", kinds=_veth),
    NicKey("veth.ipv4.route", values.network(4), "ADDRESS/PREFIX",
           "route of the host to the container", several=True, kinds=_veth),
    NicKey("veth.ipv6.route", values.network(6), "ADDRESS/PREFIX",
           "route of the host to the container", several=True, kinds=_veth),
    NicKey("veth.vlan.id", values.vlan_or_none, "0-4094|none",
           "VLAN of untagged packets at the bridge", choices=("none",), kinds=_veth),
    NicKey("veth.vlan.tagged.id", _vlan, "0-4094", "VLAN of tagged packets at the bridge",
           several=True, kinds=_veth),
)
# fmt: on
OPTIONS = {row.name: row for row in NIC_KEYS}
_FORMER = {"ipv4": "ipv4.address", "ipv6": "ipv6.address"}


@dataclass(frozen=True, slots=True)
class NicName:
    """What a key of the network says, taken apart."""

    index: int | None  # None: of the device that the last `lxc.network.type` began
    option: str  # modern name; empty: the device itself, or the whole network


def split_name(key: str) -> NicName | None:
    """Take a key of the network apart; None for any other, and for one that LXC does not know."""
    if key in ("lxc.net", "lxc.network"):
        return NicName(None, "")
    found = _INDEXED.match(key)
    if found:
        index, option = int(found.group(1)), found.group(2)
        if index > LARGEST_INDEX:
            return None
        if option is None:
            return NicName(index, "")
    else:
        index = None
        option = key.removeprefix("lxc.network.").removeprefix("lxc.net.")
        if option == key:
            return None
    option = (
        _FORMER.get(option, option) if index is None or key.startswith("lxc.network") else option
    )
    return NicName(index, option) if option in OPTIONS else None


def in_force(option: str) -> bool:
    """Whether lxcd acts on an option."""
    return option in OPTIONS and OPTIONS[option].in_force
