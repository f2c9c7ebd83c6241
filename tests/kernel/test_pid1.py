"""PID 1 of an application container, alone."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import time
from collections.abc import Callable

import pytest

from lxcd.kernel import identity, process, procfs
from tests.kernel import forked
from tests.kernel.forked import JSON
from tests.kernel.inits import LAST, SIGNALS, Init, beside, in_child, tell_signals, until

# Those that nobody can wait for, and the one that is about children.
_NOT_FORWARDED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
_FORWARDED = [number for number in SIGNALS if number not in _NOT_FORWARDED]
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR)
# What a process dies of unless it says otherwise: signal(7).
_HARMLESS = {
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
}
_DEADLY = [number for number in SIGNALS if number not in _HARMLESS]
# keeper/__main__.py
_IGNORED_BY_THE_KEEPER = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
_ANOTHER_USER = 4711


# how it ends


@pytest.mark.slow
def test_the_status_is_the_command_s() -> None:
    def act() -> JSON:
        return [Init(lambda _, code=code: code).ends() for code in range(256)]  # type: ignore[misc]

    assert in_child(act) == list(range(256))


@pytest.mark.slow
def test_of_a_signal_it_is_128_and_the_number() -> None:
    def die(number: int) -> int:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)
        return 1

    def act() -> JSON:
        return [Init(lambda _, number=number: die(number)).ends() for number in _DEADLY]  # type: ignore[misc]

    assert in_child(act) == [128 + number for number in _DEADLY]


def test_what_the_command_leaves_keeps_it_up_and_the_status_is_the_first_one_s() -> None:
    def command(said: int) -> int:
        # As daemons do it: of a parent that has gone.
        beside(lambda said: 0 * beside(tell_signals, said), said)
        return 5

    def act() -> JSON:
        init = Init(command)
        heard = init.hears()
        until(lambda: len(init.children()) == 1, "only the daemon is left")
        lives = init.lives()
        init.send(LAST)
        return [list(heard), lives, list(init.hears()), init.ends()]

    assert in_child(act) == [[0], True, [LAST], 5]


def test_a_child_that_is_there_when_it_begins_is_not_forgotten() -> None:
    """The command may have ended before PID 1 is what it is to be."""

    def act() -> JSON:
        return [Init(lambda _: 9).ends() for _ in range(50)]

    assert in_child(act) == [9] * 50


@pytest.mark.slow
def test_thousands_of_orphans_are_reaped() -> None:
    script = (
        "n=0; while [ $n -lt 3000 ]; do (: & :) & n=$((n + 1)); done; echo done; exec sleep 1000"
    )

    def command(said: int) -> int:
        os.dup2(said, 1)
        os.execv("/bin/sh", ["sh", "-c", script])

    def act() -> JSON:
        init = Init(command)
        heard = init.hears(5).decode()
        # The shell's own are the shell's; all theirs have lost it.
        until(lambda: len(init.children()) == 1, "all are reaped")
        init.send(signal.SIGTERM)
        return [heard, init.ends()]

    assert in_child(act) == ["done\n", 128 + signal.SIGTERM]


# signals


def test_every_signal_from_outside_reaches_the_command() -> None:
    def act() -> JSON:
        init = Init(tell_signals)
        heard = [*init.hears()]
        for number in _FORWARDED:
            init.send(signal.SIGCHLD)
            init.send(number)
            heard += init.hears()
        return [heard, init.ends()]

    assert in_child(act) == [[0, *_FORWARDED], 7]


def test_one_that_comes_as_soon_as_it_has_begun_is_not_lost() -> None:
    """PID 1 and its command have just been exec'ed then, with what the keeper ignores ignored in both until here."""
    sent = [number for number in _DEADLY if number not in _NOT_FORWARDED]

    def act() -> JSON:
        for ignored in _IGNORED_BY_THE_KEEPER:
            signal.signal(ignored, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        statuses: list[JSON] = []
        for number in sent:
            init = Init(("/bin/sleep", "1000"))
            init.send(number)
            statuses.append(init.ends())
        return statuses

    assert in_child(act) == [128 + number for number in sent]


def test_one_that_may_not_be_sent_is_no_failure() -> None:
    """The command is another user's, and the container has no CAP_KILL."""

    def command(said: int) -> int:
        os.setgroups(())
        os.setresgid(*[_ANOTHER_USER] * 3)
        os.setresuid(*[_ANOTHER_USER] * 3)
        return tell_signals(said)

    def act() -> JSON:
        rest = frozenset(range(64)) - {identity.capability_number("kill")}
        init = Init(command, capabilities=rest)
        heard = [*init.hears()]
        (child,) = init.children()
        init.send(signal.SIGUSR1)
        # Whom a signal wakes does not sleep when kill(2) returns.
        until(lambda: procfs.status(init.pid).state in "SZ", "PID 1 has done with it")
        os.kill(child, LAST)
        heard += init.hears()
        return [heard, init.ends()]

    assert in_child(act) == [[0, LAST], 7]


def test_no_signal_from_inside_does() -> None:
    def command(said: int) -> int:
        for number in SIGNALS:
            os.kill(1, number)
        return tell_signals(said)

    def act() -> JSON:
        init = Init(command)
        heard = [*init.hears()]
        # Those that queue: of the others one is enough, and that one may be from inside.
        init.send(signal.SIGRTMIN)
        heard += init.hears()
        init.send(LAST)
        heard += init.hears()
        return [heard, init.ends()]

    assert in_child(act) == [[0, signal.SIGRTMIN, LAST], 7]


def test_when_the_command_has_ended_they_reach_everybody() -> None:
    def command(said: int) -> int:
        for _ in range(3):
            beside(tell_signals, said)
        return 5

    def act() -> JSON:
        init = Init(command)
        heard = [*init.hears(3)]
        until(lambda: len(init.children()) == 3, "the command has ended")
        for number in (signal.SIGUSR1, signal.SIGTERM, LAST):
            init.send(number)
            heard += init.hears(3)
        return [heard, init.ends()]

    expected = [0] * 3 + [signal.SIGUSR1] * 3 + [signal.SIGTERM] * 3 + [LAST] * 3
    assert in_child(act) == [expected, 5]


@pytest.mark.parametrize("ending", _ENDING)
def test_with_nothing_to_run_it_stays_until_it_is_told_to_end(ending: int) -> None:
    def act() -> JSON:
        init = Init(None)
        for number in _FORWARDED:
            if number not in _ENDING:
                init.send(number)
        lives = init.lives()
        init.send(ending)
        return [lives, init.ends()]

    assert in_child(act) == [True, 0]


def test_with_nothing_to_run_it_waits_for_what_others_have_left_there() -> None:
    """A command that has joined leaves a daemon."""

    def act() -> JSON:
        init = Init(None)
        heard, said = os.pipe()
        os.close(init.heard)
        init.heard = heard
        process.setns(init.pidfd, process.CLONE_NEWPID)
        joined = beside(lambda said: 0 * beside(tell_signals, said), said)
        os.waitpid(joined, 0)
        seen = [*init.hears()]
        until(lambda: len(init.children()) == 1, "the daemon is PID 1's")
        init.send(signal.SIGTERM)
        seen += init.hears()
        lives = init.lives()
        init.send(LAST)
        seen += init.hears()
        return [seen, lives, init.ends()]

    assert in_child(act) == [[0, signal.SIGTERM, LAST], True, 0]


def test_killed_it_takes_everybody_along() -> None:
    def act() -> JSON:
        init = Init(tell_signals)
        init.hears()
        init.send(signal.SIGKILL)
        gone = os.read(init.heard, 1)
        return [list(gone), init.ends()]

    assert in_child(act) == [[], -signal.SIGKILL]


# in a pid namespace that it shares (lxc.namespace.keep = pid): here that of the test, which is PID 1 of it


def _shared(act: Callable[[], JSON]) -> JSON:
    return forked.in_child(lambda: in_child(act), unshare=process.CLONE_NEWPID)


def test_in_a_shared_namespace_it_forwards_whatever_comes() -> None:
    def act() -> JSON:
        init = Init(tell_signals, new_namespace=False)
        heard = [*init.hears()]
        for number in _FORWARDED:
            init.send(number)
            heard += init.hears()
        return [os.getpid(), heard, init.ends()]

    assert _shared(act) == [1, [0, *_FORWARDED], 7]


def test_in_a_shared_namespace_orphans_are_not_its_own() -> None:
    def command(said: int) -> int:
        beside(tell_signals, said)
        return 4

    def act() -> JSON:
        init = Init(command, new_namespace=False)
        # It has ended with the command, before the other: that one is ours now, as it would be the keeper's.
        pidfd, heard = init.pidfd, os.dup(init.heard)
        status = init.ends()
        init.heard, init.pidfd = heard, pidfd
        init.hears()
        os.kill(-1, LAST)
        orphan, ended = os.wait()
        return [status, orphan != init.pid, os.waitstatus_to_exitcode(ended)]

    assert _shared(act) == [4, True, 7]


def test_in_a_shared_namespace_it_never_signals_everybody() -> None:
    def exists(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def command(said: int) -> int:
        # A child of PID 1's from its first moment.
        brother = beside(tell_signals, said, process.CLONE_PARENT)
        os.write(said, bytes([os.getpid(), brother]))
        return 3

    def act() -> JSON:
        init = Init(command, new_namespace=False)
        first, brother = (number for number in init.hears(3) if number)
        reader, writer = os.pipe()
        bystander = beside(tell_signals, writer)
        os.read(reader, 1)
        until(lambda: not exists(first), "the command is reaped")
        for number in (signal.SIGUSR1, signal.SIGTERM):
            init.send(number)
        quiet = init.hears_nothing()
        os.kill(brother, LAST)
        heard = list(init.hears())
        status = init.ends()
        os.kill(bystander, LAST)
        return [quiet, heard, status, list(os.read(reader, 100))]

    assert _shared(act) == [True, [LAST], 3, [LAST]]


@pytest.mark.parametrize("ending", _ENDING)
def test_in_a_shared_namespace_with_nothing_to_run_it_ends_alone(ending: int) -> None:
    def act() -> JSON:
        reader, writer = os.pipe()
        bystander = beside(tell_signals, writer)
        os.read(reader, 1)
        init = Init(None, new_namespace=False)
        init.send(signal.SIGUSR1)
        lives = init.lives()
        init.send(ending)
        status = init.ends()
        os.kill(bystander, LAST)
        return [lives, status, list(os.read(reader, 100))]

    assert _shared(act) == [True, 0, [LAST]]


# what one sees of it


def test_ps_shows_what_it_is_and_it_holds_nothing() -> None:
    def look(init: Init, wanted: str) -> tuple[str, str, list[str]]:
        def what() -> tuple[str, str, list[str]]:
            command = procfs.read(init.pid, "cmdline").rstrip(b"\0").decode()
            return procfs.status(init.pid).comm, command, os.listdir(f"/proc/{init.pid}/fd")

        # One that runs nothing has nobody who could tell that it is there, and in the middle of its execve(2) it has
        # its new name and no command line yet.
        end = time.monotonic() + 10
        while (found := what()) != ("lxc-init", wanted, []) and time.monotonic() < end:
            time.sleep(0.001)
        init.send(LAST if init.children() else signal.SIGTERM)
        init.ends()
        return found

    above_it, alone = "lxc-init\0--\0/bin/command\0an argument", "lxc-init"

    def act() -> JSON:
        above = Init(tell_signals)
        above.hears()
        return [look(above, above_it), look(Init(None), alone)]

    assert in_child(act) == [["lxc-init", above_it, []], ["lxc-init", alone, []]]
