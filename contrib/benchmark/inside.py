"""The run, inside of its own network and mounts.

    python -m contrib.benchmark.inside OPTIONS DIRECTORY TOKEN

Writes a Report as JSON to standard output and its progress to standard error. It ends what it
started when all goes well; when not, it just leaves: `warden` ends the rest.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import grpc

from contrib.benchmark import (
    bombs,
    containers,
    execs,
    facts,
    memory,
    networks,
    options,
    report,
    restart,
    runs,
    starts,
    statistics,
)
from contrib.benchmark.commands import BenchError, Commands
from contrib.benchmark.daemon import Daemon
from contrib.benchmark.figures import Figure, Report
from contrib.benchmark.floor import Floor
from contrib.benchmark.others import Nspawn, Oci
from contrib.benchmark.stock import Stock


class _Run:
    """What the stages share."""

    def __init__(self, wanted: options.Options, work: Path, token: str) -> None:
        self.wanted = wanted
        self.work = work
        self.token = token  # in the name of every container and cgroup
        self.commands = Commands(_environment(work), work)
        self.stock = Stock(self.commands, work / "stock")
        self.kinds = containers.make_kinds(work)
        self.floor = Floor(self.commands, work)
        self.report = Report(
            facts=(*facts.machine(self.commands), ("counts", options.describe(wanted))),
            absent=tuple(facts.absent(self.commands)),
        )

    def add(
        self,
        figures: list[Figure],
        remarks: list[str] | None = None,
        absent: list[str] | None = None,
    ) -> None:
        """Note what a stage has found."""
        now = self.report
        self.report = replace(
            now,
            figures=(*now.figures, *figures),
            # Both stages of starts say the same of the same containers.
            remarks=tuple(dict.fromkeys((*now.remarks, *(remarks or ())))),
            absent=(*now.absent, *(absent or ())),
        )

    def daemon(self, name: str) -> Daemon:
        """A fresh lxcd and keeper, so that no stage sees another's memory."""
        return Daemon(self.commands, self.work / name, Path("/run", name))


def main(arguments: list[str]) -> int:
    """Run the stages; 0 if all went well."""
    wanted, work, token = options.decode(arguments[0]), Path(arguments[1]), arguments[2]
    found = Report()
    try:
        run = _Run(wanted, work, token)
        try:
            _stages(run)
        finally:
            found = run.report
    except (BenchError, OSError) as error:
        found = replace(found, failure=str(error))
    except grpc.RpcError as error:
        call: grpc.Call = error  # type: ignore[assignment]  # what a stub raises is both
        found = replace(found, failure=f"lxcd answered {call.code().name}: {call.details()}")
    sys.stdout.write(report.to_json(found))
    sys.stdout.flush()
    return 1 if found.failure else 0


def _stages(run: _Run) -> None:
    wanted = run.wanted.stages
    if "start" in wanted or "burst" in wanted:
        with run.daemon("starts") as daemon:
            for kind in run.kinds:
                _starts(run, daemon, kind)
    if "run" in wanted:
        with run.daemon("runs") as daemon:
            _runs(run, daemon)
    if {"exec", "stream", "flood"} & set(wanted):
        with run.daemon("execs") as daemon:
            _execs(run, daemon)
    if "network" in wanted:
        with run.daemon("networks") as daemon:
            _networks(run, daemon)
    if "memory" in wanted or "restart" in wanted:
        _long_lived(run)
    if "statistics" in wanted:
        with run.daemon("watched") as daemon:
            _statistics(run, daemon)
    if "bomb" in wanted:
        with run.daemon("bombs") as daemon:
            _bombs(run, daemon)


def _starts(run: _Run, daemon: Daemon, kind: containers.Kind) -> None:
    wanted = run.wanted
    lxcd, floor = starts.LxcdStarter(daemon, kind), starts.FloorStarter(run.floor, kind)
    contestants: list[starts.Starter] = [lxcd, floor]
    if run.stock.here:
        contestants.insert(1, starts.StockStarter(run.stock, kind))
    _say(f"starts, {kind.name}: once each, to see that they are alike")
    differing = starts.warm_up(contestants, run.token)
    run.add([], [f"{kind.name}, {line}" for line in differing])
    if "start" in wanted.stages:
        _say(f"starts, {kind.name}: {wanted.rounds} rounds, taking turns")
        everybody = [*contestants, starts.LxcctlStarter(daemon, kind)]
        figures = starts.taking_turns(
            everybody, run.token, kind.name, wanted.rounds, wanted.pause_seconds
        )
        figures.append(starts.bare_call(daemon, kind.name, wanted.pause_seconds))
        if run.stock.here:
            figures.append(starts.bare_command(run.stock, kind.name, wanted.pause_seconds))
        run.add(figures)
    if "burst" in wanted.stages:
        _say(f"starts, {kind.name}: {wanted.burst} of each, back to back")
        run.add(starts.back_to_back(contestants, run.token, kind.name, wanted.burst))


def _runs(run: _Run, daemon: Daemon) -> None:
    kind = run.kinds[0]
    _say(f"runs of {containers.TRUE}: {run.wanted.runs} rounds, taking turns")
    contestants: list[runs.Runner] = [
        runs.LxcdRunner(daemon, run.token, kind),
        runs.FloorRunner(run.floor, run.token, kind),
        runs.LxcctlRunner(daemon, run.token, kind, run.work),
    ]
    if run.stock.here:
        contestants.insert(1, runs.StockRunner(run.stock, run.token, kind))
    optional: list[runs.Runner] = [
        Oci(run.commands, program, run.work, run.token, kind)
        for program in ("crun", "runc")
        if run.commands.find(program)
    ]
    nspawn: list[Nspawn] = []
    if run.commands.find("systemd-nspawn"):
        nspawn.append(Nspawn(run.commands, run.token, kind))
    working, absent = runs.that_work(contestants, [*optional, *nspawn])
    run.add(
        runs.taking_turns(working, kind.name, run.wanted.runs, run.wanted.pause_seconds), [], absent
    )
    for made in nspawn:
        made.remove()


def _execs(run: _Run, daemon: Daemon) -> None:
    """In two containers that are alike, one of lxcd's and one of stock LXC's."""
    wanted, kind = run.wanted, run.kinds[0]
    trigger, other_trigger = execs.make_files(kind, wanted.stream_bytes, wanted.flood_bytes)
    name = f"{run.token}-joined"
    daemon.define(name, kind.config(execs.flooder(trigger)))
    daemon.client.start(name)
    if run.stock.here:
        run.stock.define(name, kind.config(execs.flooder(other_trigger)))
        run.stock.start(name)
    stages: dict[str, list[execs.Contestant]] = {
        "exec": [execs.LxcdExec(daemon, name), execs.LxcctlExec(daemon, name, containers.TRUE)],
        "stream": [execs.LxcctlExec(daemon, name, *execs.READ_BIG)],
        "flood": [execs.LxcdFlood(daemon, name, trigger, wanted.flood_bytes)],
    }
    if run.stock.here:
        stages["exec"].append(execs.StockExec(run.stock, name, containers.TRUE))
        stages["stream"].append(execs.StockExec(run.stock, name, *execs.READ_BIG))
        flood = execs.StockFlood(run.stock, name, other_trigger, wanted.flood_bytes)
        stages["flood"].append(flood)
    rounds = {"exec": wanted.rounds, "stream": 5, "flood": 3}
    for stage, contestants in stages.items():
        if stage not in wanted.stages:
            continue
        _say(f"{stage}: {rounds[stage]} rounds, taking turns")
        figures = execs.taking_turns(
            stage, kind.name, contestants, rounds[stage], wanted.pause_seconds
        )
        run.add(figures)
    daemon.client.kill(name)
    if run.stock.here:
        run.stock.stop(name)


def _networks(run: _Run, daemon: Daemon) -> None:
    wanted = run.wanted
    networks.make_bridge(run.commands)
    for kind in run.kinds:
        _say(f"network, {kind.name}: {wanted.rounds} rounds, taking turns")
        figures = networks.on_top(
            daemon, run.stock, kind, run.token, wanted.rounds, wanted.pause_seconds
        )
        run.add(figures)
    _say(f"network: {wanted.containers} containers on one bridge")
    run.add(networks.crowd(daemon, run.kinds[0], run.token, wanted.containers))


def _long_lived(run: _Run) -> None:
    wanted, kind, token = run.wanted, run.kinds[0], run.token
    with run.daemon("system") as daemon:
        _say(f"{wanted.containers} system containers under lxcd")
        system = memory.system_containers(daemon, kind, token, wanted.containers)
        if "memory" in wanted.stages:
            run.add(memory.lxcd_figures(system))
        if "restart" in wanted.stages:
            _say("restarts of lxcd")
            run.add(restart.again(daemon))
    if "memory" not in wanted.stages:
        return
    with run.daemon("applications") as daemon:
        _say(f"{wanted.applications} applications under lxcd")
        growth, inits = memory.applications(daemon, kind, token, wanted.applications)
        run.add(memory.application_figures(growth, inits, system))
    if run.stock.here:
        _say(f"{wanted.stock_containers} system containers under stock LXC")
        single, each = memory.under_stock(run.stock, kind, token, wanted.stock_containers)
        run.add(memory.stock_figures(single, each, wanted.stock_containers))


def _statistics(run: _Run, daemon: Daemon) -> None:
    wanted, kind = run.wanted, run.kinds[0]
    _say(f"statistics: {wanted.watched} containers under lxcd")
    statistics.start(daemon, kind, run.token, wanted.watched)
    run.add(statistics.asked(daemon, wanted.watched, wanted.rounds))
    _say(f"statistics: {wanted.watched_seconds:g} s each second, and as long for nobody")
    run.add(statistics.costs(daemon, wanted.watched, wanted.watched_seconds))
    if run.stock.here:
        few = min(wanted.stock_containers, statistics.FEW)
        _say(f"statistics: {few} containers under stock LXC")
        run.add(statistics.under_stock(run.stock, kind, run.token, few, wanted.watched))


def _bombs(run: _Run, daemon: Daemon) -> None:
    wanted = run.wanted
    for kind in run.kinds:
        _say(f"bomb, {kind.name}: {wanted.bomb_processes} processes, {wanted.bomb_calls} calls")
        found = bombs.burn(daemon, kind, run.token, wanted.bomb_processes, wanted.bomb_calls)
        run.add(found)


def _environment(work: Path) -> dict[str, str]:
    """Of everything that is started: the same for all, and nothing of the user's but PATH."""
    temporary = work / "tmp"
    temporary.mkdir()
    return {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "LANG": "C.UTF-8",
        "HOME": str(work),
        "TMPDIR": str(temporary),
    }


def _say(text: str) -> None:
    sys.stderr.write(f"contrib/bench: {text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
