"""A service manager that is slow, has lost something, or has something that it should not have."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from lxcd.keeper import protocol
from lxcd.kernel import fd as kernel_fd
from tests.kernel.keeper import Connection, RunningKeeper, map_ring, wait_readable
from tests.kernel.left import answers, kill, left_by
from tests.kernel.notified import Manager, Start, again, told_of
from tests.kernel.programs import run, shell, terminal_steps
from tests.kernel.test_keeper_streams import assert_idle


def sleeper(keeper: RunningKeeper, connection: Connection, id_: str) -> int:
    """A child that has said something and goes on; its pid."""
    child = shell(keeper, connection, id_, "echo said; exec sleep 1000")
    connection.expect(protocol.RingMade, id_, "stdout")
    return child.pid


def is_told(connection: Connection, id_: str, pid: int) -> bool:
    """As one that goes on."""
    return told_of(connection, id_)[:1] == [protocol.Child(id_, "init", pid)] and not any(
        isinstance(answer, protocol.Exited) for answer in told_of(connection, id_)
    )


def store(manager: Manager, name: str, text: bytes = b"") -> None:
    """Something that the keeper has not asked for, or has long forgotten."""
    number = os.memfd_create(name)
    os.write(number, text)
    manager.stored[name] = number


# ---- what is stored is not what it should be


def test_unknown_names_are_let_go(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    pid = sleeper(keeper, connection, "child")
    manager.settled(keeper)
    kill(keeper)
    for name in ("a", "zzzz", "connection", "stored", "unknown", "book", "bookish", "Book1", "9"):
        store(manager, name)
    keeper = managed()
    connection = keeper.greeted()
    assert is_told(connection, "child", pid)
    before = len(manager.settled(keeper))
    assert len(manager.stored) == before + 1
    # And of the keeper's own none was lost or taken twice.
    names = [os.readlink(f"/proc/{keeper.pid}/fd/{number}") for number in keeper.descriptors()]
    assert not [name for name in names if "memfd:zzzz" in name or "memfd:book " in name]


def test_without_its_book_nothing_is_known(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    left = sleeper(keeper, connection, "child")
    manager.settled(keeper)
    kill(keeper)
    for name in [name for name in manager.stored if name.startswith("book")]:
        os.close(manager.stored.pop(name))
    keeper = managed()
    connection = keeper.greeted()
    assert len(connection.told) == 2
    assert manager.settled(keeper) == {}
    assert manager.stored == {}
    os.kill(left, 0)
    # lxcd has it, and hands it over.
    pid = sleeper(keeper, connection, "other")
    assert ("other", "pidfd", str(pid)) in manager.settled(keeper)


NONSENSE = [
    pytest.param(b"\xff\xfe\n[[[[\nnull\n{}\n[1]\n", id="no lines"),
    pytest.param(b'["q", "x", "init", "pidfd", "no number"]\n', id="no pid"),
    pytest.param(b'["q", "x", "init", "dance", "console"]\n', id="no such thing"),
    pytest.param(b'["q", "x/y z", "init", "open", "console"]\n', id="no name"),
    pytest.param(b'["q", "x", "init", "ring", "console"]\n', id="no ring"),
    pytest.param(b'["q", "x", "init", "open", "console"]\n', id="not to be read"),
    pytest.param(b'["q", "x", "init", "pidfd", "77"]\n', id="no pidfd"),
    pytest.param(b'["q", "child", "init", "pidfd", "77"]\n', id="another pidfd"),
]


@pytest.mark.parametrize("lines", NONSENSE)
def test_nonsense_in_the_book_costs_itself_only(
    manager: Manager, managed: Start, lines: bytes
) -> None:
    """Another version of us has written it, say. Who cannot start cannot look after those that are told well, either."""
    keeper = managed()
    connection = keeper.greeted()
    pid = sleeper(keeper, connection, "child")
    manager.settled(keeper)
    kill(keeper)
    os.write(manager.stored["book1"], lines)
    manager.stored["q"] = os.open("/dev/null", os.O_RDWR)
    keeper = managed()
    connection = keeper.greeted()
    assert is_told(connection, "child", pid)
    connection.ping()
    assert_idle(keeper)
    os.kill(pid, signal.SIGKILL)
    exited, _ = connection.expect(protocol.Exited, "child")
    assert exited.status == signal.SIGKILL
    for id_ in ("child", "x"):
        connection.send(protocol.Forget(id_))
    connection.ping()


@pytest.mark.parametrize("torn", [b'["', b'["5", "x", "in', b'["5", "x", "init", "pidfd", "1"'])
def test_a_torn_last_line_costs_itself_only(manager: Manager, managed: Start, torn: bytes) -> None:
    keeper = managed()
    connection = keeper.greeted()
    first = sleeper(keeper, connection, "first")
    manager.settled(keeper)
    kill(keeper)
    os.write(manager.stored["book1"], torn)
    keeper = managed()
    connection = keeper.greeted()
    assert is_told(connection, "first", first)
    second = sleeper(keeper, connection, "second")
    # What was written behind it counts, too.
    keeper, connection = again(keeper, manager, managed)
    assert is_told(connection, "first", first)
    assert is_told(connection, "second", second)


def test_what_is_for_somebody_else_is_not_taken(manager: Manager, managed: Start) -> None:
    keeper = managed()
    before = keeper.descriptors()
    connection = keeper.greeted()
    sleeper(keeper, connection, "child")
    manager.settled(keeper)
    kill(keeper)
    connection.close()
    keeper = managed(LISTEN_PID="1")
    assert len(keeper.descriptors()) == len(before)
    assert len(keeper.greeted().told) == 2


def test_only_its_end_is_known_twice(manager: Manager, managed: Start) -> None:
    """It was killed after it had written down how the child ended, before it took the pidfd back: a busy service manager."""
    keeper = managed()
    connection = keeper.greeted()
    pid = sleeper(keeper, connection, "child")
    left = left_by(connection)["child"]
    manager.settled(keeper)
    keeper.halt()
    os.kill(pid, signal.SIGKILL)
    wait_readable(left.pidfd)
    kill(keeper)
    told = protocol.Exited("child", pid, signal.SIGKILL, 1234, known=True)
    (keeper.private / protocol.JOURNAL_NAME).write_bytes(b"\n" + protocol.encode(told))
    keeper = managed()
    assert_idle(keeper)
    connection = keeper.greeted()
    assert [a for a in answers(connection, "child") if isinstance(a, protocol.Exited)] == [told]
    connection.ping()
    assert_idle(keeper)
    stored = manager.settled(keeper)
    assert set(stored) == {("child", "ring", "stdout")}
    assert protocol.Closed("child", "stdout") in answers(connection, "child")
    connection.send(protocol.Forget("child"))
    connection.ping()
    assert manager.settled(keeper) == {}
    assert (keeper.private / protocol.JOURNAL_NAME).read_bytes() == b""


# ---- nobody reads


def test_it_serves_though_the_service_manager_does_not_read(
    manager: Manager, managed: Start
) -> None:
    keeper = managed()
    connection = keeper.greeted()
    pids: dict[str, int] = {}
    # Far more than the socket takes.
    for number in range(30):
        pids[f"stays-{number}"] = sleeper(keeper, connection, f"stays-{number}")
        shell(keeper, connection, f"goes-{number}", "echo out; exit 3")
        exited, _ = connection.expect(protocol.Exited, f"goes-{number}")
        assert exited.status == 3 << 8
        if number % 2:
            connection.send(protocol.Forget(f"goes-{number}"))
    connection.ping()
    # It does not try without end, either.
    assert_idle(keeper)
    wanted = {("pidfd", id_) for id_ in pids}
    wanted |= {("ring", f"goes-{number}") for number in range(0, 30, 2)}
    stored = manager.settled(keeper)
    assert {(what, id_) for id_, what, _ in stored if (what, id_) in wanted} == wanted
    assert not {id_ for id_, what, _ in stored if id_.startswith("goes") and what != "ring"}
    assert len(stored) == 15 + 30 * 4
    keeper, connection = again(keeper, manager, managed)
    assert all(is_told(connection, id_, pid) for id_, pid in pids.items())


def test_killed_before_all_was_stored_it_tells_what_was(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    early = sleeper(keeper, connection, "early")
    manager.settled(keeper)
    late = {f"late-{n}": sleeper(keeper, connection, f"late-{n}") for n in range(10)}
    os.kill(early, signal.SIGKILL)
    connection.expect(protocol.Exited, "early")
    # What it had no room for has died with it.
    kill(keeper)
    manager.read()
    keeper = managed()
    connection = keeper.greeted()
    assert any(isinstance(answer, protocol.Exited) for answer in told_of(connection, "early"))
    known = [id_ for id_ in late if told_of(connection, id_)]
    assert 0 < len(known) < len(late)
    assert_idle(keeper)
    # The rest is lxcd's to hand over: whatever of it came is no obstacle.
    for id_, pid in late.items():
        with kernel_fd.Fd(os.pidfd_open(pid)) as pidfd:
            request = protocol.Adopt(id_, "init", pid, True, False, 0, 0, False)
            connection.send(request, [pidfd.fileno()])
    connection.ping()
    for id_, pid in late.items():
        os.kill(pid, signal.SIGKILL)
        exited, _ = connection.expect(protocol.Exited, id_)
        assert exited.status == signal.SIGKILL
        connection.send(protocol.Forget(id_))
    connection.send(protocol.Forget("early"))
    connection.ping()
    assert manager.settled(keeper) == {}


def test_a_service_manager_that_is_gone(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    pid = sleeper(keeper, connection, "child")
    manager.settled(keeper)
    manager.socket.close()
    other = sleeper(keeper, connection, "other")
    os.kill(pid, signal.SIGKILL)
    connection.expect(protocol.Exited, "child")
    connection.send(protocol.Forget("child"))
    connection.ping()
    assert_idle(keeper)
    os.kill(other, 0)
    manager.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.socket.setblocking(False)


# ---- its own life


def test_upgraded_it_goes_on_where_it_was(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    stays = sleeper(keeper, connection, "stays")
    goes = sleeper(keeper, connection, "goes")
    before = manager.settled(keeper)
    assert keeper.upgrade(connection, "another") == ""
    assert manager.settled(keeper).keys() == before.keys()
    os.kill(goes, signal.SIGKILL)
    connection.expect(protocol.Exited, "goes")
    connection.send(protocol.Forget("goes"))
    new = sleeper(keeper, connection, "new")
    stored = manager.settled(keeper)
    assert {id_ for id_, _, _ in stored} == {"stays", "new"}
    assert len({os.fstat(number).st_ino for number in stored.values()}) == len(stored)
    keeper, connection = again(keeper, manager, managed)
    assert is_told(connection, "stays", stays)
    assert is_told(connection, "new", new)
    assert not any(isinstance(told.answer, protocol.Exited) for told in connection.told)


def test_it_is_not_upgraded_before_all_is_stored(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    pids = {f"child-{n}": sleeper(keeper, connection, f"child-{n}") for n in range(10)}
    why = keeper.upgrade(connection, "another")
    assert "service manager" in why
    connection.ping()
    manager.settled(keeper)
    assert keeper.upgrade(connection, "another") == ""
    keeper, connection = again(keeper, manager, managed)
    assert all(is_told(connection, id_, pid) for id_, pid in pids.items())


def test_it_ends_when_the_service_manager_says_so(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    pid = sleeper(keeper, connection, "child")
    manager.settled(keeper)
    os.kill(keeper.pid, signal.SIGTERM)
    keeper.process.wait(30)
    os.kill(pid, 0)
    keeper = managed()
    assert is_told(keeper.greeted(), "child", pid)


def test_an_upgraded_one_ends_when_the_service_manager_says_so(
    manager: Manager, managed: Start
) -> None:
    keeper = managed()
    connection = keeper.greeted()
    assert keeper.upgrade(connection, "another") == ""
    os.kill(keeper.pid, signal.SIGTERM)
    keeper.process.wait(30)


def test_children_have_nothing_of_it(manager: Manager, managed: Start) -> None:
    keeper = managed()
    connection = keeper.greeted()
    run(keeper, connection, "other", terminal_steps("/bin/cat", ttys=3))
    keeper, connection = again(keeper, manager, managed)
    child = shell(keeper, connection, "child", "env; exec ls /proc/self/fd")
    wait_readable(child.pidfd)
    _, fds = connection.expect(protocol.RingMade, "child", "stdout")
    connection.expect(protocol.Exited, "child")
    ring = map_ring(fds)
    text = ring.read(0, 1000).data
    ring.close()
    assert text.endswith(b"\n0\n1\n2\n3\n")
    assert b"NOTIFY" not in text
    assert b"LISTEN" not in text
