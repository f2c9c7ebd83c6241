"""What the tests of limits have in common: limits that are set from outside, and containers that wait to meet them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system import losing
from tests.system.boxes import Box, defined
from tests.system.calls import application, events
from tests.system.host import Host
from tests.system.machine import until

# It takes memory until it is killed, and never waits for anything.
HOG = "tail /dev/zero"
LIMIT_BYTES = 32 << 20
_WINDOW_SECONDS = 6.0  # the kernel's clock and this one may differ a little
_FEW = 4
# A shell gives up when it cannot fork; these do not.
BOMB = """for i in 1 2 3 4; do awk 'BEGIN { while (1) system("sleep 100000 &") }' & done"""


def limit_memory(made: Box, size: int = LIMIT_BYTES) -> None:
    """Where a limit comes from does not matter to those who are told of it."""
    cgroups = made.info().cgroups
    if "memory" in cgroups:
        Path(cgroups["memory"], "memory.limit_in_bytes").write_text(str(size))
        return
    Path(cgroups["unified"], "memory.max").write_text(str(size))
    # Where there is swap that would have to be full before anybody is killed.
    Path(cgroups["unified"], "memory.swap.max").write_text("0")


def limit_processes(made: Box, count: int) -> None:
    """The same."""
    cgroups = made.info().cgroups
    Path(cgroups.get("pids", cgroups["unified"]), "pids.max").write_text(str(count))


@contextmanager
def waiting(
    host: Host, root: Path, name: str, script: str, lines: Sequence[str] = (), **options: Any
) -> Iterator[Box]:
    """A container whose shell does this; `cat /mnt/NUMBER` in it waits for `go`."""
    share = host.root / "share" / name
    share.mkdir(parents=True)
    for number in range(3):
        os.mkfifo(share / str(number))
    line = f"lxc.mount.entry = {share} mnt none bind 0 0"
    with defined(host, application(host, root, name, line, *lines), name) as made:
        made.start("/bin/sh", "-c", script, **options)
        yield made


def go(host: Host, name: str, number: int = 0) -> None:
    """Let it."""
    losing.go(host, f"{name}/{number}")


def told(host: Host, type_: str, name: str, count: int) -> list[Any]:
    """Events of a container that stand for `count` occurrences; all of them, once there are so many, and no more."""
    with host.channel() as api:

        def found() -> list[Any]:
            return events(api, type_, names=(name,))

        def number() -> int:
            return sum(int(event.details["count"]) for event in found())

        until(lambda: number() >= count, f"{count} times {type_} of {name} are told")
        assert number() == count, found()
        return found()


def names_are_told() -> None:
    """Wait until the kernel will tell the next victim's name and cgroup: it does ten times in five seconds at most
    (`oom_rs` in mm/oom_kill.c), whoever has died.
    """
    until(lambda: _reported() < _FEW, "not many were killed of late")


def _reported() -> int:
    """How many were killed in the last seconds."""
    since = time.clock_gettime(time.CLOCK_MONOTONIC) - _WINDOW_SECONDS
    count = 0
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                record = os.read(log, 8192).decode(errors="replace")
            except BlockingIOError:
                return count
            except BrokenPipeError:
                continue  # overwritten before it was read
            head, _, text = record.partition(";")
            microseconds = int(head.split(",")[2])
            count += "Killed process" in text and microseconds / 1e6 > since
    finally:
        os.close(log)
