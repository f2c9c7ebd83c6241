"""A child that walks what a test writes, made without a keeper: the test is in the keeper's place, and in lxcd's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from functools import cache

from lxcd.container import channel
from lxcd.container.calls import NOTHING, Address, Calls, Data, Program, Register
from lxcd.container.channel import Failed, Prepared, Reached, Report
from lxcd.container.walk import Walk
from lxcd.keeper import spawn
from lxcd.kernel import fd as kernel_fd
from tests.kernel.keeper import PATIENCE, select_readable, wait_readable

NOBODY_OPENS = 999  # as a descriptor
ALONE, FAILED = 1, 125  # its exit status without lxcd, and after a failure
_WORD = struct.Struct("=q")


def file_with(data: bytes) -> kernel_fd.Fd:
    return kernel_fd.Fd(kernel_fd.sealed_memfd("test", data))


@cache
def load() -> None:
    """The programs, once."""
    assert spawn.load() == ""


class Child:
    """It has said that it is prepared, unless a test looks at that."""

    def __init__(
        self,
        flags: int = 0,
        cgroups: Sequence[int] = (),
        *,
        prepared: bool = True,
    ) -> None:
        load()
        self.program = NOTHING
        self.marks = -1  # a test's own: where it would show that it walks on
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(PATIENCE)
        with theirs:
            self.pid, self.pidfd, self.keeper = spawn.prepare(flags, theirs.fileno(), [*cgroups])
        self.keeper.settimeout(PATIENCE)
        self._pidfds = [self.pidfd]
        self.sockets: list[kernel_fd.Fd] = []  # that it has handed over
        if prepared:
            assert self.report() == Prepared()

    # ---- lxcd

    def send_text(self, text: bytes, size: int = -1, progress: int = -1) -> None:
        with kernel_fd.Fd(kernel_fd.sealed_memfd("spec", text)) as memfd:
            channel.send_spec(
                self.channel, memfd.fileno(), len(text) if size < 0 else size, progress
            )

    def send(self, calls: Calls | Program, *fds: int, progress: int = -1) -> None:
        """A Spec, and its descriptors."""
        self.program = calls.program() if isinstance(calls, Calls) else calls
        self.send_text(self.program.text, progress=progress)
        channel.send_fds(self.channel, [*fds])

    def go(self) -> None:
        channel.send_go(self.channel)

    def report(self) -> Report | None:
        """The next one; None: its end is closed."""
        while True:
            try:
                data, fds = kernel_fd.receive(self.channel, channel.MESSAGE_LIMIT)
            except ConnectionResetError:
                # It has left something unread; that is told once.
                continue
            self.sockets += map(kernel_fd.Fd, fds)
            return channel.decode(data, self.program) if data else None

    def reports(self) -> list[Report]:
        """All up to the end."""
        found: list[Report] = []
        while (report := self.report()) is not None:
            found.append(report)
        return found

    def says_nothing(self) -> bool:
        """For a moment."""
        return not select_readable(self.channel.fileno(), 0.05)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It does nothing meanwhile."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGSTOP)
        os.waitid(os.P_PIDFD, self.pidfd, os.WSTOPPED)
        yield
        signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)

    # ---- the keeper

    def heard(self) -> tuple[bytes, list[int]]:
        """What it says to the keeper; the descriptors are the caller's."""
        return kernel_fd.receive(self.keeper, 1 << 16)

    def forked(self) -> None:
        """It goes on as another one, as the keeper is told: this object is that one now."""
        data, fds = self.heard()
        assert (data, len(fds)) == (b'["FORKED", null]', 1)
        self.pidfd = fds[0]
        self._pidfds.append(self.pidfd)

    def ends(self) -> int:
        """Wait for that: its exit status, negative for a signal."""
        wait_readable(self.pidfd)
        return self._reap(self.pidfd)

    def _reap(self, pidfd: int) -> int:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        assert found is not None
        os.close(pidfd)
        self._pidfds.remove(pidfd)
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def close(self) -> None:
        """Leave nothing of it."""
        self.channel.close()
        self.keeper.close()
        for one in self.sockets:
            one.close()
        for pidfd in [*self._pidfds]:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_readable(pidfd)
            with contextlib.suppress(ChildProcessError):
                self._reap(pidfd)


@contextlib.contextmanager
def child(flags: int = 0, cgroups: Sequence[int] = (), *, prepared: bool = True) -> Iterator[Child]:
    """One that is gone afterwards."""
    made = Child(flags, cgroups, prepared=prepared)
    try:
        yield made
    finally:
        made.close()


class Shown(Walk):
    """Calls that show what they leave: descriptor 0 of those that are sent is where it is written to."""

    def __init__(self, descriptors: int = 1) -> None:
        super().__init__(descriptors)
        self.begin("first")

    def show(self, *registers: Register) -> None:
        """What is in them."""
        for register in registers:
            self.call("write", self.sent(0), Address(register), _WORD.size)

    def show_data(self, data: Data, size: int) -> None:
        """What lies there."""
        self.call("write", self.sent(0), data, size)

    def copy(self, file: Register) -> None:
        """What is in a file, from its start."""
        self.call("sendfile", self.sent(0), file, self.block(b"\0" * 8), 1 << 16)

    def mark(self, number: int) -> None:
        """That the walk comes by."""
        self.show(self.call("set", number))

    def finish(self, status: int = 0) -> None:
        self.call("exit_group", status)


def walk(calls: Calls, *fds: int, flags: int = 0) -> tuple[bytes, list[Report], int]:
    """Have it walked by a child to its end: what it has written, its reports, its exit status. It passes every barrier."""
    with kernel_fd.Fd(os.memfd_create("written")) as written, child(flags) as walker:
        walker.send(calls, written.fileno(), *fds)
        reports: list[Report] = []
        while (report := walker.report()) is not None:
            reports.append(report)
            if isinstance(report, Reached):
                walker.go()
        status = walker.ends()
        return os.pread(written.fileno(), 1 << 20, 0), reports, status


def words(data: bytes) -> list[int]:
    """What was shown of registers."""
    return [value for (value,) in _WORD.iter_unpack(data)]


def shown(calls: Shown, *fds: int, flags: int = 0) -> list[int]:
    """The registers that a walk without a failure shows; it is finished here."""
    calls.finish()
    data, reports, status = walk(calls, *fds, flags=flags)
    assert (reports, status) == ([], 0)
    return words(data)


def failure(calls: Calls, *fds: int, flags: int = 0) -> Failed:
    """What ends a walk."""
    _, reports, status = walk(calls, *fds, flags=flags)
    found = reports[-1]
    assert isinstance(found, Failed)
    assert status == FAILED
    return found


def remove_cgroup(path: str) -> None:
    """Once nobody is in it any more: who has ended is still there for a moment."""
    end = time.monotonic() + PATIENCE
    while os.path.isdir(path):
        try:
            os.rmdir(path)
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.002)
