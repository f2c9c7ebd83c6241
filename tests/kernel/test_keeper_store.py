"""The keeper under a service manager that keeps its descriptors: killed, it comes back with all its children."""

from __future__ import annotations

import os
import select
import signal

import pytest

from lxcd.keeper import protocol
from lxcd.keeper.ring import CAPACITY_BYTES
from lxcd.kernel import process
from tests.kernel.keeper import (
    PATIENCE,
    map_ring,
    select_readable,
    wait_readable,
)
from tests.kernel.left import answers, kernel_tells, kill, left_by
from tests.kernel.notified import Manager, Start, again, told_of
from tests.kernel.programs import run, shell, terminal_steps
from tests.kernel.test_keeper_streams import assert_idle, wait_for
from tests.kernel.test_keeper_upgrade import follow, generators


@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
def test_it_is_ready_when_it_can_be_talked_to(manager: Manager, managed: Start) -> None:
    """By a socket without a path, which the keeper's own mount tree could not have either."""
    managed().greeted().ping()
    assert manager.stored == {}


def test_what_it_holds_is_stored(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    pipes = shell(keeper, connection, "pipes", "echo said; exec sleep 1000", kind="exec")
    connection.expect(protocol.RingMade, "pipes", "stdout")
    terminal = run(keeper, connection, "terminal", terminal_steps("/bin/cat", ttys=1))
    connection.expect(protocol.Streams, "terminal")
    stored = manager.settled(keeper)
    assert set(stored) == {
        ("pipes", "pidfd", str(pipes.pid)),
        ("pipes", "open", "stdout"),
        ("pipes", "ring", "stdout"),
        ("pipes", "open", "stderr"),
        ("terminal", "pidfd", str(terminal.pid)),
        ("terminal", "open", "console"),
        ("terminal", "open", "tty1"),
    }
    assert len(manager.stored) == len(stored) + 1
    left = left_by(connection)
    for (id_, what, detail), number in stored.items():
        child = left[id_]
        if what == "pidfd":
            assert process.pidfd_pid(number) == child.pid
            continue
        ours = child.streams[detail].fd if what == "open" else child.streams[detail].ring
        assert os.path.sameopenfile(ours, number)
    os.write(stored["terminal", "open", "console"], b"typed\n")
    connection.expect(protocol.RingMade, "terminal", "console")
    assert len(manager.settled(keeper)) == len(stored) + 1


def test_what_has_ended_is_taken_back(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    shell(keeper, connection, "child", "echo out")
    connection.expect(protocol.Exited, "child")
    assert set(manager.settled(keeper)) == {("child", "ring", "stdout")}
    connection.send(protocol.Forget("child"))
    connection.ping()
    assert manager.settled(keeper) == {}
    assert [name for name in manager.stored if not name.startswith("book")] == []


def test_an_exec_is_stored_as_what_it_goes_on_as(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    child = shell(keeper, connection, "child", "exec sleep 1000")
    before = manager.settled(keeper)
    assert ("child", "pidfd", str(child.pid)) in before
    after, connection = again(keeper, manager, managed)
    assert told_of(connection, "child")[:2] == [
        protocol.Child("child", "init", child.pid),
        protocol.Forked("child", child.pid),
    ]
    assert manager.settled(after).keys() == before.keys()


def test_output_goes_on_after_its_death(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    readers = generators(keeper, connection)
    left = left_by(connection)
    for _ in range(3):
        offsets = [reader.offset for reader in readers]
        while any(r.offset < o + 30_000 for r, o in zip(readers, offsets, strict=True)):
            follow(connection, readers)
            if select.select([connection.socket], [], [], 0.002)[0]:
                told = connection.receive()
                assert told is None, told
        manager.read()
        keeper.halt()
        kill(keeper)
        connection.close()
        keeper = managed()
        connection = keeper.greeted()
        for id_, child in left.items():
            (stream,) = {"stdout", "console"} & child.streams.keys()
            assert told_of(connection, id_)[:2] == [
                protocol.Child(id_, child.kind, child.pid),
                protocol.Forked(id_, child.pid),
            ]
            assert protocol.Streams(id_, (stream,)) in told_of(connection, id_)
            assert protocol.RingMade(id_, stream) in told_of(connection, id_)
    for id_, child in left.items():
        os.kill(child.pid, signal.SIGKILL)
        exited, _ = connection.expect(protocol.Exited, id_)
        assert (exited.pid, exited.status, exited.known) == (child.pid, signal.SIGKILL, True)
    for reader in readers:
        reader.ring.close()


def test_a_terminal_that_has_never_spoken(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    run(keeper, connection, "child", terminal_steps("/bin/cat", ttys=100))
    connection.expect(protocol.Streams, "child")
    master = left_by(connection)["child"].streams["console"].fd
    keeper, connection = again(keeper, manager, managed)
    told = told_of(connection, "child")
    names = [
        name for answer in told if isinstance(answer, protocol.Streams) for name in answer.names
    ]
    assert names == ["console", *(f"tty{number}" for number in range(1, 101))]
    os.write(master, b"typed\n")
    _, fds = connection.expect(protocol.RingMade, "child", "console")
    ring = map_ring(fds)
    assert wait_for(connection, ring, b"typed\r\ntyped\r\n") == b"typed\r\ntyped\r\n"
    ring.close()
    assert ("child", "ring", "console") in manager.settled(keeper)
    assert_idle(keeper)


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
@pytest.mark.parametrize("stream", ["console", "stdout"])
def test_an_end_that_came_meanwhile_is_told(
    manager: Manager, managed: Start, stream: str, *, reaped: bool
) -> None:
    keeper = managed()
    connection = keeper.greeted()
    fifo = keeper.directory / "end"
    os.mkfifo(fifo)
    script = f"trap '' HUP; echo out; read line <{fifo}; echo last; exit 9"
    if stream == "console":
        run(keeper, connection, "child", terminal_steps("/bin/sh", "-c", script))
    else:
        shell(keeper, connection, "child", script)
    _, fds = connection.expect(protocol.RingMade, "child", stream)
    ring = map_ring(fds)
    wait_for(connection, ring, b"out")
    left = left_by(connection)["child"]
    manager.settled(keeper)
    kill(keeper)
    fifo.write_text("go\n")
    wait_readable(left.pidfd)
    if reaped:
        assert os.waitpid(left.pid, 0)[1] == 9 << 8
    keeper = managed()
    connection = keeper.greeted()
    if not any(isinstance(answer, protocol.Exited) for answer in answers(connection, "child")):
        connection.expect(protocol.Exited, "child")
    exits = [a for a in answers(connection, "child") if isinstance(a, protocol.Exited)]
    if reaped and not kernel_tells():
        assert [a.known for a in exits] == [False]
    else:
        assert [(a.pid, a.status, a.known) for a in exits] == [(left.pid, 9 << 8, True)]
    assert protocol.Closed("child", stream) in answers(connection, "child")
    assert ring.read(0, 100).data.split() == [b"out", b"last"]
    assert ring.closed
    ring.close()
    assert set(manager.settled(keeper)) == {("child", "ring", stream)}
    # Told again until somebody has taken note; then nothing is left.
    connection.close()
    connection = keeper.greeted()
    assert exits[0] in answers(connection, "child")
    connection.send(protocol.Forget("child"))
    connection.ping()
    assert manager.settled(keeper) == {}


def test_a_full_held_ring_loses_nothing(manager: Manager, managed: Start) -> None:
    total = CAPACITY_BYTES + 50_000
    keeper = managed()
    connection = keeper.greeted()
    shell(keeper, connection, "exec", f"head -c {total} /dev/zero; exit 5", kind="exec")
    _, fds = connection.expect(protocol.RingMade, "exec", "stdout")
    ring = map_ring(fds)
    while ring.head < CAPACITY_BYTES:
        assert select_readable(connection.poke.fileno(), PATIENCE)
        os.eventfd_read(connection.poke.fileno())
    connection.expect(protocol.Exited, "exec")
    _, connection = again(keeper, manager, managed)
    exits = [a for a in answers(connection, "exec") if isinstance(a, protocol.Exited)]
    assert [(a.status, a.known) for a in exits] == [(5 << 8, True)]
    assert (ring.head, ring.closed) == (CAPACITY_BYTES, False)
    ring.acknowledge(ring.head)
    connection.send(protocol.Drained("exec", "stdout"))
    connection.expect(protocol.Closed, "exec", "stdout")
    assert (ring.head, ring.closed) == (total, True)
    assert ring.read(CAPACITY_BYTES, total).data == bytes(50_000)
    ring.close()


def test_output_outlives_the_exit_that_was_taken_note_of(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    shell(keeper, connection, "child", "echo last words; exit 3")
    connection.expect(protocol.Exited, "child")
    connection.send(protocol.Acknowledge("child"))
    connection.ping()
    keeper, connection = again(keeper, manager, managed)
    told = told_of(connection, "child")
    assert [type(a).__name__ for a in told] == ["Child", "RingMade", "Closed", "Exited"]
    # Nobody says how any more: whoever has taken note knows.
    assert isinstance(told[-1], protocol.Exited)
    assert not told[-1].known
    (fds,) = [t.fds for t in connection.told if isinstance(t.answer, protocol.RingMade)]
    ring = map_ring(fds)
    assert ring.read(0, 100).data == b"last words\n"
    ring.close()
    connection.send(protocol.Forget("child"))
    connection.ping()
    assert manager.settled(keeper) == {}
