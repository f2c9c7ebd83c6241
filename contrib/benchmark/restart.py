"""Stage `restart`: lxcd is killed while containers run, and started again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from contrib.benchmark.commands import DEADLINE_SECONDS, BenchError
from contrib.benchmark.daemon import Client
from contrib.benchmark.figures import LISTED, MILLISECONDS, Figure
from lxcd.v1 import types_pb2

if TYPE_CHECKING:
    from contrib.benchmark.daemon import Daemon

_TIMES = 3
_MILLION = 1e6


def again(daemon: Daemon) -> list[Figure]:
    """Kill it and start it, a few times; until all that ran is listed RUNNING with its old pid."""
    known = _running(daemon.client)
    boots: list[float] = []
    listings: list[float] = []
    repeats: list[float] = []
    for _ in range(_TIMES):
        daemon.kill()
        begin = daemon.start()
        accepts = time.perf_counter_ns()
        client = Client(daemon.address)
        _await_all(client, known)
        listed = time.perf_counter_ns()
        _running(client)
        repeats.append((time.perf_counter_ns() - listed) / _MILLION)
        client.close()
        boots.append((accepts - begin) / _MILLION)
        listings.append((listed - accepts) / _MILLION)
    whole = tuple(boot + listing for boot, listing in zip(boots, listings, strict=True))
    return [
        Figure("restart", "", LISTED, MILLISECONDS, tuple(listings)),
        Figure(
            "restart", "", "the same list once more", MILLISECONDS, tuple(repeats), part_of=LISTED
        ),
        Figure("restart", "", "exec -> socket accepts", MILLISECONDS, tuple(boots)),
        Figure("restart", "", "exec -> all listed", MILLISECONDS, whole),
    ]


def _running(client: Client) -> dict[str, int]:
    return {
        found.name: found.pid
        for found in client.containers()
        if found.state == types_pb2.STATE_RUNNING
    }


def _await_all(client: Client, known: dict[str, int]) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while (running := _running(client)) != known:
        changed = [name for name, pid in running.items() if known.get(name) != pid]
        if changed:
            raise BenchError(f"after a restart of lxcd {changed[0]} runs with another pid")
        if time.monotonic() > end:
            raise BenchError(
                f"after a restart of lxcd {len(running)} of {len(known)} containers are RUNNING"
            )
        time.sleep(0.002)
