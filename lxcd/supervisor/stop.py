"""How to ask an init to shut down: every kind understands something else.

What runs is found out by looking, from the host's side, at the process and at its files; nothing of
the container is executed for it (I6).
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.kernel import mount, procfs

if TYPE_CHECKING:
    from lxcd.supervisor.state import Exit

# systemd(1): SIGRTMIN+3 halts, SIGRTMIN+4 powers off; LXC and machined send the first.
_SYSTEMD_HALT = signal.SIGRTMIN + 3
# initctl(5) of sysvinit: struct init_request, 384 bytes.
_INITCTL_PLACES = ("run/initctl", "dev/initctl")
_INITCTL_MAGIC = 0x03091969
_INITCTL_RUNLEVEL = 1
_INITCTL_SIZE = 384


@dataclass(frozen=True, slots=True)
class Method:
    """One way to ask. `signal` 0: through sysvinit's control pipe instead."""

    signal: int
    why: str

    def describe(self) -> str:
        """As the reply to a stop tells it: `SIGRTMIN+3 (systemd)`."""
        if not self.signal:
            return f"runlevel 0 ({self.why})"
        return f"{signal_name(self.signal)} ({self.why})"


def signal_name(number: int) -> str:
    """`SIGTERM`, `SIGRTMIN+3`, or the number."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def exit_words(how: Exit) -> str:
    """`exit status 1`, `SIGKILL`, or that nobody knows."""
    if not how.known:
        return "status not known"
    return signal_name(how.signal) if how.signal else f"exit status {how.code}"


def choose(pid: int, pidfd: int, *, halt_signal: int | None, application: bool) -> Method:
    """The right way for the init that runs as `pid` on the host."""
    if halt_signal is not None:
        return Method(halt_signal, "lxc.signal.halt")
    if application:
        return Method(signal.SIGTERM, "application")
    try:
        status = procfs.status(pid)
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return Method(signal.SIGPWR, "init")
    caught = status.signals_caught
    kinds = (
        # LXC looks at the blocked signals too: systemd takes its signals through a signalfd.
        (
            "systemd" in (program, status.comm) or _has(status.signals_blocked, _SYSTEMD_HALT),
            Method(_SYSTEMD_HALT, "systemd"),
        ),
        (program.startswith("busybox"), Method(signal.SIGUSR1, "busybox")),
        (program == "init" and _is_sysvinit(pid, pidfd), Method(0, "sysvinit")),
        (_has(caught, signal.SIGPWR), Method(signal.SIGPWR, "init")),
        # A program started as init: SIGPWR would not even be delivered to it (pid_namespaces(7)).
        (_has(caught, signal.SIGTERM), Method(signal.SIGTERM, "program")),
    )
    return next((method for fits, method in kinds if fits), Method(signal.SIGPWR, "init"))


def _has(mask: int, number: int) -> bool:
    return bool(mask >> (number - 1) & 1)


def _is_sysvinit(pid: int, pidfd: int) -> bool:
    pipe = _control_pipe(pid, pidfd)
    if pipe is None:
        return False
    os.close(pipe)
    return True


def ask_runlevel(pid: int, pidfd: int, runlevel: str) -> None:
    """Tell sysvinit through its control pipe, as telinit(8) does. Raises OSError."""
    pipe = _control_pipe(pid, pidfd)
    if pipe is None:
        raise FileNotFoundError(errno.ENOENT, "no control pipe of sysvinit")
    try:
        request = struct.pack("=iiii", _INITCTL_MAGIC, _INITCTL_RUNLEVEL, ord(runlevel), 0)
        os.write(pipe, request.ljust(_INITCTL_SIZE, b"\0"))
    finally:
        os.close(pipe)


def _control_pipe(pid: int, pidfd: int) -> int | None:
    """Sysvinit's control pipe in the container of `pid`, if somebody reads it; the caller owns it.

    Opened below the container's root without following a link, without blocking, and only if it is
    a pipe: whatever else a container puts there is left alone. Nor is it the host's own pipe, which
    a container sees that has the host's root or /run.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY
    resolve = mount.RESOLVE_IN_ROOT | mount.RESOLVE_NO_MAGICLINKS
    try:
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # ESRCH: it has ended, and its number may be another's by now.
        signal.pidfd_send_signal(pidfd, 0)
    except OSError:
        os.close(root)
        return None
    try:
        for place in _INITCTL_PLACES:
            try:
                looked = mount.openat2(root, place, os.O_PATH | os.O_NOFOLLOW, resolve)
                try:
                    found = os.fstat(looked)
                    if not stat.S_ISFIFO(found.st_mode) or _is_of_host(found):
                        continue
                finally:
                    os.close(looked)
                # ENXIO: nobody reads it.
                pipe = mount.openat2(root, place, flags, resolve)
            except OSError:
                continue
            found = os.fstat(pipe)
            if stat.S_ISFIFO(found.st_mode) and not _is_of_host(found):
                return pipe
            os.close(pipe)
        return None
    finally:
        os.close(root)


def _is_of_host(found: os.stat_result) -> bool:
    for place in _INITCTL_PLACES:
        try:
            own = os.stat(f"/{place}")
        except OSError:
            continue
        if (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino):
            return True
    return False
