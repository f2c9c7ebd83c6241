"""PID 1 of an application container without the container: in a pid namespace, or in none of its own, above a function."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import NoReturn

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import identity, process
from lxcd.kernel.native import images
from tests.kernel import forked
from tests.kernel.keeper import PATIENCE, select_readable, wait_readable

# glibc keeps 32 and 33 for itself.
SIGNALS = sorted(int(number) for number in signal.valid_signals())
LAST = int(signal.SIGRTMAX)
_READERS = frozenset(
    identity.capability_number(name) for name in ("dac_override", "dac_read_search")
)


Command = Callable[[int], int]


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what the kernel or another process does in its own time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"still not so: {what}"
        time.sleep(0.002)


_made: list[Init] = []


def in_child(act: Callable[[], forked.JSON]) -> forked.JSON:
    """What `act` returns in a forked child, which may make some; none is left when it fails."""

    def guarded() -> forked.JSON:
        try:
            return act()
        finally:
            for init in _made:
                init.kill()

    return forked.in_child(guarded)


class Init:
    """Make it in a process with one thread, who is its parent. `command` gets a descriptor to write to, and its result
    is its exit status; or it is a program, exec'ed as in a container. `capabilities`: all that those inside may have.
    """

    def __init__(
        self,
        command: Command | tuple[str, ...] | None,
        *,
        new_namespace: bool = True,
        capabilities: frozenset[int] | None = None,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.heard, said = os.pipe()
        self.pid, self.pidfd = process.clone3(process.CLONE_NEWPID if new_namespace else 0)
        if self.pid == 0:
            try:
                _live(command, theirs, capabilities, said)
            finally:
                os._exit(99)
        _made.append(self)
        os.close(said)
        theirs.close()
        # As lxcd: it has begun when nobody holds the channel any more.
        assert select_readable(ours.fileno(), PATIENCE)
        assert ours.recv(1) == b""
        ours.close()

    def send(self, number: int) -> None:
        """A signal, from us."""
        signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """It and, as far as they are in a pid namespace of its own, all below it, if it has not ended."""
        with contextlib.suppress(OSError):
            self.send(signal.SIGKILL)

    def hears(self, count: int = 1) -> bytes:
        """So many of the bytes that are written inside."""
        data = b""
        while len(data) < count:
            assert select.select([self.heard], [], [], PATIENCE)[0], f"nothing but {data!r}"
            more = os.read(self.heard, count - len(data))
            assert more, f"nobody is left to write, after {data!r}"
            data += more
        return data

    def hears_nothing(self) -> bool:
        """For a moment."""
        return not select.select([self.heard], [], [], 0.05)[0]

    def lives(self) -> bool:
        """Whether it has not ended, in a moment."""
        return not select_readable(self.pidfd, 0.05)

    def ends(self) -> int:
        """Wait for it: its exit status, negative for a signal."""
        wait_readable(self.pidfd)
        _made.remove(self)
        os.close(self.pidfd)
        os.close(self.heard)
        return forked.wait(self.pid)

    def children(self) -> list[int]:
        """Its children, ended ones too, in our own pid namespace."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]


def become(command: int, title: tuple[str, ...], channel: int) -> NoReturn:
    """As a walk ends that leaves PID 1 behind (`container/program.py`)."""
    program = bytes.fromhex(images.IMAGES["pid1"][os.uname().machine])
    held = kernel_fd.sealed_program("lxc-init", program)
    exec_sealed(held, title, channel, {"COMMAND": str(command)} if command else {})


def exec_sealed(
    held: int, title: tuple[str, ...], channel: int, environment: dict[str, str]
) -> NoReturn:
    """A program that nobody may read, with nothing open but the channel."""
    kernel_fd.close_all_but([channel, held])
    os.set_inheritable(channel, True)
    identity.limit_permitted(frozenset(range(64)) - _READERS)
    os.execve(held, title, environment)


def _live(
    command: Command | tuple[str, ...] | None,
    channel: socket.socket,
    capabilities: frozenset[int] | None,
    said: int,
) -> None:
    if capabilities is not None:
        identity.drop_bounding(capabilities, identity.last_capability())
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = 0
    if command is not None:
        pid, _ = process.clone3(0)
        if pid == 0:
            _run(command, channel, said)
    if capabilities is not None:
        identity.limit_permitted(capabilities)
    title = ("lxc-init", "--", "/bin/command", "an argument") if pid else ("lxc-init",)
    become(pid, title, channel.fileno())


def _run(command: Command | tuple[str, ...], channel: socket.socket, said: int) -> NoReturn:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if isinstance(command, tuple):
        os.execv(command[0], command)
    channel.close()
    os._exit(command(said))


def tell_signals(said: int) -> int:
    """A command that writes the number of every signal, and ends with 7 after the last there is."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.write(said, b"\0")
    while True:
        arrived = signal.sigwaitinfo(signal.valid_signals())
        if arrived.si_signo != signal.SIGCHLD:
            os.write(said, bytes([arrived.si_signo]))
        if arrived.si_signo == LAST:
            return 7


def beside(act: Command, said: int, flags: int = 0) -> int:
    """Have `act` done by a child of ours, or with CLONE_PARENT by a brother; its pid."""
    pid, pidfd = process.clone3(flags)
    if pid == 0:
        try:
            os._exit(act(said))
        finally:
            os._exit(98)
    os.close(pidfd)
    return pid
