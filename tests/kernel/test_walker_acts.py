"""The acts of the program that walks a Spec that are no system calls, each in a real child."""

from __future__ import annotations

import errno
import os
import signal
import struct
from contextlib import suppress

import pytest

from lxcd.cgroup import tree
from lxcd.container.calls import ANY_ERROR, Data, Label, Register
from lxcd.container.channel import Executing, Failed, Reached
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import process, procfs
from tests.kernel.forked import in_child
from tests.kernel.walked import (
    ALONE,
    FAILED,
    NOBODY_OPENS,
    Shown,
    child,
    failure,
    file_with,
    remove_cgroup,
    shown,
    walk,
    words,
)

_F_GETFD = 1


# ---- receive


def test_no_descriptors() -> None:
    calls = Shown(0)
    calls.finish(7)
    with child() as walker:
        walker.send(calls)
        assert (walker.reports(), walker.ends()) == ([], 7)


def test_descriptors_that_there_are_not() -> None:
    calls = Shown(6)
    for place in range(1, 6):
        missing, found = Label(), Label()
        calls.unless_there(calls.sent(place), missing)
        calls.copy(calls.sent(place))
        calls.go(found)
        calls.put(missing)
        calls.call("write", calls.sent(0), "-", 1)
        calls.put(found)
    calls.finish()
    with file_with(b"two") as two, file_with(b"four") as four:
        data, _, _ = walk(calls, -1, two.fileno(), -1, four.fileno(), -1)
    assert data == b"-two-four-"


def test_more_descriptors_than_fit_into_a_message() -> None:
    count = 300
    calls = Shown(1 + count)
    for place in range(1, 1 + count):
        missing = Label()
        calls.unless_there(calls.sent(place), missing)
        calls.copy(calls.sent(place))
        calls.put(missing)
    calls.show(calls.call("fcntl", calls.sent(count), _F_GETFD))
    calls.finish()
    files = [kernel_fd.sealed_memfd("test", b"%d," % number) for number in range(count)]
    try:
        data, reports, status = walk(
            calls, *(-1 if n % 100 == 50 else fd for n, fd in enumerate(files))
        )
    finally:
        kernel_fd.close_all(files)
    assert (reports, status) == ([], 0)
    assert words(data[-8:]) == [1]  # FD_CLOEXEC
    numbers = [int(word) for word in data[:-8].split(b",")[:-1]]
    assert numbers == [number for number in range(count) if number % 100 != 50]


def test_a_place_that_nothing_is_sent_to_is_no_register() -> None:
    calls = Shown(2)
    assert calls.sent(1) == Register(1)
    for place in (-1, 2, 1000):
        with pytest.raises(ValueError, match="no descriptor"):
            calls.sent(place)


# ---- wait, say


def test_it_waits_at_a_barrier() -> None:
    calls = Shown(0)
    calls.wait_at("one")
    calls.wait_at("two")
    calls.finish(3)
    with child() as walker:
        walker.send(calls)
        for barrier in ("one", "two"):
            assert walker.report() == Reached(barrier)
            assert walker.says_nothing()
            walker.go()
        assert (walker.reports(), walker.ends()) == ([], 3)


def test_it_does_not_stop_where_it_may_go_on() -> None:
    calls = Shown(0)
    calls.wait_at("one")
    calls.wait_at("two")
    calls.wait_at("three")
    calls.finish(3)
    with child() as walker:
        with walker.stopped():
            walker.send(calls)
            walker.go()
            walker.go()
        assert walker.report() == Reached("three")
        walker.go()
        assert (walker.reports(), walker.ends()) == ([], 3)


def test_it_says_that_exec_is_next() -> None:
    calls = Shown()
    calls.call("say")
    calls.call("execve", "/bin/true", calls.words(["true"]), calls.words([]), path="true")
    assert walk(calls) == (b"", [Executing()], 0)
    calls = Shown()
    calls.call("say")
    calls.call("execve", "/bin/false or so", 0, 0, path="false")
    _, reports, status = walk(calls)
    text = "No such file or directory: false"
    assert reports == [Executing(), Failed(0, "first", "execve", errno.ENOENT, text)]
    assert status == FAILED


# ---- fork, hand


@pytest.mark.parametrize("flags", [0, process.CLONE_NEWPID])
def test_it_goes_on_as_another_one(flags: int) -> None:
    calls = Shown()
    before = calls.call("getpid")
    calls.fork(flags)
    calls.show(before, calls.call("getpid"))
    calls.wait_at("there")
    calls.finish(9)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with kernel_fd.Fd(reader), child() as walker:
        with kernel_fd.Fd(writer):
            walker.send(calls, writer)
        assert walker.ends() == 0
        walker.forked()
        assert walker.report() == Reached("there")
        pid = process.pidfd_pid(walker.pidfd)
        status = procfs.status(pid)
        assert status.parent_pid == os.getpid()
        assert status.pids == ((pid, 1) if flags else (pid,))
        assert words(os.read(reader, 100)) == [walker.pid, 1 if flags else pid]
        walker.go()
        assert (walker.reports(), walker.ends()) == ([], 9)


def test_it_goes_on_with_all_that_it_had() -> None:
    calls = Shown()
    kept, changed = calls.call("set", 4), calls.block(b"before")
    calls.call("chdir", "/")
    calls.call("getcwd", changed, 6)
    with calls.trying():
        calls.call("raise", errno.EXDEV)
    calls.call("keep")
    calls.fork(0)
    calls.begin("behind")
    calls.show(kept)
    calls.show_data(changed, 2)
    calls.call("raise", 0)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with kernel_fd.Fd(reader), child() as walker:
        with kernel_fd.Fd(writer):
            walker.send(calls, writer)
        walker.forked()
        with open(reader, "rb", closefd=False) as file:
            data = file.read()
        assert words(data[:8]) == [4]
        assert data[8:] == b"/\0"
        found = walker.report()
        assert found == Failed(0, "first", "raise", errno.EXDEV, os.strerror(errno.EXDEV))
        assert walker.ends() == FAILED


@pytest.mark.parametrize("flags", [0, process.CLONE_NEWPID])
def test_it_goes_on_in_a_cgroup(unique: str, flags: int) -> None:
    unified = tree.find_trees().unified
    if unified is None:
        pytest.skip("no cgroups of version 2")
    path = os.path.join(unified.mountpoint, unique)
    os.mkdir(path)
    try:
        calls = Shown(1)
        calls.fork(flags, 0)
        calls.wait_at("there")
        with child() as walker:
            with kernel_fd.Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as cgroup:
                walker.send(calls, cgroup.fileno())
            walker.forked()
            assert walker.report() == Reached("there")
            pid = process.pidfd_pid(walker.pidfd)
            assert f"0::/{unique}" in procfs.read(pid, "cgroup").decode().splitlines()
            walker.channel.close()
            assert walker.ends() == ALONE
    finally:
        remove_cgroup(path)


def test_it_cannot_go_on_in_what_is_no_cgroup() -> None:
    calls = Shown(2)
    calls.fork(0, 1)
    calls.mark(1)
    with kernel_fd.Fd(os.open("/etc", os.O_RDONLY | os.O_CLOEXEC)) as folder:
        data, reports, status = walk(calls, folder.fileno())
    assert (data, status) == (b"", FAILED)
    assert reports == [Failed(0, "first", "clone3", errno.EBADF, os.strerror(errno.EBADF))]


def test_a_fork_may_fail() -> None:
    calls = Shown()
    calls.call("fork", 0xFF, -1, unless=((errno.EINVAL, None),))
    calls.mark(1)
    assert shown(calls) == [1]


@pytest.mark.parametrize("flags", [0, process.CLONE_NEWPID])
def test_nobody_goes_on_whom_the_keeper_does_not_know(flags: int) -> None:
    def act() -> list[object]:
        calls = Shown(0)
        calls.wait_at("before")
        calls.fork(flags)
        calls.wait_at("behind")
        calls.finish(5)
        with child() as walker:
            walker.send(calls)
            assert walker.report() == Reached("before")
            walker.keeper.close()
            walker.go()
            reports = walker.reports()
            status = walker.ends()
            # The other one is ours, too.
            _, other = os.wait()
            with suppress(ChildProcessError):
                os.wait()
                raise AssertionError("somebody is left")
        failed = [report for report in reports if isinstance(report, Failed)]
        assert len(reports) - len(failed) <= 1
        return [status, os.waitstatus_to_exitcode(other), failed[0].syscall, failed[0].errno]

    assert in_child(act) == [FAILED, -signal.SIGKILL, "clone3", errno.EPIPE]


def test_it_hands_descriptors_to_the_keeper() -> None:
    calls = Shown(3)
    places = calls.block(struct.pack("=3I", 2, 1, 2))
    calls.call("hand", "some text", 9, places, 3)
    calls.call("hand", "nothing", 7, places, 0)
    calls.finish()
    with child() as walker, file_with(b"one") as one, file_with(b"two") as two:
        walker.send(calls, 1, one.fileno(), two.fileno())
        data, fds = walker.heard()
        found = [os.pread(number, 10, 0) for number in fds]
        kernel_fd.close_all(fds)
        assert (data, found) == (b"some text", [b"two", b"one", b"two"])
        assert walker.heard() == (b"nothing", [])
        assert walker.heard() == (b"", [])
        assert walker.ends() == 0


def test_it_hands_more_than_fit_into_a_message() -> None:
    calls = Shown(0)
    streams = {f"s{number}": calls.null() for number in range(300)}
    calls.hand_streams(streams, 5, waits=False)
    # They are closed here.
    calls.call("fcntl", streams["s299"], _F_GETFD, unless=((errno.EBADF, None),))
    calls.finish(4)
    with child() as walker:
        walker.send(calls)
        names: list[str] = []
        for count in (253, 47):
            data, fds = walker.heard()
            kernel_fd.close_all(fds)
            assert len(fds) == count
            assert data.endswith(b'"history_bytes": 5, "waits": false}]')
            names += data.decode().split('"')[5::2][:count]
        assert [name for name in names if name.startswith("s")] == [*streams]
        assert walker.ends() == 4


def test_a_register_that_holds_none_is_not_handed() -> None:
    calls = Shown(2)
    calls.call("hand", "text", 4, calls.block(struct.pack("=I", 1)), 1, named="sendmsg")
    assert failure(calls, -1) == Failed(0, "first", "sendmsg", 9, os.strerror(errno.EBADF))


def test_it_cannot_hand_to_a_keeper_that_has_gone() -> None:
    calls = Shown(0)
    calls.hand_streams({"stdout": calls.null()})
    with child() as walker:
        walker.keeper.close()
        walker.send(calls)
        assert walker.reports() == [Failed(0, "first", "sendmsg", 32, os.strerror(errno.EPIPE))]
        assert walker.ends() == FAILED


# ---- test, set, load


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_it_looks_at_memory(width: int) -> None:
    calls = Shown()
    value = int.from_bytes(b"\x81\x92\xa3\xb4\xc5\xd6\xe7\xf8"[:width], "little", signed=width == 8)
    place = calls.block(b"\x81\x92\xa3\xb4\xc5\xd6\xe7\xf8\xff\xff")
    mask = -1 if width == 8 else (1 << 8 * width) - 1
    calls.call("test", place, width, mask, value, errno.EIO)
    calls.call("test", place, width, 0xF, 1, errno.EIO)
    calls.call("test", place, width, 0, 0, errno.EIO)
    # No byte more, and none less.
    calls.call("test", Data(place + 8 - width), width, 0, 0, errno.EIO)
    for wanted, error in ((value ^ 1, 5), (value ^ (1 << (8 * width - 2)), 6)):
        calls.call("test", place, width, mask, wanted, error, unless=((error, None),))
        calls.show(calls.call("error"))
    if width < 8:
        calls.call("test", place, width, -1, value, errno.EIO)
    assert shown(calls) == [5, 6]


def test_a_failed_test_is_a_failure_of_its_errno() -> None:
    calls = Shown()
    calls.call("test", calls.block(b"\1"), 1, 0xFF, 2, errno.EXDEV, path="where", named="what")
    text = f"{os.strerror(errno.EXDEV)}: where"
    assert failure(calls) == Failed(0, "first", "what", errno.EXDEV, text)


def test_whether_there_is_something() -> None:
    calls = Shown()
    for value in (-1, 0, 7, -(1 << 63)):
        nothing = Label()
        calls.unless_there(calls.call("set", value), nothing)
        calls.mark(value)
        calls.put(nothing)
    assert shown(calls) == [0, 7]


def test_values_that_look_like_errors_are_none() -> None:
    calls = Shown()
    number = calls.block(struct.pack("=iiq", -1, -4095, -2))
    calls.show(
        *(calls.call("set", value) for value in (-1, -4095, 1 << 62, -(1 << 63))),
        *(calls.call("load", Data(number + offset)) for offset in (0, 4)),
    )
    assert shown(calls) == [-1, -4095, 1 << 62, -(1 << 63), -1, -4095]


def test_an_int_is_loaded_and_nothing_behind_it() -> None:
    calls = Shown()
    place = calls.block(struct.pack("=II", 0x7FFFFFFF, 0xFFFFFFFF))
    calls.show(calls.call("load", place), calls.call("load", Data(place + 4)))
    assert shown(calls) == [0x7FFFFFFF, -1]


# ---- keep, error, raise


def test_the_last_failure_is_remembered() -> None:
    calls = Shown()
    calls.show(calls.call("error"))
    calls.call("raise", errno.EPERM, unless=((ANY_ERROR, None),))
    calls.mark(8)
    calls.show(calls.call("error"))
    calls.call("close", NOBODY_OPENS, unless=((ANY_ERROR, None),))
    calls.show(calls.call("error"))
    assert shown(calls) == [0, 8, errno.EPERM, errno.EBADF]


def test_it_fails_in_the_end_as_it_failed_first() -> None:
    calls = Shown()
    undone = Label()
    with calls.trying(undone):
        calls.call("chdir", "/is/not/there", path="first of all")
    calls.put(undone)
    calls.call("keep")
    calls.begin("undoing")
    with calls.trying():
        calls.call("raise", errno.EIO)
    calls.mark(1)
    calls.call("raise", 0)
    data, reports, _ = walk(calls)
    assert words(data) == [1]
    text = "No such file or directory: first of all"
    assert reports == [Failed(0, "first", "chdir", errno.ENOENT, text)]


def test_it_fails_with_what_a_register_says() -> None:
    calls = Shown()
    register = calls.call("set", errno.ENOEXEC)
    calls.call("raise", register, path="program", named="execve")
    text = f"{os.strerror(errno.ENOEXEC)}: program"
    assert failure(calls) == Failed(0, "first", "execve", errno.ENOEXEC, text)


# ---- print, decimal, limit


def test_it_prints_a_line_of_a_table() -> None:
    calls = Shown()
    table = calls.constant(b"zero\0\0\0\0one\0\0\0\0\0two and\0")
    for index in (0, 2, 1):
        register = calls.call("set", index)
        calls.call("print", calls.sent(0), b"what: ", table, 8, register)
    calls.call("print", NOBODY_OPENS, b"what: ", table, 8, 0)
    calls.finish()
    assert walk(calls) == (b"what: zero\nwhat: two and\nwhat: one\n", [], 0)


def test_it_writes_numbers() -> None:
    calls = Shown()
    numbers = [0, 9, 10, 4194304, (1 << 63) - 1, -1]
    for number in numbers:
        place = calls.block(b"x" * 24)
        calls.call("decimal", place, calls.call("set", number))
        calls.show_data(place, 24)
    calls.finish()
    data, _, _ = walk(calls)
    texts = [data[start : start + 24] for start in range(0, len(data), 24)]
    wanted = [str(number % (1 << 64)).encode() + b"\0" for number in numbers]
    assert texts == [text.ljust(24, b"x") for text in wanted]


def test_it_gives_up_capabilities() -> None:
    full = int(_status("self", "CapPrm"), 16)
    for keep in (-1, (1 << 21) | (1 << 6) | (1 << 38), 0, ~(1 << 2)):
        calls = Shown(0)
        calls.call("limit", keep, named="capset")
        # Never more than there is.
        calls.call("limit", -1)
        calls.wait_at("there")
        with child() as walker:
            walker.send(calls)
            assert walker.report() == Reached("there")
            found = [
                int(_status(walker.pid, name), 16)
                for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")
            ]
            assert found == [full & keep, full & keep, 0, 0]


def _status(pid: int | str, name: str) -> str:
    for line in procfs.read(pid, "status").decode().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise AssertionError(name)
