"""What is known of the networks of running containers, and who is told when it changes.

Each container with a network namespace of its own is watched from inside, from its start, or from
when this lxcd has found it, to the moment its init is gone: then the namespace must be free to go.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from lxcd.config.model import Problem
from lxcd.kernel.fd import Fd
from lxcd.network import namespace
from lxcd.network.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any

    from lxcd.network.device import Address, Device
    from lxcd.network.picture import Counters, Picture
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.lull import Lull

_log = logging.getLogger(__name__)


class Addresses:
    """Of all containers of this lxcd. `on_change` is called with each new picture, on the loop, and
    with None when a life has ended.
    """

    def __init__(self, begin: Callable[[Coroutine[Any, Any, None]], None], lull: Lull) -> None:
        """`begin` has something done beside what is being done."""
        self._begin = begin
        self._lull = lull
        self._host = Fd(namespace.open_own())
        self._watches: dict[Container, Watch] = {}
        # By link: an address means something else on another.
        self._given: dict[tuple[str, Address], dict[Container, None]] = {}
        self.on_change: list[Callable[[Container, Picture | None], None]] = []

    def twice(self, devices: Iterable[Device]) -> tuple[Problem, ...]:
        """Addresses that others have which run: on one network neither would work well. No kernel
        refuses that, and two who share an address may mean it.
        """
        return tuple(
            Problem(
                "warning",
                assigned.origin,
                f"lxc.net.{device.number}.ipv{assigned.interface.version}.address",
                f"{assigned.interface.ip} is also {other.name}'s, on {device.link}",
            )
            for device in devices
            for assigned in device.assigned
            if device.link
            for other in list(self._given.get((device.link, assigned.interface.ip), ()))[:1]
        )

    def begin(
        self,
        container: Container,
        child: Held,
        devices: Iterable[Device],
        netlink: Fd | None = None,
    ) -> None:
        """Its life has begun, or was found: `child` is its init, `devices` those that its
        configuration gives it; `netlink` a socket of rtnetlink that was opened in its namespace,
        which is taken.
        """
        self.end(container)
        for device in devices:
            for assigned in device.assigned:
                if device.link:
                    holders = self._given.setdefault((device.link, assigned.interface.ip), {})
                    holders[container] = None
        if "net" not in container.record.namespaces or child.pidfd.closed:
            if netlink is not None:
                netlink.close()
            return
        try:
            # Its pidfd: a pid may be somebody else's by the time that a thread looks.
            inside = netlink or Fd(os.dup(child.pidfd.fileno()))
        except OSError as error:
            _log.warning("the network of %s is not watched: %s", container.name, error)
            return
        watch = Watch(
            self._host.fileno(),
            lambda picture: self._changed(container, picture),
            before_look=self._lull.wait,
        )
        self._watches[container] = watch
        self._begin(watch.run(inside, opened=netlink is not None))

    def end(self, container: Container) -> None:
        """Its init is gone, or is let go of."""
        for place in [place for place, holders in self._given.items() if container in holders]:
            del self._given[place][container]
            if not self._given[place]:
                del self._given[place]
        watch = self._watches.pop(container, None)
        if watch is not None:
            watch.close()
        if container.network is not None:
            container.network = None
            for tell in self.on_change:
                tell(container, None)

    def close(self) -> None:
        """Let go of all: containers go on."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()

    async def counters(self, container: Container) -> dict[int, Counters]:
        """What has passed its devices by now, by their index; none where that is not known."""
        watch = self._watches.get(container)
        return {} if watch is None else await watch.counters()

    def _changed(self, container: Container, picture: Picture) -> None:
        first, container.network = container.network is None, picture
        for tell in self.on_change:
            tell(container, picture)
        # What every namespace is born with is no news.
        if not (first and picture.bare):
            container.tell("container.network_changed", message=summary(picture))
        container.wake()


_SHOWN = 8


def summary(picture: Picture) -> str:
    """In a line: what others can reach it by."""
    words = [
        f"{interface.name} {address.address}/{address.prefix_length}"
        for interface in picture.interfaces
        for address in interface.addresses
        if address.far and not interface.loopback
    ]
    if len(words) > _SHOWN:
        words = [*words[:_SHOWN], "..."]
    return ", ".join(words) or "no address"
