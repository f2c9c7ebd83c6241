"""The end of a walk: the child becomes the program, or the PID 1 above it."""

from __future__ import annotations

import errno
import os
import signal
import struct
import termios
from typing import TYPE_CHECKING

from lxcd.container.calls import ANY_ERROR, Address, Data, Label
from lxcd.container.walk import CHANNEL, FIRST_FREE, KEEPER, PID1
from lxcd.kernel import identity, mount, process

if TYPE_CHECKING:
    from lxcd.container.calls import Register
    from lxcd.container.credentials import Execute
    from lxcd.container.walk import Walk

# What a shell says of a command that it cannot run: POSIX, 2.8.2.
NOT_EXECUTABLE = 126
NOT_FOUND = 127
_NAME_BYTES = 255
_PATH_BYTES = 4096
_LAST = 0xFFFFFFFF
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_EVERY_SIGNAL, _NO_SIGNAL = b"\xff" * 8, b"\0" * 8
_SIGNAL_BYTES = 8
_SIG_IGN = 1
_COMMAND = b"COMMAND="  # and the pid: all that PID 1 is told of it
_F_SETFD = 2
# struct clone_args, with SIGCHLD: a fork.
_FORK = struct.pack("=11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
# What lets a process read any file.
_READERS = sum(
    1 << identity.capability_number(name) for name in ("dac_override", "dac_read_search")
)
_EVERYTHING = -1
# The line of an errno is at its place in the table.
_LINE_BYTES = 64
_LINES = b"".join(
    os.strerror(number).encode()[: _LINE_BYTES - 1].ljust(_LINE_BYTES, b"\0")
    for number in range(max(errno.errorcode) + 1)
)


def become(walk: Walk, step: Execute) -> None:
    """Run `step`."""
    _take_streams(walk)
    if step.cwd_optional:
        elsewhere, there = Label(), Label()
        with walk.trying(elsewhere):
            _enter(walk, step.cwd)
        walk.go(there)
        walk.put(elsewhere)
        _enter(walk, "/")
        walk.put(there)
    else:
        _enter(walk, step.cwd)
    walk.call("umask", step.umask)
    if step.reaper:
        _leave_pid1(walk, step.argv)
        if not step.argv:
            return
    else:
        walk.call("close", PID1)
    _own_session(walk, below=step.reaper)
    walk.set_user(step.uid, step.gid, step.groups)
    # A change of ids may have made it dumpable again (fs.suid_dumpable).
    walk.call("prctl", process.PR_SET_DUMPABLE, 0, 0, 0, 0)
    walk.call("say")
    if step.reaper:
        walk.call("rt_sigprocmask", signal.SIG_SETMASK, walk.constant(_NO_SIGNAL), 0, _SIGNAL_BYTES)
    environment = {**dict(step.environment), **walk.environment}
    failed = _search_and_exec(walk, step.argv, environment)
    if step.reaper or walk.joined:
        _tell(walk, step.argv[0], failed)
    else:
        walk.call("raise", failed, path=step.argv[0], named="execve")


def _take_streams(walk: Walk) -> None:
    """Make `walk.stdio` 0, 1, 2 and close all else but lxcd's channel and the program of PID 1:
    before the cwd is taken, so that no descriptor of the host's is a way out (CVE-2024-21626).
    """
    streams = walk.stdio or [walk.null()]
    for number in range(3):
        walk.call("dup3", streams[min(number, len(streams) - 1)], number, 0)
    walk.close(KEEPER)
    walk.call("close_range", FIRST_FREE, _LAST, 0)


def _enter(walk: Walk, cwd: str) -> None:
    walk.call("chdir", cwd, path=cwd)
    here = walk.block(b"\0" * _PATH_BYTES)
    walk.call("getcwd", here, _PATH_BYTES, path=cwd, named="chdir")
    # Of a directory that lies nowhere below the root it says so: getcwd(3).
    walk.call("test", here, 1, 0xFF, ord("/"), errno.EXDEV, path=cwd, named="getcwd")


def _leave_pid1(walk: Walk, argv: tuple[str, ...]) -> None:
    """Go on as the command below; this process stays."""
    # Everything is blocked before the fork, so that no signal falls between the two.
    walk.call("rt_sigprocmask", signal.SIG_SETMASK, walk.constant(_EVERY_SIGNAL), 0, _SIGNAL_BYTES)
    if not argv:
        walk.call("say")
        _stay(walk, None, argv)
        return
    if walk.controlling:
        # The terminal is PID 1's, as it is a shell's: a command that puts itself into the
        # background, as sshd does, would else end its session with its first process, and what is
        # left of it would be hung up (disassociate_ctty() in the kernel).
        _lead_session(walk)
    command, above = Label(), Label()
    pid = walk.call("clone3", walk.constant(_FORK), len(_FORK))
    walk.call(
        "test", Address(pid), 8, -1, 0, errno.ECHILD, unless=((ANY_ERROR, above),), then=command
    )
    walk.put(above)
    _stay(walk, pid, argv)
    walk.put(command)
    walk.close(PID1)


def _stay(walk: Walk, command: Register | None, argv: tuple[str, ...]) -> None:
    """Be PID 1, with no descriptor and no more rights than the container has."""
    walk.call("close_range", 0, 2, 0)
    keep = _EVERYTHING
    if walk.capabilities is not None:
        keep = sum(1 << number for number in walk.capabilities)
    # Until the exec, which gives root all that is in its bounding set: who could read the file
    # would become a process that can be read.
    walk.call("limit", keep & ~_READERS, named="capset")
    environment: list[Data] = []
    if command is not None:
        words = walk.block(_COMMAND.ljust(32, b"\0"))
        walk.call("decimal", Data(words + len(_COMMAND)), command)
        environment = [words]
    title = ("lxc-init", "--", *argv) if argv else ("lxc-init",)
    # lxcd waits for the end of the channel, here and in the command: what it calls started is in
    # its place. PID 1 closes it when nothing inside can interfere with it any more.
    walk.call("fcntl", CHANNEL, _F_SETFD, 0)
    walk.call(
        "execveat",
        *(PID1, "", walk.words(title), walk.words(environment), mount.AT_EMPTY_PATH),
        path="lxc-init",
    )


def _own_session(walk: Walk, *, below: bool) -> None:
    """With a terminal that is in front; `below` somebody who leads its session, as a shell's job
    has it.
    """
    if not walk.controlling:
        walk.call("setsid")
    elif below:
        walk.call("setpgid", 0, 0)
        # Nothing stops us for it: SIGTTOU is blocked.
        own = walk.call("getpid")
        walk.call("ioctl", 0, termios.TIOCSPGRP, Address(own), named="ioctl TIOCSPGRP")
    else:
        _lead_session(walk)


def _lead_session(walk: Walk) -> None:
    walk.call("setsid")
    walk.call("ioctl", 0, termios.TIOCSCTTY, 0, named="ioctl TIOCSCTTY")


def _search_and_exec(walk: Walk, argv: tuple[str, ...], environment: dict[str, str]) -> Register:
    """execvpe(3) with the given environment's PATH: EACCES is remembered while a later directory
    may do. What follows has the errno in the register.
    """
    if "/" in argv[0]:
        candidates = [argv[0]]
    else:
        directories = environment.get("PATH", _DEFAULT_PATH).split(":")
        candidates = [f"{directory or '.'}/{argv[0]}" for directory in directories]
    words = walk.words(argv)
    variables = walk.words([f"{name}={value}" for name, value in environment.items()])
    failed = walk.call("set", errno.ENOENT)
    over = Label()
    for candidate in candidates:
        other, following = Label(), Label()
        walk.call(
            "execve",
            *(candidate, words, variables),
            path=argv[0],
            unless=(
                (errno.ENOENT, following),
                (errno.ENOTDIR, following),
                (ANY_ERROR, other),
            ),
        )
        walk.put(other)
        walk.call("error", into=failed)
        walk.call(
            "test", Address(failed), 8, -1, errno.EACCES, errno.EACCES, unless=((ANY_ERROR, over),)
        )
        walk.put(following)
    walk.put(over)
    return failed


def _tell(walk: Walk, command: str, failed: Register) -> None:
    """The container, or the exec, did start: that its command is missing is its exit status, in
    band. lxcd must not wait for whoever reads that.
    """
    walk.close(CHANNEL)
    ignored = walk.constant(struct.pack("=4Q", _SIG_IGN, 0, 0, 0))
    walk.call("rt_sigaction", signal.SIGPIPE, ignored, 0, _SIGNAL_BYTES)
    name = os.fsencode(command)[:_NAME_BYTES]
    walk.call("print", 2, b"lxcd: %s: " % name, walk.constant(_LINES), _LINE_BYTES, failed)
    found = Label()
    walk.call(
        "test",
        *(Address(failed), 8, -1, errno.ENOENT, errno.EACCES),
        unless=((ANY_ERROR, found),),
    )
    walk.call("exit_group", NOT_FOUND)
    walk.put(found)
    walk.call("exit_group", NOT_EXECUTABLE)
