"""A start: plan, cgroups, resources, child, barriers, exec. What was done is undone if it does not
succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.container import channel, plan
from lxcd.container.mounts import MountTree
from lxcd.container.namespaces import Barrier
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import identity, libc, mount, procfs
from lxcd.kernel.fd import Fd
from lxcd.supervisor import reports
from lxcd.supervisor.records import RUNNING, STARTING, Record
from lxcd.supervisor.stop import signal_name

if TYPE_CHECKING:
    from lxcd.config.model import ContainerConfig, IdMapping, ResourceLimit
    from lxcd.supervisor.house import House
    from lxcd.supervisor.keeper import Held

_log = logging.getLogger(__name__)
_CLAIMS = 10


@dataclass(frozen=True, slots=True)
class Started:
    """A start that succeeded."""

    child: Held
    record: Record
    timings_usec: dict[str, int]


def payload_name(config: ContainerConfig, name: str) -> str:
    """The container's cgroup, before a number is put behind it: LXC's names."""
    if config.cgroup_dir_container:
        return config.cgroup_dir_container
    own = f"lxc.payload.{name}"
    return f"{config.cgroup_dir}/{own}" if config.cgroup_dir else own


async def start(house: House, config: ContainerConfig, made: plan.Plan, record: Record) -> Started:
    """Carry out `made`. The record of the new generation is on disk before anything is made.

    Raises StartFailed, or another LxcdError for what is no step of the plan. Nothing is left then
    but the record, which the caller replaces.
    """
    clock = _Clock()
    async with AsyncExitStack() as undo:
        record, payload = await _claim_cgroups(house, config, made, record)
        undo.push_async_callback(_remove_cgroups, payload)
        made, fds, cgroup, procs = await asyncio.to_thread(
            _open_resources, house.trees, payload, made
        )
        undo.callback(_close, fds)
        undo.callback(_close, [cgroup, *procs])
        clock.note("prepare")
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        ours.setblocking(False)
        undo.callback(ours.close)
        with theirs:
            try:
                child = await house.keeper.prepare(
                    record.child, "init", made.flags, theirs.fileno(), cgroup, procs
                )
            except OSError as error:
                raise _failed("spawn", error, -1, "default") from None
        undo.push_async_callback(_abort, house, child)
        _send_spec(ours, made, fds)
        clock.note("spawn")
        walk = _Walk(house, config, made, child, ours, fds)
        await walk.to_the_end()
        clock.note("walk")
        record = record.but(
            phase=RUNNING, pid=child.pid, start_time_ticks=procfs_start_time(child.pid)
        )
        _write(house, record)
        # From here on the container is there: descriptors go, the rest stays.
        keep = undo.pop_all()
        _close([*fds, cgroup, *procs])
        ours.close()
        del keep
    return Started(child, record, clock.total())


def procfs_start_time(pid: int) -> int:
    """Its start in clock ticks; 0 if it has ended already."""
    try:
        return procfs.start_time(pid)
    except OSError:
        return 0


class _Clock:
    def __init__(self) -> None:
        self._begin = self._last = time.perf_counter_ns()
        self._spent: dict[str, int] = {}

    def note(self, phase: str) -> None:
        now = time.perf_counter_ns()
        self._spent[phase] = (now - self._last) // 1000
        self._last = now

    def total(self) -> dict[str, int]:
        return {**self._spent, "total": (self._last - self._begin) // 1000}


class _Walk:
    """lxcd's side of the child's walk: does what barriers ask for, and learns how it ended."""

    def __init__(
        self,
        house: House,
        config: ContainerConfig,
        made: plan.Plan,
        child: Held,
        ours: socket.socket,
        fds: list[int],
    ) -> None:
        self._house = house
        self._config = config
        self._plan = made
        self._child = child
        self._socket = ours
        self._fds = fds

    async def to_the_end(self) -> None:
        """Return once the child has exec'ed its program. Raises StartFailed."""
        executing = False
        while True:
            report = await reports.next_report(self._socket)
            match report:
                case None:
                    break
                case channel.Reached():
                    await self._at_barrier(report.barrier)
                    # If it has died meanwhile, its end is read next.
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        channel.send_go(self._socket)
                case channel.Failed():
                    raise self._step_failed(report)
                case channel.Executing():
                    executing = True
        if not executing:
            await self._child.ended.wait()
            raise errors.StartFailed(
                f"the child ended before it was a container ({self._how_it_ended()})",
                step="walk",
                syscall="",
                errno="",
                origin="",
                index="-1",
            )

    async def _at_barrier(self, barrier: str) -> None:
        step = next(
            step
            for step in self._plan.spec.steps
            if isinstance(step, Barrier) and step.barrier == barrier
        )
        index = self._plan.spec.steps.index(step)
        origin = step.origin
        try:
            if barrier == plan.IDENTITY:
                await asyncio.to_thread(self._give_identity)
            elif barrier == plan.LIMITS:
                for limit in self._config.prlimits:
                    origin = limit.origin
                    _set_limit(self._child.pid, limit)
                for setting in self._config.procs:
                    origin = setting.origin
                    path = f"/proc/{self._child.pid}/{setting.name}"
                    await asyncio.to_thread(kernel_fd.write_once, -1, path, setting.value.encode())
        except OSError as error:
            raise _failed(f"barrier {barrier}", error, index, origin) from None

    def _give_identity(self) -> None:
        idmap = self._config.idmap
        identity.write_id_maps(self._child.pid, _ranges(idmap, "u"), _ranges(idmap, "g"))
        if not any(resource.idmap for resource in self._plan.resources):
            return
        for fd, wanted in zip(self._fds, self._plan.resources, strict=True):
            if wanted.idmap:
                path = wanted.idmap
                if path == "container":
                    path = f"/proc/{self._child.pid}/ns/user"
                with Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as userns:
                    try:
                        mount.mount_setattr(fd, userns_fd=userns.fileno())
                    except OSError as error:
                        text = f"{wanted.describe()}: idmapped mounts are not possible there"
                        raise libc.oserror(error.errno or 0, "mount_setattr", text) from None

    def _step_failed(self, report: channel.Failed) -> errors.StartFailed:
        origin, what = "default", report.step
        if 0 <= report.index < len(self._plan.spec.steps):
            step = self._plan.spec.steps[report.index]
            origin, what = step.origin, step.describe()
            if isinstance(step, MountTree) and step.fd >= 0:
                what = f"{what} ({self._plan.resources[step.fd].describe()})"
        where = f" [{origin}]" if origin != "default" else ""
        call = f"{report.syscall}: " if report.syscall else ""
        return errors.StartFailed(
            f"{what}: {call}{report.text}{where}",
            step=report.step,
            syscall=report.syscall,
            errno=errno.errorcode.get(report.errno, str(report.errno)),
            origin=origin,
            index=str(report.index),
            text=report.text,
        )

    def _how_it_ended(self) -> str:
        exited = self._child.exited
        if exited is None:
            return "how is not known"
        number = exited.status & 0x7F
        if number:
            return f"killed by {signal_name(number)}"
        return f"exit status {exited.status >> 8}"


async def _claim_cgroups(
    house: House, config: ContainerConfig, made: plan.Plan, record: Record
) -> tuple[Record, tree.Payload]:
    """Make the container's cgroups, under a name that nobody has. Written down before."""
    for _ in range(_CLAIMS):
        payload = await asyncio.to_thread(
            tree.plan_payload,
            house.trees,
            payload_name(config, record.name),
            relative=config.cgroup_relative,
        )
        record = record.but(
            phase=STARTING,
            child=house.next_id(f"init/{record.name}/{record.generation}"),
            cgroups=payload.directories,
            cgroups_made=payload.made,
            cgroups_mark=payload.mark,
            namespaces=made.namespaces,
            capabilities=made.capabilities,
            no_new_privs=config.no_new_privs,
            command=made.command,
            stop_requested=False,
            started_ns=time.time_ns(),
        )
        _write(house, record)
        try:
            await asyncio.to_thread(_make_cgroups, house.trees, payload, config)
        except FileExistsError:
            # Another lxcd was quicker.
            continue
        except OSError as error:
            raise _failed("make_cgroups", error, -1, "default") from None
        return record, payload
    raise errors.Aborted(
        f"no cgroup for {record.name}: others take every name first", "CGROUP_TAKEN"
    )


def _make_cgroups(trees: tree.Trees, payload: tree.Payload, config: ContainerConfig) -> None:
    tree.make(trees, payload)
    if config.idmap:
        try:
            uid, gid = host_root(config.idmap)
            tree.delegate(trees, payload, uid, gid)
        except OSError:
            tree.remove(payload)
            raise


def _open_resources(
    trees: tree.Trees, payload: tree.Payload, made: plan.Plan
) -> tuple[plan.Plan, list[int], int, list[int]]:
    """Runs in a thread. What it opened is closed if it fails."""
    fds: list[int] = []
    missing: set[int] = set()
    try:
        for index, wanted in enumerate(made.resources):
            try:
                fds.append(wanted.open())
            except OSError as error:
                if not wanted.optional:
                    raise _failed(
                        wanted.step, error, -1, wanted.origin, what=wanted.describe()
                    ) from None
                missing.add(index)
        cgroup, procs = tree.open_for_spawn(trees, payload)
    except BaseException:
        kernel_fd.close_all(fds)
        raise
    if missing:
        made = plan.without_optional(made, missing)
    return made, fds, cgroup, procs


def host_root(idmap: tuple[IdMapping, ...]) -> tuple[int, int]:
    """Host ids of the container's root."""
    found = {"u": 0, "g": 0}
    for mapping in idmap:
        if mapping.first == 0:
            found[mapping.kind] = mapping.host
    return found["u"], found["g"]


def _ranges(idmap: tuple[IdMapping, ...], kind: str) -> tuple[tuple[int, int, int], ...]:
    return tuple((m.first, m.host, m.count) for m in idmap if m.kind == kind and m.count)


def _set_limit(pid: int, limit: ResourceLimit) -> None:
    """prlimit(2), from outside: what the child may not raise itself."""
    number = getattr(resource, f"RLIMIT_{limit.name.upper()}", None)
    if number is None:
        raise libc.oserror(errno.EINVAL, "prlimit", f"no limit is called {limit.name}")
    soft, hard = (
        resource.RLIM_INFINITY if value is None else value for value in (limit.soft, limit.hard)
    )
    try:
        resource.prlimit(pid, number, (soft, hard))
    except (OSError, ValueError) as error:
        code = getattr(error, "errno", None) or errno.EINVAL
        raise libc.oserror(code, "prlimit", limit.name) from None


def _send_spec(ours: socket.socket, made: plan.Plan, fds: list[int]) -> None:
    try:
        with Fd(kernel_fd.sealed_memfd("lxcd-spec", made.spec.encode())) as memfd:
            channel.send_spec(ours, memfd.fileno(), fds)
    except (ConnectionError, BrokenPipeError):
        # It has failed before it could read: its report says why.
        return


def _write(house: House, record: Record) -> None:
    try:
        house.records.write(record)
    except OSError as error:
        raise errors.from_oserror(error, "writing the container's record") from None


async def _remove_cgroups(payload: tree.Payload) -> None:
    left = await asyncio.to_thread(tree.remove, payload)
    if left:
        _log.error("cgroups could not be removed: %s", " ".join(left))


async def _abort(house: House, child: Held) -> None:
    """Kill it and wait until it is gone: the cgroups can be removed only then."""
    if child.exited is None:
        with contextlib.suppress(OSError, ValueError):
            signal.pidfd_send_signal(child.pidfd.fileno(), signal.SIGKILL)
        await child.ended.wait()
    with contextlib.suppress(errors.Unavailable):
        house.keeper.forget(child)


def _close(fds: list[int]) -> None:
    kernel_fd.close_all([number for number in fds if number >= 0])


def _failed(
    step: str, error: OSError, index: int, origin: str, what: str = ""
) -> errors.StartFailed:
    number = error.errno or 0
    path = f": {error.filename}" if isinstance(error.filename, str) and error.filename else ""
    where = f" [{origin}]" if origin != "default" else ""
    syscall = libc.syscall_of(error)
    call = f"{syscall}: " if syscall else ""
    return errors.StartFailed(
        f"{what or step}: {call}{os.strerror(number)}{path}{where}",
        step=step,
        syscall=syscall,
        errno=errno.errorcode.get(number, str(number)),
        origin=origin,
        index=str(index),
        text=f"{os.strerror(number)}{path}",
    )
