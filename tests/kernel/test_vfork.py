"""Going on as another process with the same memory, against the real kernel."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from lxcd.kernel import libc, process, procfs, vfork
from tests.kernel.forked import in_child, wait
from tests.kernel.keeper import PATIENCE


def two_halves(second: Callable[[int, int], None]) -> tuple[int, int, int, int]:
    """Pid of the first half, of the second, what that one says to, and what it hears on.

    Both are children of the caller. The second half does `second`, and ends with 7 if that returns.
    """
    said, say = os.pipe2(os.O_CLOEXEC)
    heard, hear = os.pipe2(os.O_CLOEXEC)
    first = os.fork()
    if first == 0:
        os.close(said)
        os.close(hear)
        assert vfork.go_on(process.CLONE_PARENT) >= 0
        os.write(say, os.getpid().to_bytes(4, "little"))
        second(say, heard)
        os._exit(7)
    os.close(say)
    os.close(heard)
    pid = int.from_bytes(os.read(said, 4), "little")
    assert pid not in (0, first)
    return first, pid, said, hear


def listen(say: int, heard: int) -> None:
    """What a second half may do: much with its memory and its stack, and then wait."""
    words = [str(number) for number in range(10_000)]
    os.write(say, words[-1].encode())
    os.read(heard, 1)


def test_the_first_half_sleeps_until_the_other_one_ends() -> None:
    def act() -> list[object]:
        first, second, said, hear = two_halves(listen)
        word = os.read(said, 100).decode()
        end = time.monotonic() + PATIENCE
        while procfs.status(first).state != "S":
            assert time.monotonic() < end
        os.close(hear)
        return [word, wait(second), wait(first)]

    assert in_child(act) == ["9999", 7, 0]


def test_the_first_half_ends_when_the_other_one_has_execed() -> None:
    def exec_cat(say: int, heard: int) -> None:
        os.dup2(heard, 0)
        os.dup2(say, 1)
        os.execv("/bin/cat", ["cat"])

    def act() -> list[object]:
        first, second, said, hear = two_halves(exec_cat)
        ended = wait(first)
        os.write(hear, b"still here")
        word = os.read(said, 100).decode()
        os.close(hear)
        return [ended, word, wait(second)]

    assert in_child(act) == [0, "still here", 0]


def test_the_first_half_has_nothing_open_while_it_waits() -> None:
    def act() -> list[object]:
        first, second, said, hear = two_halves(listen)
        os.read(said, 100)
        end = time.monotonic() + PATIENCE
        while len(os.listdir(f"/proc/{first}/fd")) != 1:
            assert time.monotonic() < end
        os.kill(second, signal.SIGKILL)
        # Nobody else holds the other end.
        rest = os.read(said, 1).decode()
        os.close(hear)
        return [rest, wait(second), wait(first)]

    assert in_child(act) == ["", -signal.SIGKILL, 0]


def test_no_signal_but_the_last_one_reaches_the_first_half() -> None:
    def act() -> list[object]:
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(1))
        first, second, said, hear = two_halves(listen)
        for _ in range(10):
            os.kill(first, signal.SIGUSR1)
        word = os.read(said, 100).decode()
        os.close(hear)
        return [word, wait(second), wait(first)]

    assert in_child(act) == ["9999", 7, 0]


def test_the_other_one_outlives_the_first_half() -> None:
    def act() -> list[object]:
        first, second, said, hear = two_halves(listen)
        os.kill(first, signal.SIGKILL)
        ended = wait(first)
        word = os.read(said, 100).decode()
        os.close(hear)
        return [ended, word, wait(second)]

    assert in_child(act) == [-signal.SIGKILL, "9999", 7]


def test_it_may_be_pid_1_of_a_new_namespace() -> None:
    def act() -> int:
        said, say = os.pipe()
        first = os.fork()
        if first == 0:
            assert vfork.go_on(process.CLONE_PARENT | process.CLONE_NEWPID) >= 0
            os.write(say, bytes([os.getpid()]))
            os._exit(0)
        found = os.read(said, 1)[0]
        assert wait(first) == 0
        os.wait()
        return found

    assert in_child(act) == 1


def test_it_says_what_failed_and_stays() -> None:
    def act() -> list[object]:
        pid = os.getpid()
        with pytest.raises(OSError, match="Invalid") as caught:
            vfork.go_on(0xFF)
        return [os.getpid() == pid, libc.syscall_of(caught.value)]

    assert in_child(act) == [True, "clone3"]
