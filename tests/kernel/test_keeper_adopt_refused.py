"""What lxcd hands over does not fit: the keeper lets go of it and goes on, whatever it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lxcd.keeper import protocol
from lxcd.keeper.ring import CAPACITY_BYTES, HEADER_BYTES, Ring
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import tty
from tests.kernel.keeper import Connection, RunningKeeper, map_ring, wait_readable
from tests.kernel.left import Left, Start, adopt, answers, kernel_tells, left_by, replaced
from tests.kernel.programs import run, terminal_steps
from tests.kernel.test_keeper import expect_hung_up
from tests.kernel.test_keeper_streams import assert_idle, wait_for

Handed = tuple[RunningKeeper, Connection, Left]


@pytest.fixture
def handed(start: Start) -> Handed:
    """A keeper that could be handed a child with a console and a ring."""
    first = start()
    before = first.greeted()
    run(first, before, "child", terminal_steps("/bin/sh", "-c", "echo up; exec cat"))
    before.expect(protocol.RingMade, "child", "console")
    left = left_by(before)["child"]
    second, after = replaced(first, start)
    return second, after, left


def test_the_same_child_twice_changes_nothing(handed: Handed) -> None:
    keeper, connection, left = handed
    adopt(connection, left)
    connection.ping()
    before = keeper.descriptors()
    for _ in range(3):
        adopt(connection, left)
        # Nor does another story about it.
        connection.send(replace(left.request, kind="exec", pid=1, forked=True), [left.pidfd])
        connection.send(protocol.Adopt("child", "init", 1, True, True, 9, 99, True))
    connection.ping()
    assert keeper.descriptors() == before
    connection.close()
    again = keeper.greeted()
    assert [told.answer for told in again.told[1:-1]] == [
        protocol.Child("child", "init", left.pid),
        protocol.Streams("child", ("console",)),
        protocol.RingMade("child", "console"),
    ]
    os.kill(left.pid, signal.SIGKILL)
    exited, _ = again.expect(protocol.Exited, "child")
    assert exited.pid == left.pid


def test_a_stream_of_nobody_is_let_go(handed: Handed) -> None:
    keeper, connection, left = handed
    before = keeper.descriptors()
    connection.send(*left.stream_request("console"))
    assert connection.ping() == []
    assert keeper.descriptors() == before


def adopt_of(left: Left, **changes: object) -> protocol.Adopt:
    return replace(left.request, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 2, 100])
def test_a_child_comes_with_one_pidfd(handed: Handed, count: int) -> None:
    keeper, connection, left = handed
    expect_refused(keeper, connection, adopt_of(left), [left.pidfd] * count)


def test_one_that_has_ended_comes_without(handed: Handed) -> None:
    keeper, connection, left = handed
    expect_refused(keeper, connection, adopt_of(left, ended=True), [left.pidfd])


def expect_refused(
    keeper: RunningKeeper,
    connection: Connection,
    request: protocol.Request,
    fds: list[int],
    told: list[protocol.Answer] | None = None,
) -> Connection:
    """The connection ends, no descriptor stays, and the next lxcd is told what was there before."""
    connection.ping()
    before = keeper.descriptors()
    connection.send(request, fds)
    expect_hung_up(connection)
    connection.close()
    again = keeper.greeted()
    assert [one.answer for one in again.told[1:-1]] == (told or [])
    again.ping()
    # It has the descriptors of another connection.
    assert len(keeper.descriptors()) == len(before)
    assert_idle(keeper)
    return again


BAD_NAMES = ["", " ", "a/b", "a\nb", "a\0b", "x" * 65, "é", "a:b", "a\udcff"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("which", ["id", "kind"])
def test_names_of_children(handed: Handed, which: str, name: str) -> None:
    keeper, connection, left = handed
    request = adopt_of(left, **{which: name})
    expect_refused(keeper, connection, request, [left.pidfd])


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_of_streams(handed: Handed, name: str) -> None:
    keeper, connection, left = handed
    connection.send(left.request, [left.pidfd])
    _, fds = left.stream_request("console")
    request = protocol.AdoptStream("child", name, True, True)
    expect_refused(keeper, connection, request, fds, [protocol.Child("child", "init", left.pid)])


@pytest.mark.parametrize(
    ("is_open", "has_ring", "count"),
    [
        *((True, True, 1), (True, True, 3), (True, False, 0), (True, False, 2)),
        *((False, True, 2), (False, False, 1), (False, True, 0)),
    ],
)
def test_a_stream_comes_with_what_it_says(
    handed: Handed, count: int, *, is_open: bool, has_ring: bool
) -> None:
    keeper, connection, left = handed
    connection.send(left.request, [left.pidfd])
    stream = left.streams["console"]
    fds = [stream.fd, stream.ring, stream.ring][:count]
    request = protocol.AdoptStream("child", "console", is_open, has_ring)
    expect_refused(keeper, connection, request, fds, [protocol.Child("child", "init", left.pid)])


def a_file(directory: Path, size: int) -> int:
    number = os.open(directory / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(number, size)
    return number


def _read_only_ring(path: Path) -> int:
    ring = Ring.create("ring", hold=False)
    (path / "ring").write_bytes(kernel_fd.read_all(ring.memfd, 1 << 20))
    ring.close()
    return os.open(path / "ring", os.O_RDONLY)


def _longer_ring(_: Path) -> int:
    ring = Ring.create("ring", hold=False)
    number = os.dup(ring.memfd)
    ring.close()
    os.ftruncate(number, 2 * CAPACITY_BYTES)
    return number


NO_RINGS: dict[str, Callable[[Path], int]] = {
    "empty": lambda path: a_file(path, 0),
    "small": lambda path: a_file(path, HEADER_BYTES),
    "no magic": lambda path: a_file(path, HEADER_BYTES + CAPACITY_BYTES),
    "a pipe": lambda _: os.pipe()[0],
    "a directory": lambda path: os.open(path, os.O_RDONLY),
    "write only": lambda path: os.open(path / "other", os.O_WRONLY | os.O_CREAT),
    "read only": _read_only_ring,
    "another size": _longer_ring,
}


@pytest.mark.parametrize("kind", NO_RINGS)
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "closed"])
def test_what_is_no_ring_is_refused(
    handed: Handed,
    tmp_path: Path,
    kind: str,
    *,
    is_open: bool,
) -> None:
    keeper, connection, left = handed
    connection.send(left.request, [left.pidfd])
    with kernel_fd.Fd(NO_RINGS[kind](tmp_path)) as bad:
        fds = [left.streams["console"].fd] * is_open + [bad.fileno()]
        request = protocol.AdoptStream("child", "console", is_open, True)
        again = expect_refused(
            keeper, connection, request, fds, [protocol.Child("child", "init", left.pid)]
        )
    # It can still be given the right one.
    again = (
        keeper.greeted() if keeper._connections[-1].socket.fileno() < 0 else keeper._connections[-1]
    )
    again.send(*left.stream_request("console"))
    again.ping()
    os.write(left.streams["console"].fd, b"typed\n")
    ring = map_ring([left.streams["console"].ring])
    assert wait_for(again, ring, b"typed\r\ntyped\r\n").startswith(b"up\r\n")
    ring.close()


NO_PIDFDS: dict[str, Callable[[Path], int]] = {
    "a file": lambda path: a_file(path, 0),
    "a device": lambda _: os.open("/dev/null", os.O_RDWR),
    "a path": lambda path: os.open(path, os.O_PATH),
}


@pytest.mark.parametrize("kind", NO_PIDFDS)
def test_what_is_no_pidfd_is_refused(handed: Handed, tmp_path: Path, kind: str) -> None:
    """It cannot be waited for: nothing of it may stay, or the keeper would keep a child that never ends."""
    keeper, connection, left = handed
    with kernel_fd.Fd(NO_PIDFDS[kind](tmp_path)) as bad:
        expect_refused(keeper, connection, adopt_of(left), [bad.fileno()])


@pytest.mark.parametrize("kind", NO_PIDFDS)
@pytest.mark.parametrize("ring", [True, False], ids=["ring", "no ring"])
def test_what_cannot_be_read_is_refused(
    handed: Handed,
    tmp_path: Path,
    kind: str,
    *,
    ring: bool,
) -> None:
    keeper, connection, left = handed
    connection.send(left.request, [left.pidfd])
    with kernel_fd.Fd(NO_PIDFDS[kind](tmp_path)) as bad:
        fds = [bad.fileno()] + [left.streams["console"].ring] * ring
        request = protocol.AdoptStream("child", "console", True, ring)
        expect_refused(
            keeper, connection, request, fds, [protocol.Child("child", "init", left.pid)]
        )


def test_a_pidfd_of_another_process_ends_as_that_one(handed: Handed) -> None:
    """A number can be wrong, a descriptor is what it is: the keeper goes by that."""
    keeper, connection, left = handed
    other = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    with kernel_fd.Fd(os.pidfd_open(other)) as pidfd:
        connection.send(adopt_of(left, id="other"), [pidfd.fileno()])
        connection.ping()
        os.kill(other, signal.SIGTERM)
        wait_readable(pidfd.fileno())
        os.waitpid(other, 0)
        exited, _ = connection.expect(protocol.Exited, "other")
    if kernel_tells():
        assert (exited.status, exited.known) == (signal.SIGTERM, True)
    else:
        assert not exited.known
    assert not answers(connection, "child")
    assert keeper.process.poll() is None


def test_the_slave_of_a_terminal_is_taken_as_what_it_is(handed: Handed) -> None:
    """A mistake of lxcd's; it may be refused, and the keeper goes on."""
    keeper, connection, left = handed
    connection.send(left.request, [left.pidfd])
    connection.ping()
    before = keeper.descriptors()
    with kernel_fd.Fd(tty.open_peer(left.streams["console"].fd)) as slave:
        connection.send(protocol.AdoptStream("child", "slave", True, False), [slave.fileno()])
        expect_hung_up(connection)
    connection.close()
    keeper.greeted().ping()
    assert len(keeper.descriptors()) == len(before)


@pytest.mark.parametrize("hello", [True, False], ids=["hello", "no hello"])
def test_what_was_handed_over_before_hello(start: Start, *, hello: bool) -> None:
    """No order says that HELLO comes first; nothing is lost by it, and nothing hangs."""
    keeper = start()
    other = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    connection = keeper.connect()
    with kernel_fd.Fd(os.pidfd_open(other)) as pidfd:
        request = protocol.Adopt("child", "init", other, True, False, 0, 0, False)
        connection.send(request, [pidfd.fileno()])
        if not hello:
            connection.close()
            keeper.settle()
            connection = keeper.connect()
        connection.hello()
        assert answers(connection, "child") == [
            protocol.Child("child", "init", other),
            protocol.Forked("child", other),
        ]
        os.kill(other, signal.SIGKILL)
        exited, _ = connection.expect(protocol.Exited, "child")
        assert (exited.status, exited.known) == (signal.SIGKILL, True)
