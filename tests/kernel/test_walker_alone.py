"""The program that walks a Spec, before there is one, without lxcd, and with nonsense in place of what lxcd says."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lxcd.cgroup import tree
from lxcd.container import channel
from lxcd.container.channel import Failed, Reached
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import process
from tests.kernel.forked import in_child
from tests.kernel.keeper import select_readable
from tests.kernel.walked import (
    ALONE,
    FAILED,
    Child,
    Shown,
    child,
    file_with,
    remove_cgroup,
)

_SPEC, _FDS, _GO, _LAYOUT = 1, 2, 3, 1


# ---- before the Spec


def test_a_cgroup_that_it_cannot_enter() -> None:
    with kernel_fd.Fd(os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)) as full:
        with child(cgroups=[full.fileno()], prepared=False) as walker:
            text = os.strerror(errno.ENOSPC)
            wanted = Failed(-1, "enter_cgroups", "write", errno.ENOSPC, text)
            assert (walker.reports(), walker.ends()) == ([wanted], FAILED)


def test_it_enters_its_cgroups(unique: str) -> None:
    trees = tree.find_trees()
    payload = tree.plan_payload(trees, f"{unique}/payload", relative=False)
    tree.make(trees, payload)
    files = tree.open_procs(trees, payload)  # none in version 2
    try:
        with child(process.CLONE_NEWPID, cgroups=files) as walker:
            found = {os.readlink(f"/proc/self/fd/{number}") for number in files}
            assert len(found) == len(files)
            for path in found:
                assert Path(path).read_text().split() == [str(walker.pid)]
            assert set(os.listdir(f"/proc/{walker.pid}/fd")) == set("012345")
    finally:
        kernel_fd.close_all(files)
        for path in reversed(payload.made):
            remove_cgroup(path)


def test_words_that_it_cannot_use() -> None:
    def act() -> list[int]:
        kernel_fd.close_range(3, flags=kernel_fd.CLOSE_RANGE_CLOEXEC)
        found: list[int] = []
        from lxcd.keeper import spawn as keeper_spawn  # noqa: PLC0415
        from lxcd.kernel import spawn  # noqa: PLC0415

        assert keeper_spawn.load() == ""
        program = keeper_spawn._programs["walker"]
        for given in ([], ["1"], ["900", "901", "902", "0"], ["1"] * 400):
            pid, pidfd = spawn.spawn(0, program, ["walker", *given], [])
            os.close(pidfd)
            found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return found

    assert in_child(act) == [FAILED] * 4


def test_a_spec_that_is_no_file() -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with kernel_fd.Fd(reader), kernel_fd.Fd(writer), child() as walker:
        channel.send_spec(walker.channel, reader, 100)
        _is_refused(walker, errno.EPROTO)


def test_a_spec_of_another_layout() -> None:
    text = Shown().program().text
    with file_with(text) as file, child() as walker:
        message = struct.pack("=4I", _SPEC, len(text), _LAYOUT + 1, 0)
        kernel_fd.send(walker.channel, message, [file.fileno()])
        _is_refused(walker, errno.EPROTO)


def test_a_spec_that_cannot_be_mapped() -> None:
    text = Shown().program().text
    with child() as walker, kernel_fd.Fd(os.memfd_create("written")) as file:
        os.write(file.fileno(), text)
        with kernel_fd.Fd(
            os.open(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY | os.O_CLOEXEC)
        ) as only_written:
            channel.send_spec(walker.channel, only_written.fileno(), len(text))
        _is_refused(walker, errno.EACCES)


def _is_refused(walker: Child, error: int) -> None:
    wanted = Failed(-1, "map_spec", "mmap", error, os.strerror(error))
    assert (walker.reports(), walker.ends()) == ([wanted], FAILED)


# ---- without lxcd


def _at_spec(walker: Child) -> None:
    pass


def _at_receive(walker: Child) -> None:
    calls = _marked()
    walker.program = calls.program()
    walker.send_text(walker.program.text)


def _at_barrier(walker: Child) -> None:
    calls = _marked()
    walker.send(calls, walker.marks)
    assert walker.report() == Reached("here")


def _marked() -> Shown:
    """Whoever walks on leaves a mark."""
    calls = Shown()
    calls.wait_at("here")
    calls.mark(1)
    calls.wait_at("there")
    return calls


Place = Callable[[Child], None]
PLACES: list[Place] = [_at_spec, _at_receive, _at_barrier]


def _ends_at(place: Place, then: Callable[[Child], None]) -> None:
    """It does, and has not walked on."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with kernel_fd.Fd(reader), kernel_fd.Fd(writer), child() as walker:
        walker.marks = writer
        place(walker)
        then(walker)
        assert walker.ends() != 0
        assert not select_readable(reader, 0)


@pytest.mark.parametrize("place", PLACES)
def test_without_lxcd_it_ends(place: Place) -> None:
    def leave(walker: Child) -> None:
        walker.channel.close()

    _ends_at(place, leave)


@pytest.mark.parametrize("act", ["say", "raise"])
def test_without_lxcd_it_ends_where_it_would_say_something(act: str) -> None:
    calls = Shown()
    calls.call(act, 1)
    calls.mark(1)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with kernel_fd.Fd(reader), kernel_fd.Fd(writer), child() as walker:
        with walker.stopped():
            walker.send(calls, writer)
            walker.channel.close()
        assert walker.ends() == ALONE
        assert not select_readable(reader, 0)


def test_with_something_unread_it_ends_too() -> None:
    def leave(walker: Child) -> None:
        walker.send_text(b"more")
        walker.channel.close()

    _ends_at(_at_barrier, leave)


# ---- nonsense


NONSENSE = [
    b"\0",
    b"\1",
    b"\3\0\0",
    struct.pack("=I", 0),
    struct.pack("=I", 4),
    struct.pack("=I", 0xFFFFFFFF),
    b"x" * 16,
    b"x" * 5000,
]
# What is right somewhere else, or half of what is right.
HALF: dict[str, tuple[list[bytes], int]] = {
    "_at_spec": (
        [
            struct.pack("=I", _SPEC),
            struct.pack("=II", _SPEC, 100),
            struct.pack("=III", _SPEC, 100, _LAYOUT),
            struct.pack("=5I", _SPEC, 100, _LAYOUT, 0, 0),
            struct.pack("=4I", _SPEC, 100, _LAYOUT + 1, 0),
            struct.pack("=4I", _SPEC, 0, _LAYOUT, 0),
            struct.pack("=4I", _SPEC, 0xFFFFFFFF, _LAYOUT, 0),
            struct.pack("=4I", _FDS, 0, 0, 0),
            struct.pack("=4I", _GO, 0, 0, 0),
        ],
        1,
    ),
    "_at_receive": (
        [
            struct.pack("=I", _FDS),
            struct.pack("=II", _FDS, 0),
            struct.pack("=III", _FDS, 0, 1),
            struct.pack("=III", _FDS, 0, 0xFFFFFFFF),
            struct.pack("=IIII", _FDS, 0, 0, 0),
            struct.pack("=II2s", _FDS, 0, b"\0\0"),
            struct.pack("=4I", _SPEC, 0, _LAYOUT, 0),
            struct.pack("=4I", _GO, 0, 0, 0),
        ],
        1,
    ),
    "_at_barrier": (
        [
            struct.pack("=I", _FDS),
            struct.pack("=III", _FDS, 0, 0),
            struct.pack("=4I", _SPEC, 16, _LAYOUT, 0),
            struct.pack("=5I", _GO, 0, 0, 0, 0),
        ],
        1,
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fds", [0, 1, 3, 253])
def test_it_ends_when_it_hears_what_lxcd_never_says(place: Place, fds: int) -> None:
    for message in NONSENSE:
        _ends_at(place, lambda walker, message=message: _send(walker, message, fds))  # type: ignore[misc]


@pytest.mark.parametrize("place", PLACES)
def test_it_ends_when_it_hears_half_of_it(place: Place) -> None:
    messages, fds = HALF[place.__name__]
    for message in messages:
        _ends_at(place, lambda walker, message=message: _send(walker, message, fds))  # type: ignore[misc]


@pytest.mark.parametrize("place", PLACES)
def test_an_empty_message_is_an_end(place: Place) -> None:
    _ends_at(place, lambda walker: _send(walker, b"", 0))
    _ends_at(place, lambda walker: _send(walker, b"", 1))


def test_without_descriptors_there_is_no_spec() -> None:
    _ends_at(_at_spec, lambda walker: _send(walker, struct.pack("=4I", _SPEC, 100, _LAYOUT, 0), 0))


def test_descriptors_without_a_place_and_places_without_one() -> None:
    for message, fds in (
        (struct.pack("=III", _FDS, 0, 0), 0),
        (struct.pack("=III", _FDS, 0, 0), 2),
        (struct.pack("=IIII", _FDS, 1, 0, 0), 1),
    ):
        _ends_at(_at_receive, lambda walker, data=message, fds=fds: _send(walker, data, fds))  # type: ignore[misc]


def _send(walker: Child, message: bytes, fds: int) -> None:
    kernel_fd.send(walker.channel, message, [walker.marks] * fds)


def test_more_descriptors_than_it_may_have() -> None:
    def send(walker: Child) -> None:
        resource.prlimit(walker.pid, resource.RLIMIT_NOFILE, (20, 20))
        _send(walker, struct.pack("=IIIII", _FDS, 1, 0, 0, 0), 3)
        _send(walker, struct.pack("=II", _FDS, 0) + b"\0" * 80, 20)

    _ends_at(_at_receive, send)


@pytest.mark.parametrize("says", ["what is there", "what should be there"])
def test_half_a_spec_is_not_walked(says: str) -> None:
    text = _marked().program().text
    sizes = sorted({0, 1, 15, 16, 17, *range(20, len(text), 37), len(text) - 8, len(text) - 1})
    for size in sizes:

        def send(walker: Child, size: int = size) -> None:
            walker.send_text(text[:size], size if says == "what is there" else len(text))
            with suppress(OSError):
                channel.send_fds(walker.channel, [walker.marks])
                channel.send_go(walker.channel)

        _ends_at(_at_spec, send)


def test_more_than_a_spec_is_not_walked() -> None:
    text = _marked().program().text
    for more in (1, 8, 5000):
        _ends_at(_at_spec, lambda walker, more=more: walker.send_text(text + b"\0" * more))  # type: ignore[misc]


def test_numbers_of_a_spec_that_are_too_large() -> None:
    text = _marked().program().text
    for place in range(4):
        for number in (0xFFFFFFFF, 0x80000000, 1 << 20):
            wrong = bytearray(text)
            struct.pack_into("=I", wrong, 4 * place, number)
            _ends_at(_at_spec, lambda walker, wrong=bytes(wrong): walker.send_text(wrong))  # type: ignore[misc]


# ---- for those who find it dead


def test_it_writes_down_where_it_is() -> None:
    calls = Shown(0)
    calls.wait_at("zero")
    for number in range(1, 4):
        calls.begin(f"step {number}")
        calls.wait_at(f"{number}")
    with child() as walker, kernel_fd.Fd(os.memfd_create("progress")) as progress:
        assert channel.step_of(progress.fileno()) == -1
        walker.send(calls, progress=progress.fileno())
        for number in range(4):
            report = walker.report()
            assert isinstance(report, Reached)
            assert channel.step_of(progress.fileno()) == number
            assert number == 0 or calls.program().steps[number] == f"step {number}"
            walker.go()
        assert walker.ends() == FAILED
        assert channel.step_of(progress.fileno()) == 3


def test_it_writes_it_down_as_another_one_too() -> None:
    calls = Shown(0)
    calls.begin("second")
    calls.fork(process.CLONE_NEWPID)
    calls.begin("third")
    calls.wait_at("there")
    with child() as walker, kernel_fd.Fd(os.memfd_create("progress")) as progress:
        walker.send(calls, progress=progress.fileno())
        walker.forked()
        assert walker.report() == Reached("there")
        signal.pidfd_send_signal(walker.pidfd, signal.SIGKILL)
        assert walker.ends() == -signal.SIGKILL
        assert channel.step_of(progress.fileno()) == 2


def test_before_the_first_step_it_is_at_none() -> None:
    calls = Shown(1)
    with child() as walker, kernel_fd.Fd(os.memfd_create("progress")) as progress:
        walker.program = calls.program()
        walker.send_text(walker.program.text, progress=progress.fileno())
        walker.channel.close()
        assert walker.ends() == ALONE
        assert channel.step_of(progress.fileno()) == -1


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGTERM])
def test_a_signal_does_what_it_does_to_anybody(how: signal.Signals) -> None:
    calls = Shown(0)
    calls.wait_at("there")
    calls.finish(6)
    with child() as walker:
        walker.send(calls)
        assert walker.report() == Reached("there")
        signal.pidfd_send_signal(walker.pidfd, how)
        if how == signal.SIGTERM:
            assert walker.ends() == -signal.SIGTERM
            return
        os.waitid(os.P_PIDFD, walker.pidfd, os.WSTOPPED)
        signal.pidfd_send_signal(walker.pidfd, signal.SIGCONT)
        assert walker.says_nothing()
        walker.go()
        assert walker.ends() == 6
