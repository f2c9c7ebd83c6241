"""Stage `network`: what a veth on a bridge with a static address adds to a start; and whether the
last of many containers on one bridge starts as fast as the first.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from contrib.benchmark.figures import (
    FIRST_ON_BRIDGE,
    LAST_ON_BRIDGE,
    LXCD,
    MILLISECONDS,
    STOCK,
    VETH_ON_TOP,
    Figure,
    in_turn,
)
from contrib.benchmark.starts import LxcdStarter, StockStarter

if TYPE_CHECKING:
    from contrib.benchmark.commands import Commands
    from contrib.benchmark.containers import Kind
    from contrib.benchmark.daemon import Daemon
    from contrib.benchmark.stock import Stock

BRIDGE = "bench0"
_ENDS = 20
_MILLION = 1e6


def make_bridge(commands: Commands) -> None:
    """On the run's own network, which ends with it."""
    program = commands.find("ip")
    commands.run(program, "link", "add", BRIDGE, "type", "bridge")
    commands.run(program, "addr", "add", "10.77.0.1/16", "dev", BRIDGE)
    commands.run(program, "link", "set", BRIDGE, "up")


def connected(kind: Kind) -> Kind:
    """The same with a device on the bridge in the place of none."""
    return replace(
        kind,
        network=(
            "lxc.net.0.type = veth",
            f"lxc.net.0.link = {BRIDGE}",
            "lxc.net.0.flags = up",
            "lxc.net.0.ipv4.address = 10.77.1.2/16",
            "lxc.net.0.ipv4.gateway = 10.77.0.1",
        ),
    )


def on_top(
    daemon: Daemon, stock: Stock, kind: Kind, token: str, rounds: int, pause_seconds: float
) -> list[Figure]:
    """Both kinds in turn, and the difference in each round."""
    plain: list[LxcdStarter | StockStarter] = [LxcdStarter(daemon, kind)]
    wired: list[LxcdStarter | StockStarter] = [LxcdStarter(daemon, connected(kind))]
    if stock.here:
        plain.append(StockStarter(stock, kind))
        wired.append(StockStarter(stock, connected(kind)))
    contestants = [
        (starter, f"{token}-{what}")
        for starters, what in ((plain, "plain"), (wired, "wired"))
        for starter in starters
    ]
    found: dict[tuple[str, str], list[float]] = {}
    for starter, name in contestants:
        starter.define(name)
        starter.start([name])
        starter.stop([name])
    for number in range(rounds):
        for starter, name in in_turn(contestants, number):
            time.sleep(pause_seconds)
            (start,) = starter.start([name])
            found.setdefault((starter.what, name), []).append(start.nanoseconds / _MILLION)
            starter.stop([name])
    figures: list[Figure] = []
    for starter in plain:
        without, with_ = (tuple(found[starter.what, f"{token}-{w}"]) for w in ("plain", "wired"))
        more = tuple(b - a for a, b in zip(without, with_, strict=True))
        on_top_of = VETH_ON_TOP if starter.what == LXCD else f"{STOCK}: a veth on top"
        figures += [
            Figure("network", kind.name, f"{starter.what}, no device", MILLISECONDS, without),
            Figure("network", kind.name, f"{starter.what}, a veth", MILLISECONDS, with_),
            Figure("network", kind.name, on_top_of, MILLISECONDS, more),
        ]
    return figures


def crowd(daemon: Daemon, kind: Kind, token: str, count: int) -> list[Figure]:
    """Many at once on one bridge: the first and the last that start."""
    starter = LxcdStarter(daemon, connected(kind))
    names = [f"{token}-crowd{number}" for number in range(count)]
    for name in names:
        starter.define(name)
    times: list[float] = []
    for name in names:
        # Of the rate at which one follows another, not of what is made ahead.
        time.sleep(0.02)
        (start,) = starter.start([name])
        times.append(start.nanoseconds / _MILLION)
    starter.stop(names)
    ends = min(_ENDS, len(times) // 2)
    return [
        Figure("network", kind.name, FIRST_ON_BRIDGE, MILLISECONDS, tuple(times[:ends])),
        Figure("network", kind.name, LAST_ON_BRIDGE, MILLISECONDS, tuple(times[-ends:])),
    ]
