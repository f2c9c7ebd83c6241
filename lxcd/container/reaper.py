"""The life of PID 1 of an application container, as the forked keeper's image with nothing left to
do but this. Only where `pid1/`, which is and does the same in a kilobyte, cannot be exec'ed.

It holds no descriptor and no file of the container, forwards the signals that come from outside its
pid namespace, reaps whatever is orphaned inside, and ends when no child is left, so that a command
which puts itself into the background keeps the container up. One that was asked to end and does has
its children asked, too. Its status is the command's; 128 + n
if signal n killed that one, as a shell says it.

From before the command is forked every signal is blocked, and none is lost then, by an exec
neither: what is blocked waits even if it is ignored (sig_ignored() in the kernel). Only one that
finds another of its number still waiting, which somebody inside has sent, is taken for that one:
signal(7).

Runs as root of the container's namespaces; cannot be traced from inside (it is not dumpable, the
keeper never was).
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NoReturn

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import process

# Where ps finds the command line; read in the keeper, which its children are copies of.
_ARGUMENTS = process.own_arguments()


def reap(command: int, title: tuple[str, ...]) -> NoReturn:
    """Be PID 1 above the process `command`, as `title` for ps; 0: there is none, stay until asked
    to end.

    All signals are blocked already.
    """
    process.set_name("lxc-init")
    process.set_arguments(_ARGUMENTS, title)
    kernel_fd.close_range(0)
    every = signal.valid_signals()
    status = 0
    idle = command == 0
    told = 0
    while True:
        # signal(7): blocked signals reach even PID 1, whose default is to ignore them.
        arrived = signal.sigwaitinfo(every)
        if arrived.si_signo != signal.SIGCHLD:
            if _from_outside(arrived):
                _forward(command, arrived.si_signo)
                if arrived.si_signo in _ENDING:
                    idle, told = False, arrived.si_signo
        elif (ended := _collect(command)) is not None:
            command, status = 0, ended
            if told:
                # It was asked to end, and has not told its children.
                _forward(0, told)
        if not idle and not _has_children():
            os._exit(status)


_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR)


def _from_outside(arrived: signal.struct_siginfo) -> bool:
    """Whether to heed a signal: a sender of another pid namespace shows as 0 (pid_namespaces(7)).
    What those inside send each other is theirs.
    """
    return arrived.si_pid == 0 or os.getpid() != 1


def _forward(command: int, number: int) -> None:
    """To the command; to everybody once that has ended. Never to all processes of a host whose pid
    namespace the container keeps.

    Nobody may be left to hear it, or be another user's in a container without CAP_KILL: that is no
    failure of PID 1, whose end would be that of all.
    """
    with contextlib.suppress(OSError):
        if command:
            os.kill(command, number)
        elif os.getpid() == 1:
            os.kill(-1, number)


def _collect(command: int) -> int | None:
    """Reap all that has ended; the command's status, as a shell says it, if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if command and pid == command:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
