"""What the figures depend on: this machine, and the programs that were measured."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from contrib.benchmark import trees
from contrib.benchmark.commands import BenchError

if TYPE_CHECKING:
    from contrib.benchmark.commands import Commands

_CHECKOUT = Path(__file__).resolve().parents[2]
_PEERS = (
    ("stock LXC", "lxc-start"),
    ("crun", "crun"),
    ("runc", "runc"),
    ("systemd-nspawn", "systemd-nspawn"),
)
_PROGRAMS = (*_PEERS, ("C compiler", "cc"))


def machine(commands: Commands) -> list[tuple[str, str]]:
    """Name and value, in the order in which they are shown."""
    return [
        ("kernel", f"{platform.release()} {platform.machine()}"),
        ("cgroups", _cgroups()),
        ("cores", f"{len(os.sched_getaffinity(0))} ({_cpu()})"),
        ("memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB"),
        ("load before", " ".join(f"{number:.2f}" for number in os.getloadavg())),
        ("lxcd", _commit(commands)),
        ("Python", f"{platform.python_version()}, grpcio {grpc.__version__}"),
        *(
            (name, _version(commands, program))
            for name, program in _PROGRAMS
            if commands.find(program)
        ),
        ("newuidmap", "is used by stock LXC" if commands.find("newuidmap") else "not installed"),
    ]


def absent(commands: Commands) -> list[str]:
    """Peers that are not here, or have no place here."""
    found = [f"{name}: not installed" for name, program in _PEERS if not commands.find(program)]
    if commands.find("incus"):
        found.append(
            "Incus: installed, not measured: it wants a storage pool and images of its own"
        )
    else:
        found.append("Incus: not installed")
    return found


def _version(commands: Commands, program: str) -> str:
    output = commands.run(commands.find(program), "--version", check=False).output
    return output.strip().partition("\n")[0]


def _commit(commands: Commands) -> str:
    git = commands.find("git")
    if not git:
        return "unknown commit: git is not installed"
    with suppress(BenchError):
        described = commands.run(
            git, "-C", str(_CHECKOUT), "rev-parse", "--short", "HEAD"
        ).output.strip()
        changed = commands.run(
            git, "-C", str(_CHECKOUT), "status", "--porcelain", "--", "lxcd", "lxcctl"
        ).output
        return f"commit {described}{', with uncommitted changes' if changed.strip() else ''}"
    return "unknown commit"


def _cgroups() -> str:
    """Layout, and how many hierarchies a start has to do with."""
    versions = [tree.version for tree in trees.find()]
    first, second = versions.count(1), versions.count(2)
    layout = {
        (True, True): "hybrid",
        (True, False): "version 1",
        (False, True): "version 2",
        (False, False): "none",
    }
    name = layout[first > 0, second > 0]
    return f"{name} ({first} of version 1, {second} of version 2)"


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Processor", "cpu model"):
                return value.strip()
    return "unknown model"
