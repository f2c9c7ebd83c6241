"""Samples for the fake daemon: containers whose counters grow by what is told, once for each second."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lxcd.v1 import stats_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.unit.lxcctl.conftest import FakeDaemon

MEGA = 1 << 20
RUNNING, FROZEN = types_pb2.STATE_RUNNING, types_pb2.STATE_FROZEN


def stats(
    name: str = "001",
    second: int = 0,
    *,
    cpu: float = 0.5,
    memory: int = 64 * MEGA,
    limit: int | None = 256 * MEGA,
    generation: int = 1,
    state: types_pb2.State.ValueType = RUNNING,
) -> stats_pb2.ContainerStats:
    """One that was started 100 s before second 0; `cpu` is how many CPUs it uses."""
    usec = (100 + second) * 1_000_000
    message = stats_pb2.ContainerStats(
        name=name, lxcpath="/var/lib/lxc", generation=generation, state=state, uptime_usec=usec
    )
    message.time.seconds = 1_700_000_000 + second
    message.cpu.usage_usec = round(cpu * usec)
    message.memory.usage_bytes = memory + 8 * MEGA
    message.memory.working_set_bytes = memory
    if limit is not None:
        message.memory.limit_bytes = limit
    message.pids.current = 5
    message.io.add(
        major=8, minor=0, device="sda", read_bytes=second * 2048, write_bytes=second * 3 * MEGA
    )
    passed = {"rx_bytes": second * 1024, "tx_bytes": 10 * second * 1024}
    message.network.add(interface="lo", counters={"rx_bytes": 1 << 40, "tx_bytes": 1 << 40})
    message.network.add(interface="eth0", counters=passed)
    return message


def bare(name: str = "001", second: int = 0) -> stats_pb2.ContainerStats:
    """One of which the kernel counts nothing."""
    return stats_pb2.ContainerStats(
        name=name, generation=1, state=RUNNING, uptime_usec=(1 + second) * 1_000_000
    )


class Measured:
    """What the daemon answers: a sample for each `tick`, the first at once; at the end `gone`."""

    def __init__(self, daemon: FakeDaemon, gone: Exception, *containers: dict[str, Any]) -> None:
        self._gone = gone
        self.containers: Sequence[dict[str, Any]] = containers or ({"name": "001"},)
        self.second = 0
        self.over = False
        self._changed = threading.Condition()
        daemon.on["GetStats"] = lambda _: stats_pb2.GetStatsResponse(stats=self.sample())
        daemon.on["StreamStats"] = self._stream

    def sample(self) -> list[stats_pb2.ContainerStats]:
        return [stats(second=self.second, **one) for one in self.containers]

    def _stream(self, _request: Any) -> Iterator[Any]:
        told = -1
        while True:
            with self._changed:
                while not self.over and self.second == told:
                    self._changed.wait()
                told = self.second
            if self.over:
                raise self._gone
            yield stats_pb2.StreamStatsResponse(stats=self.sample())

    def tick(self, seconds: int = 1) -> None:
        """So much later."""
        with self._changed:
            self.second += seconds
            self._changed.notify_all()

    def end(self) -> None:
        """Nobody waits for a tick any more."""
        with self._changed:
            self.over = True
            self._changed.notify_all()
