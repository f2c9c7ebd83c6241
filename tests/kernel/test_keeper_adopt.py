"""A keeper is killed, and the next one is handed what lxcd holds of its children: output, terminals, exits."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

import pytest

from lxcd.keeper import protocol
from lxcd.keeper.ring import CAPACITY_BYTES
from tests.kernel.keeper import (
    PATIENCE,
    map_ring,
    select_readable,
    wait_readable,
)
from tests.kernel.left import (
    Left,
    Start,
    adopt,
    answers,
    hand_over,
    kernel_tells,
    kill,
    left_by,
    replaced,
)
from tests.kernel.programs import run, shell, terminal_steps
from tests.kernel.test_keeper_streams import assert_idle, console, wait_for
from tests.kernel.test_keeper_upgrade import follow, generators


def reap(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


# ---- what goes on


def test_output_goes_on_in_the_same_rings(start: Start) -> None:
    first = start()
    before = first.greeted()
    readers = generators(first, before)
    while any(reader.offset < 10_000 for reader in readers):
        follow(before, readers)
        select_readable(before.poke.fileno(), 0.002)
    left = left_by(before)
    # In a moment in which it reads nothing: what it has read and not yet put down dies with it.
    first.halt()
    _, after = replaced(first, start)
    hand_over(after, left)
    offsets = [reader.offset for reader in readers]
    while any(
        r.offset < o + 3 * CAPACITY_BYTES // 10 for r, o in zip(readers, offsets, strict=True)
    ):
        follow(after, readers)
        if select.select([after.socket], [], [], 0.002)[0]:
            told = after.receive()
            assert told is None, told
    for child in left.values():
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        exited, _ = after.expect(protocol.Exited, child.id)
        assert (exited.pid, exited.status, exited.known) == (child.pid, signal.SIGKILL, True)
    for reader in readers:
        reader.ring.close()


def test_the_next_keeper_tells_what_it_was_handed(start: Start) -> None:
    first = start()
    before = first.greeted()
    shell(first, before, "pipes", "echo said; exec sleep 1000")
    before.expect(protocol.RingMade, "pipes", "stdout")
    run(first, before, "terminal", terminal_steps("/bin/sh", "-c", "echo up; read line"))
    before.expect(protocol.RingMade, "terminal", "console")
    shell(first, before, "ended", "echo last; exit 7", kind="exec")
    before.expect(protocol.Exited, "ended")
    left = left_by(before)
    left["pipes"].forked = True
    second, connection = replaced(first, start)
    # It was in the journal.
    assert left["ended"].exited in answers(connection, "ended")
    hand_over(connection, left)
    connection.close()

    again = second.greeted()
    how = left["ended"].exited
    assert how is not None
    assert [told.answer for told in again.told] == [
        protocol.Welcome(protocol.VERSION, "test", second.pid),
        protocol.Child("pipes", "init", left["pipes"].pid),
        protocol.Forked("pipes", left["pipes"].pid),
        protocol.Streams("pipes", ("stdout",)),
        protocol.RingMade("pipes", "stdout"),
        protocol.Streams("pipes", ("stderr",)),
        protocol.Child("terminal", "init", left["terminal"].pid),
        protocol.Streams("terminal", ("console",)),
        protocol.RingMade("terminal", "console"),
        protocol.Child("ended", "exec", how.pid),
        protocol.RingMade("ended", "stdout"),
        protocol.Closed("ended", "stdout"),
        how,
        protocol.Synced(),
    ]
    for told in again.told:
        if isinstance(told.answer, protocol.RingMade):
            old = left[told.answer.id].streams[told.answer.stream].ring
            assert os.fstat(told.fds[0]).st_ino == os.fstat(old).st_ino
    again.send(protocol.Forget("ended"))
    again.ping()
    assert (second.private / protocol.JOURNAL_NAME).read_bytes() == b""


def test_a_terminal_goes_on_with_nobody_at_the_other_end(start: Start) -> None:
    """While there is no keeper the child has closed its side: nobody holds the terminal open but its master."""
    first = start()
    before = first.greeted()
    # One each: who opens it again before its writer has closed it reads the end.
    close, reopen = first.directory / "close", first.directory / "reopen"
    os.mkfifo(close)
    os.mkfifo(reopen)
    script = (
        f"trap '' HUP; echo one; read line <{close}; exec <&- >&- 2>&-; read line <{reopen};"
        " echo two >/dev/console; read line </dev/console; echo three $line >/dev/console;"
        " exec sleep 1000"
    )
    run(first, before, "child", terminal_steps("/bin/sh", "-c", script))
    before.expect(protocol.Streams, "child")
    master, ring = console(before, "child")
    assert wait_for(before, ring, b"one\r\n") == b"one\r\n"
    _, after = replaced(first, start)
    close.write_text("go\n")
    poll = select.poll()
    poll.register(master, 0)
    assert poll.poll(PATIENCE * 1000) == [(master, select.POLLHUP)]
    hand_over(after, left_by(before))
    reopen.write_text("go\n")
    assert wait_for(after, ring, b"two\r\n") == b"one\r\ntwo\r\n"
    os.write(master, b"in\n")
    assert wait_for(after, ring, b"three in\r\n").endswith(b"in\r\nthree in\r\n")
    ring.close()
    left = left_by(before)["child"]
    os.kill(left.pid, signal.SIGKILL)
    after.expect(protocol.Exited, "child")


def test_a_ring_is_made_by_the_next_keeper_if_there_was_no_output(start: Start) -> None:
    first = start()
    before = first.greeted()
    run(first, before, "child", terminal_steps("/bin/cat"))
    before.expect(protocol.Streams, "child")
    left = left_by(before)
    second, after = replaced(first, start)
    hand_over(after, left)
    assert not [t for t in after.told if isinstance(t.answer, protocol.RingMade)]
    os.write(left["child"].streams["console"].fd, b"typed\n")
    _, fds = after.expect(protocol.RingMade, "child", "console")
    ring = map_ring(fds)
    assert wait_for(after, ring, b"typed\r\ntyped\r\n") == b"typed\r\ntyped\r\n"
    ring.close()
    assert_idle(second)


def until(holds: Callable[[], bool]) -> None:
    """Of what another process does in its own time."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("ends", ["before", "between", "after"])
def test_a_full_held_ring_loses_nothing(start: Start, ends: str) -> None:
    """The ring is full, the rest is in the pipe or not yet written; the writer ends before, between, or after the keepers."""
    total = CAPACITY_BYTES + 50_000 + (ends == "after") * CAPACITY_BYTES
    first = start()
    before = first.greeted()
    fifo = first.directory / "end"
    os.mkfifo(fifo)
    script = f"head -c {total} /dev/zero | tr '\\0' x; read line <{fifo}; exit 5"
    shell(first, before, "exec", script, kind="exec")
    _, fds = before.expect(protocol.RingMade, "exec", "stdout")
    ring = map_ring(fds)
    while ring.head < CAPACITY_BYTES:
        assert select_readable(before.poke.fileno(), PATIENCE)
        os.eventfd_read(before.poke.fileno())
    if ends == "before":
        fifo.write_text("go\n")
        before.expect(protocol.Exited, "exec")
    left = left_by(before)
    _, after = replaced(first, start)
    if ends == "between":
        fifo.write_text("go\n")
        wait_readable(left["exec"].pidfd)
    hand_over(after, left)
    assert ring.head == CAPACITY_BYTES
    data = b""
    while True:
        piece = ring.read(len(data), CAPACITY_BYTES)
        assert (piece.offset, piece.gap_bytes) == (len(data), 0)
        data += piece.data
        ring.acknowledge(len(data))
        if len(data) >= total:
            break
        after.send(protocol.Drained("exec", "stdout"))
        after.ping()
    if ends == "after":
        fifo.write_text("go\n")
    if not any(
        isinstance(a, protocol.Closed) and a.stream == "stdout" for a in answers(after, "exec")
    ):
        after.expect(protocol.Closed, "exec", "stdout")
    if ends != "before" and not any(isinstance(a, protocol.Exited) for a in answers(after, "exec")):
        after.expect(protocol.Exited, "exec")
    assert data == b"x" * total
    assert (ring.head, ring.closed) == (total, True)
    exits = [a for a in answers(after, "exec") if isinstance(a, protocol.Exited)]
    assert [(a.status, a.known) for a in exits] == [(5 << 8, True)]
    ring.close()


# ---- exits


ENDS = [
    pytest.param("exit 0", 0, id="well"),
    pytest.param("exit 37", 37 << 8, id="badly"),
    pytest.param("exit 255", 255 << 8, id="worst"),
    pytest.param("kill -KILL $$", signal.SIGKILL, id="killed"),
    pytest.param("ulimit -c 0; kill -SEGV $$", signal.SIGSEGV, id="crashed"),
]


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
@pytest.mark.parametrize("handed", ["before", "after"])
@pytest.mark.parametrize(("end", "status"), ENDS)
def test_an_end_is_told_as_it_was(
    start: Start, end: str, status: int, handed: str, *, reaped: bool
) -> None:
    """It ends before or after it is handed over; whoever has inherited it has reaped it, or has yet to."""
    first = start()
    before = first.greeted()
    fifo = first.directory / "end"
    os.mkfifo(fifo)
    shell(first, before, "child", f"echo begun; read line <{fifo}; echo $line; {end}")
    _, fds = before.expect(protocol.RingMade, "child", "stdout")
    ring = map_ring(fds)
    left = left_by(before)["child"]
    _, after = replaced(first, start)

    def end_it() -> None:
        fifo.write_text("over\n")
        wait_readable(left.pidfd)
        if reaped:
            assert reap(left.pid) == status

    begun = time.time_ns()
    if handed == "after":
        end_it()
        adopt(after, left)
    else:
        adopt(after, left)
        after.ping()
        end_it()
    exited, _ = after.expect(protocol.Exited, "child")
    if reaped and not kernel_tells():
        assert not exited.known or exited.status == status
    else:
        assert (exited.pid, exited.status, exited.known) == (left.pid, status, True)
    assert begun < exited.time_ns < time.time_ns()
    # What it wrote is there before its end is told.
    assert ring.read(0, 100).data == b"begun\nover\n"
    assert ring.closed
    ring.close()


@pytest.mark.parametrize("stream", ["console", "stdout"])
@pytest.mark.parametrize("ended", ["known", "seen"])
def test_streams_of_one_that_has_ended_end_too(start: Start, stream: str, ended: str) -> None:
    """Its terminal is held open by us, its pipe by a process that it has left behind: neither ends by itself.

    `known`: lxcd has seen the end while there was no keeper. `seen`: the new keeper sees it before it is given the streams.
    """
    first = start()
    before = first.greeted()
    fifo = first.directory / "end"
    os.mkfifo(fifo)
    script = f"trap '' HUP; echo out; read line <{fifo}; echo last; sleep 1000 & exit 4"
    if stream == "console":
        run(first, before, "child", terminal_steps("/bin/sh", "-c", script))
    else:
        shell(first, before, "child", script, kind="exec")
    _, fds = before.expect(protocol.RingMade, "child", stream)
    ring = map_ring(fds)
    wait_for(before, ring, b"out")
    left = left_by(before)["child"]
    _, after = replaced(first, start)
    fifo.write_text("go\n")
    wait_readable(left.pidfd)
    if ended == "seen":
        after.send(left.request, [left.pidfd])
        exited, _ = after.expect(protocol.Exited, "child")
        assert exited.status == 4 << 8
    else:
        # As lxcd would know it.
        left.exited = protocol.Exited("child", left.pid, 4 << 8, time.time_ns(), known=True)
        after.send(left.request)
    for name in left.streams:
        request, fds = left.stream_request(name)
        if fds:
            after.send(request, fds)
    after.ping()
    closed = [answer for answer in answers(after, "child") if isinstance(answer, protocol.Closed)]
    assert protocol.Closed("child", stream) in closed
    assert ring.read(0, 100).data.split() == [b"out", b"last"]
    assert ring.closed
    ring.close()


def test_an_end_that_was_told_survives_the_next_keeper_too(start: Start) -> None:
    first = start()
    before = first.greeted()
    shell(first, before, "child", "exec sleep 1000")
    left = left_by(before)["child"]
    second, middle = replaced(first, start)
    adopt(middle, left)
    os.kill(left.pid, signal.SIGTERM)
    exited, _ = middle.expect(protocol.Exited, "child")
    third, after = replaced(second, start)
    assert answers(after, "child") == [exited]
    after.send(protocol.Acknowledge("child"))
    after.ping()
    assert (third.private / protocol.JOURNAL_NAME).read_bytes() == b""


def test_an_end_that_nobody_knows_stays_unknown(start: Start) -> None:
    """lxcd has seen that it ended and not how: so does the next lxcd, until it says that it has taken note."""
    keeper = start()
    first = keeper.greeted()
    how = [
        protocol.Exited("one", 1234, 0, 5678, known=False),
        protocol.Exited("two", 1235, 9, 5679, known=True),
    ]
    for exited in how:
        adopt(first, Left(exited.id, "init", exited.pid, -1, forked=True, exited=exited))
    # It is not news to who has told it.
    assert first.ping() == []
    first.close()
    second = keeper.greeted()
    assert [told.answer for told in second.told if isinstance(told.answer, protocol.Exited)] == how
    for exited in how:
        second.send(protocol.Forget(exited.id))
    second.ping()
    second.close()
    assert len(keeper.greeted().told) == 2


def test_what_the_journal_says_counts_more_than_what_lxcd_has(start: Start) -> None:
    """The keeper has written it down and was killed before it told."""
    first = start()
    before = first.greeted()
    shell(first, before, "child", "echo out; exec sleep 1000")
    before.expect(protocol.RingMade, "child", "stdout")
    left = left_by(before)["child"]
    first.halt()
    kill(first)
    told = protocol.Exited("child", left.pid, 3 << 8, 1234, known=True)
    journal = first.private / protocol.JOURNAL_NAME
    journal.write_bytes(b"\n" + protocol.encode(told))
    second = start()
    connection = second.greeted()
    assert answers(connection, "child") == [told]
    adopt(connection, left)
    connection.ping()
    connection.close()
    again = second.greeted()
    assert answers(again, "child")[-1] == told
    assert_idle(second)
    again.send(protocol.Forget("child"))
    again.ping()
    assert answers(again, "child")[-1] == told
    assert journal.read_bytes() == b""


def test_a_child_that_was_being_made_is_told_to_have_ended(start: Start) -> None:
    """It waits for its Spec, and its keeper is gone: it cannot hand over its streams. It must not run unseen."""
    first = start()
    before = first.greeted()
    child = first.spawn(before, "child")
    left = left_by(before)["child"]
    _, after = replaced(first, start)
    adopt(after, left)
    child.channel.close()
    exited, _ = after.expect(protocol.Exited, "child")
    assert (os.waitstatus_to_exitcode(exited.status), exited.known) == (1, True)
