"""Name -> actor: what is defined on disk, and what runs. Create, rename, delete; what a restart
finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from hashlib import blake2b
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.config import names
from lxcd.images import host as host_image
from lxcd.images import ranges
from lxcd.kernel import procfs
from lxcd.kernel.fd import Fd
from lxcd.supervisor import consolelog, making, removal
from lxcd.supervisor.container import Container
from lxcd.supervisor.definition import CONFIG_NAME, Definition, read_text
from lxcd.supervisor.held import Held
from lxcd.supervisor.records import RUNNING, STOPPED, Record
from lxcd.supervisor.state import State

if TYPE_CHECKING:
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)
# How long the output of a container that was deleted with its end can still be read.
ENDED_SECONDS = 30.0
_HOSTNAME = 64  # __NEW_UTS_LEN


class Registry:
    """All containers of one daemon. A container that has no lxcpath of its own is in the default
    one.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._actors: dict[tuple[str, str], Container] = {}
        self._making = asyncio.Lock()  # of names and id ranges
        self._ended: dict[tuple[str, str], Container] = {}
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}

    # ---- finding

    def lxcpath(self, asked: str) -> str:
        """The directory that a request means."""
        if not asked:
            return self._house.paths.lxcpath
        if not asked.startswith("/") or "\0" in asked:
            raise errors.InvalidArgument(f"lxcpath {asked!r} is not absolute", "INVALID_LXCPATH")
        return os.path.normpath(asked)

    def get(self, lxcpath: str, name: str) -> Container:
        """The actor of a container that exists. Raises NotFound, or InvalidArgument for its
        name.
        """
        names.require_name(name)
        lxcpath = self.lxcpath(lxcpath)
        actor = self._actors.get((lxcpath, name))
        if actor is None:
            actor = Container(self._house, lxcpath, name, self._gone)
            if not actor.defined:
                raise errors.NotFound(
                    f"no container {name}", "CONTAINER_NOT_FOUND", container=name, lxcpath=lxcpath
                )
            self._actors[lxcpath, name] = actor
        elif actor.vanished():
            # Its directory was removed by hand.
            del self._actors[lxcpath, name]
            raise errors.NotFound(f"no container {name}", "CONTAINER_NOT_FOUND", container=name)
        return actor

    async def containers(self, lxcpath: str) -> list[Container]:
        """Everything that is defined in an lxcpath, or runs, by name."""
        lxcpath = self.lxcpath(lxcpath)
        # Only the look at the disk is a thread's; actors are the loop's alone.
        found = await asyncio.to_thread(_scan, lxcpath)
        found |= {name for path, name in self._actors if path == lxcpath}
        actors: list[Container] = []
        for name in sorted(found):
            with contextlib.suppress(errors.NotFound):
                actors.append(self.get(lxcpath, name))
        return actors

    def running(self) -> list[Container]:
        """All that have an init, of every lxcpath."""
        return [actor for actor in self._actors.values() if actor.state.alive]

    def get_or_ended(self, lxcpath: str, name: str) -> Container:
        """The same, or one that was deleted with its end a moment ago: its output and exit can be
        read for a while by those who had no time to.
        """
        try:
            return self.get(lxcpath, name)
        except errors.NotFound:
            ended = self._ended.get((self.lxcpath(lxcpath), name))
            if ended is None:
                raise
            return ended

    def _gone(self, actor: Container) -> None:
        key = (actor.lxcpath, actor.name)
        if self._actors.get(key) is actor:
            del self._actors[key]
        self._let_go(key)
        if actor.child is not None:
            self._ended[key] = actor
            self._timers[key] = asyncio.get_running_loop().call_later(
                ENDED_SECONDS, self._let_go, key
            )

    def _let_go(self, key: tuple[str, str]) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        ended = self._ended.pop(key, None)
        if ended is not None:
            ended.forget_output()

    def close(self) -> None:
        """Let go of timers."""
        for key in list(self._timers):
            self._let_go(key)

    # ---- making

    async def create(
        self,
        lxcpath: str,
        name: str,
        text: bytes,
        origin: str,
        defines: tuple[tuple[str, str], ...],
        image: str,
        *,
        validate_only: bool,
    ) -> Container | Definition:
        """Define a container. With `validate_only` only its configuration comes back."""
        names.require_name(name)
        lxcpath = self.lxcpath(lxcpath)
        directory = os.path.join(lxcpath, name)
        async with self._making:
            self._require_free(lxcpath, name)
            whole = making.with_defines(
                text, (("lxc.uts.name", name[:_HOSTNAME]), *defines), keep_first="lxc.uts.name"
            )
            definition = read_text(whole, origin or "request")
            if validate_only and any(p.severity == "error" for p in definition.problems):
                # Whoever asks for a check wants to see all that is wrong, not the first.
                return definition
            definition.require_sound()
            skeleton = None
            if definition.config.rootfs is None:
                skeleton, whole = await self._furnish(image, directory, name, whole)
            definition = read_text(whole, os.path.join(directory, CONFIG_NAME))
            definition.require_sound()
            if validate_only:
                return definition
            await asyncio.to_thread(
                making.write_directory, directory, whole, skeleton, self._house.paths.runtime_dir
            )
        actor = self.get(lxcpath, name)
        actor.tell("container.created")
        return actor

    def _require_free(self, lxcpath: str, name: str) -> None:
        if os.path.lexists(os.path.join(lxcpath, name)) or (lxcpath, name) in self._actors:
            raise errors.AlreadyExists(
                f"container {name} exists", "CONTAINER_EXISTS", container=name
            )

    async def _furnish(
        self, image: str, directory: str, name: str, text: bytes
    ) -> tuple[host_image.Skeleton, bytes]:
        """The image's part of a configuration that has no rootfs, behind what it says itself."""
        if image not in ("", host_image.NAME):
            raise errors.NotFound(f"no image {image}", "IMAGE_NOT_FOUND", image=image)
        own = read_text(text, "request").config
        first = None if own.idmap else await self._free_range()
        skeleton = host_image.skeleton(name)
        lines = host_image.config_items(os.path.join(directory, "rootfs"), first, own)
        return skeleton, making.with_defines(text, lines)

    async def _free_range(self) -> int:
        """Host ids that no container of any lxcpath that this daemon has seen uses."""
        taken: list[tuple[int, int]] = []
        for lxcpath in {self._house.paths.lxcpath, *(path for path, _ in self._actors)}:
            for actor in await self.containers(lxcpath):
                with contextlib.suppress(errors.LxcdError):
                    taken.extend((m.host, m.count) for m in actor.definition().config.idmap)
        try:
            return ranges.free_range(taken)
        except ValueError as error:
            raise errors.ResourceExhausted(str(error), "ID_RANGES_EXHAUSTED") from None

    async def undefined(
        self,
        lxcpath: str,
        name: str,
        text: bytes,
        origin: str,
        defines: tuple[tuple[str, str], ...],
        image: str,
        *,
        validate_only: bool,
    ) -> tuple[Container, Definition, str]:
        """An actor for a container without a directory: its configuration, and a directory that
        lives as long as it does (empty if it needs none).
        """
        names.require_name(name)
        lxcpath = self.lxcpath(lxcpath)
        async with self._making:
            self._require_free(lxcpath, name)
            definition = read_text(text, origin or "request", defines)
            definition.require_sound()
            transient = ""
            if definition.config.rootfs is None and (image or not text.strip()):
                transient = self._transient(lxcpath, name)
                whole = making.with_defines(text, defines)
                skeleton, whole = await self._furnish(image, transient, name, whole)
                definition = read_text(whole, origin or "request")
                definition.require_sound()
                if not validate_only:
                    await asyncio.to_thread(
                        making.write_transient, transient, skeleton, self._house.paths.runtime_dir
                    )
            actor = Container(self._house, lxcpath, name, self._gone)
            self._actors[lxcpath, name] = actor
        return actor, definition, transient

    def _transient(self, lxcpath: str, name: str) -> str:
        """Where the root file system of an undefined container is made."""
        # Names are unique in one lxcpath of one daemon only.
        key = f"{lxcpath}\0{name}".encode(errors="surrogateescape")
        own = blake2b(key, digest_size=8).hexdigest()
        paths = self._house.paths
        return os.path.join(paths.transient, own + removal.ending("", paths.runtime_dir))

    async def discard(self, actor: Container, transient: str) -> None:
        """Take back an undefined container that did not start."""
        self._gone(actor)
        self._house.records.delete(actor.lxcpath, actor.name)
        if transient:
            await asyncio.to_thread(self._remove_transient, transient)

    async def rename(
        self, actor: Container, new_name: str, *, validate_only: bool = False
    ) -> Container:
        """Give a stopped container another name; its configuration follows. The caller holds its
        lock.
        """
        names.require_name(new_name)
        if actor.state is not State.STOPPED or not actor.defined:
            raise errors.FailedPrecondition(
                f"container {actor.name} is {actor.state.value}: stop it before it is renamed",
                "CONTAINER_RUNNING",
            )
        target = os.path.join(actor.lxcpath, new_name)
        async with self._making:
            self._require_free(actor.lxcpath, new_name)
            if validate_only:
                return actor
            await asyncio.to_thread(making.rename, actor, target, new_name)
            self._gone(actor)
            self._house.records.delete(actor.lxcpath, actor.name)
        renamed = self.get(actor.lxcpath, new_name)
        renamed.record = renamed.record.but(
            generation=actor.record.generation, exit=actor.record.exit
        )
        renamed.write_record()
        actor.deleted = True
        actor.wake()
        renamed.tell("container.renamed", message=f"from {actor.name}")
        actor.tell("container.renamed", message=f"to {new_name}", details={"new_name": new_name})
        return renamed

    # ---- after a restart of the daemon

    async def recover(self, execs: set[str]) -> None:
        """Bring together what the records say, what the keeper holds, and what is there. `execs`
        are children that somebody else has taken up.
        """
        children = self._house.keeper.children
        held = {id_: child for id_, child in children.items() if id_ not in execs}
        for record in await asyncio.to_thread(self._house.records.read_all):
            await self._recover_one(record, held.pop(record.child, None))
        for child in held.values():
            self._leave_alone(child)
        self._conclude_starts()
        used = {actor.record.transient_dir for actor in self._actors.values()}
        await asyncio.to_thread(self._remove_unused, used)
        await asyncio.to_thread(making.finish_renames, self._house.paths.lxcpath)
        swept = await asyncio.to_thread(self._sweep)
        for path in swept:
            self._house.events.add("daemon.swept", message=path, details={"path": path})

    def _conclude_starts(self) -> None:
        """Tell of starts that ended before anything of them was written down."""
        for event in self._house.events.open_starts():
            actor = self._actors.get((event.lxcpath, event.container))
            if actor is None or not actor.state.alive:
                self._house.events.add(
                    "container.start_failed",
                    container=event.container,
                    lxcpath=event.lxcpath,
                    generation=event.generation,
                    message="the daemon ended during the start",
                )

    async def _recover_one(self, record: Record, child: Held | None) -> None:
        actor = Container(self._house, record.lxcpath, record.name, self._gone)
        actor.record = record
        if record.phase == STOPPED:
            if actor.defined:
                actor.child = child
                self._actors[record.lxcpath, record.name] = actor
                if child is not None and child.exited is not None:
                    self._house.keeper.acknowledge(child)
                    consolelog.finish(self._house, actor, child)
                actor.conclude()
                return
            await self._forget_undefined(actor, child)
            return
        self._actors[record.lxcpath, record.name] = actor
        if record.phase == RUNNING and child is not None:
            actor.adopt(child, record)
            actor.tell("container.adopted", state=actor.state, message=f"pid {child.pid}")
            return
        if record.phase == RUNNING and (orphan := _same_process(record)) is not None:
            # The keeper was lost; the pid and its start time still name the process.
            self._house.keeper.adopt(orphan)
            actor.adopt(orphan, record)
            text = f"pid {orphan.pid}, without its keeper"
            actor.tell("container.adopted", state=actor.state, message=text)
            return
        await self._undo(actor, child)

    async def _undo(self, actor: Container, child: Held | None) -> None:
        """A start that lxcd did not see the end of, or a life that nobody saw the end of."""
        record = actor.record
        if child is not None:
            await child.killed()
        if record.phase == RUNNING:
            actor.child = child
            unseen = self._house.keeper.unseen(record.child, record.pid)
            actor.adopt(child or unseen, record)
            return
        left = await asyncio.to_thread(tree.remove, actor.payload)
        if left:
            _log.error("cgroups could not be removed: %s", " ".join(left))
        if child is not None:
            self._house.keeper.forget(child)
        actor.tell("container.start_failed", message="the daemon ended during the start")
        actor.record = record.but(phase=STOPPED, cgroups={}, cgroups_made=(), pid=0)
        if actor.defined:
            self._house.records.write(actor.record)
        else:
            await self._forget_undefined(actor, None)

    async def _forget_undefined(self, actor: Container, child: Held | None) -> None:
        if child is not None:
            self._house.keeper.forget(child)
        with contextlib.suppress(errors.LxcdError):
            await asyncio.to_thread(self._remove_transient, actor.record.transient_dir)
        self._gone(actor)
        self._house.records.delete(actor.lxcpath, actor.name)

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
        above = self._house.paths.transient
        ending = removal.ending("", self._house.paths.runtime_dir)
        for name in os.listdir(above) if os.path.isdir(above) else []:
            path = os.path.join(above, name)
            if name.endswith(ending) and not name.startswith(".") and path not in used:
                with contextlib.suppress(errors.LxcdError):
                    self._remove_transient(path)

    def _remove_transient(self, path: str) -> None:
        removal.remove("", path, owner=self._house.paths.runtime_dir)

    def _sweep(self) -> list[str]:
        paths = self._house.paths
        found = removal.sweep(paths.lxcpath, paths.runtime_dir)
        return found + removal.sweep(paths.transient, paths.runtime_dir)


def _scan(lxcpath: str) -> set[str]:
    """What may be containers, by name."""
    try:
        with os.scandir(lxcpath) as entries:
            return {
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and not names.reason(entry.name)
            }
    except (FileNotFoundError, NotADirectoryError):
        return set()


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
