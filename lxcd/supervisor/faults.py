"""Faults on purpose, for tests: at one step, barrier or phase of a start something is killed or
fails.

Off unless LXCD_FAULTS names a file. If that is there when a start comes to the place that it names,
it is removed and obeyed, once: `PLACE ACT`. PLACE is `step:INDEX`, `barrier:NAME` or `phase:NAME`;
ACT the name of an errno, `kill-child`, `kill-keeper` or `kill-daemon`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING

from lxcd.container.fault import BARRIER, Fault
from lxcd.kernel import libc

if TYPE_CHECKING:
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.keeper import Keeper

# Of a start, in order; between them come the steps of the child.
PHASES = ("take", "spec", "claim", "limit", "resources", "identity", "network", "walk", "record")


class Faults:
    """Where there is no file, nothing ever happens here."""

    def __init__(self, path: str, keeper: Keeper) -> None:
        self._path = path
        self._keeper = keeper

    @property
    def expected(self) -> bool:
        """One will come while the child walks: it has to stop where it would be released ahead."""
        return self._read()[0].startswith(("step:", "barrier:"))

    def names(self, place: str) -> bool:
        """The file names this place."""
        return self._read()[0] == place

    def of_steps(self) -> Fault | None:
        """What the child is to do itself, as part of its Spec."""
        place, act = self._read()
        if not place.startswith("step:"):
            return None
        if act.startswith("kill-"):
            return Fault(int(place[5:]), BARRIER)
        os.unlink(self._path)
        return Fault(int(place[5:]), act)

    def strike(self, place: str, child: Held | None = None) -> None:
        """Obey if the file names this place. Raises OSError for the name of an errno."""
        named, act = self._read()
        if named != place:
            return
        os.unlink(self._path)
        match act:
            case "kill-child":
                if child is not None:
                    child.kill()
            case "kill-keeper":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._keeper.pid, signal.SIGKILL)
            case "kill-daemon":
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                raise libc.oserror(getattr(errno, act), "fault")

    def _read(self) -> tuple[str, str]:
        if not self._path:
            return "", ""
        try:
            with open(self._path, encoding="ascii") as file:
                place, _, act = file.read().strip().partition(" ")
        except FileNotFoundError:
            return "", ""
        return place, act
