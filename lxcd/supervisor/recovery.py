"""What an lxcd finds when it comes: containers that go on, and what an earlier one had no time to
finish.

Records say what was, the keeper what is, the disk what was made. What had been begun is done or
undone, and told if the earlier lxcd has not told it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.kernel import procfs
from lxcd.kernel.fd import Fd
from lxcd.supervisor import consolelog, ending, making, nics, removal
from lxcd.supervisor.held import Held, unseen
from lxcd.supervisor.records import RUNNING, STOPPED, Deed, Intent, Record
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.events import Event
    from lxcd.supervisor.house import House
    from lxcd.supervisor.registry import Registry

_log = logging.getLogger(__name__)
_CUT_SHORT = "the daemon ended during the start"


class Recovery:
    """For once, before anything is asked of this lxcd."""

    def __init__(self, house: House, registry: Registry) -> None:
        self._house = house
        self._registry = registry

    async def run(self, execs: set[str]) -> None:
        """Bring together what the records say, what the keeper holds, and what is there. `execs`
        are children that somebody else has taken up.
        """
        children = self._house.keeper.children
        held = {id_: child for id_, child in children.items() if id_ not in execs}
        records = await in_thread(self._house.records.read_all)
        # First of all: what is swept must be an earlier lxcd's, and ends lead to deletes of ours.
        for path in await in_thread(self._sweep, {one.transient_dir for one in records}):
            self._house.events.add("daemon.swept", message=path, details={"path": path})
        for record in records:
            await self._container(record, held.pop(record.child, None))
        self._house.alarms.listen()
        for child in held.values():
            self._leave_alone(child)
        self._conclude_starts()

    # ---- one container

    async def _container(self, record: Record, child: Held | None) -> None:
        actor = self._registry.add(record.lxcpath, record.name)
        actor.record = record
        if record.phase == STOPPED:
            await self._stopped(actor, child)
        elif record.phase == RUNNING and child is not None:
            actor.adopt(child, record)
            actor.tell("container.adopted", state=actor.state, message=f"pid {child.pid}")
        elif record.phase == RUNNING and (orphan := _same_process(record)) is not None:
            # The keeper was lost; the pid and its start time still name the process.
            self._house.keeper.adopt(orphan)
            actor.adopt(orphan, record)
            text = f"pid {orphan.pid}, without its keeper"
            actor.tell("container.adopted", state=actor.state, message=text)
        else:
            await self._undo(actor, child)

    async def _stopped(self, actor: Container, child: Held | None) -> None:
        actor.child = child
        if child is not None and child.exited is not None:
            self._house.keeper.acknowledge(child)
            consolelog.finish(self._house, actor, child)
        ending.conclude(self._house, actor)
        match actor.record.intent:
            case Intent(deed=Deed.RESTART):
                self._house.begin(ending.follow_up(actor))
            case Intent(deed=Deed.VANISH):
                await ending.follow_up(actor)
            case Intent(deed=Deed.RENAME) as intent if not actor.defined:
                self._renamed(actor, intent)
            case intent if not actor.defined:
                await self._forget(actor, intent)
            case Intent(deed=Deed.CREATE) as intent:
                self._tell_once(actor, "container.created", intent)
                actor.intend_nothing()
            case Intent():
                # It is still there, and whole.
                making.finish_rename(actor.directory)
                actor.intend_nothing()
            case None:
                pass

    def _renamed(self, actor: Container, intent: Intent) -> None:
        making.finish_rename(os.path.join(actor.lxcpath, intent.new_name))
        try:
            self._registry.renamed(actor, intent.new_name)
        except errors.NotFound:
            # Both are gone: somebody has deleted it meanwhile.
            actor.forget()

    async def _forget(self, actor: Container, intent: Intent | None) -> None:
        """It is no more, or never came to be."""
        if actor.child is not None:
            self._house.keeper.forget(actor.child)
            actor.child = None
        directory, transient = actor.directory, actor.record.transient_dir
        owner = self._house.paths.runtime_dir
        kept = intent.kept if intent is not None else ()
        with contextlib.suppress(errors.LxcdError, OSError):
            if intent is not None:
                await in_thread(lambda: removal.finish(directory, owner=owner, keep=kept))
            await in_thread(lambda: removal.remove("", transient, owner=owner))
        actor.forget(told=intent is not None and self._is_known_gone(actor, intent))

    async def _undo(self, actor: Container, child: Held | None) -> None:
        """A start that lxcd did not see the end of, or a life that nobody saw the end of."""
        record = actor.record
        if child is not None:
            await child.killed()
        if record.phase == RUNNING:
            actor.child = child
            actor.adopt(child or unseen(record.child, record.pid), record)
            return
        config = None
        with contextlib.suppress(errors.LxcdError):
            config = actor.definition().config
        await nics.take_away(self._house, config, record)
        left = await in_thread(tree.remove, actor.payload)
        if left:
            _log.error("cgroups could not be removed: %s", " ".join(left))
        if child is not None:
            self._house.keeper.forget(child)
        actor.tell("container.start_failed", message=_CUT_SHORT)
        actor.record = record.but(phase=STOPPED, cgroups={}, cgroups_made=(), nics=(), pid=0)
        if actor.record.intent is not None:
            # It was to be its next life.
            actor.write_record()
            self._house.begin(ending.follow_up(actor))
        elif actor.defined:
            actor.write_record()
        else:
            await self._forget(actor, None)

    # ---- what was told

    def _told(self, actor: Container, type_: str, intent: Intent) -> bool:
        return self._house.events.has(type_, actor.lxcpath, actor.name, intent.after)

    def _is_known_gone(self, actor: Container, intent: Intent) -> bool:
        """Nobody knows of it, or everybody knows that it was deleted."""
        if intent.deed is Deed.CREATE:
            return not self._told(actor, "container.created", intent)
        return self._told(actor, "container.deleted", intent)

    def _tell_once(self, actor: Container, type_: str, intent: Intent) -> None:
        if not self._told(actor, type_, intent):
            actor.tell(type_)

    def _conclude_starts(self) -> None:
        """Tell of starts that ended before anything of them was written down."""
        for event in self._house.events.open_starts():
            try:
                actor = self._registry.get(event.lxcpath, event.container)
            except errors.LxcdError:
                actor = None
            if actor is not None and actor.state.alive:
                continue
            self._tell_of(event, "container.start_failed", _CUT_SHORT)
            if actor is None:
                self._tell_of(event, "container.deleted", "")

    def _tell_of(self, event: Event, type_: str, text: str) -> None:
        self._house.events.add(
            type_,
            container=event.container,
            lxcpath=event.lxcpath,
            generation=event.generation,
            message=text,
        )

    # ---- what belongs to none

    def _leave_alone(self, child: Held) -> None:
        """A child without a record: an exec whose caller is gone. It goes on; its output is let
        go.
        """
        if child.kind == "init":
            child.kill()

        def over(child: Held) -> None:
            with contextlib.suppress(errors.Unavailable):
                self._house.keeper.forget(child)

        for stream in child.streams.values():
            if stream.ring is not None and stream.ring.hold:
                stream.ring.set_hold(hold=False)
                self._house.keeper.drained(child, stream)
        child.on_exit = over
        if child.exited is not None:
            over(child)

    def _remove_unused(self, used: set[str]) -> None:
        """Directories of undefined containers of ours that are no more: the host went down."""
        above, owner = self._house.paths.transient, self._house.paths.runtime_dir
        ending = removal.ending("", owner)
        for name in os.listdir(above) if os.path.isdir(above) else []:
            path = os.path.join(above, name)
            if name.endswith(ending) and not name.startswith(".") and path not in used:
                with contextlib.suppress(errors.LxcdError):
                    removal.remove("", path, owner=owner)

    def _sweep(self, used: set[str]) -> list[str]:
        paths = self._house.paths
        self._remove_unused(used)
        making.finish_renames(paths.lxcpath)
        found = removal.sweep(paths.lxcpath, paths.runtime_dir)
        return found + removal.sweep(paths.transient, paths.runtime_dir)


def _same_process(record: Record) -> Held | None:
    """The init of a record by its pid, if that is still the same process."""
    try:
        pidfd = Fd(os.pidfd_open(record.pid))
    except OSError:
        return None
    try:
        # After the pidfd: what has this start time now, and is not gone, is what the pidfd holds.
        same = procfs.start_time(record.pid) == record.start_time_ticks
    except OSError:
        same = False
    if not same:
        pidfd.close()
        return None
    return Held(record.child, "init", record.pid, pidfd)
