"""The keeper as a process: the raw protocol, what it holds, and what it must survive."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys

import pytest

import lxcd
from lxcd.container.channel import Executing, Failed
from lxcd.container.spec import Spec
from lxcd.keeper import protocol
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import procfs
from tests.kernel.keeper import Connection, RunningKeeper, map_ring, wait_readable
from tests.kernel.programs import execute, shell

GARBAGE = [
    pytest.param(b"garbage", id="no JSON"),
    pytest.param(b"\xff\xfe\x00", id="no UTF-8"),
    pytest.param(b'["Acknowledge", {"id": "a"', id="half"),
    pytest.param(b'["Acknowledge", {}]', id="a field is missing"),
    pytest.param(b'["Acknowledge", {"id": 1}]', id="wrong type"),
    pytest.param(b'["Welcome", {"version": 1, "build": "", "pid": 1}]', id="an answer"),
    pytest.param(b'["Nothing", {}]', id="unknown"),
    pytest.param(b"[" * 100_000, id="deep"),
    pytest.param(b"9" * 100_000, id="a long number"),
    pytest.param(b"x" * (protocol.MESSAGE_LIMIT + 1), id="too long"),
]


def expect_hung_up(connection: Connection) -> None:
    while connection.receive() is not None:
        pass


@pytest.mark.parametrize("data", GARBAGE)
def test_garbage_ends_the_connection_and_nothing_else(keeper: RunningKeeper, data: bytes) -> None:
    first = keeper.greeted()
    child = keeper.spawn(first, "child")
    before = keeper.descriptors()
    # A descriptor that comes with it is let go of, too.
    kernel_fd.send(first.socket, data, [0])
    expect_hung_up(first)
    second = keeper.greeted()
    keeper.settle()
    assert [told.answer for told in second.told][1:-1] == [
        protocol.Child("child", "init", child.pid)
    ]
    second.ping()
    assert len(keeper.descriptors()) == len(before)


@pytest.mark.parametrize("count", [0, 2, 3, 253])
def test_prepare_with_the_wrong_number_of_descriptors(keeper: RunningKeeper, count: int) -> None:
    connection = keeper.greeted()
    before = keeper.descriptors()
    connection.send(protocol.Prepare("child", "init", 0, 0), [0] * count)
    expect_hung_up(connection)
    keeper.greeted().ping()
    assert len(keeper.descriptors()) == len(before)


def test_prepare_with_253_descriptors(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    before = keeper.descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The child writes its 0 to all of them, as it would to cgroup.procs.
    with theirs, kernel_fd.Fd(os.open("/dev/null", os.O_WRONLY)) as null:
        fds = [theirs.fileno(), *[null.fileno()] * 252]
        connection.send(protocol.Prepare("child", "init", 0, 252), fds)
        connection.expect(protocol.Child, "child")
    ours.close()
    connection.expect(protocol.Exited, "child")
    connection.send(protocol.Forget("child"))
    connection.ping()
    assert keeper.descriptors() == before


@pytest.mark.parametrize(
    "request_",
    [
        protocol.Acknowledge("nobody"),
        protocol.Forget("nobody"),
        protocol.Drained("nobody", "stdout"),
    ],
)
def test_descriptors_where_none_belong_are_not_kept(
    keeper: RunningKeeper, request_: protocol.Request
) -> None:
    connection = keeper.greeted()
    before = keeper.descriptors()
    connection.send(request_, [0] * 253)
    # Either answer is right: a broken connection, or descriptors that are dropped.
    connection.close()
    keeper.greeted().ping()
    assert len(keeper.descriptors()) == len(before)


def test_hello_with_something_that_is_no_eventfd_does_not_kill_the_keeper(
    keeper: RunningKeeper,
) -> None:
    connection = keeper.connect()
    with kernel_fd.Fd(os.open("/dev/null", os.O_RDONLY)) as null:
        connection.send(protocol.Hello(protocol.VERSION, "test"), [null.fileno()])
    expect_hung_up_or_synced(connection)
    connection.close()
    keeper.settle()
    keeper.greeted().ping()


def expect_hung_up_or_synced(connection: Connection) -> None:
    while (told := connection.receive()) is not None:
        if isinstance(told.answer, protocol.Synced):
            return


def test_hello_twice_ends_the_connection(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    connection.send(protocol.Hello(protocol.VERSION, "test"), [connection.poke.fileno()])
    expect_hung_up(connection)
    keeper.greeted()


def test_a_second_connection_is_refused_while_the_first_is_there(keeper: RunningKeeper) -> None:
    first = keeper.greeted()
    second = keeper.connect()
    assert second.receive() is None
    first.ping()
    first.close()
    keeper.greeted()


def test_an_id_is_given_once(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    keeper.spawn(connection, "child")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection.send(protocol.Prepare("child", "init", 0, 0), [theirs.fileno()])
        expect_hung_up(connection)


def test_a_child_that_is_let_down_before_its_spec_ends(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    child = keeper.spawn(connection, "child")
    child.channel.close()
    exited, _ = connection.expect(protocol.Exited, "child")
    assert os.waitstatus_to_exitcode(exited.status) == 1
    assert exited.pid == child.pid


def test_a_channel_that_is_no_socket(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    with kernel_fd.Fd(os.open("/dev/null", os.O_RDWR)) as null:
        connection.send(protocol.Prepare("child", "init", 0, 0), [null.fileno()])
    exited, _ = connection.expect(protocol.Exited, "child")
    assert os.waitstatus_to_exitcode(exited.status) == 1


@pytest.mark.parametrize(
    ("text", "layout"), [(b"garbage", 1), (b"\1\0\0\0" * 4, 1), (Spec(()).compile(0).text, 2)]
)
def test_a_spec_that_makes_no_sense(keeper: RunningKeeper, text: bytes, layout: int) -> None:
    connection = keeper.greeted()
    child = keeper.spawn(connection, "child")
    with kernel_fd.Fd(kernel_fd.sealed_memfd("spec", text)) as memfd:
        message = struct.pack("=4I", 1, len(text), layout, 0)
        kernel_fd.send(child.channel, message, [memfd.fileno()])
    child.listen()
    assert child.reports == [Failed(-1, "map_spec", "mmap", errno.EPROTO, "Protocol error")]
    exited, _ = connection.expect(protocol.Exited, "child")
    assert os.waitstatus_to_exitcode(exited.status) == 125


def test_an_init_that_cannot_be_executed_says_why(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    child = keeper.spawn(connection, "child")
    child.walk(execute("/nonexistent"))
    assert child.reports[0] == Executing()
    assert child.reports[1] == Failed(
        0, "execute", "execve", 2, "No such file or directory: /nonexistent"
    )


def test_a_new_connection_is_told_everything_again(keeper: RunningKeeper) -> None:
    first = keeper.greeted()
    runs = shell(keeper, first, "runs", "echo said; echo more >&2; exec sleep 1000")
    first.expect(protocol.RingMade, "runs", "stderr")
    shell(keeper, first, "ended", "echo last; exit 7")
    exited, _ = first.expect(protocol.Exited, "ended")
    first.close()

    for _ in range(2):  # as often as one comes, until it is acknowledged
        second = keeper.greeted()
        answers = [told.answer for told in second.told]
        pid = next(a.pid for a in answers if isinstance(a, protocol.Child) and a.id == "ended")
        assert answers == [
            protocol.Welcome(protocol.VERSION, "test", keeper.pid),
            protocol.Child("runs", "init", runs.pid),
            protocol.Streams("runs", ("stdout",)),
            protocol.RingMade("runs", "stdout"),
            protocol.Streams("runs", ("stderr",)),
            protocol.RingMade("runs", "stderr"),
            protocol.Child("ended", "init", pid),
            protocol.RingMade("ended", "stdout"),
            protocol.Closed("ended", "stdout"),
            protocol.Closed("ended", "stderr"),
            exited,
            protocol.Synced(),
        ]
        # Descriptors are the same things as before: the pidfd names it, the ring has its words.
        assert [len(told.fds) for told in second.told] == [0, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0]
        with_ring = map_ring(second.told[3].fds)
        assert with_ring.read(0, 100).data == b"said\n"
        with_ring.close()
        signal.pidfd_send_signal(second.told[1].fds[0], 0)
        second.close()

    third = keeper.greeted()
    third.send(protocol.Forget("ended"))
    third.ping()
    assert (keeper.private / protocol.JOURNAL_NAME).read_bytes() == b""
    third.close()
    assert not [t for t in keeper.greeted().told if isinstance(t.answer, protocol.Exited)]


def test_forget_lets_go_of_every_descriptor(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    before = keeper.descriptors()
    for number in range(3):
        shell(keeper, connection, f"child-{number}", "echo out; echo err >&2")
        connection.expect(protocol.Exited, f"child-{number}")
        connection.send(protocol.Forget(f"child-{number}"))
    connection.ping()
    assert keeper.descriptors() == before
    assert keeper.children() == []


def test_forget_of_a_child_that_runs_is_no_order(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    child = keeper.spawn(connection, "child")
    connection.send(protocol.Forget("child"))
    connection.ping()
    os.kill(child.pid, signal.SIGKILL)
    exited, _ = connection.expect(protocol.Exited, "child")
    assert exited.status == signal.SIGKILL


def test_exits_are_in_the_journal_before_they_are_told(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    child = keeper.spawn(connection, "child")
    child.channel.close()
    connection.expect(protocol.Exited, "child")
    assert b'"child"' in (keeper.private / protocol.JOURNAL_NAME).read_bytes()


def test_what_only_waited_is_forgotten_with_its_lxcd(keeper: RunningKeeper) -> None:
    """It ends because lxcd has gone, and the keeper may hear of its end first."""
    connection = keeper.greeted()
    child = keeper.spawn(connection, "child")
    child.channel.close()
    connection.expect(protocol.Exited, "child")
    connection.close()
    second = keeper.greeted()
    keeper.settle()
    assert [type(told.answer) for told in second.told] == [protocol.Welcome, protocol.Synced]
    assert (keeper.private / protocol.JOURNAL_NAME).read_bytes() == b""


def test_it_ends_by_no_polite_signal(keeper: RunningKeeper) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(keeper.pid, number)
    keeper.greeted().ping()


def test_leave_waits_for_the_last_child(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    child = keeper.spawn(connection, "child")
    connection.send(protocol.Leave())
    connection.ping()
    child.channel.close()
    connection.expect(protocol.Exited, "child")
    assert connection.receive() is None
    assert keeper.process.wait(30) == 0


def test_one_thread_and_a_tree_of_its_own(keeper: RunningKeeper) -> None:
    keeper.greeted()
    assert len(os.listdir(f"/proc/{keeper.pid}/task")) == 1
    assert procfs.namespace_id(keeper.pid, "mnt") != procfs.namespace_id("self", "mnt")
    names = sorted(os.listdir(f"/proc/{keeper.pid}/root"))
    assert {"proc", "sys", "dev", "rootfs", "devpts"} <= set(names)
    # But for what leads to the package and the interpreter, wherever they are installed.
    needed = {path.split("/")[1] for path in (lxcd.__file__, os.path.realpath(sys.executable))}
    assert not ({"home", "boot", "tmp", "var", "run", "srv"} - needed) & set(names)
    root = next(found for found in procfs.mounts(keeper.pid) if found.target == "/")
    assert "ro" in root.options
    # Host directories that it does not know are not mounted; what it knows is read-only.
    for found in procfs.mounts(keeper.pid):
        if found.fstype not in ("proc", "sysfs", "devtmpfs", "tmpfs"):
            assert "ro" in found.options, found


def test_a_child_sees_no_descriptor_of_another(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    shell(keeper, connection, "first", "exec sleep 1000")
    child = shell(keeper, connection, "second", "exec ls /proc/self/fd")
    wait_readable(child.pidfd)
    answer, fds = connection.expect(protocol.RingMade, "second", "stdout")
    connection.expect(protocol.Exited, "second")
    ring = map_ring(fds)
    # Its three, and the one that ls reads the directory by.
    assert ring.read(0, 1000).data == b"0\n1\n2\n3\n"
    ring.close()
    assert answer.stream == "stdout"
