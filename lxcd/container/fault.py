"""Faults on purpose: what tests have happen at one step of a walk, so that every step is seen to
fail.
"""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxcd.container.walk import Walk

# The barrier at which lxcd does what the test wants of it.
BARRIER = "fault"
KILL = "kill"


@dataclass(frozen=True, slots=True)
class Fault:
    """Just before step `index`: `kill` (the child is gone), `fault` (the child waits while lxcd
    does something), or the name of an errno (the step fails).
    """

    index: int
    act: str

    def compile(self, walk: Walk) -> None:
        """Write it."""
        if self.act == KILL:
            walk.call("kill", walk.call("getpid"), signal.SIGKILL)
            # The init of a pid namespace does not die by its own signal: pid_namespaces(7).
            walk.wait_at(KILL)
        elif self.act == BARRIER:
            walk.wait_at(BARRIER)
        else:
            walk.call("raise", getattr(errno, self.act), named="fault")
