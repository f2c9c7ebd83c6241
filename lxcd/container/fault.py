"""Faults on purpose: what tests have happen at one step of a walk, so that every step is seen to
fail.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.kernel import libc

if TYPE_CHECKING:
    from lxcd.container.channel import ChildEnd

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

    def strike(self, end: ChildEnd) -> None:
        """In the child."""
        if self.act == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
            # The init of a pid namespace does not die by its own signal: pid_namespaces(7).
            end.wait_at(KILL)
        elif self.act == BARRIER:
            end.wait_at(BARRIER)
        else:
            raise libc.oserror(getattr(errno, self.act), "fault")
