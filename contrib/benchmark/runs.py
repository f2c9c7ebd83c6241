"""Stage `run`: start `true` as an application, and wait until its exit is known."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from contrib.benchmark.commands import BenchError, CommandFailed
from contrib.benchmark.containers import TRUE
from contrib.benchmark.figures import FLOOR, LXCCTL, LXCD, MILLISECONDS, STOCK, Figure, in_turn

if TYPE_CHECKING:
    from pathlib import Path

    from contrib.benchmark.containers import Kind
    from contrib.benchmark.daemon import Daemon
    from contrib.benchmark.floor import Floor
    from contrib.benchmark.stock import Stock

_MILLION = 1e6


class Runner(Protocol):
    """One contestant."""

    what: str  # its row

    def run(self, number: int) -> int:
        """Run it once; nanoseconds. BenchError if it did not end with 0."""
        ...


class LxcdRunner:
    """StartContainer of a container that nobody has defined, then WaitContainer."""

    what = LXCD

    def __init__(self, daemon: Daemon, token: str, kind: Kind) -> None:
        self._client = daemon.client
        self._token = token
        self._config = kind.config(())

    def run(self, number: int) -> int:
        """See Runner."""
        name = f"{self._token}-run{number}"
        begin = time.perf_counter_ns()
        reply = self._client.run(name, self._config, TRUE)
        ended = self._client.wait(name, reply.generation)
        spent = time.perf_counter_ns() - begin
        if ended.WhichOneof("how") != "code" or ended.code != 0:
            raise BenchError(f"{TRUE} under lxcd ended with {ended}")
        return spent


class LxcctlRunner:
    """`lxcctl run --rm`."""

    what = f"{LXCCTL} run --rm"

    def __init__(self, daemon: Daemon, token: str, kind: Kind, directory: Path) -> None:
        self._daemon = daemon
        self._token = token
        self._config = directory / "run.conf"
        self._config.write_text(kind.config(()))

    def run(self, number: int) -> int:
        """See Runner."""
        name = f"{self._token}-ctl{number}"
        config = str(self._config)
        # The configuration has a root file system of its own, which beats the image.
        return self._daemon.lxcctl(
            "run", "host", "--rm", "--name", name, "--config", config, "--", TRUE
        )


class StockRunner:
    """`lxc-execute`."""

    what = STOCK

    def __init__(self, stock: Stock, token: str, kind: Kind) -> None:
        self._stock = stock
        self._name = f"{token}-execute"
        stock.define(self._name, kind.config(()))

    def run(self, number: int) -> int:  # noqa: ARG002  it is defined, and always the same
        """See Runner."""
        return self._stock.execute(self._name, TRUE)


class FloorRunner:
    """floor.c, without a reaping PID 1."""

    what = FLOOR

    def __init__(self, floor: Floor, token: str, kind: Kind) -> None:
        self._floor = floor
        self._token = token
        self._kind = kind

    def run(self, number: int) -> int:
        """See Runner."""
        return self._floor.run(f"{self._token}-floor{number}", self._kind, TRUE).exited_nanoseconds


def taking_turns(
    runners: list[Runner], config: str, rounds: int, pause_seconds: float
) -> list[Figure]:
    """Each once in every round, with a pause before each."""
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for runner in in_turn(runners, number):
            time.sleep(pause_seconds)
            found[runner.what].append(runner.run(number) / _MILLION)
    return [
        Figure("run", config, what, MILLISECONDS, tuple(values)) for what, values in found.items()
    ]


def that_work(runners: list[Runner], optional: list[Runner]) -> tuple[list[Runner], list[str]]:
    """Try each once, which warms it up. Optional ones that fail are left out, with the reason."""
    working, absent = list(runners), list[str]()
    for runner in runners:
        runner.run(-1)
    for runner in optional:
        try:
            runner.run(-1)
        except CommandFailed as failed:
            absent.append(f"{runner.what}: does not work here: {failed.said}")
        else:
            working.append(runner)
    return working, absent
