"""Numbers: what was measured, what is wanted, and whether one meets the other. Pure."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TypeVar

Contestant = TypeVar("Contestant")

# Rows that targets are about. `LXCD` is a call of the API on an open channel.
LXCD = "lxcd, API"
LXCCTL = "lxcctl"
STOCK = "stock LXC"
FLOOR = "floor in C"
LXCD_GROWTH = "lxcd + lxcd-keeper + lxcd-trustee, per container"
PID1_ON_TOP = "PID 1 of an application, on top"
VETH_ON_TOP = "lxcd, API: a veth on top"
FIRST_ON_BRIDGE = "the first of many on a bridge"
LAST_ON_BRIDGE = "the last of many on a bridge"
LISTED = "socket accepts -> all listed"
STATS_CALL = "lxcd, API: GetStats of all"
STATS_FIRST = "lxcd, API: the first GetStats of all"
STATS_STOCK = "stock LXC: lxc-info -S of as many"
STATS_STREAM = "lxcd: StreamStats of all, each second"
STATS_IDLE = "lxcd and lxcd-keeper, nobody asks"
BOMB_CALLS = "lxcd, API: p99 of GetContainer of another"
BOMB_OWN_CALLS = "lxcd, API: p99 of GetContainer of the bomb"
BOMB_END = "lxcd, API: killed, until it is gone"

PRIVILEGED = "privileged"
UNPRIVILEGED = "unprivileged"

MILLISECONDS = "ms"
SECONDS = "s"
MEGABYTES = "MB"
CORE_SHARE = "% of a core"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: a number that was measured once or often. `part_of`: the row that it is part of."""

    stage: str
    config: str  # privileged, unprivileged, or empty where that is not the question
    what: str
    unit: str
    values: tuple[float, ...]
    part_of: str = ""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def p90(self) -> float:
        """At most this in nine of ten."""
        return nearest_rank(self.values, 0.9)


@dataclass(frozen=True, slots=True)
class Target:
    """`what` shall be at most `limit` times `base`, or `limit` itself where `base` is empty."""

    stage: str
    what: str
    base: str
    limit: float
    unit: str = ""
    enough: float = 0.0  # whatever the base is: at most this is good


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a target was met in one configuration. Without `value` something was not measured."""

    target: Target
    config: str
    value: float | None

    @property
    def missed(self) -> bool:
        """It was measured, and it is too much."""
        return self.value is not None and self.value > self.target.limit


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run found out."""

    facts: tuple[tuple[str, str], ...] = ()
    figures: tuple[Figure, ...] = ()
    remarks: tuple[str, ...] = ()  # what a reader of the figures has to know
    absent: tuple[str, ...] = ()  # peers that are not here, or do not work here
    failure: str = ""  # why it ended early


# 64 MiB at 100 MB/s.
FLOOD_ENOUGH_MS = (64 << 20) / 100e3
TARGETS = (
    Target("start", LXCD, STOCK, 0.4),
    Target("start", LXCD, FLOOR, 3.0),
    Target("burst", LXCD, STOCK, 0.6),
    Target("burst", LXCD, FLOOR, 3.0),
    Target("exec", LXCD, STOCK, 0.4),
    Target("stream", f"{LXCCTL} exec", STOCK, 1 / 0.9),
    Target("flood", LXCD, STOCK, 1 / 3, enough=FLOOD_ENOUGH_MS),
    Target("network", VETH_ON_TOP, "", 3.5, MILLISECONDS),
    Target("network", LAST_ON_BRIDGE, FIRST_ON_BRIDGE, 1.25),
    Target("memory", LXCD_GROWTH, "", 0.1, MEGABYTES),
    Target("memory", PID1_ON_TOP, "", 0.2, MEGABYTES),
    Target("restart", LISTED, "", 1000.0, MILLISECONDS),
    Target("statistics", STATS_CALL, "", 100.0, MILLISECONDS),
    Target("statistics", STATS_CALL, STATS_STOCK, 0.1),
    Target("statistics", STATS_STREAM, "", 10.0, CORE_SHARE),
    Target("statistics", STATS_IDLE, "", 0.0, CORE_SHARE),
    Target("bomb", BOMB_CALLS, "", 250.0, MILLISECONDS),
    Target("bomb", BOMB_OWN_CALLS, "", 250.0, MILLISECONDS),
    Target("bomb", BOMB_END, "", 5.0, SECONDS),
)


def in_turn(contestants: list[Contestant], number: int) -> list[Contestant]:
    """The order of a round: each begins with another, and every second one runs backwards.

    So that nobody always follows the same one: what one leaves to be done in the background, or in
    the kernel, costs the next, or helps it.
    """
    first = number % len(contestants)
    order = contestants[first:] + contestants[:first]
    return order[::-1] if number % 2 else order


def nearest_rank(values: tuple[float, ...], fraction: float) -> float:
    """The smallest of `values` that this fraction of them does not exceed: one that did occur."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def find(figures: tuple[Figure, ...], stage: str, config: str, what: str) -> Figure | None:
    """The row of that name; not a part of another."""
    for figure in figures:
        if (figure.stage, figure.config, figure.what) == (
            stage,
            config,
            what,
        ) and not figure.part_of:
            return figure
    return None


def ratio(figures: tuple[Figure, ...], target: Target, config: str) -> float | None:
    """Median to median, or the median itself; None if either was not measured."""
    subject = find(figures, target.stage, config, target.what)
    if subject is None:
        return None
    if not target.base:
        return subject.median
    base = find(figures, target.stage, config, target.base)
    if base is None:
        return None
    found = subject.median / base.median
    return min(found, target.limit) if subject.median <= target.enough else found


def judge(
    figures: tuple[Figure, ...], targets: tuple[Target, ...] = TARGETS
) -> tuple[Verdict, ...]:
    """A verdict for each target in each configuration that its subject was measured in."""
    return tuple(
        Verdict(target, figure.config, ratio(figures, target, figure.config))
        for target in targets
        for figure in figures
        if (figure.stage, figure.what) == (target.stage, target.what) and not figure.part_of
    )
