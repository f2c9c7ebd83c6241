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
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.container import channel, plan
from lxcd.container.fault import BARRIER
from lxcd.container.mounts import MountTree
from lxcd.container.namespaces import Barrier
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import identity, libc, mount, procfs
from lxcd.kernel.fd import Fd
from lxcd.supervisor import reports
from lxcd.supervisor.records import RUNNING, STARTING, Record
from lxcd.supervisor.stop import signal_name

if TYPE_CHECKING:
    import socket

    from lxcd.config.model import ContainerConfig, IdMapping, ResourceLimit
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House
    from lxcd.supervisor.pool import Prepared

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
    """Carry out `made`. The record of the new generation is on disk before anything is named after
    it.

    Raises StartFailed, or another LxcdError for what is no step of the plan. Nothing is left then
    but the record, which the caller replaces.
    """
    clock = _Clock()
    with house.pool.start():
        return await _start(house, config, made, record, clock)


async def _start(
    house: House, config: ContainerConfig, made: plan.Plan, record: Record, clock: _Clock
) -> Started:
    async with AsyncExitStack() as undo:
        begun = await _begin(house, config, made, record, undo)
        prepared, record = begun.prepared, begun.record
        clock.note("prepare")
        house.faults.strike("phase:resources", prepared.child)
        made, fds = await asyncio.to_thread(_open_resources, house.trees, begun.payload, made)
        undo.callback(kernel_fd.close_all, fds)
        clock.note("resources")
        house.faults.strike("phase:spec", prepared.child)
        with Fd(os.memfd_create("lxcd-progress", os.MFD_CLOEXEC)) as progress:
            _send_spec(house, prepared.channel, made, fds, progress.fileno())
            walk = _Walk(house, config, made, begun, fds, progress.fileno())
            await walk.to_the_end()
        clock.note("walk")
        child = prepared.child
        record = record.but(
            phase=RUNNING, pid=child.pid, start_time_ticks=procfs_start_time(child.pid)
        )
        house.faults.strike("phase:record", child)
        _write(house, record)
        # From here on the container is there: descriptors go, the rest stays.
        undo.pop_all()
        kernel_fd.close_all(fds)
        prepared.channel.close()
    return Started(child, record, clock.total())


@dataclass(frozen=True, slots=True)
class _Begun:
    """A child that sits in the container's cgroups."""

    prepared: Prepared
    payload: tree.Payload
    record: Record


async def _begin(
    house: House, config: ContainerConfig, made: plan.Plan, record: Record, undo: AsyncExitStack
) -> _Begun:
    """Have a child, and the container's cgroups, under a name that nobody has. Written down
    before.
    """
    own = payload_name(config, record.name)
    house.faults.strike("phase:take")
    if config.cgroup_relative or "/" in own:
        # Version 1 renames within one directory only; a slot is at the top.
        return await _begin_alone(house, config, made, record, undo)
    try:
        prepared = await house.pool.take(made.flags)
    except OSError as error:
        raise _failed("prepare", error, -1, "default") from None
    claimed: list[tree.Payload] = [prepared.slot]
    undo.push_async_callback(_remove_cgroups, house, prepared, claimed)
    undo.push_async_callback(_abort, house, prepared)
    house.faults.strike("phase:claim", prepared.child)
    for _ in range(_CLAIMS):
        payload = await asyncio.to_thread(
            tree.plan_payload, house.trees, own, relative=config.cgroup_relative
        )
        payload = replace(payload, mark=prepared.slot.mark)
        record = _claimed(made, config, record, payload, prepared.child.id)
        _write(house, record)
        claimed.append(payload)
        try:
            await asyncio.to_thread(tree.claim, house.trees, prepared.slot, payload)
        except FileExistsError:
            # Another lxcd was quicker.
            continue
        except OSError as error:
            raise _failed("claim_cgroups", error, -1, "default") from None
        house.pool.used(prepared)
        return _Begun(prepared, payload, record)
    raise _taken(record)


async def _begin_alone(
    house: House, config: ContainerConfig, made: plan.Plan, record: Record, undo: AsyncExitStack
) -> _Begun:
    own = payload_name(config, record.name)
    for _ in range(_CLAIMS):
        payload = await asyncio.to_thread(
            tree.plan_payload, house.trees, own, relative=config.cgroup_relative
        )
        record = _claimed(made, config, record, payload, "")
        _write(house, record)
        try:
            await asyncio.to_thread(tree.make, house.trees, payload)
        except FileExistsError:
            continue
        except OSError as error:
            raise _failed("make_cgroups", error, -1, "default") from None
        undo.push_async_callback(_remove_cgroups, house, None, [payload])
        try:
            prepared = await house.pool.alone(made.flags, payload)
        except OSError as error:
            raise _failed("prepare", error, -1, "default") from None
        undo.push_async_callback(_abort, house, prepared)
        record = record.but(child=prepared.child.id)
        _write(house, record)
        return _Begun(prepared, payload, record)
    raise _taken(record)


def _claimed(
    made: plan.Plan, config: ContainerConfig, record: Record, payload: tree.Payload, child: str
) -> Record:
    """What the record says before the cgroups are made."""
    return record.but(
        phase=STARTING,
        child=child,
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


def _taken(record: Record) -> errors.Aborted:
    return errors.Aborted(
        f"no cgroup for {record.name}: others take every name first", "CGROUP_TAKEN"
    )


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
        begun: _Begun,
        fds: list[int],
        progress: int,
    ) -> None:
        self._house = house
        self._config = config
        self._plan = made
        self._payload = begun.payload
        self._child = begun.prepared.child
        self._socket = begun.prepared.channel
        self._fds = fds
        self._progress = progress

    async def to_the_end(self) -> None:
        """Return once the child has exec'ed its program. Raises StartFailed."""
        self._house.faults.strike("phase:walk", self._child)
        executing = False
        while True:
            report = await reports.next_report(self._socket)
            match report:
                case None:
                    break
                case channel.Reached():
                    await self._known()
                    await self._at_barrier(report.barrier)
                    # If it has died meanwhile, its end is read next.
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        channel.send_go(self._socket)
                case channel.Failed():
                    raise self._step_failed(report)
                case channel.Executing():
                    executing = True
                case channel.Prepared():
                    raise errors.Internal("a child was prepared twice")
        if not executing:
            await self._has_ended()
        if self._child.exited is None:
            await self._known(*self._plan.streams)

    async def _known(self, *streams: str) -> None:
        """Wait until all of it is held here: what is not cannot be handed to the next keeper."""
        if not await self._house.keeper.known(self._child, *streams):
            await self._has_ended()

    async def _has_ended(self) -> None:
        """It is gone and has not said why; or it is to go, as its keeper is gone."""
        keeper, child = self._house.keeper, self._child
        await child.until(lambda: child.exited is not None or keeper.lost(child))
        lost = keeper.lost(child)
        raise self._ended_at("the keeper was lost" if lost else self._how_it_ended())

    def _ended_at(self, why: str) -> errors.StartFailed:
        """The error of a child that did not tell: it has left word of where it was."""
        index = channel.step_of(self._progress)
        if index < 0:
            return errors.StartFailed(
                f"the child ended before its first step: {why}",
                step="prepare",
                syscall="",
                errno="",
                origin="default",
                index="-1",
                text=why,
            )
        name = self._plan.spec.steps[index].name
        return self._step_failed(channel.Failed(index, name, "", 0, f"the child ended: {why}"))

    async def _at_barrier(self, barrier: str) -> None:
        if barrier == BARRIER:
            self._house.faults.strike_step(channel.step_of(self._progress), self._child)
            return
        step = next(
            step
            for step in self._plan.spec.steps
            if isinstance(step, Barrier) and step.barrier == barrier
        )
        index = self._plan.spec.steps.index(step)
        origin = step.origin
        try:
            self._house.faults.strike(f"barrier:{barrier}", self._child)
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
            if self._child.exited is not None or isinstance(error, ProcessLookupError):
                # It went away under our hands: that it did is the cause.
                await self._has_ended()
            raise _failed(f"barrier {barrier}", error, index, origin) from None

    def _give_identity(self) -> None:
        idmap = self._config.idmap
        # Only now: whoever is born in a cgroup must be allowed to write its cgroup.procs.
        tree.delegate(self._house.trees, self._payload, *host_root(idmap))
        identity.write_id_maps(self._child.pid, _ranges(idmap, "u"), _ranges(idmap, "g"))
        if not any(resource.idmap for resource in self._plan.resources):
            return
        # Behind them comes the cgroup.
        for fd, wanted in zip(self._fds, self._plan.resources, strict=False):
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


def _open_resources(
    trees: tree.Trees, payload: tree.Payload, made: plan.Plan
) -> tuple[plan.Plan, list[int]]:
    """Runs in a thread. What it opened is closed if it fails. The cgroup of version 2 comes
    last.
    """
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
        cgroup = tree.open_unified(trees, payload)
        if cgroup >= 0:
            fds.append(cgroup)
            made = plan.with_cgroup(made, len(fds) - 1)
    except OSError as error:
        kernel_fd.close_all(fds)
        raise _failed("open_cgroup", error, -1, "default") from None
    except BaseException:
        kernel_fd.close_all(fds)
        raise
    if missing:
        made = plan.without_optional(made, missing)
    return made, fds


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


def _send_spec(
    house: House, ours: socket.socket, made: plan.Plan, fds: list[int], progress: int
) -> None:
    spec = replace(made.spec, fault=house.faults.of_steps())
    try:
        with Fd(kernel_fd.sealed_memfd("lxcd-spec", spec.encode())) as memfd:
            channel.send_spec(ours, memfd.fileno(), fds, progress)
    except (ConnectionError, BrokenPipeError):
        # It has failed before it could read: its report says why.
        return


def _write(house: House, record: Record) -> None:
    try:
        house.records.write(record)
    except OSError as error:
        raise errors.from_oserror(error, "writing the container's record") from None


async def _remove_cgroups(
    house: House, prepared: Prepared | None, payloads: list[tree.Payload]
) -> None:
    left: list[str] = []
    for payload in payloads:
        left += await asyncio.to_thread(tree.remove, payload)
    if left:
        _log.error("cgroups could not be removed: %s", " ".join(left))
    elif prepared is not None:
        house.pool.used(prepared)


async def _abort(house: House, prepared: Prepared) -> None:
    """Kill it and wait until it is gone: the cgroups can be removed only then."""
    prepared.channel.close()
    await prepared.child.killed()
    with contextlib.suppress(errors.Unavailable):
        house.keeper.forget(prepared.child)


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
