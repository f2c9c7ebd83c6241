"""What must hold after a failure, whatever it was: nothing is left over, and events tell what there is."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from tests.system import ledger
from tests.system.calls import state
from tests.system.host import Host
from tests.system.machine import until

# For `lxcd.toml`: at most one child of each kind is prepared, so that they can be counted.
FEW_PREPARED = "prepared_max = 1\n"

VERSION_1 = " - cgroup " in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
_DEADLINE = 20.0


def private(host: Host) -> Path:
    """The private part of the runtime directory, as lxcd sees it: a test may have put it on a disk of its own."""
    return Path(f"/proc/{host.machine.pid}/root{host.run_dir}/private")


def prepared(host: Host) -> list[list[str]]:
    """Children that wait to become a container, of each its directories of version 1."""
    try:
        journal = json.loads((private(host) / "slots").read_bytes())
    except FileNotFoundError:
        return []
    # It may name some that are used, or gone, by now.
    slots = [list(slot["directories"].values()) for slot in journal]
    return [slot for slot in slots if any(map(os.path.isdir, slot))]


def too_many(ready: int, waiting: int) -> bool:
    """Whether so many children of the keeper cannot all be prepared, with so many slots that are waited in."""
    # One waits in no slot, to become an exec. Without version 1 there are none at all: all that can be said then is that
    # they are few.
    return ready > (waiting if VERSION_1 else 1) + 1


@dataclass
class Watch:
    """Looks for what a test's containers leave behind. `tag` is in the names of their cgroups, and in no others."""

    host: Host
    tag: str
    before: frozenset[str] = field(default_factory=lambda: frozenset(slots()))

    def is_clean(self, inits: Collection[int] = (), own: Collection[str] = ()) -> None:
        """Nothing is left besides containers with these inits and cgroups, or will be once lxcd has done all."""
        keeper = self.host.keeper_pid
        left: list[str] = []

        def nothing() -> bool:
            left[:] = [f"cgroup {path}" for path in self._cgroups(own)]
            left.extend(self._processes(keeper, inits))
            left.extend(self._records())
            return not left

        try:
            until(nothing, "nothing is left over", _DEADLINE)
        except AssertionError:
            message = f"left over: {'; '.join(left)}"
            raise AssertionError(message) from None

    def stock(self) -> int:
        """How many children are prepared and sit in their slots; of version 1 only."""
        return sum(all(map(inside, slot)) for slot in prepared(self.host))

    def sweep(self) -> None:
        """Away with empty cgroups that were left over, so that they are found only once."""
        for path in sorted(self._cgroups(()), reverse=True):
            with suppress(OSError):
                os.rmdir(path)

    def _cgroups(self, own: Collection[str]) -> list[str]:
        waiting = [path for slot in prepared(self.host) for path in slot]
        found = [
            path
            for path in ledger.cgroups()
            if self.tag in path
            and not any(path == top or path.startswith(f"{top}/") for top in own)
        ]
        # Of another lxcd that is at work just now there is a process in each, and that one goes on.
        return found + [
            path
            for path in slots()
            if path not in waiting and path not in self.before and not inside(path)
        ]

    def _processes(self, keeper: int, inits: Collection[int]) -> list[str]:
        others = [
            process
            for process in ledger.descendants(keeper)
            if process.parent == keeper and process.pid not in inits
        ]
        ready = prepared(self.host)
        lines = [f"no {path}" for slot in ready for path in slot if not os.path.isdir(path)]
        if too_many(len(others), len(ready)):
            lines += [f"process {process} ({len(ready)} are prepared)" for process in others]
        return lines

    def _records(self) -> list[str]:
        return half_written(self.host)


def half_written(host: Host) -> list[str]:
    """Records that were to replace others."""
    names = os.listdir(private(host) / "containers")
    return [f"record {name}" for name in names if name.endswith(".new")]


def slots() -> list[str]:
    """Directories of all that wait, of whichever lxcd."""
    return glob("/sys/fs/cgroup/*/lxcd.slot.*")


def inside(cgroup: str) -> list[str]:
    """Pids; none if it is not there."""
    with suppress(OSError):
        return Path(cgroup, "cgroup.procs").read_text().split()
    return []


def told(found: list[Any]) -> dict[str, str]:
    """What somebody who only reads these events takes each container for: a state, or GONE."""
    states: dict[str, str] = {}
    for event in found:
        match event.type:
            case "container.created" | "container.start_failed" | "container.exited":
                states[event.container] = "STOPPED"
            case "container.started":
                states[event.container] = "RUNNING"
            case "container.adopted":
                states[event.container] = state(event) if event.state else "RUNNING"
            case "container.deleted":
                states[event.container] = "GONE"
            case "container.renamed" if "new_name" in event.details:
                states[event.details["new_name"]] = states.get(event.container, "STOPPED")
                states[event.container] = "GONE"
            case "container.state":
                states[event.container] = state(event)
            case _:
                pass  # of no state
    return states
