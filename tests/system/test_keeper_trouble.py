"""What lxcd finds instead of its keeper, or of what it has written down: it says so or goes on, and always within a while."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from lxcd.keeper import protocol
from lxcd.supervisor import launch
from tests.system.boxes import defined
from tests.system.calls import IDLE, application, get, refused, state
from tests.system.consistency import FEW_PREPARED
from tests.system.fakes import Peer, fake_keeper
from tests.system.host import Host
from tests.system.losing import (
    TAG,
    attempt,
    ends_with,
    go,
    gone,
    halted,
    how,
    in_order,
    kill_both,
    mostly_long,
    running,
    settled,
    share,
)
from tests.system.machine import until

Behave = Callable[[Peer], None]
NEWER = "99.0.0+abcdef"
OLDER = "0.0.1+abcdef"


def welcome(build: str = "", change: int = 0) -> protocol.Welcome:
    return protocol.Welcome(protocol.VERSION + change, build or launch.own_build(), os.getpid())


def says(*words: protocol.Answer | bytes) -> Behave:
    """Answers HELLO with this, and then nothing."""

    def behave(peer: Peer) -> None:
        peer.hear()
        peer.say(*words)
        peer.listen()

    return behave


def hangs_up_after(*words: protocol.Answer | bytes) -> Behave:
    """Answers HELLO with this and goes."""

    def behave(peer: Peer) -> None:
        peer.hear()
        peer.say(*words)

    return behave


def refuses_upgrades(build: str, change: int) -> Behave:
    """Says what it is, and that it wants to stay so."""

    def behave(peer: Peer) -> None:
        peer.hear()
        peer.say(welcome(build, change), protocol.Synced())
        while data := peer.hear():
            if b'"Upgrade"' in data:
                peer.say(protocol.NotUpgraded("not today"))

    return behave


def speaks_first(peer: Peer) -> None:
    peer.say(b"220 ready\r\n")
    peer.listen()


NO_KEEPER = "what listens at the keeper's socket is no keeper: "
NO_ANSWER = "what listens at the keeper's socket did not answer in 10 s"
STRANGE = "the keeper is {}, which lxcd {} cannot talk to: start the lxcd that it belongs to"
GONE = (f"{NO_KEEPER}it has closed the connection",)
# Without having read: before we say something, or after.
GONE_AT_ONCE = tuple(
    f"{NO_KEEPER}{OSError(number, os.strerror(number))}"
    for number in (errno.EPIPE, errno.ECONNRESET)
)
HALF = protocol.encode(welcome())[:20]
LEAVE = protocol.encode(protocol.Leave())
OWN = launch.own_build()


def no_message(data: bytes) -> tuple[str]:
    return (f"{NO_KEEPER}not a message: {data!r}",)


# What it does, and what lxcd says about that.
FAKES: dict[str, tuple[Behave | None, tuple[str, ...]]] = {
    "garbage": (says(b"\xff\0garbage"), no_message(b"\xff\0garbage")),
    "speaks first": (speaks_first, no_message(b"220 ready\r\n")),
    "half a message": (says(HALF), no_message(HALF)),
    "half a message, then gone": (hangs_up_after(HALF), no_message(HALF)),
    "a request": (says(LEAVE), no_message(LEAVE)),
    "gone at once": (lambda _: None, GONE_AT_ONCE),
    "gone after WELCOME": (hangs_up_after(welcome()), GONE),
    "gone before SYNCED": (
        hangs_up_after(welcome(), protocol.Closed("a", "b"), protocol.Closed("a", "c")),
        GONE,
    ),
    "newer": (says(welcome(NEWER, 1), protocol.Synced()), (STRANGE.format(NEWER, OWN),)),
    "newer, garbage": (says(welcome(NEWER, 1), b"{}", b"\xff"), (STRANGE.format(NEWER, OWN),)),
    "same build, another version": (
        says(welcome("", 1), protocol.Synced()),
        (STRANGE.format(OWN, OWN),),
    ),
    "older": (
        refuses_upgrades(OLDER, -1),
        (f"the keeper is {OLDER} and could not be upgraded: not today",),
    ),
    "silent": (Peer.listen, (NO_ANSWER,)),
    "silent after WELCOME": (says(welcome()), (NO_ANSWER,)),
    "silent, older": (says(welcome(OLDER, -1)), (NO_ANSWER,)),
    "never accepts": (None, (NO_ANSWER,)),
}


@pytest.mark.parametrize(
    "kind", mostly_long(FAKES, "garbage", "half a message, then gone", "newer", "older")
)
def test_lxcd_says_what_it_has_found_at_the_keepers_socket(cold_host: Host, kind: str) -> None:
    """It refuses each of them: what is there may have children, and is not to be replaced."""
    host, (behave, texts) = cold_host, FAKES[kind]
    with fake_keeper(host, behave):
        done = attempt(host)
    assert done is not None, "it serves"
    assert done.is_one_message() in texts
    # It has harmed nothing: whoever comes next has a keeper.
    host.start_daemon()
    assert host.keeper_pid > 0
    host.ctl("list")


@pytest.mark.parametrize(
    "kind", mostly_long(("garbage", "gone at once", "newer", "older", "silent"), "silent")
)
def test_a_fake_in_the_place_of_a_lost_keeper_holds_nobody_up(
    cold_host: Host, busybox_root: Path, kind: str
) -> None:
    """lxcd serves on without a keeper: containers go on and are told to end as they do, what needs one is refused."""
    host = cold_host
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    line = share(host, "end", "later")
    with (
        defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made,
        defined(host, application(host, busybox_root, "other", line), f"{TAG}other") as other,
        defined(host, application(host, busybox_root, "new"), f"{TAG}new") as new,
        ExitStack() as fake,
    ):
        made.start(*ends_with(37, "end"))
        pid = other.start(*ends_with(38, "later")).pid
        until(lambda: len(running(host, "cat /mnt/end")) == 1, "it waits")
        keeper = host.keeper_pid
        assert host.daemon is not None
        with halted(host.daemon):
            os.kill(keeper, signal.SIGKILL)
            until(lambda: gone(keeper), "the keeper is gone")
            fake.enter_context(fake_keeper(host, FAKES[kind][0]))
        with fake:
            assert state(made.info()) == "RUNNING"
            go(host, "end")
            made.wait(generation=1)
            assert how(made) == ("code", 37, "CAUSE_SELF")
            error = refused(lambda: new.start(*IDLE))
            assert error.code == "UNAVAILABLE", error
            assert "keeper" in error.text, error
            error = refused(lambda: other.run("/bin/echo", "in"))
            assert error.code == "UNAVAILABLE", error
            assert state(get(host.channel(), new.name)) == "STOPPED"
        until(lambda: host.keeper_pid not in (0, keeper, os.getpid()), "there is a keeper again")
        assert other.info().pid == pid
        assert new.start(*IDLE).pid > 0
        assert other.sh("echo on") == "on"
        go(host, "later")
        other.wait(generation=1)
        assert how(other) == ("code", 38, "CAUSE_SELF")
        in_order(host, host.keeper_pid)


# ---- what was written down is torn


def torn(text: bytes) -> bytes:
    return text[: len(text) - 10]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "torn": torn,
    "torn early": lambda text: text[:30],
    "empty": lambda _: b"",
    "binary": lambda text: text + bytes(range(256)) * 40,
    "binary before": lambda text: bytes(range(256)) * 40 + text,
    "ten megabytes": lambda text: os.urandom(10 << 20) + text,
    "ten megabytes of one line": lambda text: b"[" * (10 << 20) + text,
    "a thousand ends": lambda text: (
        b"".join(
            b"\n" + protocol.encode(protocol.Exited(f"init-{n:016x}", 1, 0, 1, known=True))
            for n in range(1000)
        )
        + text
    ),
}


@pytest.mark.parametrize("damage", mostly_long(DAMAGES, "torn", "binary before"))
def test_a_damaged_journal_of_ends(cold_host: Host, busybox_root: Path, damage: str) -> None:
    """One has ended while only the keeper was there; then that was killed, too. Its journal is all that is left of the end."""
    host = cold_host
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    line = share(host, "end", "later")
    with (
        defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made,
        defined(host, application(host, busybox_root, "other", line), f"{TAG}other") as other,
    ):
        pids = [
            made.start(*ends_with(37, "end")).pid,
            other.start(*ends_with(38, "later")).pid,
        ]
        keeper = host.keeper_pid
        host.kill_daemon()
        go(host, "end")
        journal = host.run_dir / "private" / protocol.JOURNAL_NAME
        until(lambda: gone(pids[0]) and journal.read_bytes().count(b"}") > 0, "it is written down")
        os.kill(keeper, signal.SIGKILL)
        until(lambda: gone(keeper), "the keeper is gone")
        before = journal.read_bytes()
        journal.write_bytes(DAMAGES[damage](before))
        host.start_daemon()
        assert settled(host) == {made.name: "STOPPED", other.name: "RUNNING"}
        # Prepared children may have ended with lxcd, and stand there, too.
        (end,) = (one for one in before.splitlines() if f'"pid": {pids[0]},'.encode() in one)
        if end in DAMAGES[damage](before).splitlines():
            assert how(made) == ("code", 37, "CAUSE_SELF")
        else:
            assert how(made) == ("", 0, "CAUSE_KEEPER_LOST")
        assert other.info().pid == pids[1]
        go(host, "later")
        other.wait(generation=1)
        assert how(other) == ("code", 38, "CAUSE_SELF")
        made.start(*IDLE)
        assert made.sh("echo on") == "on"
        in_order(host, host.keeper_pid)
        # Once all is told the file is empty again.
        until(lambda: journal.stat().st_size == 0, "the journal is empty")


@pytest.mark.parametrize("keeper", mostly_long(("stays", "is killed"), "stays"))
@pytest.mark.parametrize(
    "damage",
    mostly_long(
        (name for name in DAMAGES if name != "a thousand ends"), "torn", "ten megabytes of one line"
    ),
)
def test_damaged_records_and_slots(
    cold_host: Host, busybox_root: Path, damage: str, keeper: str
) -> None:
    """Whose record is lost is nobody's; the others go on, and it can be started again."""
    host = cold_host
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    line = share(host, "never", "later")
    with (
        defined(host, application(host, busybox_root, "app", line), f"{TAG}app") as made,
        defined(host, application(host, busybox_root, "other", line), f"{TAG}other") as other,
    ):
        lost = made.start(*ends_with(1, "never")).pid
        kept = other.start(*ends_with(38, "later")).pid
        in_order(host, host.keeper_pid)
        if keeper == "stays":
            host.kill_daemon()
        else:
            kill_both(host, host.keeper_pid)
        private = host.run_dir / "private"
        (record,) = [
            path
            for path in (private / "containers").iterdir()
            if f'"name": "{made.name}"'.encode() in path.read_bytes()
        ]
        slots = (private / "slots").read_bytes()
        left = _directories(record.read_bytes()) | _directories(slots)
        for path in (record, private / "slots"):
            path.write_bytes(DAMAGES[damage](path.read_bytes()))
        host.start_daemon()
        found = settled(host)
        assert found[other.name] == "RUNNING"
        assert other.info().pid == kept
        if damage not in ("binary", "binary before"):
            assert found[made.name] == "STOPPED"
        if found[made.name] == "STOPPED":
            if keeper == "stays":
                # The keeper has it, and nobody knows what it is.
                until(lambda: gone(lost), "it has ended")
            elif not gone(lost):
                os.kill(lost, signal.SIGKILL)
                until(lambda: gone(lost), "it has ended")
            # Which directories were its own nobody knows any more.
            for top in sorted(left, reverse=True):
                for place in (Path(top, "inner"), Path(top)):
                    if place.is_dir() and not (place / "cgroup.procs").read_text():
                        place.rmdir()
            made.start(*IDLE)
        assert made.sh("echo on") == "on"
        in_order(host, host.keeper_pid)
        go(host, "later")
        other.wait(generation=1)
        assert how(other) == ("code", 38, "CAUSE_SELF")
        assert "Traceback" not in host.log_text()


def _directories(text: bytes) -> set[str]:
    """Cgroups that a record names."""
    return {word for word in text.decode().split('"') if word.startswith("/sys/fs/cgroup/")}
