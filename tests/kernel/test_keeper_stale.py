"""Events that come in one batch: what one handler closes, another may open again by the same number."""

from __future__ import annotations

import os
import signal
import socket

from lxcd.container.devices import OpenPipes
from lxcd.container.join import Join
from lxcd.keeper import protocol
from lxcd.kernel import fd as kernel_fd
from tests.kernel.keeper import RunningKeeper, wait_readable
from tests.kernel.programs import O, execute, shell


def number_of(keeper: RunningKeeper, fd: int) -> int:
    """The keeper's number for the pipe that `fd` is."""
    wanted = os.readlink(f"/proc/self/fd/{fd}")
    for name in keeper.descriptors():
        if os.readlink(f"/proc/{keeper.pid}/fd/{name}") == wanted:
            return int(name)
    raise AssertionError(wanted)


def number_of_pidfd(keeper: RunningKeeper, pid: int) -> int:
    for name in keeper.descriptors():
        with open(f"/proc/{keeper.pid}/fdinfo/{name}", encoding="ascii") as file:
            if f"\nPid:\t{pid}\n" in file.read():
                return int(name)
    raise AssertionError(pid)


def test_a_new_child_is_not_told_to_have_ended_by_an_old_stream(keeper: RunningKeeper) -> None:
    """In one batch: a child ends, PREPARE comes, and the ended child's stream has something to read.

    The new child's pidfd gets the number that the stream had; the stream's event must not be taken for the new child's end.
    """
    connection = keeper.greeted()
    # Makes room for the descriptors of PREPARE below the numbers that matter.
    rooms = [keeper.spawn(connection, f"room-{number}") for number in range(4)]
    child = shell(keeper, connection, "child", "echo; echo >&2; exec sleep 1000")
    connection.expect(protocol.RingMade, "child")
    connection.expect(protocol.RingMade, "child")
    pipes = next(
        told.fds
        for told in connection.told
        if isinstance(told.answer, protocol.Streams) and told.answer.id == "child"
    )
    for room in rooms:
        room.channel.close()
        connection.expect(protocol.Exited, room.id)
        connection.send(protocol.Forget(room.id))
    connection.ping()
    stream = number_of(keeper, pipes[1])
    ending = {stream, number_of(keeper, pipes[0]), number_of_pidfd(keeper, child.pid)}
    used = {int(name) for name in keeper.descriptors()} - ending
    free = [number for number in range(1000) if number not in used]
    # recvmsg takes 1 + procs numbers, socketpair 2, then clone3 the pidfd's.
    procs = free.index(stream) - 3
    assert procs >= 0, "the test needs more room"

    # Held open from here too, so that its end is no event of the stream.
    writers = [os.open(f"/proc/self/fd/{number}", os.O_WRONLY) for number in pipes]
    keeper.halt()
    os.kill(child.pid, signal.SIGKILL)
    wait_readable(child.pidfd)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, kernel_fd.Fd(os.open("/dev/null", os.O_WRONLY)) as null:
        request = protocol.Prepare("new", "init", 0, procs)
        connection.send(request, [theirs.fileno(), *[null.fileno()] * procs])
        os.write(writers[1], b"late\n")
        keeper.go_on()
        new, _ = connection.expect(protocol.Child, "new")
        told = connection.ping()
        assert not [t.answer for t in told if getattr(t.answer, "id", "") == "new"]
        os.kill(new.pid, signal.SIGKILL)
        exited, _ = connection.expect(protocol.Exited, "new")
        assert exited.status == signal.SIGKILL
    kernel_fd.close_all(writers)


def test_an_exec_that_runs_is_not_told_to_have_ended_with_its_first_half(
    keeper: RunningKeeper,
) -> None:
    """STREAMS may be read before FORKED, and FORKED only when the first half's end is looked at."""
    connection = keeper.greeted()
    child = keeper.spawn(connection, "exec", "exec")
    keeper.halt()
    with kernel_fd.Fd(os.pidfd_open(os.getpid())) as pidfd:
        child.send_spec(
            OpenPipes(origin=O),
            Join(origin=O, fd=0, namespaces=("mnt", "uts")),
            execute("/bin/sleep", "1000"),
            fds=[pidfd.fileno()],
        )
    wait_readable(child.pidfd)
    keeper.go_on()
    child.listen()
    joined, _ = connection.expect(protocol.Forked, "exec")
    told = connection.ping()
    assert not [t.answer for t in told if isinstance(t.answer, protocol.Exited)]
    os.kill(joined.pid, signal.SIGKILL)
    exited, _ = connection.expect(protocol.Exited, "exec")
    assert (exited.pid, exited.status) == (joined.pid, signal.SIGKILL)
