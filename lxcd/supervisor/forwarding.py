"""Ports of the host that lead to containers, on request: written to a container's lxcd.toml, and in
force at once while it is connected.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config import forwards
from lxcd.supervisor.definition import SETTINGS_NAME, ConfigFile
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from lxcd.config.forwards import Forward
    from lxcd.network.port import Port
    from lxcd.supervisor.connecting import Connections
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.house import House

_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Known:
    """A forward of a container; `active`: it leads there now."""

    container: Container
    forward: Forward
    active: bool


class Forwarding:
    """One change at a time."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._lock = asyncio.Lock()

    def of(self, container: Container) -> list[Known]:
        """Those of a container, written down or not. Blocks for a small file."""
        written = container.file.settings().forwards
        port = self._port(container)
        active = port.forwards if port is not None else ()
        return [Known(container, one, one in active) for one in dict.fromkeys((*written, *active))]

    async def add(
        self, container: Container, forward: Forward, *, validate_only: bool = False
    ) -> Known:
        """Raises AlreadyExists if that port leads somewhere else already."""
        async with self._lock:
            known = [one.forward for one in await in_thread(self.of, container)]
            port = self._port(container)
            holder = self._connections.holder(forward)
            clash = next((one for one in known if one.clashes(forward) and one != forward), None)
            if clash is not None or (holder is not None and holder is not port):
                whose = holder.container if holder is not None else container.name
                raise errors.AlreadyExists(
                    f"{forward}: that port of the host leads to {whose} already",
                    "FORWARD_EXISTS",
                    container=whose,
                )
            if port is None and not container.defined:
                raise errors.FailedPrecondition(
                    f"container {container.name} is not connected to a managed network",
                    "CONTAINER_NOT_CONNECTED",
                    container=container.name,
                )
            if validate_only:
                return Known(container, forward, port is not None)
            if port is not None and forward not in port.forwards:
                await self._connections.set_forwards(port, (*port.forwards, forward))
            if container.defined and forward not in container.file.settings().forwards:
                await in_thread(_rewrite, container, forward, add=True)
        self._tell("network.forward_added", container, forward)
        return Known(container, forward, port is not None)

    async def remove(
        self, container: Container, forward: Forward, *, validate_only: bool = False
    ) -> None:
        """Connections that there are go on. Raises NotFound."""
        async with self._lock:
            known = {one.forward: one for one in await in_thread(self.of, container)}
            if forward not in known:
                raise errors.NotFound(
                    f"container {container.name} has no forward {forward}",
                    "FORWARD_NOT_FOUND",
                    container=container.name,
                )
            if validate_only:
                return
            if forward in container.file.settings().forwards:
                await in_thread(_rewrite, container, forward, add=False)
            port = self._port(container)
            if port is not None and forward in port.forwards:
                left = tuple(one for one in port.forwards if one != forward)
                await self._connections.set_forwards(port, left)
        self._tell("network.forward_removed", container, forward)

    @property
    def _connections(self) -> Connections:
        return self._house.networks.connections

    def _port(self, container: Container) -> Port | None:
        return self._connections.port_of(container.lxcpath, container.name)

    def _tell(self, type_: str, container: Container, forward: Forward) -> None:
        container.tell(type_, message=str(forward))


def _rewrite(container: Container, forward: Forward, *, add: bool) -> None:
    """Change the container's lxcd.toml; all else in it stays. Blocks. Raises an LxcdError."""
    path = os.path.join(container.directory, SETTINGS_NAME)
    text = ""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LIMIT_BYTES)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise errors.from_oserror(error, f"reading {path}") from None
    except ValueError as error:
        raise errors.FailedPrecondition(f"{path}: {error}", "INVALID_SETTINGS") from None
    try:
        change = forwards.with_forward if add else forwards.without_forward
        made = change(text, forward)
    except ValueError as error:
        raise errors.FailedPrecondition(f"{path}: {error}", "INVALID_SETTINGS") from None
    # Like the configuration beside it: mode and owner are those of the container's own files.
    file_ = ConfigFile(container.directory, SETTINGS_NAME)
    file_.write(made.encode(), "" if os.path.exists(path) else container.file.path)
