"""Stage `statistics`: what many containers use, asked for once, each second, and not at all."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from contrib.benchmark import processes
from contrib.benchmark.commands import BenchError
from contrib.benchmark.containers import IDLE
from contrib.benchmark.figures import (
    CORE_SHARE,
    MILLISECONDS,
    STATS_CALL,
    STATS_FIRST,
    STATS_IDLE,
    STATS_STOCK,
    STATS_STREAM,
    Figure,
)

if TYPE_CHECKING:
    from contrib.benchmark.containers import Kind
    from contrib.benchmark.daemon import Daemon
    from contrib.benchmark.stock import Stock

FEW = 10  # of stock LXC's, which answers of one container at a time
_MILLION = 1e6
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# What was made ready for more starts goes a minute after the last one.
_SETTLE_SECONDS = 90.0
_LOOK_SECONDS = 2.0


def start(daemon: Daemon, kind: Kind, token: str, count: int) -> None:
    """Start so many that do nothing."""
    for number in range(count):
        name = f"{token}-watched{number}"
        daemon.define(name, kind.config(IDLE))
        daemon.client.start(name)


def asked(daemon: Daemon, count: int, rounds: int) -> list[Figure]:
    """One call for all of them, again and again; the first has nothing to build on."""
    first = _call(daemon, count)
    before = _used(daemon.pid)
    times = tuple(_call(daemon, count) for _ in range(rounds))
    busy = (_used(daemon.pid) - before) / _TICKS_A_SECOND * 1000 / rounds
    return [
        Figure("statistics", "", STATS_FIRST, MILLISECONDS, (first,)),
        Figure("statistics", "", STATS_CALL, MILLISECONDS, times),
        Figure("statistics", "", "lxcd at work", MILLISECONDS, (busy,), part_of=STATS_CALL),
    ]


def _call(daemon: Daemon, count: int) -> float:
    begin = time.perf_counter_ns()
    reply = daemon.client.statistics()
    spent = (time.perf_counter_ns() - begin) / _MILLION
    _require(len(reply.stats), count)
    return spent


def costs(daemon: Daemon, count: int, seconds: float) -> list[Figure]:
    """Time of a processor while one client follows, and while nobody does."""
    keeper = daemon.client.host().keeper_pid
    _settle(daemon.pid, keeper)
    begin, before = time.monotonic(), _used(daemon.pid, keeper)
    time.sleep(seconds)
    idle = _share(before, _used(daemon.pid, keeper), time.monotonic() - begin)
    call = daemon.client.stream_statistics()
    # The first comes at once, and would be one too many for the time.
    _require(len(next(call).stats), count)
    _require(len(next(call).stats), count)
    begin, before = time.monotonic(), _used(daemon.pid)
    for reply in call:
        _require(len(reply.stats), count)
        if time.monotonic() - begin >= seconds:
            break
    stream = _share(before, _used(daemon.pid), time.monotonic() - begin)
    call.cancel()
    return [
        Figure("statistics", "", STATS_STREAM, CORE_SHARE, (stream,)),
        Figure("statistics", "", STATS_IDLE, CORE_SHARE, (idle,)),
    ]


def under_stock(stock: Stock, kind: Kind, token: str, few: int, count: int) -> list[Figure]:
    """`lxc-info` of a few; and what it would take for all, one after the other."""
    names = [f"{token}-stock{number}" for number in range(few)]
    for name in names:
        stock.define(name, kind.config(IDLE))
        stock.start(name)
    calls = tuple(stock.statistics(name) / _MILLION for name in names)
    for name in names:
        stock.stop(name)
    return [
        Figure("statistics", "", STATS_STOCK, MILLISECONDS, (sum(calls) / few * count,)),
        Figure("statistics", "", "one call", MILLISECONDS, calls, part_of=STATS_STOCK),
    ]


def _settle(*pids: int) -> None:
    """Wait until what follows from the starts is over."""
    end = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < end:
        before = _used(*pids)
        time.sleep(_LOOK_SECONDS)
        if _used(*pids) == before:
            return


def _used(*pids: int) -> int:
    return sum(processes.ticks(pid) for pid in pids)


def _share(before: int, after: int, seconds: float) -> float:
    return (after - before) / _TICKS_A_SECOND / seconds * 100


def _require(found: int, count: int) -> None:
    if found != count:
        raise BenchError(f"statistics of {found} containers, and {count} run")
