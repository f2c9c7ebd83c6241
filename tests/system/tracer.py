"""Something happens to a child of the keeper at a system call that it makes: strace(1) does it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.system.host import Host
from tests.system.machine import until


@contextmanager
def at_call(keeper: int, call: str, what: str, trace: Path) -> Iterator[None]:
    """Have it happen to a child of the keeper as it makes this system call; what happened is in the trace."""
    inject = f"inject={call}:{what}:when=1"
    argv = ["strace", "-f", "-o", str(trace), "-p", str(keeper), "-e", inject]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            # Killed and not asked: it would wait for a process to let go of that waits for its vfork'ed child,
            # which waits for it.
            tracer.kill()
            tracer.stderr.read()


def stopped(trace: Path) -> int:
    """The process that was stopped, once it stands still. Its state in /proc says less: one that is traced stops often."""
    found: list[int] = []

    def stands() -> bool:
        lines = trace.read_text().splitlines()
        found.extend(int(line.split()[0]) for line in lines if "stopped by SIGSTOP" in line)
        return bool(found)

    until(stands, "it stands there")
    return found[0]


def strike(host: Host, keeper: int, fault: str, trace: Path) -> None:
    """End the keeper or lxcd while that process stands, and let it go on."""
    pidfd = os.pidfd_open(stopped(trace))
    if fault == "kill-keeper":
        os.kill(keeper, signal.SIGKILL)
        until(lambda: host.keeper_pid not in (0, keeper), "there is another keeper")
    else:
        host.kill_daemon()
    with suppress(ProcessLookupError):  # it may have died of the same
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    os.close(pidfd)
