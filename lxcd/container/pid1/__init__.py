"""PID 1 of an application container as a program of its own: `pid1.c`, and how a child becomes it.

What is forked shares the keeper's pages until one of the two writes to them, and Python, with its
reference counts, always writes: a PID 1 that stayed the keeper's image would end with 3 MB of its
own, where this one has some 10 kB. What it does is written down in `reaper.py`, which takes its
place where it cannot be exec'ed: on a machine that `generate.py` does not compile for, or where
vm.memfd_noexec or a security module forbids it.

The keeper holds the program in a memfd, from before it forks its first child. Nobody can change it
there, however he comes to it from inside a container (CVE-2019-5736); and nobody inside may read
it, so that an exec makes a process of it that cannot be traced, from its first instruction on
(would_dump() in the kernel).
"""

from __future__ import annotations

import contextlib
import os

from lxcd.container.pid1 import images
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import identity

# The memfd, in the keeper and what it forks.
_held: list[int] = []
# What lets a process read any file.
_READERS = frozenset(
    identity.capability_number(name) for name in ("dac_override", "dac_read_search")
)


def load() -> str:
    """Have the program ready for children that are forked from here on; why there is none, if so.

    An image of the keeper that is exec'ed by another begins anew.
    """
    machine = os.uname().machine
    if machine not in images.PROGRAMS:
        return f"no program for {machine}: PID 1 of application containers will be larger"
    try:
        _held.append(kernel_fd.sealed_program("lxc-init", bytes.fromhex(images.PROGRAMS[machine])))
    except OSError as error:
        return f"memfd: {error.strerror}: PID 1 of application containers will be larger"
    return ""


def descriptors() -> list[int]:
    """What a child must leave open that is to `become` it. Closed by any exec."""
    return list(_held)


def become(command: int, title: tuple[str, ...], channel: int) -> None:
    """Exec it, above the process `command` (0: there is none), as `title` for ps; return if that
    cannot be.

    It closes `channel` when nothing inside the container can interfere with it any more. All
    signals are blocked already.
    """
    environment = {"COMMAND": str(command)} if command else {}
    for program in _held:
        os.set_inheritable(channel, True)
        # Until the exec, which gives root all that is in its bounding set: who could read the file
        # would become a process that can be read.
        identity.limit_permitted(frozenset(range(64)) - _READERS)
        with contextlib.suppress(OSError):
            os.execve(program, title, environment)
