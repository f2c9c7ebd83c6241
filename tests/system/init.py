"""PID 1 of a test machine, as far as it needs one: starts what it is told to, reaps everything, kills what is left.

A program of its own (`python -I -S init.py FD`), standard library only, run by `tests.system.machine` in the machine's
namespaces. It is a subreaper: whoever loses his parent becomes its child, so "what was started on this machine" is
exactly the tree below it, however much it daemonises. FD is a SOCK_SEQPACKET socket. One JSON object per message:

    in   {"spawn": [argv…], "env": {…}, "log": path}     out  {"started": pid}
    in   {"kill": pid, "signal": number}                      (a child which is still there; else nothing)
                                                         out  {"exited": pid, "status": exit code or -signal}
    end of file: kill everything, then leave. So nothing outlives a pytest that crashed, either.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys

_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE = 1 << 20


def _children() -> list[int]:
    with open("/proc/thread-self/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def _spawn(argv: list[str], env: dict[str, str], log: str) -> int:
    return os.posix_spawn(
        argv[0],
        argv,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        # What this interpreter ignores or blocks for itself is not the daemon's business.
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT],
    )


def _obey(control: socket.socket, message: bytes) -> None:
    order = json.loads(message)
    if "spawn" in order:
        control.send(
            json.dumps({"started": _spawn(order["spawn"], order["env"], order["log"])}).encode()
        )
    elif order["kill"] in _children():
        # It is our child and nobody has reaped it: the number cannot belong to anyone else.
        os.kill(order["kill"], order["signal"])


def _reap(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        exited = {"exited": pid, "status": os.waitstatus_to_exitcode(status)}
        control.send(json.dumps(exited).encode())


def _halt() -> None:
    """Kill children until there is none; orphans of those come next."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _noted(_number: int, _frame: object) -> None:
    """Let the wakeup descriptor be written; with the default action it is not."""


def main() -> None:
    """Serve until the other end of the socket is closed."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_CHILD_SUBREAPER")
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, _noted)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control.send(json.dumps({"started": os.getpid()}).encode())
    while True:
        ready, _, _ = select.select([control.fileno(), wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _reap(control)
        if control.fileno() in ready:
            message = control.recv(_MESSAGE)
            if not message:
                break
            _obey(control, message)
    _halt()


if __name__ == "__main__":
    main()
