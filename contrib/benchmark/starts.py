"""Stages `start` and `burst`: from asking for a container to knowing that its init was exec'ed."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from contrib.benchmark import shape
from contrib.benchmark.commands import BenchError
from contrib.benchmark.containers import IDLE
from contrib.benchmark.figures import FLOOR, LXCCTL, LXCD, MILLISECONDS, STOCK, Figure, in_turn

if TYPE_CHECKING:
    from contrib.benchmark.commands import Conversation
    from contrib.benchmark.containers import Kind
    from contrib.benchmark.daemon import Daemon
    from contrib.benchmark.floor import Floor
    from contrib.benchmark.stock import Stock

_BLOCKS = 3
# For what the kernel finishes in its own time after many containers have ended.
_REST_SECONDS = 0.5
_MILLION = 1e6
_BARE = 10
_PHASES = ("prepare", "resources", "walk")  # of StartContainerResponse, in their order


@dataclass(frozen=True, slots=True)
class Start:
    """How long one took, and how long which part of it."""

    nanoseconds: int
    parts: dict[str, int] = field(default_factory=dict[str, int])


class Starter(Protocol):
    """One contestant in one configuration."""

    what: str  # its row

    def define(self, name: str) -> None:
        """Whatever comes once and before; not timed."""
        ...

    def start(self, names: list[str]) -> list[Start]:
        """Start containers, one right after the other."""
        ...

    def init(self, name: str) -> int:
        """Pid of a running container's init."""
        ...

    def stop(self, names: list[str]) -> None:
        """End them all, with everything of them."""
        ...


class LxcdStarter:
    """StartContainer on a channel that is open already."""

    what = LXCD

    def __init__(self, daemon: Daemon, kind: Kind) -> None:
        self._daemon = daemon
        self._kind = kind
        self._pids: dict[str, int] = {}

    def define(self, name: str) -> None:
        """See Starter."""
        self._daemon.define(name, self._kind.config(IDLE))

    def start(self, names: list[str]) -> list[Start]:
        """See Starter."""
        found: list[Start] = []
        for name in names:
            begin = time.perf_counter_ns()
            reply = self._daemon.client.start(name)
            spent = time.perf_counter_ns() - begin
            self._pids[name] = reply.pid
            _require_exec(reply.pid)
            told = reply.timings_usec
            parts = {part: 1000 * told[part] for part in _PHASES if part in told}
            # gRPC on both sides, and what the daemon does before it begins and after it has ended.
            parts["all else"] = spent - sum(parts.values())
            found.append(Start(spent, parts))
        return found

    def init(self, name: str) -> int:
        """See Starter."""
        return self._pids[name]

    def stop(self, names: list[str]) -> None:
        """See Starter."""
        for name in names:
            self._daemon.client.kill(name)


def _require_exec(pid: int) -> None:
    """Look whether what was promised is true: an answer that comes too early is no start."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        found = file.read().decode(errors="replace").rstrip("\0").split("\0")
    if found != list(IDLE):
        raise BenchError(f"lxcd says that {pid} runs {' '.join(IDLE)}, but it is {found}")


class LxcctlStarter(LxcdStarter):
    """`lxcctl start`: the same, and a Python interpreter that has to come up first."""

    what = f"{LXCCTL} start"

    def start(self, names: list[str]) -> list[Start]:
        """See Starter."""
        return [Start(self._daemon.lxcctl("start", name)) for name in names]


class StockStarter:
    """`lxc-start`."""

    what = STOCK

    def __init__(self, stock: Stock, kind: Kind) -> None:
        self._stock = stock
        self._kind = kind

    def define(self, name: str) -> None:
        """See Starter."""
        self._stock.define(name, self._kind.config(IDLE))

    def start(self, names: list[str]) -> list[Start]:
        """See Starter."""
        return [Start(self._stock.start(name)) for name in names]

    def init(self, name: str) -> int:
        """See Starter."""
        return self._stock.init(name)

    def stop(self, names: list[str]) -> None:
        """See Starter."""
        for name in names:
            self._stock.stop(name)


class FloorStarter:
    """floor.c. Several starts are one process of it, as several of lxcd are one keeper's."""

    what = FLOOR

    def __init__(self, floor: Floor, kind: Kind) -> None:
        self._floor = floor
        self._kind = kind
        self._talk: Conversation | None = None
        self._pid = 0

    def define(self, name: str) -> None:
        """See Starter."""

    def start(self, names: list[str]) -> list[Start]:
        """See Starter."""
        started, self._talk = self._floor.start(names[0], self._kind, len(names), IDLE)
        self._pid = started[0].pid
        return [Start(each.nanoseconds, each.parts) for each in started]

    def init(self, name: str) -> int:  # noqa: ARG002  only its first one is asked for
        """See Starter."""
        return self._pid

    def stop(self, names: list[str]) -> None:  # noqa: ARG002  all of them
        """See Starter."""
        if self._talk is not None:
            self._talk.end()
            self._talk = None


def warm_up(starters: list[Starter], token: str) -> list[str]:
    """Start each once, which loads what is loaded only once; how others differ from the first."""
    shapes: dict[str, shape.Shape] = {}
    for starter in starters:
        name = f"{token}-warm"
        starter.define(name)
        starter.start([name])
        shapes[starter.what] = shape.look(starter.init(name))
        starter.stop([name])
    first = shapes[starters[0].what]
    return [
        f"{what}: {line}"
        for what, other in shapes.items()
        for line in shape.differences(first, other, what)
    ]


def taking_turns(
    starters: list[Starter], token: str, config: str, rounds: int, pause_seconds: float
) -> list[Figure]:
    """Stage `start`: each once in every round, with a pause before each."""
    found: dict[str, list[Start]] = defaultdict(list)
    name = f"{token}-turn"
    for starter in starters:
        starter.define(name)
    for number in range(rounds):
        for starter in in_turn(starters, number):
            time.sleep(pause_seconds)
            found[starter.what] += starter.start([name])
            starter.stop([name])
    return [
        figure
        for starter in starters
        for figure in _figures("start", config, starter.what, found[starter.what])
    ]


def back_to_back(starters: list[Starter], token: str, config: str, count: int) -> list[Figure]:
    """Stage `burst`: many of one contestant right after each other; in blocks, taking turns."""
    found: dict[str, list[Start]] = defaultdict(list)
    names = [f"{token}-burst{number}" for number in range(-(-count // _BLOCKS))]
    for starter in starters:
        for name in names:
            starter.define(name)
    for _ in range(_BLOCKS):
        for starter in starters:
            time.sleep(_REST_SECONDS)
            found[starter.what] += starter.start(names)
            starter.stop(names)
    return [
        figure
        for starter in starters
        for figure in _figures("burst", config, starter.what, found[starter.what])
    ]


def bare_command(stock: Stock, config: str, pause_seconds: float) -> Figure:
    """What of `lxc-start` is only that a command comes up and ends."""
    values: list[float] = []
    for _ in range(_BARE):
        time.sleep(pause_seconds)
        values.append(stock.bare() / _MILLION)
    what = "lxc-start --version"
    return Figure("start", config, what, MILLISECONDS, tuple(values), part_of=STOCK)


def bare_call(daemon: Daemon, config: str, pause_seconds: float) -> Figure:
    """What of StartContainer is only that a call goes there and back."""
    values: list[float] = []
    for _ in range(_BARE):
        time.sleep(pause_seconds)
        begin = time.perf_counter_ns()
        daemon.client.ping()
        values.append((time.perf_counter_ns() - begin) / _MILLION)
    what = "a call that does nothing"
    return Figure("start", config, what, MILLISECONDS, tuple(values), part_of=LXCD)


def _figures(stage: str, config: str, what: str, starts: list[Start]) -> list[Figure]:
    parts = list(dict.fromkeys(part for start in starts for part in start.parts))
    whole = tuple(start.nanoseconds / _MILLION for start in starts)
    return [
        Figure(stage, config, what, MILLISECONDS, whole),
        *(
            Figure(
                *(stage, config, part, MILLISECONDS),
                tuple(start.parts.get(part, 0) / _MILLION for start in starts),
                part_of=what,
            )
            for part in parts
        ),
    ]
