"""The end of a walk: the child becomes the program, or the PID 1 above it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING, NoReturn

from lxcd.container import pid1, reaper
from lxcd.container.channel import Executing
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import identity, libc, process, tty

if TYPE_CHECKING:
    from lxcd.container.credentials import Execute
    from lxcd.container.walk import Walk

# What a shell says of a command that it cannot run: POSIX, 2.8.2.
NOT_EXECUTABLE = 126
NOT_FOUND = 127
# Made once, in the keeper: it takes 50 µs.
_EVERY_SIGNAL = signal.valid_signals()
_NAME_BYTES = 255
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def become(walk: Walk, step: Execute) -> NoReturn:
    """Run `step`. Raises OSError for what must not fail before the exec, and for an init that
    cannot be exec'ed.
    """
    _take_streams(walk, pid1.descriptors() if step.reaper else [])
    try:
        _enter(step.cwd)
    except OSError:
        if not step.cwd_optional:
            raise
        _enter("/")
    os.umask(step.umask)
    if step.reaper:
        _leave_pid1(walk, step.argv)
    _own_session(walk, below=step.reaper)
    identity.set_user(step.uid, step.gid, step.groups)
    # A change of ids may have made it dumpable again (fs.suid_dumpable).
    process.prctl(process.PR_SET_DUMPABLE, 0)
    walk.channel.say(Executing())
    environment = {**dict(step.environment), **walk.environment}
    kernel_fd.close_range(3, flags=kernel_fd.CLOSE_RANGE_CLOEXEC)
    reset_signals()
    try:
        search_and_exec(step.argv, environment)
    except OSError as error:
        if not (step.reaper or walk.joined):
            raise
        # The container, or the exec, did start: that its command is missing is its exit status,
        # in-band.
        # lxcd must not wait for whoever reads that.
        os.close(walk.channel.fileno())
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        name = step.argv[0].encode(errors="surrogateescape")[:_NAME_BYTES]
        with contextlib.suppress(OSError):
            os.write(2, b"lxcd: %s: %s\n" % (name, os.strerror(error.errno or 0).encode()))
        os._exit(NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE)


def _leave_pid1(walk: Walk, argv: tuple[str, ...]) -> None:
    """Return as the command below; this process stays."""
    # Everything is blocked before the fork, so that no signal falls between the two.
    signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY_SIGNAL)
    if not argv:
        walk.channel.say(Executing())
        _stay(walk, 0, argv)
    if walk.controlling:
        # The terminal is PID 1's, as it is a shell's: a command that puts itself into the
        # background, as sshd does, would else end its session with its first process, and what is
        # left of it would be hung up (disassociate_ctty() in the kernel).
        _lead_session()
    pid, _ = process.clone3(0)
    if pid != 0:
        _stay(walk, pid, argv)


def _own_session(walk: Walk, *, below: bool) -> None:
    """With a terminal that is in front; `below` somebody who leads its session, as a shell's job
    has it.
    """
    if not walk.controlling:
        os.setsid()
    elif below:
        os.setpgid(0, 0)
        # Nothing stops us for it: SIGTTOU is blocked.
        os.tcsetpgrp(0, os.getpid())
    else:
        _lead_session()


def _lead_session() -> None:
    os.setsid()
    tty.set_controlling(0)


def _stay(walk: Walk, command: int, argv: tuple[str, ...]) -> NoReturn:
    """Be PID 1, with no descriptor and no more rights than the container has."""
    channel = walk.channel.fileno()
    kernel_fd.close_all_but([*_until_exec(walk), *pid1.descriptors()])
    if walk.capabilities is not None:
        identity.limit_permitted(walk.capabilities)
    title = ("lxc-init", "--", *argv) if argv else ("lxc-init",)
    # lxcd waits for the end of the channel, here and in the command: what it calls started is in
    # its place.
    pid1.become(command, title, channel)
    reaper.reap(command, title)


def _take_streams(walk: Walk, keep: list[int]) -> None:
    """Make `walk.stdio` 0, 1, 2 and close all else but the channel and `keep`: before the cwd is
    taken, so that no descriptor of the host's is a way out (CVE-2024-21626).
    """
    streams = [os.dup(number) for number in walk.stdio] or [os.open("/dev/null", os.O_RDWR)]
    for number in range(3):
        os.dup2(streams[min(number, len(streams) - 1)], number, inheritable=True)
    kernel_fd.close_all_but([0, 1, 2, *_until_exec(walk), *keep])


def _until_exec(walk: Walk) -> list[int]:
    """What others wait for the end of."""
    return [number for number in (walk.channel.fileno(), walk.first_half) if number >= 0]


def _enter(cwd: str) -> None:
    try:
        os.chdir(cwd)
        here = os.getcwd()
    except OSError as error:
        raise libc.oserror(error.errno or errno.EIO, "chdir", cwd) from None
    if not here.startswith("/"):
        raise libc.oserror(errno.EXDEV, "getcwd", cwd)


def reset_signals() -> None:
    """As a program expects them: none blocked, none ignored (Python ignores SIGPIPE, and that
    survives an exec).
    """
    for number in _EVERY_SIGNAL:
        if (
            number not in (signal.SIGKILL, signal.SIGSTOP)
            and signal.getsignal(number) != signal.SIG_DFL
        ):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def search_and_exec(argv: tuple[str, ...], environment: dict[str, str]) -> NoReturn:
    """execvpe(3) with the given environment's PATH: EACCES is remembered while a later directory
    may do.
    """
    if "/" in argv[0]:
        candidates = [argv[0]]
    else:
        directories = environment.get("PATH", _DEFAULT_PATH).split(":")
        candidates = [f"{directory or '.'}/{argv[0]}" for directory in directories]
    failure = errno.ENOENT
    for candidate in candidates:
        try:
            os.execve(candidate, argv, environment)
        except OSError as error:
            number = error.errno or errno.EIO
            if number not in (errno.ENOENT, errno.ENOTDIR):
                failure = number
                if number != errno.EACCES:
                    break
    raise libc.oserror(failure, "execve", argv[0])
