"""The trustee: what the keeper leaves is with the next one, as it was; nobody's nonsense disturbs it; it leaves when it may."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcd.keeper import protocol
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import procfs
from tests.kernel.keeper import (
    PATIENCE,
    Connection,
    RunningKeeper,
    descendants,
    map_ring,
    select_readable,
    wait_readable,
)
from tests.kernel.left import inheriting, left_by
from tests.kernel.programs import run, shell, terminal_steps


class Entrusted(RunningKeeper):
    """A keeper that is its trustee's child. The launcher has started both, or the keeper alone."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.trustee = procfs.status(self.pid).parent_pid

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        launcher = super()._launch([*command, "--entrusted", "yes"])
        assert launcher.wait(PATIENCE) == 0, self.log()
        return launcher

    def _await_socket(self) -> None:
        connection = Connection(self.private)
        connection.hello()
        welcome = connection.told[0].answer
        assert isinstance(welcome, protocol.Welcome)
        self.pid = welcome.pid
        connection.close()

    def stop(self) -> None:
        for connection in self._connections:
            connection.close()
        for made in self._spawned:
            made.channel.close()

    def kill(self) -> None:
        """And wait until nobody knows of it any more."""
        end_of(self.pid)


def end_of(pid: int) -> None:
    with kernel_fd.Fd(os.pidfd_open(pid)) as pidfd:
        os.kill(pid, signal.SIGKILL)
        assert select_readable(pidfd.fileno(), PATIENCE)


def until(condition: Callable[[], bool], pid: int) -> None:
    """Wait for what a process does; it is not to end before."""
    with kernel_fd.Fd(os.pidfd_open(pid)) as pidfd:
        for _ in range(int(PATIENCE / 0.01)):
            if condition():
                return
            assert not select_readable(pidfd.fileno(), 0.01), "it has ended"
    raise AssertionError("it never comes to that")


Start = Callable[[], Entrusted]


@pytest.fixture
def entrusted(tmp_path: Path) -> Iterator[Start]:
    """Starts a keeper and its trustee, or the next keeper of that one."""
    started: list[Entrusted] = []

    def begin() -> Entrusted:
        started.append(Entrusted(tmp_path / "run"))
        return started[-1]

    with inheriting():
        yield begin
        for keeper in started:
            keeper.stop()
        # Both are below this process: it is the nearest subreaper.
        for pid in descendants(os.getpid()):
            if str(tmp_path) in " ".join(procfs.command(pid)):
                os.kill(pid, signal.SIGKILL)


def test_it_is_the_parent_and_is_called_so(entrusted: Start) -> None:
    keeper = entrusted()
    assert procfs.status(keeper.trustee).comm == "lxcd-trustee"
    assert os.getsid(keeper.trustee) == keeper.trustee
    assert os.getsid(keeper.pid) == keeper.pid
    connection = keeper.greeted()
    shell(keeper, connection, "child", "exec sleep 1000")
    connection.ping()
    # It ends when there is nothing to hold, and not because somebody says so.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(keeper.trustee, number)
    keeper.kill()
    assert entrusted().trustee == keeper.trustee


def exited(connection: Connection, id_: str) -> protocol.Exited:
    for told in connection.told:
        if isinstance(told.answer, protocol.Exited) and told.answer.id == id_:
            return told.answer
    return connection.expect(protocol.Exited, id_)[0]


def test_the_next_keeper_has_it_all(entrusted: Start) -> None:
    keeper = entrusted()
    connection = keeper.greeted()
    pipes = shell(keeper, connection, "pipes", "echo said; read line; exec sleep 1000")
    ring = map_ring(connection.expect(protocol.RingMade, "pipes", "stdout")[1])
    terminal = run(keeper, connection, "terminal", terminal_steps("/bin/cat", ttys=1))
    connection.expect(protocol.Streams, "terminal")
    connection.ping()
    before = left_by(connection)
    for _ in range(3):
        keeper.kill()
        keeper = entrusted()
        connection = keeper.greeted()
        after = left_by(connection)
        assert {id_: child.pid for id_, child in after.items()} == {
            "pipes": pipes.pid,
            "terminal": terminal.pid,
        }
        for id_, child in before.items():
            assert after[id_].streams.keys() == child.streams.keys()
            for name, stream in child.streams.items():
                assert os.path.sameopenfile(after[id_].streams[name].fd, stream.fd)
        assert ring.read(0, 100).data == b"said\n"
        # They are the trustee's own now.
        assert procfs.status(pipes.pid).parent_pid == keeper.trustee
    # It holds on to the terminal, so nobody was hung up on.
    os.write(before["terminal"].streams["console"].fd, b"typed\n")
    connection.expect(protocol.RingMade, "terminal", "console")
    ring.close()


@pytest.mark.parametrize("moment", ["meanwhile", "later"])
def test_how_they_end_is_known_exactly(entrusted: Start, tmp_path: Path, moment: str) -> None:
    """Of those that end while there is no keeper, and of those that end under the next one."""
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    keeper = entrusted()
    connection = keeper.greeted()
    exits = shell(keeper, connection, "exits", f"read line <{fifo}; echo bye; exit 7")
    killed = shell(keeper, connection, "killed", "exec sleep 1000")
    connection.ping()
    pids = (exits.pid, killed.pid)
    before = time.time_ns()

    def end() -> None:
        os.close(os.open(fifo, os.O_WRONLY))
        os.kill(killed.pid, signal.SIGUSR1)
        for child in (exits, killed):
            wait_readable(child.pidfd)

    keeper.kill()
    if moment == "meanwhile":
        end()
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), keeper.trustee)
    after = time.time_ns()
    keeper = entrusted()
    connection = keeper.greeted()
    if moment == "later":
        end()
    for child, status in ((exits, 7 << 8), (killed, int(signal.SIGUSR1))):
        how = exited(connection, child.id)
        assert (how.pid, how.status, how.known) == (child.pid, status, True)
        # When it ended, not when somebody came to ask.
        assert before <= how.time_ns
        assert how.time_ns <= after or moment == "later"
    # Its last words are there too.
    left = left_by(connection)["exits"].streams["stdout"]
    if left.ring < 0:
        left.ring = connection.expect(protocol.RingMade, "exits", "stdout")[1][0]
    ring = map_ring([left.ring])
    assert ring.read(0, 100).data == b"bye\n"
    ring.close()
    # It is told until it is acknowledged, and by no keeper after that.
    for id_ in ("exits", "killed"):
        connection.send(protocol.Forget(id_))
    connection.ping()
    keeper.kill()
    connection = entrusted().greeted()
    assert left_by(connection) == {}


def test_when_it_is_lost_another_one_is_told_everything(entrusted: Start) -> None:
    keeper = entrusted()
    connection = keeper.greeted()
    shell(keeper, connection, "pipes", "echo said; exec sleep 1000")
    connection.expect(protocol.RingMade, "pipes", "stdout")
    run(keeper, connection, "terminal", terminal_steps("/bin/cat"))
    connection.expect(protocol.Streams, "terminal")
    connection.ping()
    before = left_by(connection)
    trustee = keeper.trustee
    for _ in range(3):
        end_of(trustee)
        trustee = another_than(trustee, keeper)
    keeper.settle()
    keeper.kill()
    after = entrusted()
    # It was not the parent of the last keeper; it is that of the next.
    assert after.trustee == trustee
    found = left_by(after.greeted())
    for id_, child in before.items():
        for name, stream in child.streams.items():
            assert os.path.sameopenfile(found[id_].streams[name].fd, stream.fd)
            if stream.ring >= 0:
                assert os.path.sameopenfile(found[id_].streams[name].ring, stream.ring)


def test_an_upgraded_keeper_is_still_its(entrusted: Start, tmp_path: Path) -> None:
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    keeper = entrusted()
    connection = keeper.greeted()
    first = shell(keeper, connection, "first", f"read line <{fifo}; exit 7")
    connection.ping()
    keeper.kill()
    keeper = entrusted()
    connection = keeper.greeted()
    assert keeper.upgrade(connection, "other") == ""
    # One that the trustee reaps, one that is held for the next, and another trustee.
    os.close(os.open(fifo, os.O_WRONLY))
    assert exited(connection, "first").status == 7 << 8
    second = shell(keeper, connection, "second", "exec sleep 1000")
    end_of(keeper.trustee)
    trustee = another_than(keeper.trustee, keeper)
    assert keeper.upgrade(connection, "third") == ""
    keeper.settle()
    keeper.kill()
    keeper = entrusted()
    assert keeper.trustee == trustee
    connection = keeper.greeted()
    assert left_by(connection)["second"].pid == second.pid
    how = exited(connection, "first")
    assert (how.pid, how.status) == (first.pid, 7 << 8)


def test_it_leaves_with_a_keeper_that_leaves(entrusted: Start) -> None:
    keeper = entrusted()
    connection = keeper.greeted()
    shell(keeper, connection, "child", "echo said")
    connection.expect(protocol.Exited, "child")
    with (
        kernel_fd.Fd(os.pidfd_open(keeper.pid)) as ours,
        kernel_fd.Fd(os.pidfd_open(keeper.trustee)) as its,
    ):
        # Its output and its exit are still held: that is over with this.
        connection.send(protocol.Leave())
        wait_readable(ours.fileno())
        wait_readable(its.fileno())


def test_it_leaves_when_a_lost_keeper_has_left_nothing(entrusted: Start) -> None:
    keeper = entrusted()
    with kernel_fd.Fd(os.pidfd_open(keeper.trustee)) as pidfd:
        keeper.kill()
        wait_readable(pidfd.fileno())
    after = entrusted()
    assert after.trustee != keeper.trustee
    after.greeted().ping()


@pytest.mark.parametrize(
    "junk",
    [b"", b"START", b"START\0--x\0", b"\0" * 1000, b"\xff" * 1000, b"START\0--x --y\0/bin/true"],
    ids=["empty", "word", "zeros", "many", "bytes", "wrong"],
)
def test_nonsense_disturbs_nobody(entrusted: Start, junk: bytes) -> None:
    keeper = entrusted()
    connection = keeper.greeted()
    child = shell(keeper, connection, "child", "exec sleep 1000")
    connection.ping()
    with address_of(keeper) as trustee, open("/dev/null", "rb") as null:
        for count in (0, 1, 3, 253):
            kernel_fd.send(trustee, junk, [null.fileno()] * count)
    keeper.kill()
    after = entrusted()
    assert after.trustee == keeper.trustee
    assert left_by(after.greeted())["child"].pid == child.pid
    holds_one_child(after)


@pytest.mark.parametrize("argv", [b"/nonexistent", b"/bin/false", b""], ids=str)
def test_a_keeper_that_cannot_be_started_costs_nothing(entrusted: Start, argv: bytes) -> None:
    keeper = entrusted()
    connection = keeper.greeted()
    child = shell(keeper, connection, "child", "exec sleep 1000")
    connection.ping()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    with (
        ours,
        address_of(keeper) as trustee,
        kernel_fd.Fd(os.open("/", os.O_PATH)) as root,
        open("/dev/null", "rb") as null,
    ):
        order = b"START\0--listener\0" + argv
        fds = [root.fileno(), 2, null.fileno()]
        with theirs:
            # Not before there is no keeper, and the last one who asks is who counts.
            kernel_fd.send(trustee, order, [null.fileno(), *fds])
            kernel_fd.send(trustee, order, [theirs.fileno(), *fds])
            keeper.kill()
        pid = int(ours.recv(64))
        until(lambda: not os.path.exists(f"/proc/{pid}"), keeper.trustee)
        # Nobody can be told.
        kernel_fd.send(trustee, order, [null.fileno(), *fds])
    after = entrusted()
    assert after.trustee == keeper.trustee
    assert left_by(after.greeted())["child"].pid == child.pid
    holds_one_child(after)


def another_than(lost: int, keeper: Entrusted) -> int:
    """The trustee that the keeper has started."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [pid for pid in keeper.children() if pid != lost and named(pid)]
        return bool(found)

    until(there, keeper.pid)
    return found[0]


def named(pid: int) -> bool:
    try:
        return procfs.status(pid).comm == "lxcd-trustee"
    except OSError:
        return False


def holds_one_child(keeper: Entrusted) -> None:
    """And nothing else: its own three, the socket that it is asked at, the signals, the keeper, how children ended; of the
    child a pidfd and two pipes; and the book.
    """
    until(lambda: len(os.listdir(f"/proc/{keeper.trustee}/fd")) == 3 + 4 + 3 + 1, keeper.trustee)


def address_of(keeper: Entrusted) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel_fd.Fd(os.open(keeper.private, os.O_PATH)) as directory:
        made.connect(f"/proc/self/fd/{directory.fileno()}/{protocol.TRUSTEE_NAME}")
    return made
