"""Devices of a container as they are: made, and taken away again.

All of it blocks, and belongs in a thread. What is about to be made is told beforehand (`Wired`), so
that it can be written down; what was made by then is found again by that alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxcd.kernel import libc, mount
from lxcd.kernel.fd import Fd
from lxcd.network import links, namespace, requests
from lxcd.network.device import Device, Gateway, fail
from lxcd.network.netlink import RefusedError, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lxcd import errors
    from lxcd.network.netlink import Netlink

    _Asked = Callable[[Device, requests.Known], list[Request]]

_ETHERNET_MTU, _VETH_MTU_MAX = 1500, 65535
_UP = 1
# Numbers of devices from here on are nobody's: the kernel counts.
_SPARE_INDEX = 1 << 29
# Kinds that hold something of the host's: their link, that is, or its addresses. The kernel ends a
# network namespace in its own time, and the next start would be in the way of the last.
_ON_HOST = ("phys", "macvlan", "ipvlan", "vlan")
_OPTIONS = {
    "veth": "CONFIG_VETH",
    "macvlan": "CONFIG_MACVLAN",
    "ipvlan": "CONFIG_IPVLAN",
    "vlan": "CONFIG_VLAN_8021Q",
    "bridge": "CONFIG_BRIDGE",
}


@dataclass(frozen=True, slots=True)
class Wired:
    """One device of a life: what has to be known to find it again, on both sides."""

    number: int
    kind: str
    name: str  # inside
    place: int  # its index inside
    link: str = ""
    hwaddr: str = ""
    host_name: str = ""  # the host's end of a veth; the name of a phys at home
    # What a phys was at home.
    mtu: int = 0
    home_hwaddr: str = ""
    was_up: bool = False
    proxied: tuple[str, ...] = ()  # addresses that the link answers for
    script_down: str = ""


def foresee(devices: Sequence[Device]) -> tuple[Wired, ...]:
    """What these devices will be. Raises StartFailed if a device of the host is not there."""
    found: list[Wired] = []
    named = [one.link for one in devices if one.kind == "phys"]
    for device in devices:
        wired = Wired(
            device.number,
            device.kind,
            device.name,
            device.place,
            device.link,
            device.hwaddr,
            script_down=device.script_down,
        )
        if device.kind == "veth":
            wired = replace(wired, host_name=device.pair or f"veth{secrets.token_hex(4)}")
            links.require_free(device)
        elif device.kind == "phys":
            wired = _at_home(device, wired, [*named, *(one.host_name for one in found)])
        if device.l2proxy:
            addresses = tuple(str(one.interface.ip) for one in device.assigned)
            wired = replace(wired, proxied=addresses)
        found.append(wired)
    return tuple(found)


def _at_home(device: Device, wired: Wired, taken: list[str]) -> Wired:
    """A device of the host that moves; `prefix+` is the first that no other device takes."""
    name = device.link
    if name.endswith("+"):
        names = sorted(name for _, name in socket.if_nameindex())
        fitting = [one for one in names if one.startswith(name[:-1]) and one not in taken]
        if not fitting:
            raise fail(device.line("link"), f"no device of the host is called {name[:-1]}…")
        name = fitting[0]
    links.require_link(device, name)
    inside = name if wired.name == device.link else wired.name
    return replace(
        wired,
        name=inside,
        link=name,
        host_name=name,
        mtu=links.mtu(name),
        home_hwaddr=links.hwaddr(name),
        was_up=bool(links.flags(name) & _UP),
    )


class Wires:
    """The devices of one start, while they are being made. Owns both sockets."""

    def __init__(self, devices: Sequence[Device], wired: Sequence[Wired], inside: int) -> None:
        """`inside` is the namespace that they are for, and stays the caller's. Raises OSError."""
        self._wired = {one.number: one for one in wired}
        self._devices = [self._settled(device) for device in devices if device.kind != "empty"]
        self._host_namespace = Fd(namespace.open_own())
        self._namespace = Fd(os.dup(inside))
        self._host: Netlink | None = None
        self._inside: Netlink | None = None
        self._known: dict[int, requests.Known] = {}
        self.not_made: set[int] = set()  # pairs: what has their names is somebody's

    def _settled(self, device: Device) -> Device:
        """With the names that were chosen."""
        wired = self._wired[device.number]
        return replace(device, name=wired.name, link=wired.link)

    def close(self) -> None:
        """Let go of both namespaces."""
        for one in (self._host, self._inside, self._host_namespace, self._namespace):
            if one is not None:
                one.close()

    def make(self) -> None:
        """Make them, and all of them that is inside; nothing gets in or out yet. Raises
        StartFailed.
        """
        self._host = namespace.rtnetlink()
        self._inside = namespace.rtnetlink(self._namespace.fileno())
        for device in self._devices:
            self._known[device.number] = self._look_up(device)
        self._ask(self._host, requests.from_host, requests.by_way_of_host)
        self._ask(self._inside, requests.in_container)

    def connect(self) -> None:
        """Connect them to the host. Raises StartFailed."""
        if self._host is None:
            return
        for device in self._devices:
            if device.kind == "veth":
                links.seclude(self._wired[device.number].host_name, device)
        self._ask(self._host, requests.host_end)
        for device in self._devices:
            more = self._more(device)
            if more:
                self._run(self._host, device, more)

    def _ask(
        self,
        netlink: Netlink,
        asked: _Asked,
        otherwise: _Asked | None = None,
        devices: Sequence[Device] | None = None,
    ) -> None:
        """All devices, or these, in one send; an error is the first's that has one. If that is
        EEXIST, those that have one are asked for `otherwise`.
        """
        of: list[tuple[Device, Request]] = [
            (device, request)
            for device in (self._devices if devices is None else devices)
            for request in asked(device, self._known[device.number])
        ]
        try:
            netlink.run([request for _, request in of])
        except RefusedError as error:
            if otherwise is not None and error.errno == errno.EEXIST:
                numbers = {id(request) for request in error.refused}
                again = [device for device, request in of if id(request) in numbers]
                self._ask(netlink, otherwise, devices=again)
                return
            refused = {id(request) for request in error.refused if request.verb == "newlink"}
            self.not_made |= {
                device.number
                for device, request in of
                if id(request) in refused and device.kind == "veth"
            }
            device = next(device for device, request in of if request is error.request)
            raise explain(error, device) from None

    @staticmethod
    def _run(netlink: Netlink, device: Device, asked: list[Request]) -> None:
        try:
            netlink.run(asked)
        except RefusedError as error:
            raise explain(error, device) from None

    def _look_up(self, device: Device) -> requests.Known:
        wired = self._wired[device.number]
        index = mtu = 0
        if device.link:
            index = links.require_link(device, device.link)
            mtu = links.mtu(device.link)
        if device.kind in ("macvlan", "ipvlan", "vlan") and device.mtu > mtu:
            text = (
                f"lxc.net.{device.number}.mtu: {device.mtu} is more than {device.link} has, {mtu}"
            )
            raise fail(device.line("mtu"), text)
        gateways = tuple(self._resolved(device, index, one) for one in device.gateways)
        return requests.Known(
            host_namespace=self._host_namespace.fileno(),
            namespace=self._namespace.fileno(),
            link_index=index,
            link_mtu=0 if mtu == _ETHERNET_MTU else min(mtu, _VETH_MTU_MAX),
            host_name=wired.host_name,
            spare_index=_SPARE_INDEX + secrets.randbelow(_SPARE_INDEX),
            gateways=gateways,
        )

    def _resolved(self, device: Device, index: int, gateway: Gateway) -> Gateway:
        """`auto` is the first address of the link."""
        if not gateway.auto or self._host is None:
            return gateway
        fields = {"family": requests.family(gateway.version), "index": index}
        asked = Request("getaddr", fields, [], f"addresses of {device.link}", gateway.origin)
        for message in self._host.dump(asked):
            if message.fields["index"] != index or message.fields["scope"] >= 253:  # noqa: PLR2004
                continue
            found = message.attributes.get("IFA_LOCAL") or message.attributes["IFA_ADDRESS"]
            return replace(gateway, address=requests.address(found), auto=False)
        version = gateway.version
        raise fail(
            gateway.origin,
            f"{device.link} has no IPv{version} address that could be the gateway (auto)",
        )

    def _more(self, device: Device) -> list[Request]:
        """What needs the index of the host's end, or is about the link."""
        found: list[Request] = []
        wired = self._wired[device.number]
        if device.kind == "veth" and (
            device.mode == "router"
            or device.routes
            or device.port_vlan is not None
            or device.tagged_vlans
        ):
            index = socket.if_nametoindex(wired.host_name)
            settled = replace(device, gateways=self._known[device.number].gateways)
            if device.mode == "router":
                links.forward(wired.host_name, settled)
            found += requests.host_routes(settled, index)
            if device.port_vlan is not None or device.tagged_vlans:
                found += requests.port_vlans(device, index, links.default_vlan(device))
        if device.l2proxy:
            links.require_forwarding(device)
            index = socket.if_nametoindex(device.link)
            found += [
                requests.neighbour_proxy(one.interface.ip, index, device.line("l2proxy"))
                for one in device.assigned
            ]
        return found


def there(pid: int) -> dict[str, int]:
    """The devices in the namespace of a process: name and index. Raises OSError."""
    with Fd(namespace.open_of(pid)) as own, namespace.rtnetlink(own.fileno()) as inside:
        found = inside.dump(Request("getlink", {}, [], "devices"))
    return {str(one.attributes["IFLA_IFNAME"]): int(one.fields["index"]) for one in found}


# ---- the end


def unwire(wired: Sequence[Wired], kept_namespace: str) -> list[str]:
    """Take away what there is of these devices on the host; devices of the host's that are in
    `kept_namespace` come home, and what hangs on others goes. What could not be done, one line
    each.
    """
    problems: list[str] = []
    with namespace.rtnetlink() as host:
        for one in wired:
            try:
                if one.kind == "veth":
                    _remove_pair(host, one)
                _stop_proxying(host, one)
            except OSError as error:
                problems.append(f"{one.host_name or one.name}: {_words(error)}")
    held = [one for one in wired if one.kind in _ON_HOST]
    if held and os.path.exists(kept_namespace):
        problems += _empty(held, kept_namespace)
    return problems


def needs_namespace(wired: Sequence[Wired]) -> bool:
    """Whether their network namespace is to be kept until they are taken away."""
    return any(one.kind in _ON_HOST for one in wired)


def _remove_pair(host: Netlink, one: Wired) -> None:
    """It may be gone with its namespace already, and its name somebody else's."""
    try:
        index = socket.if_nametoindex(one.host_name)
        if one.hwaddr and links.hwaddr(one.host_name) != f"fe{one.hwaddr[2:]}":
            return
    except OSError:
        return
    removal = Request("dellink", {"index": index}, [], f"removing {one.host_name}")
    try:
        host.run([removal])
    except RefusedError as error:
        if error.errno != errno.ENODEV:
            raise


def _stop_proxying(host: Netlink, one: Wired) -> None:
    if not one.proxied:
        return
    try:
        index = socket.if_nametoindex(one.link)
    except OSError:
        return
    host.run([requests.without_proxy(address, index) for address in one.proxied])


def _empty(devices: Sequence[Wired], kept_namespace: str) -> list[str]:
    problems: list[str] = []
    flags = os.O_RDONLY | os.O_CLOEXEC
    with (
        Fd(os.open(kept_namespace, flags)) as kept,
        Fd(namespace.open_own()) as home,
        namespace.rtnetlink(kept.fileno()) as inside,
    ):
        for one in devices:
            name = _free_name(one.host_name) if one.kind == "phys" else one.name
            try:
                if one.kind == "phys":
                    inside.run(_way_home(one, name, home.fileno()))
                else:
                    inside.run([Request("dellink", {"index": one.place}, [], f"removing {name}")])
            except OSError as error:
                # It may have gone away, or never been there.
                if error.errno != errno.ENODEV:
                    problems.append(f"{one.host_name or name} stays: {_words(error)}")
                continue
            if one.kind == "phys" and name != one.host_name:
                problems.append(f"{one.host_name} is home, but that is taken: it is called {name}")
    return problems


def _free_name(name: str) -> str:
    """That, or one like it if the host has such a device by now: without a name none comes home."""
    taken = {name for _, name in socket.if_nameindex()}
    others = (f"{name[:10]}.{number}" for number in range(1, len(taken) + 2))
    return next(one for one in (name, *others) if one not in taken)


def _way_home(one: Wired, name: str, home: int) -> list[Request]:
    """Down first: the kernel renames and readdresses none that is up. Behind the move it is no
    longer there to be asked for.
    """
    what = f"bringing {one.host_name} home"
    down = {"index": one.place, "flags": 0, "change": _UP}
    moved = [("IFLA_NET_NS_FD", home), ("IFLA_IFNAME", name)]
    found = [Request("setlink", down, [], what)]
    as_before: list[tuple[str, object]] = []
    if one.home_hwaddr:
        as_before.append(("IFLA_ADDRESS", one.home_hwaddr))
    if one.mtu:
        as_before.append(("IFLA_MTU", one.mtu))
    found += [
        Request("setlink", {"index": one.place}, [attribute], what, optional=True)
        for attribute in as_before
    ]
    # Up in the same request: who dies between two would leave it down, and nobody knows why.
    last = {"index": one.place, "flags": _UP if one.was_up else 0, "change": _UP}
    return [*found, Request("setlink", last, list(moved), what)]


def keep_namespace(kept: int, path: str) -> None:
    """Keep a network namespace, whoever ends: a physical device in one that goes is given to the
    kernel's first, not to the host that we are on, and a veth is destroyed. Raises OSError.
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    with Fd(mount.open_tree(mount.AT_FDCWD, f"/proc/self/fd/{kept}")) as taken:
        mount.move_mount(taken.fileno(), mount.AT_FDCWD, path)


def let_namespace_go(path: str) -> None:
    """The end of that; nothing if it is not kept."""
    with contextlib.suppress(OSError):
        mount.umount2(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


# ---- why not


def explain(error: RefusedError, device: Device) -> errors.StartFailed:
    """A refusal in words: which device, which line, and what could be done."""
    of_mtu = "mtu" in error.text and device.mtu
    origin = device.line("mtu") if of_mtu else error.request.origin
    found = fail(origin, f"lxc.net.{device.number}: {_why(error, device)}")
    found.metadata.update(
        syscall=error.syscall, errno=errno.errorcode.get(error.errno or 0, str(error.errno))
    )
    return found


def _why(error: RefusedError, device: Device) -> str:
    what, number = error.request.what, error.errno
    if number == errno.EOPNOTSUPP and error.request.verb == "newlink":
        return f"this kernel has no {device.kind} devices ({_OPTIONS[device.kind]})"
    if number == errno.EEXIST and error.request.verb == "newlink" and device.kind == "veth":
        return f"{what}: one of these names is taken"
    if "putting" in what and number in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):
        return f"{what}: {device.link} is no bridge"
    return f"{what}: {_words(error)}"


def _words(error: OSError) -> str:
    text = getattr(error, "text", "")
    call = libc.syscall_of(error)
    words = os.strerror(error.errno or 0)
    return f"{call}: {words} ({text})" if text else f"{call}: {words}"
