"""How a child ended, from whoever can tell: our own wait, the trustee that has inherited it, or the
kernel.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.kernel import process, procfs

if TYPE_CHECKING:
    from lxcd.keeper.child import Child
    from lxcd.keeper.store import Store


@dataclass(frozen=True, slots=True)
class Ending:
    """`status` is a wait status, if it is `known`."""

    status: int
    time_ns: int
    known: bool


def of(child: Child, store: Store, *, last: bool) -> Ending | None:
    """How it ended, though it is not reaped yet if it is ours; None if it lives, or if that is not
    known so far. With `last` nobody asks again.
    """
    if child.ours:
        try:
            result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            # Reaped by somebody else, which nobody should: the kernel may still tell.
            child.ours = False
        else:
            return None if result is None else Ending(_wait_status(result), time.time_ns(), True)
    # In this order: once it is reaped, the trustee has told if it was its child. What the kernel
    # tells then (Linux 6.15) knows nothing of a reboot(2) inside.
    status = process.ended_status(child.pidfd, child.pid)
    is_ward = store.parent > 0 and _is_zombie_of(store.parent, child)
    if (told := store.end_of(child.id)) is not None:
        return Ending(*told, known=True)
    if not last and (is_ward or status is None):
        return None
    return Ending(status or 0, time.time_ns(), status is not None)


def reap(child: Child, pidfd: int) -> None:
    """One whose end is on record."""
    if child.ours:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def _is_zombie_of(parent: int, child: Child) -> bool:
    try:
        found = procfs.status(child.pid)
        return (found.state, found.parent_pid) == ("Z", parent) and (
            process.pidfd_pid(child.pidfd) == child.pid
        )
    except OSError:
        return False


def _wait_status(result: os.waitid_result) -> int:
    """The wait status that waitpid(2) would have given."""
    if result.si_code == os.CLD_EXITED:
        return result.si_status << 8
    return result.si_status | (0x80 if result.si_code == os.CLD_DUMPED else 0)
