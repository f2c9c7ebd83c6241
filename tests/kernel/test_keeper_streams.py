"""Terminals and pipes of the keeper's children, orphans, and events that pile up."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from lxcd.container.devices import OpenPipes
from lxcd.container.join import Join
from lxcd.keeper import protocol
from lxcd.keeper.ring import CAPACITY_BYTES, Ring
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import procfs
from tests.kernel.keeper import (
    PATIENCE,
    Connection,
    RunningKeeper,
    Spawned,
    map_ring,
    select_readable,
    wait_readable,
)
from tests.kernel.programs import O, execute, run, shell, terminal_steps

# What a loop that only waits may cost while this test keeps another processor busy for ten times as long.
IDLE_NS = 5_000_000


def assert_idle(keeper: RunningKeeper) -> None:
    """It uses no processor while nothing happens, however long this process computes meanwhile."""
    keeper.settle()
    before = keeper.cpu_ns()
    end = time.process_time_ns() + 10 * IDLE_NS
    while time.process_time_ns() < end:
        pass
    assert keeper.cpu_ns() - before < IDLE_NS


def wait_for(connection: Connection, ring: Ring, text: bytes) -> bytes:
    """All that is in the ring, once `text` is; woken by the eventfd as lxcd is."""
    while True:
        data = ring.read(0, CAPACITY_BYTES).data
        if text in data:
            return data
        assert select_readable(connection.poke.fileno(), PATIENCE), data
        os.eventfd_read(connection.poke.fileno())


def console(connection: Connection, id_: str) -> tuple[int, Ring]:
    """Master and ring of a child's console."""
    _, masters = next(
        (t.answer, t.fds)
        for t in connection.told
        if isinstance(t.answer, protocol.Streams) and t.answer.id == id_
    )
    _, fds = connection.expect(protocol.RingMade, id_, "console")
    return masters[0], map_ring(fds)


def rings_mapped(pid: int) -> int:
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        return sum("memfd:lxcd-ring" in line for line in file)


def expect_streams(connection: Connection, id_: str) -> list[int]:
    return connection.expect(protocol.Streams, id_)[1]


def test_a_child_has_nothing_of_what_another_wrote(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    shell(keeper, connection, "first", "echo secret; read line")
    connection.expect(protocol.RingMade, "first", "stdout")
    second = keeper.spawn(connection, "second")
    assert rings_mapped(keeper.pid) == 1
    assert rings_mapped(second.pid) == 0


def test_output_goes_on_after_a_vhangup(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    program = (
        "import ctypes, os, signal\n"
        "os.write(1, b'one\\n')\n"
        # vhangup(2) throws away what is not read yet: it waits for an answer.
        "os.read(0, 1)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "assert ctypes.CDLL(None).vhangup() == 0\n"
        "for n in range(3): os.close(n)\n"
        "fd = os.open('/dev/console', os.O_RDWR | os.O_NOCTTY)\n"
        "os.write(fd, b'two\\n')\n"
        "signal.pause()\n"
    )
    interpreter = os.path.realpath(sys.executable)
    run(
        keeper,
        connection,
        "child",
        terminal_steps(interpreter, "-I", "-S", "-c", program),
    )
    expect_streams(connection, "child")
    master, ring = console(connection, "child")
    assert wait_for(connection, ring, b"one") == b"one\r\n"
    os.write(master, b"\n")
    assert wait_for(connection, ring, b"two").endswith(b"two\r\n")
    ring.close()
    assert_idle(keeper)


def test_output_goes_on_after_the_last_slave_was_closed(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    script = (
        "trap '' HUP; echo one; exec <&- >&- 2>&-; echo two >/dev/console; read line </dev/console;"
        " echo three $line >/dev/console; exec sleep 1000"
    )
    run(keeper, connection, "child", terminal_steps("/bin/sh", "-c", script))
    expect_streams(connection, "child")
    master, ring = console(connection, "child")
    assert wait_for(connection, ring, b"two") == b"one\r\ntwo\r\n"
    assert_idle(keeper)
    os.write(master, b"in\n")
    assert b"three in\r\n" in wait_for(connection, ring, b"three in\r\n")
    ring.close()
    assert_idle(keeper)


def test_an_idle_tty_has_no_ring(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    run(keeper, connection, "child", terminal_steps("/bin/sleep", "1000", ttys=3))
    answer, _ = connection.expect(protocol.Streams, "child")
    assert answer.names == ("console", "tty1", "tty2", "tty3")
    connection.ping()
    assert not [t for t in connection.told if isinstance(t.answer, protocol.RingMade)]
    assert_idle(keeper)


def test_many_ttys_are_handed_over_in_batches(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    before = keeper.descriptors()
    run(keeper, connection, "child", terminal_steps("/bin/true", ttys=300))
    connection.expect(protocol.Exited, "child")
    names = [
        name
        for told in connection.told
        if isinstance(told.answer, protocol.Streams)
        for name in told.answer.names
    ]
    assert names == ["console", *(f"tty{number}" for number in range(1, 301))]
    connection.send(protocol.Forget("child"))
    connection.ping()
    assert keeper.descriptors() == before


def test_an_application_waits_for_no_reader_once_lxcd_is_gone(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    child = shell(keeper, connection, "child", "head -c 3000000 /dev/zero; echo end >&2")
    connection.close()
    wait_readable(child.pidfd)
    connection = keeper.greeted()
    if not any(isinstance(told.answer, protocol.Exited) for told in connection.told):
        connection.expect(protocol.Exited, "child")
    (told,) = [t for t in connection.told if t.answer == protocol.RingMade("child", "stdout")]
    ring = map_ring(told.fds)
    assert ring.head == 3_000_000
    assert 0 < ring.head - ring.tail <= CAPACITY_BYTES
    assert ring.closed
    ring.close()


def test_a_pipe_that_is_let_go_waits_for_no_reader(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    child = shell(keeper, connection, "child", "head -c 3000000 /dev/zero; echo end >&2")
    _, fds = connection.expect(protocol.RingMade, "child", "stdout")
    ring = map_ring(fds)
    ring.set_hold(hold=False)
    connection.send(protocol.Drained("child", "stdout"))
    wait_readable(child.pidfd)
    connection.expect(protocol.Exited, "child")
    assert ring.head == 3_000_000
    assert 0 < ring.head - ring.tail <= CAPACITY_BYTES
    assert ring.closed
    ring.close()


def test_a_held_pipe_makes_its_writer_wait(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    total = 1_000_000
    child = shell(keeper, connection, "child", f"exec head -c {total} /dev/zero", kind="exec")
    _, fds = connection.expect(protocol.RingMade, "child", "stdout")
    ring = map_ring(fds)
    data = b""
    while len(data) < total:
        while ring.head - len(data) < min(CAPACITY_BYTES, total - len(data)):
            assert select_readable(connection.poke.fileno(), PATIENCE)
            os.eventfd_read(connection.poke.fileno())
        keeper.settle()
        # Full, so nothing is overwritten, nothing is read, and nobody spins over it.
        assert ring.tail <= len(data)
        if ring.head < total:
            assert_idle(keeper)
            assert not select_readable(child.pidfd, 0)
        piece = ring.read(len(data), CAPACITY_BYTES)
        assert (piece.offset, piece.gap_bytes) == (len(data), 0)
        data += piece.data
        ring.acknowledge(len(data))
        connection.send(protocol.Drained("child", "stdout"))
    connection.expect(protocol.Closed, "child", "stdout")
    assert data == bytes(total)
    assert ring.head == total
    ring.close()


def test_output_of_an_ended_exec_waits_too(keeper: RunningKeeper) -> None:
    """The ring is full, the rest is in the pipe, the process has ended: nothing is lost."""
    connection = keeper.greeted()
    total = CAPACITY_BYTES + 50_000  # the rest fits into a pipe
    child = shell(keeper, connection, "child", f"exec head -c {total} /dev/zero", kind="exec")
    wait_readable(child.pidfd)
    _, fds = connection.expect(protocol.RingMade, "child", "stdout")
    connection.expect(protocol.Exited, "child")
    ring = map_ring(fds)
    assert (ring.head, ring.closed) == (CAPACITY_BYTES, False)
    ring.acknowledge(ring.head)
    connection.send(protocol.Drained("child", "stdout"))
    connection.expect(protocol.Closed, "child", "stdout")
    assert (ring.head, ring.closed) == (total, True)
    ring.close()


def orphans(keeper: RunningKeeper) -> dict[int, str]:
    """State of each child of the keeper."""
    return {pid: procfs.status(pid).state for pid in keeper.children()}


def make_orphan(keeper: RunningKeeper, connection: Connection, id_: str) -> tuple[int, int]:
    """A process whose parent, a child of the keeper, has ended: it comes to the keeper. Its pid and pidfd."""
    child = shell(keeper, connection, id_, "sleep 1000 >/dev/null 2>&1 & echo $!")
    wait_readable(child.pidfd)
    _, fds = connection.expect(protocol.RingMade, id_, "stdout")
    connection.expect(protocol.Exited, id_)
    ring = map_ring(fds)
    pid = int(ring.read(0, 100).data)
    ring.close()
    assert procfs.status(pid).parent_pid == keeper.pid
    return pid, os.pidfd_open(pid)


def kill(pid: int, pidfd: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_readable(pidfd)
    os.close(pidfd)


def test_orphans_are_reaped(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    pid, pidfd = make_orphan(keeper, connection, "child")
    kill(pid, pidfd)
    connection.ping()
    assert keeper.children() == []


def test_orphans_are_reaped_though_an_exec_has_failed_before(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    failed = keeper.spawn(connection, "failed", "exec")
    failed.channel.close()
    connection.expect(protocol.Exited, "failed")
    pid, pidfd = make_orphan(keeper, connection, "child")
    kill(pid, pidfd)
    connection.ping()
    keeper.settle()
    assert orphans(keeper) == {}


def test_an_orphan_that_ended_while_an_exec_came_in_is_reaped(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    pid, pidfd = make_orphan(keeper, connection, "child")
    late = keeper.spawn(connection, "late", "exec")
    kill(pid, pidfd)
    connection.ping()
    late.channel.close()
    connection.expect(protocol.Exited, "late")
    keeper.settle()
    assert orphans(keeper) == {}


def test_an_orphan_that_ended_together_with_a_child_is_reaped(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    waits = keeper.spawn(connection, "waits")
    pid, pidfd = make_orphan(keeper, connection, "child")
    keeper.halt()
    kill(pid, pidfd)
    waits.channel.close()
    wait_readable(waits.pidfd)
    keeper.go_on()
    connection.expect(protocol.Exited, "waits")
    keeper.settle()
    assert orphans(keeper) == {}


def join(keeper: RunningKeeper, connection: Connection, id_: str, *argv: str) -> Spawned:
    """An exec: joins this very process's host name."""
    child = keeper.spawn(connection, id_, "exec")
    with kernel_fd.Fd(os.pidfd_open(os.getpid())) as pidfd:
        child.send_spec(
            Join(origin=O, fd=0, namespaces=("mnt", "uts")),
            OpenPipes(origin=O),
            execute(*argv),
            fds=[pidfd.fileno()],
        )
    return child


def check_told_in_order(connection: Connection, id_: str, status: int) -> None:
    connection.expect(protocol.Exited, id_)
    told = [t.answer for t in connection.told if getattr(t.answer, "id", "") == id_]
    kinds = [type(answer).__name__ for answer in told]
    # The two halves run at the same time: streams may be told of before the second is.
    assert kinds[0] == "Child"
    assert sorted(kinds[1:3]) == ["Forked", "Streams"]
    assert kinds[-1] == "Exited"
    assert sorted(kinds[3:-1]) == ["Closed", "Closed", "RingMade"]
    exited = told[-1]
    assert isinstance(exited, protocol.Exited)
    assert exited.status == status


@pytest.mark.parametrize("late", [False, True])
def test_an_exec_is_told_in_order(keeper: RunningKeeper, *, late: bool) -> None:
    """Forked, streams, output, exit; also when the keeper hears of it after the first half's end."""
    connection = keeper.greeted()
    child = keeper.spawn(connection, "exec", "exec")
    if late:
        keeper.halt()
    with kernel_fd.Fd(os.pidfd_open(os.getpid())) as pidfd:
        child.send_spec(
            Join(origin=O, fd=0, namespaces=("mnt", "uts")),
            OpenPipes(origin=O),
            execute("/bin/sh", "-c", "echo out; exit 9"),
            fds=[pidfd.fileno()],
        )
    if late:
        wait_readable(child.pidfd)
        keeper.go_on()
    child.listen()
    check_told_in_order(connection, "exec", 9 << 8)


def test_an_exec_leaves_no_zombie_and_no_descriptor(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    before = keeper.descriptors()
    join(keeper, connection, "exec", "/bin/echo", "out").listen()
    check_told_in_order(connection, "exec", 0)
    connection.send(protocol.Forget("exec"))
    connection.ping()
    assert keeper.descriptors() == before
    assert orphans(keeper) == {}
