"""What running containers use, sampled in rounds.

Whoever wants samples waits for the next round, which is of all that anybody waits for; while one is
under way the next gathers. So ten clients cost what one does, and none gets what is older than its
question. Streams ask at multiples of their interval, and so at the same moments.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.cgroup.reading import Reading
from lxcd.network import counters
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from lxcd.cgroup.reading import Earlier
    from lxcd.cgroup.tree import Trees
    from lxcd.cgroup.usage import Usage
    from lxcd.network.picture import Counters
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House
    from lxcd.supervisor.state import State

LEAST_INTERVAL_SECONDS = 0.1
_GATHERING_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Sample:
    """What one container has used since its start, and uses now."""

    name: str
    lxcpath: str
    generation: int
    state: State
    time_ns: int  # CLOCK_REALTIME
    uptime_usec: int
    usage: Usage
    network: tuple[tuple[str, Counters], ...] = ()  # of its own namespace, by device


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a thread needs to know of a container."""

    directories: dict[str, str]
    pid: int  # of its init, for its network; 0 if that is not its own
    earlier: Earlier | None


@dataclass(frozen=True, slots=True)
class _Found:
    time_ns: int
    usage: Usage
    earlier: Earlier
    network: tuple[tuple[str, Counters], ...]


class _Round:
    """Who is to be looked at in one go."""

    def __init__(self) -> None:
        self.wanted: dict[Container, None] = {}
        self.samples: dict[Container, Sample] = {}
        self.limits_now = False
        self.over = asyncio.get_running_loop().create_future()


class Statistics:
    """Of all containers of this lxcd."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._next: _Round | None = None
        self._busy = False
        # Of each that runs: of which of its lives.
        self._earlier: dict[Container, tuple[int, Earlier]] = {}

    async def sample(self, actors: Iterable[Container], *, limits_now: bool = True) -> list[Sample]:
        """A sample of each, taken from now on, in their order; of those that end meanwhile none.
        Without `limits_now` limits may be of some seconds ago (`reading.py`).

        Raises an LxcdError.
        """
        wanted = list(actors)
        if self._next is None:
            self._next = _Round()
            if not self._busy:
                self._busy = True
                self._house.begin(self._rounds())
        mine = self._next
        mine.limits_now |= limits_now
        mine.wanted.update(dict.fromkeys(wanted))
        # Who stops waiting does not stop the round.
        await asyncio.shield(mine.over)
        return [mine.samples[actor] for actor in wanted if actor in mine.samples]

    async def stream(
        self, actors: Callable[[], list[Container]], interval_seconds: float
    ) -> AsyncIterator[list[Sample]]:
        """Samples at once, and then at multiples of the interval, of whoever `actors` names then.
        Times that go by while the last ones are being taken away are left out.
        """
        loop = asyncio.get_running_loop()
        while True:
            yield await self.sample(actors(), limits_now=False)
            # Not one that would come upon the heels of the first.
            soonest = loop.time() + interval_seconds / 2
            await asyncio.sleep(next_multiple(soonest, interval_seconds) - loop.time())

    async def _rounds(self) -> None:
        """Work while there is something to do."""
        try:
            while self._next is not None:
                # Timers of one moment do not all ring at once.
                await asyncio.sleep(0 if self._next.limits_now else _GATHERING_SECONDS)
                now, self._next = self._next, None
                try:
                    now.samples = await self._round(list(now.wanted), limits_now=now.limits_now)
                except OSError as error:
                    known = errors.from_oserror(error, "reading what containers use")
                    _fail(now, known)
                except BaseException:
                    _fail(now, errors.Unavailable("lxcd is leaving", "LEAVING"))
                    raise
                if not now.over.done():
                    now.over.set_result(None)
        finally:
            self._busy = False

    async def _round(self, actors: list[Container], *, limits_now: bool) -> dict[Container, Sample]:
        begun: list[tuple[Container, Held, int]] = []
        subjects: list[_Subject] = []
        for actor in actors:
            child = actor.child
            if child is None or not actor.state.alive or child.exited is not None:
                continue
            record = actor.record
            begun.append((actor, child, record.generation))
            own = "net" in record.namespaces
            life, earlier = self._earlier.get(actor, (0, None))
            if life != record.generation:
                earlier = None
            subjects.append(_Subject(record.cgroups, child.pid if own else 0, earlier))
        found = await in_thread(_look, self._house.trees, subjects, limits_now=limits_now)
        samples: dict[Container, Sample] = {}
        for (actor, child, generation), one in zip(begun, found, strict=True):
            # Else its files were going, and its pid may have been somebody else's already.
            if actor.child is child and actor.state.alive and not child.is_gone():
                self._earlier[actor] = (generation, one.earlier)
                samples[actor] = Sample(
                    name=actor.name,
                    lxcpath=actor.lxcpath,
                    generation=generation,
                    state=actor.state,
                    time_ns=one.time_ns,
                    uptime_usec=max(0, one.time_ns - actor.record.started_ns) // 1000,
                    usage=one.usage,
                    network=one.network,
                )
        for gone in [actor for actor in self._earlier if not actor.state.alive]:
            del self._earlier[gone]
        return samples


def next_multiple(after: float, interval: float) -> float:
    """The first multiple of the interval that is not before a time."""
    return -(-after // interval) * interval


def _fail(now: _Round, error: errors.LxcdError) -> None:
    if not now.over.done():
        now.over.set_exception(error)


def _look(trees: Trees, subjects: list[_Subject], *, limits_now: bool) -> list[_Found]:
    """In a thread."""
    found: list[_Found] = []
    with Reading(trees) as reading:
        for subject in subjects:
            time_ns = time.time_ns()
            usage, earlier = reading.usage(
                subject.directories, subject.earlier, limits_now=limits_now
            )
            network = counters.read(subject.pid) if subject.pid else ()
            found.append(_Found(time_ns, usage, earlier, network))
    return found
