"""The program that walks a Spec (lxcd/kernel/native/walker.c), as a real child: its calls, and where they lead."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from lxcd.container.calls import ANY_ERROR, Address, Data, Label
from lxcd.container.channel import Failed, Reached
from lxcd.container.walk import Found
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import process, procfs
from lxcd.network import namespace
from lxcd.network.netlink import Netlink, Request
from tests.kernel.walked import (
    FAILED,
    NOBODY_OPENS,
    Shown,
    child,
    failure,
    file_with,
    shown,
    walk,
    words,
)

_PR_GET_DUMPABLE = 3
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1


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
    assert found.text == "Invalid argument: tmpfs: Unknown parameter 'nonsense'"


def test_all_that_it_says() -> None:
    calls = Shown()
    goes_on = ((errno.EINVAL, None),)
    context = calls.call("fsopen", "tmpfs", 1)
    for name in ("one", "two"):
        calls.call("fsconfig", context, 1, name, "x", 0, head="tmpfs", unless=goes_on)
    calls.call("fsconfig", context, 1, "three", "x", 0, head="tmpfs")
    said = "; ".join(f"tmpfs: Unknown parameter '{name}'" for name in ("one", "two", "three"))
    assert failure(calls).text == f"Invalid argument: {said}"


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


@pytest.mark.parametrize(
    "flags", [process.CLONE_NEWNET, process.CLONE_NEWNET | process.CLONE_NEWUSER]
)
def test_its_network_can_be_watched(flags: int) -> None:
    """By a socket that it hands over."""
    with child(flags) as walker:
        (handed,) = walker.sockets
        with Netlink(namespace.opened(handed)) as inside:
            info = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
            attributes = [("IFLA_IFNAME", "inside0"), ("IFLA_LINKINFO", info)]
            inside.run([Request("newlink", {}, attributes, "inside0")])
            found = inside.dump(Request("getlink", {}, [], "devices"))
            assert {link.attributes["IFLA_IFNAME"] for link in found} >= {"lo", "inside0"}
        assert "inside0" not in [name for _, name in socket.if_nameindex()]


@pytest.mark.parametrize("flags", [0, process.CLONE_NEWNS, process.CLONE_NEWUSER])
def test_nothing_is_handed_over_of_a_network_that_is_not_its_own(flags: int) -> None:
    with child(flags) as walker:
        assert walker.sockets == []


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
