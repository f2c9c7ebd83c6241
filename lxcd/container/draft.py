"""A plan while it is being made: what is known, and what was decided so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lxcd import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxcd.config.model import ContainerConfig
    from lxcd.container.resources import Resource
    from lxcd.container.spec import Step


@dataclass(frozen=True, slots=True)
class Host:
    """What a plan has to know of the host."""

    machine: str  # uname -m
    last_capability: int
    filesystems: Mapping[str, bool]  # type -> needs a device
    # (directory below /sys/fs/cgroup, mount options of version 1 or None for version 2)
    hierarchies: tuple[tuple[str, str | None], ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Life:
    """What this one start asks for beyond the configuration."""

    name: str
    directory: str  # LXCPATH/NAME: a target below its `rootfs` is one of the container's
    command: tuple[str, ...] = ()
    application: bool = False  # `command` (or lxc.execute.cmd) runs under the reaping PID 1
    pipes: bool = False  # standard streams are pipes instead of the console
    stdin: bool = False  # so is standard input, which else is /dev/null
    given: frozenset[str] = frozenset()  # those that the caller's own descriptors become
    # By the kind of a namespace that is shared: the file of whose it is.
    shared: Mapping[str, str] = field(default_factory=dict[str, str])
    whole_fstab: bool = False  # its /etc/fstab stays as it is: see `guest_fstab`
    # Nothing to run unless lxc.init.cmd says so: the reaping PID 1 alone (the image `host`).
    idle: bool = False


@dataclass(slots=True)
class Draft:
    """Steps and resources in order, and what they follow from."""

    config: ContainerConfig
    host: Host
    life: Life
    namespaces: tuple[str, ...]
    capabilities: tuple[int, ...] | None
    steps: list[Step] = field(default_factory=list[Any])
    resources: list[Resource] = field(default_factory=list[Any])

    def add(self, step: Step) -> None:
        """One more step."""
        self.steps.append(step)

    def take(self, resource: Resource) -> int:
        """One more resource; its place, by which a step names it."""
        self.resources.append(resource)
        return len(self.resources) - 1

    def origin(self, key: str) -> str:
        """The line that a key of one value comes from."""
        return self.config.origin(key)


def fail(step: str, origin: str, text: str) -> errors.StartFailed:
    """The error of a configuration that cannot be carried out."""
    return errors.StartFailed(f"{origin}: {text}", step=step, origin=origin, index="-1")
