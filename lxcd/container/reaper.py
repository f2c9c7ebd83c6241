"""The life of PID 1 of an application container: the forked keeper's image, with nothing left to do
but this.

It holds no descriptor and no file of the container, forwards the signals that come from outside its
pid namespace, reaps whatever is orphaned inside, and ends when no child is left, so that a command
which puts itself into the background keeps the container up. Its status is the command's; 128 + n
if signal n killed that one, as a shell says it.

Runs as root of the container's namespaces; cannot be traced from inside (it is not dumpable, the
keeper never was).
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from lxcd.kernel import process


def reap(command: int) -> NoReturn:
    """Be PID 1 above the process `command`. All signals are blocked already."""
    process.set_name("lxc-init")
    every = signal.valid_signals()
    status = 0
    running = True
    while True:
        # signal(7): blocked signals reach even PID 1, whose default is to ignore them.
        arrived = signal.sigwaitinfo(every)
        if arrived.si_signo == signal.SIGCHLD:
            while True:
                try:
                    pid, wait_status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    os._exit(status)
                if pid == 0:
                    break
                if pid == command:
                    running = False
                    code = os.waitstatus_to_exitcode(wait_status)
                    status = code if code >= 0 else 128 - code
        elif arrived.si_pid == 0:
            # 0: the sender is not of this pid namespace (pid_namespaces(7)). What those inside send
            # is theirs.
            try:
                os.kill(command if running else -1, arrived.si_signo)
            except ProcessLookupError:
                continue
