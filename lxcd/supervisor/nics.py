"""The network devices of one life: made while the child walks, taken away at its end, scripts in
between.

What they will be is in the record before any of them is made. The child's namespace is there from
the first half of its spawn, so nobody waits for anybody: the child walks on to the barrier
`network` meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import shlex
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config.daemon import FILTERS
from lxcd.kernel import libc
from lxcd.network import wiring
from lxcd.network.device import Device, fail, read_devices, shares_host
from lxcd.supervisor import programs
from lxcd.supervisor.definition import ConfigFile
from lxcd.supervisor.stop import exit_words
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lxcd.config.model import ContainerConfig
    from lxcd.network.wiring import Wired
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House
    from lxcd.supervisor.records import Record

_log = logging.getLogger(__name__)
_SCRIPT_SECONDS = 60.0
# Kinds whose parent and, behind it, peer a script is told: LXC's.
_WITH_PARENT = ("veth", "macvlan", "ipvlan", "vlan", "phys")


def wanted(config: ContainerConfig, lxcpath: str, name: str) -> tuple[Device, ...]:
    """The devices that a start with this configuration makes. Raises StartFailed."""
    keeps = "net" in config.namespace_keep or any(
        share.namespace == "net" for share in config.namespace_share
    )
    cloned = config.namespace_clone is None or "net" in config.namespace_clone
    if keeps or not cloned or shares_host(config) is not None:
        # What it shares is not its own to add devices to: LXC does not either.
        return ()
    return read_devices(config, seed_of(lxcpath, name))


def seed_of(lxcpath: str, name: str) -> str:
    """What is drawn for a container follows from it."""
    try:
        machine = _machine()
    except (OSError, ValueError):
        machine = ""
    return f"{machine}\0{lxcpath}\0{name}"


@functools.cache
def _machine() -> str:
    """Two hosts on one network must not draw the same hardware address for the same name. Raises
    OSError, ValueError.
    """
    with open("/etc/machine-id", encoding="ascii") as file:
        return file.read().strip()


def kept_namespace(house: House, record: Record) -> str:
    """Where a network namespace is kept until what is the host's of it is home again."""
    return os.path.join(house.paths.namespaces, record.child)


class Nics:
    """Those of one start."""

    def __init__(self, house: House, config: ContainerConfig, devices: Sequence[Device]) -> None:
        self._house = house
        self._config = config
        self._devices = devices
        self._not_made: set[int] = set()

    @property
    def there(self) -> bool:
        """Something is to be made, or scripts to be run: what is empty there is without us."""
        return any(
            device.kind != "empty" or device.script_up or device.script_down
            for device in self._devices
        )

    def foresee(self) -> tuple[Wired, ...]:
        """What they will be. Raises StartFailed."""
        try:
            return wiring.foresee(self._devices)
        except OSError as error:
            raise fail(self._devices[0].origin, f"looking at the host: {error}") from None

    async def make(self, record: Record, child: Held, inside: int) -> None:
        """Make them in the namespace `inside`, the child's, as they are in the record, which is on
        disk. Raises StartFailed; `take_away` takes away what was made.
        """
        try:
            await self._wire(record, inside)
            if any(device.script_up for device in self._devices):
                # They are told the pid of what the child goes on as.
                if not await self._house.keeper.known(child):
                    raise libc.oserror(errno.ESRCH, "pidfd_open", "the child")
                record = record.but(pid=child.pid)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            text = f"making devices: {libc.syscall_of(error)}: {error.strerror}{where}"
            raise fail(self._devices[0].origin, text) from None
        for device, wired in zip(self._devices, record.nics, strict=True):
            if device.script_up:
                await self._script_up(record, device, wired)

    async def take_away(self, record: Record, *, keep: bool = False) -> None:
        """Take away what was made of them; see below."""
        made = tuple(one for one in record.nics if one.number not in self._not_made)
        await take_away(self._house, self._config, record.but(nics=made), keep=keep)

    async def _wire(self, record: Record, inside: int) -> None:
        managed = [
            (device, wired)
            for device, wired in zip(self._devices, record.nics, strict=True)
            if await self._is_managed(device)
        ]
        wires = await in_thread(self._prepare, record, inside)
        try:
            if not managed:
                # One trip to a thread.
                await in_thread(_make_and_connect, wires)
                return
            # Rules are of names: they need not wait for what bears them.
            done = await asyncio.gather(
                in_thread(wires.make),
                *(self._connect(record, device, wired) for device, wired in managed),
                return_exceptions=True,
            )
            for error in done:
                if isinstance(error, BaseException):
                    raise error
            await in_thread(wires.connect)
        finally:
            self._not_made = wires.not_made
            wires.close()

    def _prepare(self, record: Record, inside: int) -> wiring.Wires:
        path = kept_namespace(self._house, record)
        if keeps_namespace(record) and not os.path.exists(path):
            wiring.keep_namespace(inside, path)
        return wiring.Wires(self._devices, record.nics, inside)

    async def _is_managed(self, device: Device) -> bool:
        """Its bridge is one of lxcd's own, and up. Raises StartFailed if it cannot be."""
        if device.kind != "veth" or device.mode != "bridge" or not device.link:
            return False
        try:
            return await self._house.networks.ensure(device.link) is not None
        except errors.LxcdError as error:
            raise fail(device.line("link"), error.text) from None

    async def _connect(self, record: Record, device: Device, wired: Wired) -> None:
        settings = ConfigFile(os.path.join(record.lxcpath, record.name)).settings()
        try:
            await self._house.networks.connect(
                record.lxcpath,
                record.name,
                link=device.link,
                device_number=device.number,
                host_name=wired.host_name,
                hwaddr=device.hwaddr,
                addresses=[str(one.interface) for one in device.assigned],
                filter=settings.filters.get(device.number, FILTERS),
            )
        except errors.LxcdError as error:
            raise fail(device.line("link"), error.text) from None

    async def _script_up(self, record: Record, device: Device, wired: Wired) -> None:
        origin, key = device.line("script.up"), f"lxc.net.{device.number}.script.up"
        command = device.script_up
        try:
            result = await _run(self._house, self._config, record, wired, "up", command)
        except errors.LxcdError as error:
            result = error.text
        if result:
            raise fail(origin, f"{key}: {result}")


def keeps_namespace(record: Record) -> bool:
    """There is a device for which it is kept."""
    return wiring.needs_namespace(record.nics)


def _make_and_connect(wires: wiring.Wires) -> None:
    wires.make()
    wires.connect()


async def take_away(
    house: House, config: ContainerConfig | None, record: Record, *, keep: bool = False
) -> None:
    """Take away what there is of the devices of a life that is over, or never was; with `keep`
    others of it are still there.
    """
    for wired in record.nics:
        if wired.script_down:
            try:
                command = wired.script_down
                result = await _run(house, config, record, wired, "down", command)
            except errors.LxcdError as error:
                result = error.text
            if result:
                # LXC goes on, too: the container has ended, whatever its script says.
                _log.warning("lxc.net.%d.script.down: %s", wired.number, result)
    for wired in record.nics:
        if wired.kind == "veth":
            await house.networks.disconnect(wired.host_name)
    path = kept_namespace(house, record)
    try:
        problems = await in_thread(wiring.unwire, record.nics, path) if record.nics else []
    except OSError as error:
        # No descriptors, say: the end of a container does not stop at its devices.
        problems = [f"{libc.syscall_of(error)}: {error.strerror}"]
    for problem in problems:
        _log.error("network device: %s", problem)
    if not keep:
        wiring.let_namespace_go(path)


async def _run(
    house: House,
    config: ContainerConfig | None,
    record: Record,
    wired: Wired,
    what: str,
    command: str,
) -> str:
    """Run a script as LXC does: through a shell, as the line may hold arguments. What went wrong;
    empty if nothing. Raises an LxcdError if it could not be begun.
    """
    environment, words = _told(config, record, wired, what)
    line = " ".join(["exec", command, *(shlex.quote(word) for word in words)])
    program = programs.Program(("/bin/sh", "-c", line), environment)
    result = await programs.run(house, program, timeout_seconds=_SCRIPT_SECONDS)
    said = (result.stdout + result.stderr).decode(errors="replace").strip()
    _log.debug("lxc.net.%d.script.%s: %s", wired.number, what, said)
    if result.timed_out:
        return f"{command}: killed after {_SCRIPT_SECONDS:g} s"
    if result.exit.success:
        return ""
    return f"{command}: {exit_words(result.exit)}{f': {said[-500:]}' if said else ''}"


def _told(
    config: ContainerConfig | None, record: Record, wired: Wired, what: str
) -> tuple[dict[str, str], list[str]]:
    """What a script is told: environment, and, in version 0, arguments."""
    version = config.hook_version if config is not None else 0
    parent = wired.link if wired.kind in _WITH_PARENT else ""
    peer = wired.host_name if wired.kind == "veth" else ""
    environment = {
        "LXC_NAME": record.name,
        "LXC_CONFIG_FILE": os.path.join(record.lxcpath, record.name, "config"),
        "LXC_CGNS_AWARE": "1",
        "LXC_HOOK_VERSION": str(version),
    }
    if record.pid:
        environment["LXC_PID"] = str(record.pid)
    if config is not None:
        environment |= _of_config(config)
    if version == 0:
        more = [word for word in (parent, peer) if word]
        return environment, [record.name, "net", what, wired.kind, *more]
    environment |= {
        "LXC_HOOK_TYPE": what,
        "LXC_HOOK_SECTION": "net",
        "LXC_NET_TYPE": wired.kind,
    }
    more_environment = {"LXC_NET_PARENT": parent, "LXC_NET_PEER": peer}
    return environment | {name: value for name, value in more_environment.items() if value}, []


def _of_config(config: ContainerConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    if config.rootfs is not None:
        found["LXC_ROOTFS_PATH"] = f"{config.rootfs.kind}:{config.rootfs.path}"
        found["LXC_ROOTFS_MOUNT"] = config.rootfs.mount
    for variable in config.environment:
        if variable.scope in ("all", "hooks") and variable.value is not None:
            found[variable.name] = variable.value
    return found
