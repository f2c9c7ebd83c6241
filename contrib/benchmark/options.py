"""What is to be measured, and how often."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace

STAGES = (
    *("start", "burst", "run", "exec", "stream", "flood", "network"),
    *("memory", "restart", "statistics", "bomb"),
)

_DESCRIPTION = """\
Measure lxcd beside stock LXC, other programs that start containers, and a floor: the same work done
by hand in C. All in one run, on the same root file system, in a network and mounts of its own;
nothing outlives it. As root.
"""
_EPILOG = """\
stages:
  start    starts, the contestants taking turns, with a pause before each
  burst    starts back to back, without any pause
  run      start `true` as an application and wait for its exit
  exec     run `true` in a running container
  stream   read a large file out of a running container, to /dev/null
  flood    a console that writes as fast as it can, seen by one viewer
  network  what a veth on a bridge adds to a start; many containers on one bridge
  memory   what a running container costs in its supervisor; what a reaping PID 1 costs on top
  restart  SIGKILL lxcd with containers running; until a new one lists them all
  statistics
           ask what many containers use, once and every second; what they cost when nobody asks
  bomb     a fork bomb at its limit: how long calls take meanwhile, and until it is ended
"""


@dataclass(frozen=True, slots=True)
class Options:
    """Counts; the defaults are a real run's."""

    stages: tuple[str, ...] = STAGES
    rounds: int = 30
    burst: int = 45
    runs: int = 20
    stream_bytes: int = 64 << 30
    flood_bytes: int = 64 << 20
    containers: int = 200
    stock_containers: int = 100
    applications: int = 50
    watched: int = 500
    watched_seconds: float = 10.0
    bomb_processes: int = 512
    bomb_calls: int = 200
    pause_seconds: float = 0.1


QUICK = Options(
    rounds=3,
    burst=6,
    runs=3,
    stream_bytes=64 << 20,
    flood_bytes=1 << 20,
    containers=10,
    stock_containers=5,
    applications=5,
    watched=10,
    watched_seconds=2.0,
    bomb_processes=64,
    bomb_calls=20,
    pause_seconds=0.05,
)


@dataclass(frozen=True, slots=True)
class Command:
    """The whole command line."""

    options: Options
    json_file: str  # empty: none is written
    strict: bool  # a missed target is a failure


def parse(arguments: list[str]) -> Command:
    """Read the command line; a mistake in it ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="contrib/bench",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small counts: does it work at all?")
    parser.add_argument(
        "--only", metavar="STAGE,…", type=_stages, help=f"of {', '.join(STAGES)} (all)"
    )
    parser.add_argument("--json", metavar="FILE", default="", help="write everything there, too")
    parser.add_argument(
        "--assert", dest="strict", action="store_true", help="exit with 1 if a target is missed"
    )
    for flag, text in (
        ("rounds", "starts of each kind, taking turns"),
        ("burst", "starts of each kind, back to back, in three blocks"),
        ("runs", "runs of `true` of each kind"),
        ("containers", "containers under lxcd for memory and restart"),
        ("stock-containers", "containers under stock LXC for memory"),
        ("applications", "applications under a reaping PID 1"),
        ("watched", "containers under lxcd for statistics"),
    ):
        default = getattr(Options(), flag.replace("-", "_"))
        parser.add_argument(f"--{flag}", metavar="N", type=_count, help=f"{text} ({default})")
    parser.add_argument(
        "--pause", metavar="S", type=float, help="before each start that takes turns (0.1)"
    )
    given = parser.parse_args(arguments)
    asked = {
        "stages": given.only,
        "rounds": given.rounds,
        "burst": given.burst,
        "runs": given.runs,
        "containers": given.containers,
        "stock_containers": given.stock_containers,
        "applications": given.applications,
        "watched": given.watched,
        "pause_seconds": given.pause,
    }
    preset = QUICK if given.quick else Options()
    options = replace(preset, **{name: value for name, value in asked.items() if value is not None})
    return Command(options, given.json, given.strict)


def encode(options: Options) -> str:
    """For another process's command line."""
    return json.dumps(asdict(options))


def decode(text: str) -> Options:
    """What `encode` made."""
    fields = json.loads(text)
    return Options(**{**fields, "stages": tuple(fields["stages"])})


def describe(options: Options) -> str:
    """For a person."""
    return (
        f"{options.rounds} rounds with pauses of {options.pause_seconds:g} s,"
        f" {options.burst} back to back, {options.runs} runs,"
        f" {options.containers} containers ({options.stock_containers} of stock LXC),"
        f" {options.applications} applications, {options.watched} watched"
    )


def _stages(text: str) -> tuple[str, ...]:
    asked = text.split(",")
    unknown = [name for name in asked if name not in STAGES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no stage is called {unknown[0]!r}: {', '.join(STAGES)}")
    return tuple(name for name in STAGES if name in asked)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
