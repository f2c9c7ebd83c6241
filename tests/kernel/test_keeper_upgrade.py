"""The keeper becomes another image under the same pid, or stays what it is: children, terminals, exits, its lxcd."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lxcd.keeper import handover, protocol
from lxcd.keeper.ring import Ring
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import procfs
from tests.kernel.keeper import CHECKOUT, Connection, RunningKeeper, map_ring, wait_readable
from tests.kernel.programs import run, shell, terminal_steps

# Records of 16 bytes, each with its own offset: what is missing or repeated shows.
_GENERATOR = """
import os, sys, time, tty
fast = sys.argv[1] == "fast"
if os.isatty(1):
    tty.setraw(1)
offset = 0
while True:
    burst = 512 if fast else 24
    text = b"".join(b"%015d\\n" % (offset + 16 * n) for n in range(burst))
    while text:
        sent = os.write(1, text)
        text, offset = text[sent:], offset + sent
    if not fast:
        time.sleep(0.002)
"""


class Reader:
    """Follows a ring from its beginning and looks at every byte."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.offset = 0
        self._rest = b""

    def read(self) -> bool:
        """All that is there now; whether there was any."""
        piece = self.ring.read(self.offset, 1 << 20)
        assert not piece.gap_bytes, f"{piece.gap_bytes} bytes are lost before {piece.offset}"
        data = self._rest + piece.data
        at = self.offset - len(self._rest)
        whole = len(data) - len(data) % 16
        for place in range(0, whole, 16):
            assert data[place : place + 16] == b"%015d\n" % (at + place)
        self._rest = data[whole:]
        self.offset = piece.offset + len(piece.data)
        return bool(piece.data)


def generators(keeper: RunningKeeper, connection: Connection) -> list[Reader]:
    """Two terminals that are written to as fast as somebody reads them, and a pipe that waits for its reader."""
    argv = ["/usr/bin/python3", "-c", _GENERATOR]
    readers: list[Reader] = []
    for number in range(2):
        run(keeper, connection, f"tty-{number}", terminal_steps(*argv, "slow"))
        _, fds = connection.expect(protocol.RingMade, f"tty-{number}", "console")
        readers.append(Reader(map_ring(fds)))
    script = f"exec {argv[0]} -c '{_GENERATOR}' fast"
    shell(keeper, connection, "pipe", script, kind="exec")
    _, fds = connection.expect(protocol.RingMade, "pipe", "stdout")
    readers.append(Reader(map_ring(fds)))
    return readers


def follow(connection: Connection, readers: list[Reader]) -> None:
    """Read what is there; a held ring has room again."""
    for reader in readers:
        reader.read()
    held = readers[-1]
    full = held.ring.room() <= 0
    held.ring.acknowledge(held.offset)
    if full:
        connection.send(protocol.Drained("pipe", "stdout"))


def upgrade_under_load(keeper: RunningKeeper, times: int) -> None:
    connection = keeper.greeted()
    readers = generators(keeper, connection)
    pids = sorted(keeper.children())
    for number in range(times):
        before = [reader.offset for reader in readers]
        build = f"build-{number}"
        with keeper.candidate(build) as candidate:
            connection.send(protocol.Upgrade(), [candidate.fileno()])
        done = False
        while not done or any(r.offset <= b for r, b in zip(readers, before, strict=True)):
            follow(connection, readers)
            if not select.select([connection.socket], [], [], 0.002)[0]:
                continue
            told = connection.receive()
            assert told is not None, keeper.log()
            assert not isinstance(told.answer, protocol.NotUpgraded | protocol.Exited), told.answer
            done = done or told.answer == protocol.Upgraded(protocol.VERSION, build)
        assert sorted(keeper.children()) == pids
    assert procfs.command(keeper.pid).count(f"build-{times - 1}") == 1
    for reader in readers:
        assert reader.offset
        reader.ring.close()


def test_ten_upgrades_under_load_lose_and_repeat_no_byte(keeper: RunningKeeper) -> None:
    upgrade_under_load(keeper, 10)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_upgrades_under_load_lose_and_repeat_no_byte(keeper: RunningKeeper) -> None:
    upgrade_under_load(keeper, 100)


def test_what_was_there_before_is_told_afterwards(keeper: RunningKeeper) -> None:
    first = keeper.greeted()
    runs = shell(keeper, first, "runs", "echo said; exec sleep 1000")
    first.expect(protocol.RingMade, "runs", "stdout")
    shell(keeper, first, "ended", "echo last; exit 7")
    first.expect(protocol.Exited, "ended")
    waiting = keeper.spawn(first, "waiting")
    first.close()
    before = keeper.greeted()
    told = [one.answer for one in before.told[1:]]
    descriptors = keeper.descriptors()
    assert keeper.upgrade(before, "another") == ""
    assert len(keeper.descriptors()) == len(descriptors)
    before.close()
    after = keeper.greeted()
    assert after.told[0].answer == protocol.Welcome(protocol.VERSION, "another", keeper.pid)
    assert [one.answer for one in after.told[1:]] == told
    # A child that was being made is made on.
    waiting.channel.close()
    exited, _ = after.expect(protocol.Exited, "waiting")
    assert (exited.pid, os.waitstatus_to_exitcode(exited.status)) == (waiting.pid, 1)
    os.kill(runs.pid, signal.SIGKILL)
    exited, _ = after.expect(protocol.Exited, "runs")
    assert (exited.status, exited.known) == (signal.SIGKILL, True)
    for id_ in ("runs", "ended", "waiting"):
        after.send(protocol.Forget(id_))
    after.ping()
    assert (keeper.private / protocol.JOURNAL_NAME).read_bytes() == b""


def test_children_of_the_new_image_have_the_old_limits(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()

    def limits(id_: str) -> bytes:
        shell(
            keeper,
            connection,
            id_,
            'ulimit -Sn; ulimit -Hn; cat /proc/self/status | grep -E "Sig(Blk|Ign|Cgt)"',
        )
        _, fds = connection.expect(protocol.RingMade, id_, "stdout")
        connection.expect(protocol.Exited, id_)
        ring = map_ring(fds)
        data = ring.read(0, 10000).data
        ring.close()
        return data

    before = limits("before")
    assert keeper.upgrade(connection, "another") == ""
    assert limits("after") == before
    assert len(os.listdir(f"/proc/{keeper.pid}/task")) == 1


def broken(directory: Path, name: str, change: Callable[[str], str]) -> Path:
    """A copy of the package in which one file of the keeper's is another."""
    shutil.copytree(CHECKOUT / "lxcd", directory / "lxcd")
    path = directory / "lxcd/keeper" / name
    text = path.read_text()
    changed = change(text)
    assert changed != text
    path.write_text(changed)
    return directory


def _fails_late(text: str) -> str:
    return text.replace('    os.close(memfd)\n    if "back"', '    if "back"', 1).replace(
        "handover.check_open(state)", "raise OSError(28, 'on purpose')", 1
    )


BROKEN = [
    pytest.param(
        "__main__.py", lambda text: "import no_such_module\n" + text, "has ended", id="import"
    ),
    pytest.param(
        "handover.py",
        lambda text: text.replace(f"STATE = {handover.STATE}", "STATE = 0"),
        f"version {handover.STATE}",
        id="older",
    ),
    pytest.param(
        "upgrade.py",
        lambda text: text.replace("*own_command(), *options]]", "'/nonexistent', *options]]"),
        "No such file",
        id="exec",
    ),
    pytest.param(
        "upgrade.py",
        lambda text: text.replace('["READY", [', '["READY", [1, '),
        "",
        id="answer",
    ),
    pytest.param("__main__.py", _fails_late, "on purpose", id="after exec"),
]


@pytest.mark.parametrize(("name", "change", "why"), BROKEN)
def test_a_candidate_that_does_not_work_leaves_the_keeper_as_it_is(
    keeper: RunningKeeper, tmp_path: Path, name: str, change: Callable[[str], str], why: str
) -> None:
    connection = keeper.greeted()
    runs = shell(keeper, connection, "runs", "echo said; exec sleep 1000")
    connection.expect(protocol.RingMade, "runs", "stdout")
    before = keeper.descriptors()
    told = keeper.upgrade(connection, "broken", broken(tmp_path, name, change))
    assert told
    assert why in told
    assert len(keeper.descriptors()) == len(before)
    connection.close()
    again = keeper.greeted()
    assert again.told[0].answer == protocol.Welcome(protocol.VERSION, "test", keeper.pid)
    # It can still be upgraded by one that works.
    assert keeper.upgrade(again, "good") == ""
    os.kill(runs.pid, signal.SIGKILL)
    exited, _ = again.expect(protocol.Exited, "runs")
    assert (exited.status, exited.known) == (signal.SIGKILL, True)


def test_a_candidate_that_says_nothing_holds_nobody_up(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    before = keeper.descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        connection.send(protocol.Upgrade(), [theirs.fileno()])
    connection.ping()
    # A second one is turned away meanwhile.
    assert keeper.upgrade(connection, "second") == "another upgrade is under way"
    ours.close()
    answer, _ = connection.expect(protocol.NotUpgraded)
    assert answer.why == "the candidate has ended"
    connection.ping()
    assert keeper.descriptors() == before


def test_a_candidate_is_forgotten_with_the_lxcd_that_has_brought_it(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    before = keeper.descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            connection.send(protocol.Upgrade(), [theirs.fileno()])
        connection.ping()
        connection.close()
        again = keeper.greeted()
        assert keeper.descriptors() == before
        assert keeper.upgrade(again, "second") == ""


@pytest.mark.parametrize(
    "said",
    [b"x", b"[]", b"{}", b'["READY"]', b'["READY", ["/bin/true"]]', b'["READY", 1]', b"[" * 60_000],
)
def test_a_candidate_that_speaks_garbage_is_refused(keeper: RunningKeeper, said: bytes) -> None:
    connection = keeper.greeted()
    before = keeper.descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        connection.send(protocol.Upgrade(), [theirs.fileno()])
        theirs.close()
        kernel_fd.send(ours, said)
        connection.expect(protocol.NotUpgraded)
    connection.ping()
    assert keeper.descriptors() == before


@pytest.mark.parametrize("fds", [0, 2])
def test_an_upgrade_wants_one_socket(keeper: RunningKeeper, fds: int) -> None:
    connection = keeper.greeted()
    connection.send(protocol.Upgrade(), [0] * fds)
    while connection.receive() is not None:
        pass
    keeper.greeted().ping()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b'{"state": 1}',
        b'{"state": 99}',
        b"\xff",
        b"[" * 100_000,
        b'{"state": "1"}',
    ],
)
def test_a_state_that_makes_no_sense_is_named(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        handover.decode(text)


def test_the_end_of_a_child_during_the_upgrade_is_told(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    child = shell(keeper, connection, "child", "exec sleep 1000")
    with keeper.candidate("another") as candidate:
        connection.send(protocol.Upgrade(), [candidate.fileno()])
    os.kill(child.pid, signal.SIGKILL)
    wait_readable(child.pidfd)
    exited, _ = connection.expect(protocol.Exited, "child")
    assert exited.status == signal.SIGKILL
    if not any(isinstance(t.answer, protocol.Upgraded) for t in connection.told):
        connection.expect(protocol.Upgraded)
