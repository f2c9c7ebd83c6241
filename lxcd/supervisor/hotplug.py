"""Devices of a container while it runs: one more, one less."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config import nic_keys
from lxcd.kernel.fd import Fd
from lxcd.network import namespace, wiring
from lxcd.network.device import fail, read_devices
from lxcd.supervisor import nics
from lxcd.supervisor.definition import read_text
from lxcd.supervisor.records import write
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxcd.network.wiring import Wired
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House


async def attach(
    house: House, container: Container, settings: Mapping[str, str], *, validate_only: bool = False
) -> Wired:
    """Give a running container one more device, described as behind `lxc.net.N.`; until it stops.
    The caller holds the lock. Raises FailedPrecondition, InvalidArgument, or StartFailed for the
    device; nothing is left then.
    """
    init = _require_own_network(container)
    pid = init.pid
    number = max((one.number for one in container.record.nics), default=-1) + 1
    text = _lines(number, settings)
    definition = read_text(text.encode(errors="surrogateescape"), "attach", ())
    config = definition.config
    for problem in config.problems:
        if problem.severity == "error":
            raise errors.InvalidArgument(f"{problem.key}: {problem.message}", "INVALID_DEVICE")
    if len(config.nics) != 1 or config.nics[0].kind in ("none", "empty"):
        raise errors.InvalidArgument("no device of that type can be attached", "INVALID_DEVICE")
    try:
        found = await in_thread(wiring.there, pid)
    except OSError as error:
        raise errors.from_oserror(error, f"looking into {container.name}") from None
    seed = nics.seed_of(container.lxcpath, container.name)
    place = max(found.values()) + 1
    devices = read_devices(config, seed, first_place=place, taken=found)
    if devices[0].name in found:
        raise fail(devices[0].line("name"), f"{container.name} has a device {devices[0].name}")
    making = nics.Nics(house, config, devices)
    new = making.foresee()
    if validate_only:
        return new[0]
    # While it was looked at, it may have ended, and others have changed the record.
    container.require_running()
    before = container.record
    record = before.but(nics=(*before.nics, *new))
    write(house.records, record)
    container.record = record
    try:
        with Fd(namespace.open_of(pid)) as inside:
            await making.make(container.record.but(nics=new), init, inside.fileno())
        _require_alive(container)
    except BaseException as error:
        await making.take_away(before.but(nics=new), keep=nics.keeps_namespace(before))
        # Its end, which is handled beside this, has taken the others away.
        _require_alive(container, error)
        container.record = container.record.but(nics=before.nics)
        container.write_record()
        raise
    return new[0]


async def detach(
    house: House, container: Container, name: str, *, validate_only: bool = False
) -> None:
    """Take a device away from a running container, by its name inside. The caller holds the lock.
    Raises FailedPrecondition, NotFound.
    """
    _require_own_network(container)
    record = container.record
    wired = next((one for one in record.nics if one.name == name and one.kind != "empty"), None)
    if wired is None:
        raise errors.NotFound(
            f"{container.name} has no device {name} of lxcd's",
            "DEVICE_NOT_FOUND",
            container=container.name,
            device=name,
        )
    if validate_only:
        return
    left = record.but(nics=tuple(one for one in record.nics if one is not wired))
    config = container.running.config if container.running is not None else None
    await nics.take_away(house, config, record.but(nics=(wired,)), keep=nics.keeps_namespace(left))
    if container.state.alive:
        container.record = container.record.but(nics=left.nics)
        container.write_record()


def _require_alive(container: Container, cause: BaseException | None = None) -> None:
    if not container.state.alive:
        raise errors.FailedPrecondition(
            f"container {container.name} has ended meanwhile",
            "CONTAINER_NOT_RUNNING",
            container=container.name,
        ) from cause


def _require_own_network(container: Container) -> Held:
    """Its init. Raises FailedPrecondition."""
    init = container.require_running()
    if "net" not in container.record.namespaces:
        raise errors.FailedPrecondition(
            f"{container.name} has no net namespace of its own",
            "NAMESPACE_NOT_OWN",
            container=container.name,
            namespaces="net",
        )
    return init


def _lines(number: int, settings: Mapping[str, str]) -> str:
    """The text of a configuration that says this of a device; LXC wants the type first."""
    found: list[str] = []
    for key, value in sorted(settings.items(), key=lambda pair: pair[0] != nic_keys.TYPE):
        option = nic_keys.OPTIONS.get(key)
        if option is None:
            raise errors.InvalidArgument(f"no option of a device: {key!r}", "INVALID_DEVICE")
        values = value.split("\n") if option.several else [value]
        if any(char in one for one in values for char in "\n\r\0"):
            raise errors.InvalidArgument(f"{key} holds more than a line", "INVALID_DEVICE")
        found += [f"lxc.net.{number}.{key} = {one}\n" for one in values]
    return "".join(found)
