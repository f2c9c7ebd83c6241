"""One actor per container. Its operations come one after the other; its end may come at any time.

`lock` is held by whoever changes the container on request. The end of a life is handled beside it,
by `ending`, and always leads to STOPPED: whoever holds the lock waits for that through `settled`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from lxcd import errors, log
from lxcd.cgroup import freezer, tree
from lxcd.container import plan
from lxcd.images import host as host_image
from lxcd.supervisor import (
    consolelog,
    edits,
    ending,
    limiting,
    nics,
    ports,
    removal,
    start,
    stopping,
)
from lxcd.supervisor.changes import Changes
from lxcd.supervisor.definition import ConfigFile, Definition, from_texts, read_text, texts_of
from lxcd.supervisor.records import STOPPED, Deed, Intent, Record, Request
from lxcd.supervisor.state import TRANSITIONS, Exit, State
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lxcd.config.model import Share
    from lxcd.network.device import Device
    from lxcd.network.picture import Picture
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)
# How long an application's pipes wait for a reader who wants every byte.
_HOLD_SECONDS = 5.0


class Container(Changes):
    """A container that is defined, or runs, or both."""

    def __init__(
        self, house: House, lxcpath: str, name: str, gone: Callable[[Container], None]
    ) -> None:
        super().__init__()
        self._house = house
        self._gone = gone
        self.lxcpath = lxcpath
        self.name = name
        self._loop = asyncio.get_running_loop()
        self.file = ConfigFile(os.path.join(lxcpath, name), edited=self._edited)
        self._last_edit: dict[str, str] = {}
        self.record = Record(lxcpath, name, STOPPED)
        self.state = State.STOPPED
        self.state_reason = ""
        self.child: Held | None = None  # of the present life, or of the last one for its output
        self.running: Definition | None = None  # what the present life was started with
        self.network: Picture | None = None  # of its own, while it runs
        self.failure: errors.StartFailed | None = None  # of the last start, until one succeeds
        self.lock = asyncio.Lock()
        self.deleted = False
        self.rebooting = False  # between the end of one life and the start of the next
        self.stop_requested = False
        self.hurried = False  # a stop that waits for a clean shutdown is to kill now

    # ---- what it is

    @property
    def directory(self) -> str:
        """LXCPATH/NAME, whether it exists or not."""
        return self.file.directory

    @property
    def defined(self) -> bool:
        """It has a configuration on disk."""
        return self.file.exists()

    @property
    def payload(self) -> tree.Payload:
        """Its directories in the cgroup trees."""
        record = self.record
        return tree.Payload(record.cgroups, record.cgroups_made, record.cgroups_mark)

    def definition(self) -> Definition:
        """Its configuration: of the file as it is now, or of the text it was started with."""
        if self.record.config_text is not None and not self.defined:
            if self.running is not None:
                return self.running
            text = self.record.config_text.encode(errors="surrogateescape")
            return read_text(text, self.record.config_origin, self.record.request.defines)
        return self.file.read()

    def _edited(self, before: Definition, after: Definition) -> None:
        """Its file was changed by hand; on whatever thread that was noticed."""
        found = edits.details(before.config.lines, after.config.lines)
        # Comments are nobody's business; and the loop may be gone by then.
        if found["keys"]:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._tell_edit, found)

    def _tell_edit(self, found: dict[str, str]) -> None:
        # Two threads may have noticed the same.
        if found != self._last_edit and not self.deleted:
            self._last_edit = found
            details = {"by": "file", **found}
            self.tell("container.updated", message=edits.message(found), details=details)

    def tell_update(self, before: Definition, after: Definition, scope: str) -> None:
        """It was changed on request."""
        self._last_edit = {}
        old, new = ([*one.config.lines, *limiting.lines(one.settings)] for one in (before, after))
        found = edits.details(old, new)
        details = {"by": "request", "scope": scope, **found}
        self.tell("container.updated", message=edits.message(found), details=details)

    def _image(self) -> str:
        """What its root file system was made of; empty if that is not known."""
        if not self.defined:
            return host_image.NAME if self.record.transient_dir else ""
        return self.file.settings().image

    def vanished(self) -> bool:
        """It was defined, and somebody has removed its directory; nothing of it runs."""
        transient = self.record.transient_dir or self.record.config_text is not None
        busy = self.lock.locked() or self.state is not State.STOPPED
        return not (busy or transient or self.defined)

    # ---- states

    def set_state(self, state: State, reason: str = "") -> None:
        """Go to a state that may follow the present one, and tell everybody."""
        if state not in TRANSITIONS[self.state]:
            raise errors.Internal(f"{self.name}: {self.state.value} cannot become {state.value}")
        self.state = state
        self.state_reason = reason
        self.tell("container.state", state=state, message=reason)
        self.wake()

    async def settled(self) -> None:
        """Wait until an end that is under way is over."""
        await self.until(lambda: not self._ending())

    def _ending(self) -> bool:
        """Its init is gone and what it leaves is being cleaned up, or a start is being undone."""
        gone = self.child is None or self.child.exited is not None
        return self.state is State.ABORTING or (self.state.alive and gone)

    def tell(
        self,
        type_: str,
        *,
        state: State | None = None,
        exit_: Exit | None = None,
        message: str = "",
        details: dict[str, str] | None = None,
    ) -> None:
        """An event about it."""
        self._house.events.add(
            type_,
            container=self.name,
            lxcpath=self.lxcpath,
            generation=self.record.generation,
            state=state,
            exit_=exit_,
            message=message,
            details=details,
        )

    def require_running(self) -> Held:
        """Its init. Raises FailedPrecondition if it has none that can be talked to."""
        if self.child is None or not self.state.alive or self.child.exited is not None:
            raise errors.FailedPrecondition(
                f"container {self.name} is {self.state.value}, not RUNNING",
                "CONTAINER_NOT_RUNNING",
                container=self.name,
                state=self.state.value,
            )
        return self.child

    def require_stopped(self) -> None:
        """Raise FailedPrecondition if it runs, or is about to."""
        if self.state is not State.STOPPED:
            raise errors.FailedPrecondition(
                f"container {self.name} is {self.state.value}",
                "CONTAINER_RUNNING",
                container=self.name,
                state=self.state.value,
            )

    def require_existing(self) -> None:
        """Raise NotFound if it was deleted: behind its lock there may be nothing left, or another
        container of that name.
        """
        if self.deleted:
            raise errors.NotFound(
                f"no container {self.name}",
                "CONTAINER_NOT_FOUND",
                container=self.name,
                lxcpath=self.lxcpath,
            )

    def require_frozen(self) -> None:
        """Raise FailedPrecondition if it is not frozen."""
        self.require_running()
        if self.state is not State.FROZEN:
            raise errors.FailedPrecondition(
                f"container {self.name} is {self.state.value}, not FROZEN", "CONTAINER_NOT_FROZEN"
            )

    # ---- start

    def compile(
        self, definition: Definition, request: Request, given: Mapping[str, int] | None = None
    ) -> plan.Plan:
        """The plan of a start with this configuration and request, and the caller's descriptors
        for some of its standard streams.
        """
        definition.require_sound()
        life = plan.Life(
            name=self.name,
            directory=self.directory,
            command=request.command,
            application=request.application,
            pipes=request.pipes,
            stdin=request.stdin,
            given=frozenset(given or ()),
            idle=self._image() == host_image.NAME,
            whole_fstab=definition.settings.whole_fstab,
            shared={
                share.namespace: self._namespace(share)
                for share in definition.config.namespace_share
                if share.namespace in plan.SHAREABLE
            },
        )
        return self._house.plans.compile(definition, life)

    def _namespace(self, share: Share) -> str:
        """The file of a namespace that is to be shared: a path, a pid's, or a container's. Raises
        StartFailed.
        """
        if share.target.startswith("/"):
            return share.target
        pid = int(share.target) if share.target.isdecimal() else 0
        # A container's name may be a number; LXC takes that for a pid, too.
        pid = pid or self._house.init_of(self.lxcpath, share.target)
        if not pid:
            key = f"lxc.namespace.share.{share.namespace}"
            text = f"{share.origin}: {key}: container {share.target} does not run"
            raise errors.StartFailed(text, step="namespaces", origin=share.origin, index="-1")
        return f"/proc/{pid}/ns/{share.namespace}"

    async def start(
        self,
        definition: Definition,
        request: Request,
        *,
        transient_dir: str = "",
        given: Mapping[str, int] | None = None,
    ) -> start.Started:
        """Start it. The caller holds the lock, and keeps the descriptors that it gives.

        Raises StartFailed; the container is STOPPED then, and the reason stays to be seen. Raises
        NotFound if it was deleted before the caller had the lock, Unavailable while all are
        stopped.
        """
        await self.settled()
        self.require_existing()
        self.require_stopped()
        if self._house.drains:
            raise errors.Unavailable("lxcd is stopping all containers", "DRAINING")
        log.container.set(self.name)
        compiled = self.compile(definition, request, given)
        devices = nics.wanted(definition.config, self.lxcpath, self.name)
        self.forget_output()
        text = running = None
        if self.defined:
            running = texts_of(definition, request.defines)
        else:
            text = definition.text.decode(errors="surrogateescape")
        before = self.record
        # One in the pause of a reboot leaves that to go on, should lxcd not see the end of this.
        intent = before.intent if self.rebooting else None
        record = before.but(
            generation=before.generation + 1,
            request=request,
            config_text=text,
            config_origin=definition.origin if text is not None else "",
            transient_dir=transient_dir,
            exit=before.exit,
            intent=intent,
            running=running,
            nics=(),
            device_nodes=(),
            oom_kills=0,
            oom_sequence=self._house.alarms.sequence,
        )
        self.record = record
        self.stop_requested = False
        self.running = definition
        self.set_state(State.STARTING)
        try:
            started = await start.start(
                self._house, definition, compiled, devices, record, given or {}
            )
        except BaseException as error:
            self._not_started(before, error)
            raise
        self.failure = None
        # Whoever started it in the pause of a reboot has ended that.
        self.rebooting = False
        self.record = started.record
        self.child = started.child
        self.set_state(State.RUNNING)
        self.tell("container.started", message=" ".join(started.record.command))
        started.child.on_exit = self._on_exit
        # Of two that start at the same moment the second sees the first.
        twice = self._house.addresses.twice(devices)
        self._house.addresses.begin(self, started.child, devices, started.netlink)
        self._house.alarms.begin(self)
        consolelog.keep(self._house, self, started.child, definition.config)
        if request.pipes:
            loop = asyncio.get_running_loop()
            loop.call_later(_HOLD_SECONDS, ports.release_unread, self._house.keeper, started.child)
        if started.child.exited is not None:
            self._on_exit(started.child)
        return replace(started, problems=(*started.problems, *twice))

    def _not_started(self, before: Record, error: BaseException) -> None:
        self.running = None
        if isinstance(error, errors.StartFailed):
            self.failure = error
        reason = error.text if isinstance(error, errors.LxcdError) else "the start was cancelled"
        metadata = error.metadata if isinstance(error, errors.LxcdError) else {}
        self.set_state(State.ABORTING, reason)
        self.tell("container.start_failed", message=reason, details=metadata)
        # The number was used: output and events of the attempt carry it.
        intent = before.intent if self.rebooting else None
        self.record = before.but(generation=self.record.generation, phase=STOPPED, intent=intent)
        self.write_record()
        self.set_state(State.STOPPED, reason)

    def write_record(self) -> bool:
        """Have its record on disk. False if it could not be written: then the old one is there."""
        try:
            self._house.records.write(self.record)
        except OSError as error:
            _log.error("the record of %s could not be written: %s", self.name, error)
            return False
        return True

    def intend(self, deed: Deed, *, new_name: str = "", kept: tuple[str, ...] = ()) -> None:
        """Write down what is done next. A full disk does not keep anybody from it."""
        intent = Intent(deed, self._house.events.last, new_name, kept)
        self.record = self.record.but(intent=intent)
        self.write_record()

    def intend_nothing(self) -> None:
        """It was not done."""
        self.record = self.record.but(intent=None)
        self.write_record()
        self.wake()

    def forget_output(self) -> None:
        """Its last life's output is not wanted any more."""
        if self.child is not None:
            with contextlib.suppress(errors.Unavailable):
                self._house.keeper.forget(self.child)
            self.child = None

    # ---- the end of a life

    def adopt(self, child: Held, record: Record) -> None:
        """It was found running when this lxcd came."""
        self.record = record
        self.child = child
        self.stop_requested = record.stop_requested
        self.state = State.RUNNING
        with contextlib.suppress(OSError, errors.LxcdError):
            if freezer.is_frozen(self.payload):
                self.state = State.FROZEN
            else:
                # An earlier lxcd was gone before it was.
                freezer.take_back(self.payload)
        devices: tuple[Device, ...] = ()
        with contextlib.suppress(errors.LxcdError):
            texts = record.running
            self.running = from_texts(texts, self.file.path) if texts else self.definition()
            consolelog.keep(self._house, self, child, self.running.config)
            devices = nics.wanted(self.running.config, self.lxcpath, self.name)
        child.on_exit = self._on_exit
        self._house.addresses.begin(self, child, devices)
        self._house.alarms.begin(self, found=True)
        if record.stop_requested and child.exited is None:
            self._house.begin(stopping.cut_off(self, child))
        if child.exited is not None:
            self._on_exit(child)

    def _on_exit(self, child: Held) -> None:
        # Where lxcd leaves, the next one hears of it: nobody has acknowledged it.
        if self.child is child and self.state.alive and not self._house.ended:
            child.on_exit = None
            self._house.addresses.end(self)
            self._house.begin(ending.finish(self._house, self, child))

    async def delete(self) -> str:
        """Delete what is its own. The caller holds the lock. Raises FailedPrecondition unless it is
        STOPPED.

        Returns a root file system that was left alone.
        """
        self.require_stopped()
        kept = self.kept_paths()
        directory = self.directory if self.defined else ""
        transient = self.record.transient_dir
        owner = self._house.paths.runtime_dir
        self.intend(Deed.DELETE, kept=tuple(kept))
        try:
            await in_thread(lambda: removal.remove(directory, transient, owner=owner, keep=kept))
        except errors.LxcdError:
            self.intend_nothing()
            raise
        self.forget()
        return ":".join(kept)

    def kept_paths(self) -> list[str]:
        """Parts of its root file system that a delete leaves alone."""
        try:
            root = self.definition().config.rootfs
        except errors.LxcdError:
            return []
        return removal.kept_paths(root, [self.directory, self.record.transient_dir])

    def forget(self, *, told: bool = False) -> None:
        """It is no more; `told`: everybody knows."""
        self.deleted = True
        if not told:
            self.tell("container.deleted")
        self._house.records.delete(self.lxcpath, self.name)
        self._gone(self)
        self.wake()

    # ---- stop

    async def stop(self, patience: float | None, *, no_kill: bool = False) -> stopping.Stopped:
        """Stop it: see `stopping.stop`. The caller holds the lock."""
        return await stopping.stop(self, patience, no_kill=no_kill)

    def hurry(self) -> bool:
        """Have a stop that is under way kill now. False if there is none: then ask for one."""
        if self.state is not State.STOPPING or not self.stop_requested:
            return False
        self.hurried = True
        self.wake()
        return True

    def note_stop(self, *, requested: bool) -> None:
        """Remember, also for the next lxcd, whether somebody wants it to end."""
        self.hurried = False
        self.stop_requested = requested
        self.record = self.record.but(stop_requested=requested)
        self.write_record()

    # ---- the rest of a life

    def send_signal(self, number: int) -> None:
        """Send a signal to init."""
        child = self.require_running()
        try:
            signal.pidfd_send_signal(child.pidfd.fileno(), number)
        except OSError as error:
            raise errors.from_oserror(error, f"sending signal {number} to {self.name}") from None
