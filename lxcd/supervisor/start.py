"""A start: plan, cgroups, resources, child, barriers, exec. What was done is undone if it does not
succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.container import channel, plan
from lxcd.container.draft import fail
from lxcd.container.resources import FitFstab, Given, MountImage
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import identity, libc, mount, procfs
from lxcd.kernel.fd import Fd
from lxcd.network import namespace
from lxcd.storage import image
from lxcd.storage.choice import ImageBusyError, ImageError
from lxcd.supervisor import limiting, nics, reports, walking
from lxcd.supervisor.patience import Patience
from lxcd.supervisor.records import RUNNING, STARTING, Record, text_of, write
from lxcd.supervisor.walking import failed
from lxcd.threads import in_thread, to_its_end

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lxcd.config.model import ContainerConfig, IdMapping, Problem
    from lxcd.container.resources import Resource
    from lxcd.network.device import Device
    from lxcd.supervisor.definition import Definition
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
    problems: tuple[Problem, ...]  # limits that the kernel has made something else of
    netlink: Fd | None = None  # a socket of rtnetlink in its network namespace, the caller's


def payload_name(config: ContainerConfig, name: str) -> str:
    """The container's cgroup, before a number is put behind it: LXC's names."""
    if config.cgroup_dir_container:
        return config.cgroup_dir_container
    own = f"lxc.payload.{name}"
    return f"{config.cgroup_dir}/{own}" if config.cgroup_dir else own


async def start(
    house: House,
    definition: Definition,
    made: plan.Plan,
    devices: Sequence[Device],
    record: Record,
    given: Mapping[str, int],
) -> Started:
    """Carry out `made`, with the caller's descriptors for some of its standard streams. The record
    of the new generation is on disk before anything is named after it.

    Raises StartFailed, or another LxcdError for what is no step of the plan. Nothing is left then
    but the record, which the caller replaces.
    """
    undo = AsyncExitStack()
    with house.pool.start():
        this = _Start(house, definition, made, devices, record, given, undo)
        try:
            return await this.to_the_end()
        except BaseException as error:
            # Nobody would know of what is left if lxcd's end cut this short.
            await to_its_end(undo.aclose())
            if isinstance(error, OSError):
                # No step of the child's, but something that lxcd needs for it: no descriptors left,
                # for one.
                raise failed(this.phase, error, -1, "default") from None
            raise


class _Start:
    """One start; what it does it puts on `undo`, until it has succeeded."""

    def __init__(
        self,
        house: House,
        definition: Definition,
        made: plan.Plan,
        devices: Sequence[Device],
        record: Record,
        given: Mapping[str, int],
        undo: AsyncExitStack,
    ) -> None:
        self._house = house
        self._config = config = definition.config
        self._limits = definition.limits
        self._problems: list[Problem] = []
        self._plan = made
        self._nics = nics.Nics(house, config, devices)
        self._namespace = Fd(-1)  # its network's, while devices are made for it
        self._namespaced = asyncio.Event()  # that is there
        self._record = record
        self._text = b""  # of the record once it has exec'ed
        self._given = given
        self._undo = undo
        self._fds: list[int] = []  # for the child
        self._patience = Patience()  # with an image that is busy
        self._payloads: list[tree.Payload] = []  # the last one is the container's
        self.phase = ""  # what is being done, of `faults.PHASES`

    def _enter(self, phase: str, child: Held | None) -> None:
        self.phase = phase
        self._house.faults.strike(f"phase:{phase}", child)

    async def to_the_end(self) -> Started:
        """Return once the program was exec'ed."""
        house, clock = self._house, _Clock()
        self._undo.callback(self._close_namespace)
        self._undo.push_async_callback(self._close)
        own = payload_name(self._config, self._record.name)
        self._record = self._record.but(nics=self._nics.foresee())
        self._enter("take", None)
        # Version 1 renames within one directory only, and a slot is at the top.
        inner = self._config.cgroup_dir_container_inner
        alone = self._config.cgroup_relative or "/" in own or bool(inner)
        prepared = await (self._alone(own) if alone else self._take())
        clock.note("prepare")
        with Fd(os.memfd_create("lxcd-progress", os.MFD_CLOEXEC)) as progress:
            self._enter("spec", prepared.child)
            # It has the calls before what they name is opened.
            program, fault = self._plan.program, house.faults.of_steps()
            if fault is not None:
                program = self._plan.spec.compile(len(self._plan.resources) + 1, fault)
            reports.send_spec(prepared.channel, program, progress.fileno())
            self._enter("claim", prepared.child)
            walk = walking.Walk(
                house, self._config, self._plan, prepared, program, progress.fileno()
            )
            try:
                await self._furnished(prepared, None if alone else own)
            except ProcessLookupError:
                await walk.has_ended()
            house.pool.used(prepared)
            clock.note("resources")
            if not self._plan.identity_later:
                self._namespaced.set()
            walk.known = lambda: self._note_running(prepared.child)
            walk.identify = lambda: self._identify_later(prepared.child)
            if limiting.rules_kept(self._limits) is not None:
                walk.restrict = self._restrict
            if self._nics.there:
                walk.network = self._begin_network(prepared.child)
            await walk.to_the_end(self._payloads[-1])
        clock.note("walk")
        child = prepared.child
        self._enter("record", child)
        if self._record.phase != RUNNING:
            # Its keeper was lost as it was born, and the next one has told of it.
            self._note_running(child)
        write(house.records, self._record, self._text)
        # From here on the container is there: descriptors go, the rest stays.
        self._undo.pop_all()
        self._close_namespace()
        if child.is_gone():
            # It has nothing any more: we are the last.
            house.begin(self._close())
        else:
            self._close_here()
        netlink, prepared.netlink = prepared.netlink, None
        prepared.close()
        return Started(child, self._record, clock.total(), tuple(self._problems), netlink)

    def _note_running(self, child: Held) -> None:
        """What is to be written down at the end, while it walks: then somebody waits for it."""
        ticks = procfs_start_time(child.pid)
        self._record = self._record.but(
            phase=RUNNING, pid=child.pid, start_time_ticks=ticks, intent=None
        )
        self._text = text_of(self._record)

    async def _close(self) -> None:
        """Close what is for the child. Whoever closes a root file system last unmounts it: that
        writes back what is dirty, for as long as it takes.
        """
        await in_thread(self._close_here)

    def _close_here(self) -> None:
        """The same where the container has it all, and no thread is needed for it."""
        kernel_fd.close_all([fd for fd in self._fds if fd >= 0])

    def _begin_network(self, child: Held) -> asyncio.Task[None]:
        """Have devices made beside the walk."""
        making = asyncio.get_running_loop().create_task(self._make_network(child))
        # One that fails is told of at the barrier, unless something else comes first.
        making.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._undo.push_async_callback(self._unmake_network, making)
        return making

    async def _make_network(self, child: Held) -> None:
        if self._house.faults.names("phase:network"):
            # It walks meanwhile, and is another process behind its fork.
            await self._house.keeper.known(child)
        try:
            self._house.faults.strike("phase:network", child)
        except OSError as error:
            raise failed("network", error, -1, "default") from None
        await self._namespaced.wait()
        await self._nics.make(self._record, child, self._namespace.fileno())

    async def _unmake_network(self, making: asyncio.Task[None]) -> None:
        # What is being made cannot be taken away before it is there.
        self._namespaced.set()
        await asyncio.wait([making])
        await self._nics.take_away(self._record)

    # ---- a child

    async def _take(self) -> Prepared:
        try:
            prepared = await self._house.pool.take(self._plan.flags)
        except OSError as error:
            raise failed("prepare", error, -1, "default") from None
        self._payloads.append(prepared.slot)
        self._undo.push_async_callback(_remove_cgroups, self._house, prepared, self._payloads)
        self._undo.push_async_callback(_abort, self._house, prepared)
        return prepared

    async def _alone(self, own: str) -> Prepared:
        """A child that moves into the container's cgroups itself."""
        self._undo.push_async_callback(_remove_cgroups, self._house, None, self._payloads)
        payload = await in_thread(self._claim, own, None)
        try:
            prepared = await self._house.pool.alone(self._plan.flags, payload)
        except OSError as error:
            raise failed("prepare", error, -1, "default") from None
        self._undo.push_async_callback(_abort, self._house, prepared)
        self._record = self._record.but(child=prepared.child.id)
        write(self._house.records, self._record)
        return prepared

    async def _furnished(self, prepared: Prepared, own: str | None) -> None:
        """One trip to a thread: each costs a tenth of a millisecond, more on a busy machine."""
        work = partial(self._furnish, prepared, own)
        while True:
            try:
                return await in_thread(work)
            except ImageBusyError:
                # Without a thread meanwhile: there are few of them, and others have work for them.
                await self._patience.pause()
            work = partial(self._supply, prepared)

    # ---- in a thread

    def _furnish(self, prepared: Prepared, own: str | None) -> None:
        """Cgroups, what the host has for the container, and its identity; then the child may walk.
        Raises ProcessLookupError if it has ended.
        """
        if own is not None:
            self._claim(own, prepared)
        self._enter("limit", prepared.child)
        self._problems = limiting.apply(
            self._house.trees,
            self._payloads[-1],
            self._limits,
            prepared=own is not None and prepared.limited,
        )
        self._enter("resources", prepared.child)
        self._supply(prepared)

    def _supply(self, prepared: Prepared) -> None:
        """Raises ImageBusyError if it is to be called again, and goes on then where it was."""
        self._open_resources()
        if not self._plan.identity_later:
            if self._config.idmap:
                self._identify(prepared.child)
            self._open_namespace(prepared.child)
        self._enter("walk", prepared.child)
        with contextlib.suppress(ConnectionError):
            # It has failed before it could read: its report says why.
            channel.send_fds(prepared.channel, self._fds)

    async def _restrict(self) -> None:
        await in_thread(limiting.restrict, self._payloads[-1], self._limits)

    async def _identify_later(self, child: Held) -> None:
        """At the barrier: its namespaces are there."""
        await in_thread(self._identify, child)
        self._open_namespace(child)
        self._namespaced.set()

    def _close_namespace(self) -> None:
        self._namespace.close()

    def _open_namespace(self, child: Held) -> None:
        """Before it walks on: this half of it ends, and its pid with it."""
        if not self._nics.there:
            return
        try:
            self._namespace = Fd(namespace.open_of(child.pid))
        except FileNotFoundError:
            raise ProcessLookupError from None
        except OSError as error:
            raise failed("network", error, -1, "default") from None

    def _identify(self, child: Held) -> None:
        """Raises ProcessLookupError if it has ended."""
        self._enter("identity", child)
        try:
            self._give_identity(child.pid)
        except FileNotFoundError as error:
            if os.path.exists(f"/proc/{child.pid}"):
                raise failed("identity", error, -1, self._config.idmap[0].origin) from None
            # It went away under our hands: that it did is the cause.
            raise ProcessLookupError from None
        except OSError as error:
            raise failed("identity", error, -1, self._config.idmap[0].origin) from None

    def _claim(self, own: str, prepared: Prepared | None) -> tree.Payload:
        """Have the container's cgroups, under a name that nobody has. Written down before."""
        trees = self._house.trees
        for _ in range(_CLAIMS):
            payload = tree.plan_payload(
                trees,
                own,
                relative=self._config.cgroup_relative,
                inner=self._config.cgroup_dir_container_inner,
            )
            if prepared is not None:
                payload = replace(payload, mark=prepared.slot.mark)
            self._note(payload, prepared.child.id if prepared is not None else "")
            self._payloads.append(payload)
            try:
                if prepared is not None:
                    tree.claim(trees, prepared.slot, payload)
                else:
                    tree.make(trees, payload)
            except FileExistsError:
                # Another lxcd was quicker.
                continue
            except OSError as error:
                raise failed("claim_cgroups", error, -1, "default") from None
            return payload
        raise errors.Aborted(
            f"no cgroup for {self._record.name}: others take every name first", "CGROUP_TAKEN"
        )

    def _note(self, payload: tree.Payload, child: str) -> None:
        self._record = self._record.but(
            phase=STARTING,
            child=child,
            cgroups=payload.directories,
            cgroups_made=payload.made,
            cgroups_mark=payload.mark,
            namespaces=self._plan.namespaces,
            shared=tuple(share.namespace for share in self._config.namespace_share),
            capabilities=self._plan.capabilities,
            no_new_privs=self._config.no_new_privs,
            device_rules=limiting.rules_kept(self._limits),
            command=self._plan.command,
            stop_requested=False,
            started_ns=time.time_ns(),
        )
        write(self._house.records, self._record)

    def _open_resources(self) -> None:
        """What the steps name, in their order; the cgroup of version 2 comes last."""
        for wanted in self._plan.resources[len(self._fds) :]:
            try:
                self._fds.append(self._opened(wanted))
            except ImageError as error:
                if isinstance(error, ImageBusyError) and self._patience.lasts(error):
                    raise
                raise fail(wanted.step, wanted.origin, str(error)) from None
            except OSError as error:
                if not wanted.optional:
                    raise failed(
                        wanted.step, error, -1, wanted.origin, what=wanted.describe()
                    ) from None
                self._fds.append(-1)
        try:
            self._fds.append(tree.open_unified(self._house.trees, self._payloads[-1]))
        except OSError as error:
            raise failed("open_cgroup", error, -1, "default") from None

    def _opened(self, wanted: Resource) -> int:
        if isinstance(wanted, Given):
            return os.dup(self._given[wanted.stream])
        if isinstance(wanted, MountImage):
            return image.mount_root(wanted)
        if isinstance(wanted, FitFstab):
            return wanted.open_below(self._fds[wanted.rootfs])
        return wanted.open()

    def _give_identity(self, pid: int) -> None:
        """Id maps of the prepared child's user namespace, and of mounts that follow them."""
        idmap = self._config.idmap
        identity.write_id_maps(pid, _ranges(idmap, "u"), _ranges(idmap, "g"))
        # Behind them comes the cgroup.
        for fd, wanted in zip(self._fds, self._plan.resources, strict=False):
            if not wanted.idmap or fd < 0:
                continue
            path = f"/proc/{pid}/ns/user" if wanted.idmap == "container" else wanted.idmap
            with Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as userns:
                try:
                    # What is mounted below has come along, and is shifted with it.
                    mount.mount_setattr(fd, userns_fd=userns.fileno(), recursive=True)
                except OSError as error:
                    where = "there, or of what is mounted below"
                    text = f"{wanted.describe()}: idmapped mounts are not possible {where}"
                    raise libc.oserror(error.errno or 0, "mount_setattr", text) from None


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


def _ranges(idmap: tuple[IdMapping, ...], kind: str) -> tuple[tuple[int, int, int], ...]:
    return tuple((m.first, m.host, m.count) for m in idmap if m.kind == kind and m.count)


async def _remove_cgroups(
    house: House, prepared: Prepared | None, payloads: list[tree.Payload]
) -> None:
    left: list[str] = []
    for payload in payloads:
        left += await in_thread(tree.remove, payload)
    if left:
        _log.error("cgroups could not be removed: %s", " ".join(left))
    elif prepared is not None:
        house.pool.used(prepared)


async def _abort(house: House, prepared: Prepared) -> None:
    """Kill it and wait until it is gone: the cgroups can be removed only then."""
    prepared.close()
    await prepared.child.killed()
    with contextlib.suppress(errors.Unavailable):
        house.keeper.forget(prepared.child)
