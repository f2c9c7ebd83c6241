"""Stage `memory`: what a running container costs in its supervisor, and a reaping PID 1 on top.

PSS is what a process's pages cost when each page is divided among those who map it: proc(5). A ring
that lxcd and its keeper both map counts once. Pages of a memfd that nobody maps would not count at
all: so they are added.
"""

from __future__ import annotations

import glob
import os
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrib.benchmark import processes
from contrib.benchmark.containers import IDLE, SYSTEM
from contrib.benchmark.figures import LXCD_GROWTH, MEGABYTES, PID1_ON_TOP, Figure
from lxcd.v1 import container_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrib.benchmark.containers import Kind
    from contrib.benchmark.daemon import Daemon
    from contrib.benchmark.stock import Stock

_KIB = 1024
_MB = 1e6
_BLOCK = 512  # of st_blocks: stat(2)
_SETTLE_SECONDS = 15.0
_LOOK_SECONDS = 0.5
_STABLE = 0.002
_READY = "children kept ready"
_SPARE_SECONDS = 90.0  # lxcd keeps them for a minute
_ALONE = "lxcd + lxcd-keeper + lxcd-trustee, without a container"


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of some processes, in bytes."""

    pss: int
    private: int
    memfds: int  # pages of memfds that they hold, mapped or not
    mapped_shared: int  # of `pss`: shared memory, which those pages are if they are mapped

    @property
    def whole(self) -> int:
        """All that they cost."""
        return self.pss + max(0, self.memfds - self.mapped_shared)


def look(*pids: int) -> Held:
    """Read it now."""
    fields = [_rollup(pid) for pid in pids]

    def total(*names: str) -> int:
        return sum(found.get(name, 0) for found in fields for name in names)

    return Held(
        total("Pss"), total("Private_Clean", "Private_Dirty"), _memfds(pids), total("Pss_Shmem")
    )


def settled(pids: Callable[[], list[int]]) -> Held:
    """Read it when it no longer changes: after the last start consoles still print."""
    end = time.monotonic() + _SETTLE_SECONDS
    last = look(*pids())
    while True:
        time.sleep(_LOOK_SECONDS)
        now = look(*pids())
        if abs(now.whole - last.whole) <= _STABLE * last.whole or time.monotonic() > end:
            return now
        last = now


@dataclass(frozen=True, slots=True)
class Growth:
    """What containers cost in lxcd and its keeper, in MB each; and what both cost without any.

    The trustee counts as a part of the keeper.

    Children that the keeper has ready for the next start belong to it.
    """

    lxcd: float
    keeper: float
    ready: float
    rings: float  # contained in the others: memfd pages
    alone: float
    alone_ready: float  # contained in `alone`
    alone_ready_count: int

    @property
    def both(self) -> float:
        """In all of them."""
        return self.lxcd + self.keeper + self.ready


def system_containers(daemon: Daemon, kind: Kind, token: str, count: int) -> Growth:
    """Start that many, each with busybox's init and its default console, and leave them running."""
    for number in range(count):
        daemon.define(f"{token}-sys{number}", kind.config(SYSTEM))
    return _growth(daemon, [(f"{token}-sys{number}", ()) for number in range(count)])


def applications(daemon: Daemon, kind: Kind, token: str, count: int) -> tuple[Growth, list[Held]]:
    """The same with applications under lxcd's own PID 1, and the memory of each of those."""
    for number in range(count):
        daemon.define(f"{token}-app{number}", kind.config(()))
    growth = _growth(daemon, [(f"{token}-app{number}", IDLE) for number in range(count)])
    return growth, [
        look(container.pid) for container in daemon.client.containers() if container.pid
    ]


def under_stock(stock: Stock, kind: Kind, token: str, count: int) -> tuple[float, float]:
    """What a monitor of stock LXC costs: a single one; one of `count`. In MB."""
    names = [f"{token}-sys{number}" for number in range(count)]
    monitors: list[int] = []
    single = 0.0
    for name in names:
        stock.define(name, kind.config(SYSTEM))
        stock.start(name)
        monitors.append(stock.monitor(name))
        if len(monitors) == 1:
            single = settled(lambda: monitors).whole / _MB
    each = settled(lambda: monitors).whole / _MB / count
    for name in names:
        stock.stop(name)
    return single, each


def lxcd_figures(growth: Growth) -> list[Figure]:
    """Rows for system containers under lxcd."""
    return [
        _figure(LXCD_GROWTH, growth.both),
        _figure("lxcd", growth.lxcd, part_of=LXCD_GROWTH),
        _figure("lxcd-keeper + lxcd-trustee", growth.keeper, part_of=LXCD_GROWTH),
        _figure(_READY, growth.ready, part_of=LXCD_GROWTH),
        _figure("rings, contained in these", growth.rings, part_of=LXCD_GROWTH),
        _figure(_ALONE, growth.alone),
        _figure(f"{growth.alone_ready_count} {_READY}", growth.alone_ready, part_of=_ALONE),
    ]


def application_figures(growth: Growth, inits: list[Held], system: Growth) -> list[Figure]:
    """Rows for applications.

    A fork shares pages with its parent, whose PSS falls: so PID 1 costs what all three together
    grow by, less what any container costs.
    """
    pss = statistics.mean(init.pss for init in inits) / _MB
    return [
        _figure(PID1_ON_TOP, growth.both + pss - system.both),
        _figure("its PSS", pss, part_of=PID1_ON_TOP),
        _figure(
            "its private pages",
            statistics.median(init.private for init in inits) / _MB,
            part_of=PID1_ON_TOP,
        ),
        _figure("lxcd, lxcd-keeper and -trustee, each", growth.both, part_of=PID1_ON_TOP),
    ]


def stock_figures(single: float, each: float, count: int) -> list[Figure]:
    """Rows for stock LXC."""
    return [
        _figure(f"stock LXC's monitor, one of {count}", each),
        _figure("stock LXC's monitor, a single one", single),
    ]


def _figure(what: str, megabytes: float, part_of: str = "") -> Figure:
    return Figure("memory", "", what, MEGABYTES, (megabytes,), part_of)


def _growth(daemon: Daemon, starts: list[tuple[str, tuple[str, ...]]]) -> Growth:
    client = daemon.client

    def start(name: str, command: tuple[str, ...]) -> None:
        client.ask_start(container_pb2.StartContainerRequest(name=name, command=command))

    # What is loaded or allocated for the first container ever is not what each costs.
    start(*starts[0])
    client.kill(starts[0][0])
    before = _supervisors(daemon)
    for name, command in starts:
        start(name, command)
    after = _supervisors(daemon, ready_count=before.ready_count)
    # Whose the unmapped pages are cannot be said; the sum is right, and that is what counts.
    unmapped = (after.both.whole - after.both.pss) - (before.both.whole - before.both.pss)
    scale = _MB * len(starts)
    return Growth(
        lxcd=(after.lxcd.pss - before.lxcd.pss) / scale,
        keeper=(after.keeper.pss - before.keeper.pss + unmapped) / scale,
        ready=(after.ready.pss - before.ready.pss) / scale,
        rings=(after.both.memfds - before.both.memfds) / scale,
        alone=before.both.whole / _MB,
        alone_ready=before.ready.pss / _MB,
        alone_ready_count=before.ready_count,
    )


@dataclass(frozen=True, slots=True)
class _Supervisors:
    both: Held  # all of the following
    lxcd: Held
    keeper: Held
    ready: Held  # children that wait for the next start
    ready_count: int


def _supervisors(daemon: Daemon, ready_count: int | None = None) -> _Supervisors:
    """Read them; when no more children than that are kept ready. After many starts in a row more
    are, for a minute, however many containers run.
    """
    keeper = daemon.client.host().keeper_pid
    inits = {container.pid for container in daemon.client.containers()}

    def ready() -> list[int]:
        return [pid for pid in processes.children(keeper) if pid not in inits]

    trustee = processes.parent(keeper)
    end = time.monotonic() + _SPARE_SECONDS
    while ready_count is not None and len(ready()) > ready_count and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    both = settled(lambda: [daemon.pid, keeper, trustee, *ready()])
    spare = ready()
    return _Supervisors(both, look(daemon.pid), look(keeper, trustee), look(*spare), len(spare))


def _rollup(pid: int) -> dict[str, int]:
    """smaps_rollup in bytes."""
    found: dict[str, int] = {}
    # One that was kept ready may have gone; another has its place.
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            words = value.split()
            if len(words) == 2 and words[1] == "kB":  # noqa: PLR2004  number, unit
                found[name] = int(words[0]) * _KIB
    return found


def _memfds(pids: tuple[int, ...]) -> int:
    """Bytes of the memfds that they hold open, each once."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        for link in glob.iglob(f"/proc/{pid}/fd/*"):
            with suppress(OSError):
                if os.readlink(link).startswith("/memfd:"):
                    status = os.stat(link)
                    found[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    return sum(found.values())
