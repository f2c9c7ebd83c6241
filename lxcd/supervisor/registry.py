"""Name -> actor: what is defined on disk, and what runs. Create, rename, delete."""

from __future__ import annotations

import asyncio
import contextlib
import os
from hashlib import blake2b
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config import names
from lxcd.images import host as host_image
from lxcd.images import ranges
from lxcd.supervisor import making, removal
from lxcd.supervisor.container import Container
from lxcd.supervisor.definition import CONFIG_NAME, Definition, read_text
from lxcd.supervisor.records import Deed
from lxcd.supervisor.state import State
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from lxcd.supervisor.house import House

# How long the output of a container that was deleted with its end can still be read.
ENDED_SECONDS = 30.0
_HOSTNAME = 64  # __NEW_UTS_LEN
# In place of an image: its configuration is all that it has.
_NO_IMAGE = "none"


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

    def init_of(self, lxcpath: str, name: str) -> int:
        """Pid of a container's init; 0 if it does not run."""
        actor = self._actors.get((lxcpath, name))
        if actor is None or actor.child is None or not actor.state.alive:
            return 0
        return actor.child.pid if actor.child.exited is None else 0

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
            # Its directory was removed by hand: that is a delete like any other.
            actor.forget_output()
            actor.forget()
            raise errors.NotFound(f"no container {name}", "CONTAINER_NOT_FOUND", container=name)
        return actor

    def is_defined(self, lxcpath: str, name: str) -> bool:
        """Whether it has a configuration on disk. Raises InvalidArgument for its name."""
        try:
            return self.get(lxcpath, name).defined
        except errors.NotFound:
            return False

    async def containers(self, lxcpath: str) -> list[Container]:
        """Everything that is defined in an lxcpath, or runs, by name."""
        lxcpath = self.lxcpath(lxcpath)
        # Only the look at the disk is a thread's; actors are the loop's alone.
        found = await in_thread(_scan, lxcpath)
        found |= {name for path, name in self._actors if path == lxcpath}
        actors: list[Container] = []
        for name in sorted(found):
            with contextlib.suppress(errors.NotFound):
                actors.append(self.get(lxcpath, name))
        return actors

    def running(self) -> list[Container]:
        """All that have an init, of every lxcpath."""
        return [actor for actor in self._actors.values() if actor.state.alive]

    def unstopped(self) -> list[Container]:
        """All that run, are about to, or will again without being asked, of every lxcpath."""
        return [
            actor
            for actor in self._actors.values()
            if actor.state is not State.STOPPED or actor.rebooting
        ]

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

    def add(self, lxcpath: str, name: str) -> Container:
        """An actor for a name, in the place of one that there may be, whether it exists or not."""
        actor = self._actors[lxcpath, name] = Container(self._house, lxcpath, name, self._gone)
        return actor

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
            if definition.config.rootfs is None and image != _NO_IMAGE:
                skeleton, whole = await self._furnish(image, directory, name, whole)
            definition = read_text(whole, os.path.join(directory, CONFIG_NAME))
            definition.require_sound()
            if validate_only:
                return definition
            actor = Container(self._house, lxcpath, name, self._gone)
            actor.intend(Deed.CREATE)
            try:
                await in_thread(
                    making.write_directory,
                    directory,
                    whole,
                    skeleton,
                    self._house.paths.runtime_dir,
                )
            except errors.LxcdError:
                self._house.records.delete(lxcpath, name)
                raise
        actor = self.get(lxcpath, name)
        actor.tell("container.created")
        if actor.record.generation == 0:
            # Else somebody has started it already, and that is what its record says.
            self._house.records.delete(lxcpath, name)
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
                    await in_thread(
                        making.write_transient, transient, skeleton, self._house.paths.runtime_dir
                    )
            actor = self.add(lxcpath, name)
        return actor, definition, transient

    def _transient(self, lxcpath: str, name: str) -> str:
        """Where the root file system of an undefined container is made."""
        # Names are unique in one lxcpath of one daemon only.
        key = f"{lxcpath}\0{name}".encode(errors="surrogateescape")
        own = blake2b(key, digest_size=8).hexdigest()
        paths = self._house.paths
        return os.path.join(paths.transient, own + removal.ending("", paths.runtime_dir))

    async def discard(self, actor: Container, transient: str) -> None:
        """Take back an undefined container that did not start. The caller holds its lock."""
        begun = actor.record.generation > 0
        if begun:
            actor.intend(Deed.DELETE)
        try:
            if transient:
                owner = self._house.paths.runtime_dir
                await in_thread(lambda: removal.remove("", transient, owner=owner))
        finally:
            actor.forget(told=not begun)

    async def rename(
        self, actor: Container, new_name: str, *, validate_only: bool = False
    ) -> Container:
        """Give a stopped container another name; its configuration follows. The caller holds its
        lock.
        """
        names.require_name(new_name)
        actor.require_existing()
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
            actor.intend(Deed.RENAME, new_name=new_name)
            try:
                await in_thread(making.rename, actor, target, new_name)
            except errors.LxcdError:
                actor.intend_nothing()
                raise
            return self.renamed(actor, new_name)

    def renamed(self, actor: Container, new_name: str) -> Container:
        """Have everybody know that its directory has another name now. What was told of that before
        a crash is not told again.
        """
        old, events = actor.record, self._house.events
        after = old.intent.after if old.intent is not None else 0
        self._gone(actor)
        new = self.get(actor.lxcpath, new_name)
        new.record = new.record.but(generation=old.generation, exit=old.exit)
        new.write_record()
        for one, text, details in (
            (new, f"from {actor.name}", {}),
            (actor, f"to {new_name}", {"new_name": new_name}),
        ):
            if not events.has("container.renamed", one.lxcpath, one.name, after):
                one.tell("container.renamed", message=text, details=details)
        self._house.records.delete(actor.lxcpath, actor.name)
        actor.deleted = True
        actor.wake()
        return new


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
