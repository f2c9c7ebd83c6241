"""lxcd's side of a child's walk: what barriers ask for, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
from typing import TYPE_CHECKING, NoReturn

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.container import channel, plan
from lxcd.container.fault import BARRIER
from lxcd.container.mounts import MountTree
from lxcd.container.namespaces import Fork
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc
from lxcd.supervisor import reports
from lxcd.supervisor.stop import signal_name
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lxcd.config.model import ContainerConfig, IdMapping, ResourceLimit
    from lxcd.container.calls import Program
    from lxcd.supervisor.house import House
    from lxcd.supervisor.pool import Prepared


class Walk:
    """lxcd's side of the child's walk: does what barriers ask for, and learns how it ended."""

    def __init__(
        self,
        house: House,
        config: ContainerConfig,
        made: plan.Plan,
        prepared: Prepared,
        program: Program,
        progress: int,
    ) -> None:
        """`network` is set, if there is something to wait for, before the walk."""
        self._house = house
        self._config = config
        self._plan = made
        self._child = prepared.child
        self._socket = prepared.channel
        self._program = program
        self._progress = progress
        self._delegated: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._origin = ""  # the line that is obeyed at a barrier
        self._released: set[str] = set()  # it may pass these
        self.known: Callable[[], None] = lambda: None  # called once it is what it goes on as
        self.network: asyncio.Task[None] | None = None  # making devices
        self.identify: Callable[[], Awaitable[None]]  # writes the id maps
        # What it may not do itself when its /dev is made, and must not do afterwards.
        self.restrict: Callable[[], Awaitable[None]] | None = None

    async def to_the_end(self, payload: tree.Payload) -> None:
        """Return once the child, which sits in `payload`, has exec'ed its program. Raises
        StartFailed.
        """
        self._house.begin(self._delegate(payload))
        stops = {plan.IDENTITY, plan.LIMITS} & self._plan.barriers.keys()
        if not stops and not self._house.faults.expected:
            self._house.begin(self._release_ahead())
        executing = False
        while True:
            report = await reports.next_report(self._socket, self._program)
            match report:
                case None:
                    break
                case channel.Reached():
                    await self._at_barrier(report.barrier)
                    self._let_go(report.barrier)
                case channel.Failed():
                    if reports.is_cut_off(report):
                        await self._noticed()
                    raise self._step_failed(report)
                case channel.Executing():
                    executing = True
                case channel.Prepared():
                    raise errors.Internal("a child was prepared twice")
        if not executing:
            await self.has_ended()

    def _let_go(self, barrier: str) -> None:
        """Send GO; once for those for which it may have been sent ahead."""
        if barrier in (plan.NETWORK, plan.READY):
            if barrier in self._released:
                return
            self._released.add(barrier)
        # If it has died meanwhile, its end is read next.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            channel.send_go(self._socket)

    async def _release_ahead(self) -> None:
        """Have it pass the barriers without a stop, if all that is waited for there is done before
        it comes.
        """
        # If something fails, that is told when it has come.
        with contextlib.suppress(OSError, errors.LxcdError):
            if plan.NETWORK in self._plan.barriers:
                await self._networked()
                if self._socket.fileno() < 0:
                    return
                self._let_go(plan.NETWORK)
            if self.restrict is not None:
                return
            if await self._house.keeper.known(self._child, *self._plan.streams):
                await asyncio.shield(self._delegated)
                if self._socket.fileno() >= 0:
                    self._let_go(plan.READY)

    async def _noticed(self) -> None:
        """The child could not hand something to the keeper: that this is lost is what we are told
        next.
        """
        keeper, child = self._house.keeper, self._child
        await child.until(lambda: child.exited is not None or keeper.lost(child))

    async def _known(self, *streams: str) -> None:
        """Wait until all of it is held here: what is not cannot be handed to the next keeper."""
        if not await self._house.keeper.known(self._child, *streams):
            await self.has_ended()

    async def has_ended(self) -> NoReturn:
        """It is gone and has not said why; or it is to go, as its keeper is gone. Raises
        StartFailed.
        """
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
            index = channel.step_of(self._progress)
            if index > [type(step) for step in self._plan.spec.steps].index(Fork):
                # Behind the fork it is another process.
                await self._known()
            self._house.faults.strike(f"step:{index}", self._child)
            return
        index = self._plan.barriers[barrier]
        step = self._plan.spec.steps[index]
        self._origin = step.origin
        try:
            if barrier != plan.IDENTITY:
                # Whoever comes to another barrier has forked: until that is known here, `pid` and
                # `pidfd` are those of the first half.
                await self._known()
            self._house.faults.strike(f"barrier:{barrier}", self._child)
            await self._do_at(barrier)
        except errors.StartFailed as error:
            error.metadata["index"] = str(index)
            raise
        except OSError as error:
            if self._child.exited is not None or isinstance(error, ProcessLookupError):
                # It went away under our hands: that it did is the cause.
                await self.has_ended()
            what = step.describe()
            raise failed(step.name, error, index, self._origin, what=what) from None

    async def _do_at(self, barrier: str) -> None:
        match barrier:
            case plan.IDENTITY:
                await self.identify()
            case plan.LIMITS:
                await self._set_limits()
            case plan.NETWORK:
                await self._networked()
            case plan.READY:
                # Nothing runs that nobody could end, or whose output nobody could follow.
                await self._known(*self._plan.streams)
                await self._delegated
                if self.restrict is not None:
                    await self.restrict()
            case _:
                pass

    async def _set_limits(self) -> None:
        for limit in self._config.prlimits:
            self._origin = limit.origin
            set_limit(self._child.pid, limit)
        for setting in self._config.procs:
            self._origin = setting.origin
            path = f"/proc/{self._child.pid}/{setting.name}"
            await in_thread(kernel_fd.write_once, -1, path, setting.value.encode())

    async def _networked(self) -> None:
        """Raises StartFailed if a device could not be made."""
        if self.network is not None:
            try:
                await asyncio.shield(self.network)
            except errors.StartFailed:
                if self._child.is_gone() or self._house.keeper.lost(self._child):
                    # It went away under our hands: that it did is the cause.
                    await self.has_ended()
                raise

    async def _delegate(self, payload: tree.Payload) -> None:
        """Give the container its cgroups, beside the walk: not before it is born in them, or it
        would not be allowed to.
        """
        try:
            born = await self._house.keeper.known(self._child)
            if born:
                self.known()
            if self._config.idmap and born:
                root = host_root(self._config.idmap)
                await in_thread(tree.delegate, self._house.trees, payload, *root)
        except OSError as error:
            self._delegated.set_exception(error)
            # A child that has failed does not ask.
            self._delegated.exception()
        else:
            self._delegated.set_result(None)

    def _step_failed(self, report: channel.Failed) -> errors.StartFailed:
        origin, what = "default", report.step
        if 0 <= report.index < len(self._plan.spec.steps):
            step = self._plan.spec.steps[report.index]
            origin, what = step.origin, step.describe()
            if isinstance(step, MountTree) and step.fd >= 0:
                what = f"{what} ({self._plan.resources[step.fd].describe()})"
        where = f" [{origin}]" if origin != "default" else ""
        call = f"{report.syscall}: " if report.syscall else ""
        if self._house.keeper.lost(self._child):
            # Its terminals have hung up, nobody takes what it hands over.
            where = f" (the keeper was lost){where}"
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


def host_root(idmap: tuple[IdMapping, ...]) -> tuple[int, int]:
    """Host ids of the container's root."""
    found = {"u": 0, "g": 0}
    for mapping in idmap:
        if mapping.first == 0:
            found[mapping.kind] = mapping.host
    return found["u"], found["g"]


def set_limit(pid: int, limit: ResourceLimit) -> None:
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


def failed(
    step: str, error: OSError, index: int, origin: str, what: str = ""
) -> errors.StartFailed:
    """The error of a system call of ours that a start could not do without."""
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
