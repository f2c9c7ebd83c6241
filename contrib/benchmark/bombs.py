"""Stage `bomb`: a container that forks as fast as it can, at its limit of processes. How lxcd
answers meanwhile, and how long it takes to end that.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from contrib.benchmark.commands import DEADLINE_SECONDS, BenchError
from contrib.benchmark.containers import IDLE
from contrib.benchmark.figures import (
    BOMB_CALLS,
    BOMB_END,
    BOMB_OWN_CALLS,
    MILLISECONDS,
    SECONDS,
    Figure,
    nearest_rank,
)
from lxcd.v1 import exec_pb2

if TYPE_CHECKING:
    from contrib.benchmark.containers import Kind
    from contrib.benchmark.daemon import Daemon

_MILLION = 1e6
_LOOK_SECONDS = 0.05
# A shell gives up when it cannot fork; these do not.
_BOMB = """for i in 1 2 3 4; do awk 'BEGIN { while (1) system("sleep 100000 &") }' & done"""


def burn(daemon: Daemon, kind: Kind, token: str, processes: int, calls: int) -> list[Figure]:
    """So many calls about it, and about another, in turn; then its end."""
    bomb, beside = f"{token}-bomb-{kind.name}", f"{token}-beside-{kind.name}"
    daemon.define(bomb, f"{kind.config(IDLE)}lxc.cgroup2.pids.max = {processes}\n")
    daemon.define(beside, kind.config(IDLE))
    for name in (bomb, beside):
        daemon.client.start(name)
    cgroups = list(daemon.client.get(bomb).cgroups.values())
    script = f"({_BOMB}) >/dev/null 2>&1 </dev/null &"
    daemon.client.exec(exec_pb2.RunExecRequest(container=bomb, command=("/bin/sh", "-c", script)))
    _await_limit(daemon, bomb)
    times: dict[str, list[float]] = {beside: [], bomb: []}
    for _ in range(calls):
        for name, taken in times.items():
            begin = time.perf_counter_ns()
            daemon.client.get(name)
            taken.append((time.perf_counter_ns() - begin) / _MILLION)
    begin = time.perf_counter_ns()
    daemon.client.kill(bomb)
    spent = (time.perf_counter_ns() - begin) / _MILLION / 1000
    if left := [path for path in cgroups if os.path.exists(path)]:
        raise BenchError(f"a fork bomb was ended, and there is still {left[0]}")
    daemon.client.kill(beside)
    figures = [Figure("bomb", kind.name, BOMB_END, SECONDS, (spent,))]
    for what, name in ((BOMB_CALLS, beside), (BOMB_OWN_CALLS, bomb)):
        values = tuple(times[name])
        worst = (nearest_rank(values, 0.99),)
        figures.append(Figure("bomb", kind.name, what, MILLISECONDS, worst))
        figures.append(Figure("bomb", kind.name, "each call", MILLISECONDS, values, part_of=what))
    return figures


def _await_limit(daemon: Daemon, name: str) -> None:
    """It has as many processes as it may, and wants more."""
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        found = {one.name: one for one in daemon.client.statistics().stats}
        if found[name].pids.limit_hits:
            return
        time.sleep(_LOOK_SECONDS)
    raise BenchError(f"{name} has not met its limit of processes")
