"""Specs of children that run something of the host's, without being containers."""

from __future__ import annotations

from lxcd.container.credentials import Execute
from lxcd.container.devices import MountDevpts, OpenPipes, OpenTerminals
from lxcd.container.rootfs import AttachRootfs, PivotRoot
from lxcd.container.spec import Step
from lxcd.kernel import fd as kernel_fd
from tests.kernel.keeper import NEW_MOUNTS, Connection, RunningKeeper, Spawned, host_root

O = "test"  # noqa: E741 - an origin that says nothing


def execute(*argv: str) -> Execute:
    return Execute(
        origin=O,
        argv=argv,
        environment=(("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),),
        cwd="/",
        uid=0,
        gid=0,
        groups=(),
    )


def pipes_steps(*argv: str) -> tuple[Step, ...]:
    return (
        AttachRootfs(origin=O, fd=0, source="/"),
        OpenPipes(origin=O),
        PivotRoot(origin=O),
        execute(*argv),
    )


def terminal_steps(*argv: str, ttys: int = 0) -> tuple[Step, ...]:
    return (
        AttachRootfs(origin=O, fd=0, source="/"),
        MountDevpts(origin=O, max=1024, gid=5, visible=True),
        OpenTerminals(origin=O, console=True, ttys=ttys, directory=""),
        PivotRoot(origin=O),
        execute(*argv),
    )


def run(
    keeper: RunningKeeper,
    connection: Connection,
    id_: str,
    steps: tuple[Step, ...],
    kind: str = "init",
) -> Spawned:
    """A child in a mount namespace of its own that has exec'ed its program."""
    child = keeper.spawn(connection, id_, kind, NEW_MOUNTS)
    with kernel_fd.Fd(host_root()) as root:
        child.walk(*steps, fds=[root.fileno()])
    return child


def shell(
    keeper: RunningKeeper, connection: Connection, id_: str, script: str, kind: str = "init"
) -> Spawned:
    """A shell whose output goes to pipes."""
    return run(keeper, connection, id_, pipes_steps("/bin/sh", "-c", script), kind)
