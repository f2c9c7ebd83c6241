"""Killing everything in a container's cgroups, however fast it forks, frozen or not.

Where the kernel has `cgroup.kill` (version 2, Linux 5.14) one write does it; version 2 beside
version 1 is enough for that. Else what is seen is killed while it is frozen: nobody forks then, and
SIGKILL waits until the thaw, which always comes (freezer-subsystem.rst). Signals alone would not
do: a fork bomb is quicker than whoever reads `cgroup.procs`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from lxcd.kernel import directory, fd
from lxcd.kernel.fd import Fd

if TYPE_CHECKING:
    from collections.abc import Mapping

_FREEZE_SECONDS = 0.2
# So often without the freezer, which is seldom needed.
_PLAIN_TIMES = 2
_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.1


def pids(top: str) -> list[int]:
    """Every process in a directory and below; what goes away meanwhile is passed over."""
    found: list[int] = []

    def visit(here: int) -> list[str]:
        with contextlib.suppress(OSError, ValueError):
            procs = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=here)
            with os.fdopen(procs, encoding="ascii") as file:
                found.extend(int(line) for line in file)
        return directory.subdirectories(here)

    with contextlib.suppress(OSError):
        with Fd(os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as handle:
            directory.walk(handle.fileno(), visit)
    return found


def kill_all(directories: Mapping[str, str], deadline_seconds: float = 30.0) -> bool:
    """Kill until nobody is left in these directories (by the key of their tree) and below. False if
    that did not come about in time: somebody sleeps where no signal is heard.
    """
    end = time.monotonic() + deadline_seconds
    pause, times = _PAUSE_SECONDS, 0
    while True:
        kill_once(directories, still=times >= _PLAIN_TIMES)
        if not any(map(pids, directories.values())):
            return True
        if time.monotonic() > end:
            return False
        times += 1
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def kill_once(directories: Mapping[str, str], *, still: bool = False) -> None:
    """Kill whoever is seen; with `still` nobody forks meanwhile. All are thawed then, whoever had
    frozen them, and may take a moment to be gone.
    """
    unified = directories.get("")
    if unified is not None:
        _write(f"{unified}/cgroup.kill", "1")
    freezer = next((path for key, path in directories.items() if "freezer" in key.split(",")), "")
    try:
        if still and freezer:
            _freeze(freezer)
        for path in directories.values():
            for pid in pids(path):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
    finally:
        if freezer:
            _thaw(freezer)


def _freeze(freezer: str) -> None:
    """As far as that is possible: who cannot be frozen does not fork either."""
    end = time.monotonic() + _FREEZE_SECONDS
    while True:
        # It may answer FREEZING until it is told again.
        _write(f"{freezer}/freezer.state", "FROZEN")
        with contextlib.suppress(OSError), open(f"{freezer}/freezer.state", "rb") as file:
            if file.read().strip() == b"FROZEN":
                return
        if time.monotonic() > end or not os.path.exists(freezer):
            return
        time.sleep(_PAUSE_SECONDS)


def _thaw(freezer: str) -> None:
    """With all below: each may be frozen for itself."""

    def visit(here: int) -> list[str]:
        with contextlib.suppress(OSError):
            fd.write_once(here, "freezer.state", b"THAWED")
        return directory.subdirectories(here)

    with contextlib.suppress(OSError):
        with Fd(os.open(freezer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as handle:
            directory.walk(handle.fileno(), visit)


def _write(path: str, word: str) -> None:
    """Where there is such a file."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(number, word.encode())
        finally:
            os.close(number)
