"""The program that walks a Spec (lxcd/kernel/native/walker.c), as a real child: its calls, its acts, its failures."""

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
from lxcd.container.calls import ANY_ERROR, Address, Data, Label, Register
from lxcd.container.channel import Executing, Failed, Reached
from lxcd.container.walk import Found
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import process, procfs
from tests.kernel.forked import in_child
from tests.kernel.keeper import select_readable
from tests.kernel.walked import (
    ALONE,
    FAILED,
    Child,
    Shown,
    child,
    failure,
    remove_cgroup,
    shown,
    walk,
    words,
)

_F_GETFD = 1
_PR_GET_DUMPABLE = 3
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1
NOBODY_OPENS = 999
_SPEC, _FDS, _GO, _LAYOUT = 1, 2, 3, 1


def file_with(data: bytes) -> kernel_fd.Fd:
    return kernel_fd.Fd(kernel_fd.sealed_memfd("test", data))


# ---- calls, and what they leave


def test_a_result_is_in_its_register() -> None:
    calls = Shown()
    first = calls.call("umask", 0o123)
    second = calls.call("umask", 0o77)
    calls.show(first, second, calls.call("getpid"))
    usual = os.umask(0o22)
    try:
        assert shown(calls, flags=process.CLONE_NEWPID) == [0o22, 0o123, 1]
    finally:
        os.umask(usual)


def test_a_register_is_an_argument() -> None:
    calls = Shown(2)
    copy = calls.call("dup", calls.sent(1))
    calls.call("close", calls.sent(1))
    calls.copy(copy)
    calls.finish()
    with file_with(b"what it says") as file:
        assert walk(calls, file.fileno()) == (b"what it says", [], 0)


def test_a_register_may_be_told_and_written_over() -> None:
    calls = Shown()
    mine = calls.call("set", 5)
    calls.show(mine)
    calls.call("set", 7, into=mine)
    calls.show(mine)
    other = calls.call("set", mine)
    calls.call("set", -9, into=mine)
    calls.show(other, mine)
    assert shown(calls) == [5, 7, 7, -9]


def test_a_register_is_minus_one_before() -> None:
    calls = Shown()
    over = Label()
    calls.go(over)
    never = calls.call("set", 1)
    calls.put(over)
    calls.show(never)
    assert shown(calls) == [-1]


def test_a_call_leaves_something_at_an_address() -> None:
    calls = Shown(2)
    offset = calls.call("set", 3)
    count = calls.call("sendfile", calls.sent(0), calls.sent(1), Address(offset), 5)
    calls.show(offset, count)
    calls.finish()
    with file_with(b"0123456789") as file:
        data, _, _ = walk(calls, file.fileno())
    assert data[:5] == b"34567"
    assert words(data[5:]) == [8, 5]


def test_a_call_leaves_something_in_the_data() -> None:
    calls = Shown()
    ends = calls.block(b"\0" * 8)
    calls.call("pipe2", ends, os.O_CLOEXEC)
    reads, writes = calls.call("load", ends), calls.call("load", Data(ends + 4))
    calls.call("write", writes, "through it", 10)
    calls.call("close", writes)
    room = calls.block(b"x" * 8)
    calls.call("chdir", "/")
    calls.call("getcwd", room, 8)
    calls.show(reads, writes)
    calls.show_data(room, 3)
    calls.finish()
    data, reports, status = walk(calls)
    assert (reports, status, data[16:]) == ([], 0, b"/\0x")
    reads_from, writes_to = words(data[:16])
    assert 5 < reads_from < writes_to


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_data_is_where_it_is_pointed_to(count: int) -> None:
    """With an even and an odd number of relocations."""
    calls = Shown()
    argv = ["sh", "-c", 'printf "%s|" "$@" "$A" "$B"', "name", *(f"word {n}" for n in range(count))]
    calls.call("dup3", calls.sent(0), 1, 0)
    program = calls.text("/bin/sh")
    calls.call("execve", program, calls.words(argv), calls.words(["A=1", "B=two words"]))
    data, reports, status = walk(calls)
    assert (reports, status) == ([], 0)
    assert data.decode().split("|")[:-1] == [*argv[4:], "1", "two words"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_data_points_into_data(count: int) -> None:
    calls = Shown()
    inner = calls.block(b"inner")
    pointers = {8 + 8 * number: Data(inner + number) for number in range(count)}
    outer = calls.pointing(b"\xee" * 8 + b"\0" * 32, pointers)
    calls.show_data(outer, 40)
    first, *found = shown(calls)
    assert first == int.from_bytes(b"\xee" * 8, "little", signed=True)
    assert [one - found[0] for one in found[:count]] == [*range(count)]
    assert 0 not in found[:count]
    assert found[count:] == [0] * (4 - count)


def test_texts_have_what_they_have() -> None:
    calls = Shown()
    odd = "\udcff\udc80 ä"
    for value in (odd, "", b"with \0 in it", "x"):
        size = len(value) if isinstance(value, bytes) else len(os.fsencode(value))
        calls.call("write", calls.sent(0), value, size + 1)
    calls.finish()
    data, _, _ = walk(calls)
    assert data == os.fsencode(odd) + b"\0\0with \0 in it\0x\0"


def test_a_constant_is_there_once_and_a_block_each_time() -> None:
    calls = Shown()
    assert calls.constant(b"same") == calls.constant(b"same")
    assert calls.block(b"same") != calls.block(b"same")
    assert calls.text("same") == calls.text("same")


def test_six_arguments_of_every_kind() -> None:
    calls = Shown()
    value = calls.call("set", 6)
    # hand: text, length, places, count; and what it does not look at.
    calls.call("hand", "text", 4, calls.block(b""), 0, value, Address(value))
    calls.mark(1)
    assert shown(calls) == [1]


# ---- where it goes on


def test_a_failure_leads_to_where_its_errno_does() -> None:
    for error in (errno.EPERM, errno.ENOENT, errno.EBADF, 4095):
        calls = Shown()
        first, second, other = Label(), Label(), Label()
        ways = ((errno.EPERM, first), (errno.ENOENT, second), (ANY_ERROR, other))
        calls.call("raise", error, unless=ways)
        for number, label in enumerate((first, second, other), 1):
            calls.put(label)
            calls.mark(number)
            calls.finish()
        data, _, _ = walk(calls)
        assert words(data) == [{errno.EPERM: 1, errno.ENOENT: 2}.get(error, 3)]


def test_a_failure_may_be_none() -> None:
    calls = Shown()
    kept = calls.call("set", 77)
    calls.call("raise", errno.EPERM, into=kept, unless=((errno.EPERM, None),))
    # There is no result.
    calls.show(kept)
    calls.call("close", NOBODY_OPENS, into=kept, unless=((ANY_ERROR, None),))
    calls.show(kept)
    assert shown(calls) == [77, 77]


def test_a_failure_of_another_errno_ends_it() -> None:
    calls = Shown()
    calls.call("raise", errno.EPERM, unless=((errno.ENOENT, None), (errno.EBADF, None)))
    assert failure(calls) == Failed(0, "first", "raise", errno.EPERM, os.strerror(errno.EPERM))


def test_a_success_may_lead_elsewhere() -> None:
    calls = Shown(2)
    there = Label()
    calls.call("close", calls.sent(1), then=there)
    calls.mark(1)
    calls.put(there)
    calls.mark(2)
    with file_with(b"") as file:
        assert shown(calls, file.fileno()) == [2]


def test_a_failure_does_not_lead_to_where_success_does() -> None:
    calls = Shown()
    there = Label()
    calls.call("close", NOBODY_OPENS, then=there, unless=((errno.EBADF, None),))
    calls.mark(1)
    calls.put(there)
    calls.mark(2)
    assert shown(calls) == [1, 2]


def test_it_may_go_back() -> None:
    calls = Shown()
    ends = calls.block(b"\0" * 8)
    calls.call("pipe2", ends, os.O_CLOEXEC | os.O_NONBLOCK)
    writes = calls.call("load", Data(ends + 4))
    again, full = Label(), Label()
    calls.put(again)
    calls.mark(1)
    calls.call("write", writes, b"x" * 4096, 4096, unless=((errno.EAGAIN, full),), then=again)
    calls.put(full)
    calls.mark(2)
    assert shown(calls) == [1] * 17 + [2]


def test_what_is_tried_leads_out_of_it() -> None:
    calls = Shown()
    with calls.trying():
        calls.mark(1)
        calls.call("close", NOBODY_OPENS)
        calls.mark(2)
    calls.mark(3)
    with calls.trying():
        calls.mark(4)
    calls.mark(5)
    assert shown(calls) == [1, 3, 4, 5]


def test_what_is_tried_within_what_is_tried() -> None:
    calls = Shown()
    elsewhere, end = Label(), Label()
    with calls.trying(elsewhere):
        with calls.trying():
            calls.call("raise", errno.EIO)
            calls.mark(1)
        calls.mark(2)
        # A way of its own comes first.
        calls.call("raise", errno.EIO, unless=((errno.EIO, None),))
        calls.mark(3)
        calls.call("raise", errno.EIO, unless=((errno.EPERM, None),))
        calls.mark(4)
    calls.mark(5)
    calls.go(end)
    calls.put(elsewhere)
    calls.mark(6)
    calls.put(end)
    calls.mark(7)
    assert shown(calls) == [2, 3, 6, 7]


def test_nothing_is_tried_any_more_behind_it() -> None:
    calls = Shown()
    with calls.trying():
        calls.mark(1)
    calls.call("raise", errno.EIO)
    assert failure(calls).errno == errno.EIO


@pytest.mark.parametrize("optional", [True, False])
def test_what_is_optional_may_fail(*, optional: bool) -> None:
    calls = Shown()
    with calls.optional(optional):
        calls.call("chdir", "/is/not/there", path="/is/not/there")
    if optional:
        calls.mark(1)
        assert shown(calls) == [1]
    else:
        text = "No such file or directory: /is/not/there"
        assert failure(calls) == Failed(0, "first", "chdir", errno.ENOENT, text)


# ---- what a failure says


def test_a_failure_names_its_step_and_its_call() -> None:
    calls = Shown()
    calls.begin("second")
    calls.call("openat", -100, "/is/not/there", 0, path="there", named="open")
    calls.begin("third")
    calls.mark(1)
    assert failure(calls) == Failed(1, "second", "open", 2, "No such file or directory: there")


def test_an_end_without_a_program_is_a_failure() -> None:
    calls = Shown()
    calls.begin("last")
    calls.mark(1)
    data, reports, status = walk(calls)
    assert words(data) == [1]
    assert reports == [Failed(1, "last", "", 0, "the spec ends without a program")]
    assert status == FAILED


def test_a_way_to_the_end_is_one() -> None:
    calls = Shown()
    end = Label()
    calls.go(end)
    calls.mark(1)
    calls.put(end)
    assert failure(calls).text == "the spec ends without a program"


def test_a_file_system_says_itself_what_is_wrong() -> None:
    calls = Shown()
    calls.fsmount("tmpfs", (("mode", "755"), ("nonsense", "7")))
    found = failure(calls, flags=process.CLONE_NEWNS)
    assert (found.syscall, found.errno) == ("fsconfig", errno.EINVAL)
    assert found.text == "Invalid argument: tmpfs: tmpfs: Unknown parameter 'nonsense'"


def test_all_that_it_says() -> None:
    calls = Shown()
    goes_on = ((errno.EINVAL, None),)
    context = calls.call("fsopen", "tmpfs", 1)
    for name in ("one", "two"):
        calls.call("fsconfig", context, 1, name, "x", 0, head="tmpfs", unless=goes_on)
    calls.call("fsconfig", context, 1, "three", "x", 0, head="tmpfs")
    said = "; ".join(f"tmpfs: Unknown parameter '{name}'" for name in ("one", "two", "three"))
    assert failure(calls).text == f"Invalid argument: tmpfs: {said}"


def test_a_file_system_that_says_too_much() -> None:
    """More lines than there is room for in a report, and one that is longer than a line may be."""
    calls = Shown()
    goes_on = ((errno.EINVAL, None),)
    context = calls.call("fsopen", "tmpfs", 1)
    for number in range(8):
        name = f"{number}{'x' * (200 if number < 7 else 250)}"
        calls.call("fsconfig", context, 1, name, "x", 0, head="tmpfs", unless=goes_on)
    calls.call("raise", 0)
    assert failure(calls).errno == 0
    calls = Shown()
    context = calls.call("fsopen", "tmpfs", 1)
    for number in range(8):
        name = f"{number}{'x' * 200}"
        ways = goes_on if number < 7 else ()
        calls.call("fsconfig", context, 1, name, "x", 0, head="tmpfs", unless=ways)
    assert failure(calls).text.count("Unknown parameter") == 4


def test_a_file_system_that_may_fail() -> None:
    calls = Shown()
    with calls.optional(True):
        calls.fsmount("tmpfs", (("nonsense", None),))
        calls.mark(1)
    calls.mark(2)
    assert shown(calls) == [2]


def test_a_context_that_is_none_has_no_words() -> None:
    calls = Shown()
    calls.call("fsconfig", -1, 1, "a", "b", 0, path="what", head="tmpfs")
    assert failure(calls).text == "Invalid argument: what"
    calls = Shown()
    calls.call("fsconfig", calls.sent(0), 1, "a", "b", 0, path="what", head="tmpfs")
    assert failure(calls).text == "Invalid argument: what"


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


# ---- what else it is


@pytest.mark.parametrize("flags", [0, process.CLONE_NEWUSER | process.CLONE_NEWPID])
def test_it_is_not_dumpable(flags: int) -> None:
    calls = Shown()
    calls.show(calls.call("prctl", _PR_GET_DUMPABLE, 0, 0, 0, 0))
    if not flags:
        calls.fork(0)
        calls.show(calls.call("prctl", _PR_GET_DUMPABLE, 0, 0, 0, 0))
    calls.wait_at("there")
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with kernel_fd.Fd(reader), child(flags) as walker:
        with kernel_fd.Fd(writer):
            walker.send(calls, writer)
        if not flags:
            walker.forked()
        assert walker.report() == Reached("there")
        assert words(os.read(reader, 100)) == ([0] if flags else [0, 0])


def test_its_name_and_its_words() -> None:
    with child() as walker:
        assert procfs.status(walker.pid).comm == "lxcd-walker"
        title, *numbers = procfs.read(walker.pid, "cmdline").split(b"\0")[:-1]
        assert title == b"lxcd-walker"
        assert len(numbers) == 4
        assert all(number.isdigit() for number in numbers)
        assert procfs.read(walker.pid, "environ") == b""


def test_what_it_becomes_has_nothing_of_it() -> None:
    calls = Shown()
    calls.call("dup3", calls.sent(0), 1, 0)
    script = "ls /proc/$$/fd; echo; cat /proc/$$/environ"
    argv = calls.words(["sh", "-c", script])
    calls.call("execve", "/bin/sh", argv, calls.words(["A=1"]))
    data, _, _ = walk(calls)
    assert data.split(b"\n\n") == [b"0\n1\n2", b"A=1\0"]


@pytest.mark.parametrize(
    "flags", [process.CLONE_NEWNET, process.CLONE_NEWNET | process.CLONE_NEWUSER]
)
def test_loopback_is_up_before_anybody_looks(flags: int) -> None:
    calls = Shown()
    any_socket = calls.call("socket", 2, 2, 0)
    request = calls.block(struct.pack("16s24x", b"lo"))
    calls.call("ioctl", any_socket, _SIOCGIFFLAGS, request)
    calls.call("test", Data(request + 16), 2, _IFF_UP, _IFF_UP, errno.ENETDOWN)
    calls.mark(1)
    assert shown(calls, flags=flags) == [1]


def test_it_costs_a_few_pages() -> None:
    with child(process.CLONE_NEWNS | process.CLONE_NEWPID) as walker:
        rollup = procfs.read(walker.pid, "smaps_rollup").decode()
        private = [
            line.split()[1] for line in rollup.splitlines() if line.startswith("Private_Dirty")
        ]
        assert int(private[0]) <= 32


# ---- places in a tree


def test_places_are_made_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    calls = Shown(2)
    calls.root = calls.sent(1)
    for path, create in (
        ("there", ""),
        ("a/b/c", "dir"),
        ("a/b/d", "file"),
        ("", ""),
        ("a/b/d", "file"),
    ):
        calls.close(calls.target(path, create))
        calls.mark(1)
    absent = Label()
    calls.if_exists("missing", absent)
    calls.mark(2)
    calls.put(absent)
    found: Found = calls.statx(calls.target("a/b/d"), "d")
    calls.call("test", found.mode, 2, 0o170000, 0o100000, errno.EIO)
    calls.call("test", found.size, 8, -1, 0, errno.EIO)
    for path, create in (("link", ""), ("link/passwd", ""), ("link/x", "dir"), ("link", "file")):
        with calls.trying():
            calls.target(path, create)
            calls.mark(3)
        calls.show(calls.call("error"))
    with kernel_fd.Fd(os.open(tmp_path, os.O_PATH | os.O_CLOEXEC)) as root:
        assert shown(calls, root.fileno()) == [1] * 5 + [errno.ELOOP] * 4
    assert (tmp_path / "a/b/c").is_dir()
    assert (tmp_path / "a/b/d").is_file()
    assert not Path("/etc/x").exists()


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
    walker.send(calls, _marks(walker))
    assert walker.report() == Reached("here")


_MARKS: dict[int, int] = {}


def _marks(walker: Child) -> int:
    return _MARKS[walker.pid]


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
        _MARKS[walker.pid] = writer
        try:
            place(walker)
            then(walker)
            assert walker.ends() != 0
        finally:
            del _MARKS[walker.pid]
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
    kernel_fd.send(walker.channel, message, [_marks(walker)] * fds)


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
                channel.send_fds(walker.channel, [_marks(walker)])
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
