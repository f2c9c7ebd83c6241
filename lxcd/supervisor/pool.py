"""Prepared children: forked, in namespaces and version 1 cgroups of their own, waiting to become a
container; and others, in none, waiting to become an exec.

They take the clone, and on version 1 a directory in every tree, out of the caller's time. Each is
used once or never. In stock are a few, or as many as were asked for of late one right after the
other, faster than one is made: some 20 kB of memory each, and what its namespaces cost the kernel.
Their directories are journaled before they are made; a rename makes them the container's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import math
import os
import socket
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup import tree
from lxcd.container import channel
from lxcd.kernel import fd as kernel_fd
from lxcd.supervisor import limiting, reports
from lxcd.supervisor.keeper import gone
from lxcd.supervisor.records import DAMAGED, plain, write_whole
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from lxcd.kernel.fd import Fd
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)
_MAKING_SECONDS = 0.05  # one is made in less, on a busy machine
_WARM_SECONDS = 600.0  # after the last start of its kind, some are kept
_BURST_SECONDS = 60.0  # after the last of several, that many
_LOOK_SECONDS = 5.0
_LEAST = 4  # of what is wanted at all: few programs start just one container
_REMEMBERED = 100
_PLANNED = 8  # slots that are written down together
_KEEPERS = 3  # that may die in a row while one child is made
_SLOTS = 3  # whose names others may take in between


def wanted(starts: Iterable[float], now: float, maximum: int) -> int:
    """How many to have in stock of a kind that was asked for at these times: as the longest row of
    starts that came faster than one is made, or a few.
    """
    longest = row = 0
    before = -math.inf
    for start in sorted(starts):
        if now - start < _WARM_SECONDS:
            is_row = start - before < _MAKING_SECONDS and now - start < _BURST_SECONDS
            row = row + 1 if is_row else 1
            longest = max(longest, row, _LEAST)
            before = start
    return min(maximum, longest)


@dataclass(frozen=True, slots=True)
class _Key:
    """What children are alike in."""

    kind: str  # of protocol.Prepare
    flags: int = 0


_EXEC = _Key("exec")


@dataclass(slots=True)
class Prepared:
    """A child in its slot, and our end of its channel. Whoever took it owns all of it."""

    child: Held
    channel: socket.socket
    slot: tree.Payload
    limited: bool = False  # the slot has the limits already that are the default
    # A socket of rtnetlink, if it has a network namespace of its own: to watch that by.
    netlink: Fd | None = None

    def close(self) -> None:
        """Let go of all but the child and its slot."""
        self.channel.close()
        if self.netlink is not None:
            self.netlink.close()


@dataclass(slots=True)
class _Kind:
    """Children with the same namespaces."""

    stock: deque[Prepared] = field(default_factory=deque[Prepared])
    starts: deque[float] = field(default_factory=lambda: deque[float](maxlen=_REMEMBERED))
    filling: bool = False


class Pool:
    """Of all kinds. `house` is set once there is one."""

    house: House

    def __init__(self, path: str, maximum: int) -> None:
        self._path = path  # the journal of slots
        self._maximum = maximum
        self._kinds: dict[_Key, _Kind] = {}
        self._slots: dict[str, tree.Payload] = {}  # that there may be
        self._planned: deque[tree.Payload] = deque()  # in the journal too, and not made yet
        self._planning = asyncio.Lock()
        self._number = 0
        self._troubled = False
        self._look: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def start(self) -> Generator[None]:
        """A start is under way. What is prepared waits for its end: both want the processors."""
        try:
            with self.house.lull.broken():
                yield
        finally:
            for key in self._kinds:
                self._fill(key)

    async def take(self, flags: int) -> Prepared:
        """A child with these namespaces; from the stock, or made now. Raises OSError, LxcdError."""
        return await self._take(_Key("init", flags))

    async def take_exec(self) -> Prepared:
        """The same for an exec, which joins namespaces and cgroups itself."""
        return await self._take(_EXEC)

    async def _take(self, key: _Key) -> Prepared:
        kind = self._kinds.setdefault(key, _Kind())
        kind.starts.append(asyncio.get_running_loop().time())
        for _ in range(_KEEPERS):
            # Nothing has been done to any container yet: the next keeper is as good.
            await self.house.keeper.there()
            while kind.stock:
                found = kind.stock.popleft()
                if not (found.child.is_gone() or self.house.keeper.lost(found.child)):
                    return found
                await self._discard(found)
            with contextlib.suppress(errors.Unavailable):
                return await self._make(key)
        raise gone()

    async def alone(self, flags: int, payload: tree.Payload) -> Prepared:
        """A child in these cgroups, for a container whose directories cannot be had by a rename."""
        await self.house.keeper.there()
        procs = tree.open_procs(self.house.trees, payload)
        try:
            slot = tree.Payload({}, (), payload.mark)
            return await self._prepare(_Key("init", flags), slot, procs)
        finally:
            kernel_fd.close_all(procs)

    def used(self, prepared: Prepared) -> None:
        """Its directories are a container's now, or gone. That one is named that is not there does
        no harm: the journal is written when others are planned.
        """
        self._slots.pop(prepared.slot.mark, None)

    # ---- stock

    def _fill(self, key: _Key) -> None:
        kind = self._kinds[key]
        if not kind.filling and self._missing(kind) > 0:
            kind.filling = True
            self.house.begin(self._filling(key, kind))
        if self._look is None and self._maximum:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(_LOOK_SECONDS, self._look_again)

    def _missing(self, kind: _Kind) -> int:
        now = asyncio.get_running_loop().time()
        return wanted(kind.starts, now, self._maximum) - len(kind.stock)

    async def _filling(self, key: _Key, kind: _Kind) -> None:
        try:
            while True:
                await self.house.lull.wait()
                # Not wanted any more, perhaps: lxcd leaves.
                if self._missing(kind) <= 0:
                    break
                kind.stock.append(await self._make(key))
            self._troubled = False
        except (errors.LxcdError, OSError) as error:
            # Whoever needs one makes it then, and is told what is wrong.
            if not self._troubled:
                _log.warning("no child could be prepared: %s", error)
            self._troubled = True
        finally:
            kind.filling = False

    def _look_again(self) -> None:
        """What nobody has asked for in a while goes; what could not be made is tried again."""
        for key, kind in list(self._kinds.items()):
            while kind.stock and self._missing(kind) < 0:
                self.house.begin(self._discard(kind.stock.pop()))
            if not kind.stock and self._missing(kind) == 0 and not kind.filling:
                del self._kinds[key]
            else:
                self._fill(key)
        self._look = None
        if self._kinds:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(_LOOK_SECONDS, self._look_again)

    def clear(self) -> None:
        """Without their keeper they are of no use."""
        for kind in self._kinds.values():
            while kind.stock:
                self.house.begin(self._discard(kind.stock.popleft()))

    def refill(self) -> None:
        """There is a keeper again."""
        for key in self._kinds:
            self._fill(key)

    async def close(self) -> None:
        """Lxcd leaves: none is left behind, none is made any more."""
        self._maximum = 0
        if self._look is not None:
            self._look.cancel()
        for kind in list(self._kinds.values()):
            while kind.stock:
                await self._discard(kind.stock.popleft())
        async with self._planning:
            self._planned.clear()

    async def sweep(self) -> None:
        """Nothing is under way any more. Whoever was cut short may have left a slot."""
        for slot in list(self._slots.values()):
            await self._remove(slot)
        with contextlib.suppress(OSError):
            self._note()

    # ---- one child

    async def _make(self, key: _Key) -> Prepared:
        if key == _EXEC:
            return await self._prepare(key, tree.Payload({}, (), ""), [])
        for tries in range(_SLOTS, 0, -1):
            slot = await self._next_slot()
            procs: list[int] = []
            try:
                # One trip to a thread: each costs a tenth of a millisecond, more on a busy machine.
                limited = await in_thread(self._furnish, slot, procs)
                return await self._prepare(key, slot, procs, limited=limited)
            except BaseException as error:
                await self._remove(slot)
                if not isinstance(error, FileExistsError) or tries == 1:
                    raise
                # Another lxcd of our pid, in a namespace of its own: its names are others by now.
                self._planned.clear()
            finally:
                kernel_fd.close_all(procs)
        raise AssertionError

    async def _next_slot(self) -> tree.Payload:
        """One that is in the journal; many are written down at once."""
        async with self._planning:
            if not self._planned:
                await in_thread(self._plan)
            slot = self._planned.popleft()
        self._slots[slot.mark] = slot
        return slot

    def _plan(self) -> None:
        # With names of our own: another lxcd on this host that cleans up after a crash takes what
        # bears no mark yet for a left-over, where its own could have had that name.
        first, self._number = self._number, self._number + _PLANNED
        for number in range(first, self._number):
            slot = tree.plan_slot(self.house.trees, f"lxcd.slot.{os.getpid()}.{number}")
            self._planned.append(slot)
        try:
            self._note()
        except OSError as error:
            self._planned.clear()
            raise errors.from_oserror(error, "writing the journal of slots") from None

    def _furnish(self, slot: tree.Payload, procs: list[int]) -> bool:
        if not slot.directories:
            return False
        tree.make(self.house.trees, slot)
        limited = limiting.prepare(self.house.trees, slot)
        procs += tree.open_procs(self.house.trees, slot)
        return limited

    async def _prepare(
        self, key: _Key, slot: tree.Payload, procs: list[int], *, limited: bool = False
    ) -> Prepared:
        keeper = self.house.keeper
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        ours.setblocking(False)
        try:
            with theirs:
                id_ = self.house.next_id(key.kind)
                child = await keeper.prepare(id_, key.kind, key.flags, theirs.fileno(), procs)
        except BaseException:
            ours.close()
            raise
        prepared = Prepared(child, ours, slot, limited)
        try:
            report, handed = await reports.first_report(ours)
        except BaseException:
            await self._end(prepared)
            raise
        prepared.netlink = handed[0] if handed else None
        if isinstance(report, channel.Prepared) and not keeper.lost(child):
            return prepared
        await self._end(prepared)
        if isinstance(report, channel.Failed):
            raise errors.StartFailed(
                f"{report.step}: {report.syscall}: {report.text}",
                step=report.step,
                syscall=report.syscall,
                errno=errno.errorcode.get(report.errno, str(report.errno)),
                origin="default",
                index="-1",
                text=report.text,
            )
        if keeper.lost(child):
            raise gone()
        raise errors.StartFailed(
            "a child ended before it was prepared",
            step="prepare",
            syscall="",
            errno="",
            origin="default",
            index="-1",
        )

    async def _end(self, prepared: Prepared) -> None:
        prepared.close()
        await prepared.child.killed()
        with contextlib.suppress(errors.Unavailable):
            self.house.keeper.forget(prepared.child)

    async def _discard(self, prepared: Prepared) -> None:
        await self._end(prepared)
        await self._remove(prepared.slot)

    async def _remove(self, slot: tree.Payload) -> None:
        left = await in_thread(tree.remove, slot)
        if left:
            _log.error("cgroups could not be removed: %s", " ".join(left))
            return
        self._slots.pop(slot.mark, None)

    # ---- the journal of slots

    def _note(self) -> None:
        """Which directories there may be: on disk before they are made. Raises OSError."""
        slots = [slot for slot in (*self._slots.values(), *self._planned) if slot.directories]
        if not slots:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            return
        write_whole(self._path, json.dumps(slots, default=plain).encode())

    def recover(self) -> None:
        """Remove what an earlier lxcd has left; its children have ended with it."""
        try:
            with open(self._path, "rb") as file:
                found = json.loads(file.read())
            for words in found:
                slot = tree.Payload(words["directories"], tuple(words["made"]), words["mark"])
                tree.remove(slot)
        except FileNotFoundError:
            return
        except DAMAGED as error:
            _log.warning("%s cannot be read: %s", self._path, error)
        with contextlib.suppress(OSError):
            os.unlink(self._path)
