"""The decisions behind events of kills and limits: how many, who, and how often it is told."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.cgroup.kmsg import Victim
from lxcd.config.model import Line
from lxcd.supervisor import alarm_events, edits
from lxcd.supervisor import kills as kills_module
from lxcd.supervisor.kills import NAME_SECONDS, Kill, Kills, Untold
from lxcd.supervisor.pace import FIRST_SECONDS, LONGEST_SECONDS, Pace

STEADY = settings(deadline=None, derandomize=True, database=None)


def victim(sequence: int, name: str = "tail") -> Victim:
    return Victim(sequence, name, 100 + sequence, 0, 4096, 2048, "/c", "/c")


def test_named_when_counted() -> None:
    kills = Kills()
    kills.name(victim(1), counted=True)
    assert kills.settle(1, 0.0) == [Kill(victim(1))]
    assert kills.settle(1, 1.0) == []


def test_a_name_is_waited_for() -> None:
    kills = Kills()
    assert (kills.settle(2, 0.0), kills.waiting) == ([], True)
    kills.name(victim(1), counted=True)
    assert (kills.settle(2, 0.1), kills.waiting) == ([Kill(victim(1))], True)
    assert (kills.settle(2, NAME_SECONDS), kills.waiting) == ([Kill(None, 1)], False)
    # It comes too late: it was told.
    kills.name(victim(2), counted=True)
    assert kills.settle(2, 1.0) == []
    kills.name(victim(3), counted=True)
    assert kills.settle(3, 1.0) == [Kill(victim(3))]


def test_a_kill_between_the_count_and_the_log() -> None:
    """The log is read again after the count, and may name one that is not in it yet."""
    kills = Kills()
    kills.name(victim(1), counted=True)
    kills.name(victim(2), counted=True)
    assert kills.settle(1, 0.0, read=0) == [Kill(victim(1))]
    assert kills.settle(2, 0.1, read=2) == [Kill(victim(2))]


def test_without_a_log_nothing_is_waited_for() -> None:
    assert Kills(names_known=False).settle(3, 0.0) == [Kill(None, 3)]
    assert Kills().settle(3, 0.0, last=True) == [Kill(None, 3)]


def test_what_was_told_by_another() -> None:
    kills = Kills(counted=3, sequence=5, away=True)
    for sequence in (4, 5, 6):
        kills.name(victim(sequence), counted=True)
    assert kills.settle(5, 0.0) == [Kill(victim(6), missed=True), Kill(None, 1, missed=True)]
    kills.name(victim(7), counted=True)
    assert kills.settle(6, 0.0) == [Kill(victim(7))]


def test_a_kernel_that_does_not_count() -> None:
    kills = Kills()
    kills.name(victim(1), counted=True)
    assert kills.settle(None, 0.0) == [Kill(victim(1))]


def test_one_that_is_counted_elsewhere() -> None:
    kills = Kills()
    kills.name(victim(1), counted=False)
    assert kills.settle(0, 0.0) == [Kill(victim(1), counted=False)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
@STEADY
def test_as_many_as_were_counted(steps: list[tuple[int, int]]) -> None:
    """However names come, or do not: the sum is the count, and nobody is told twice."""
    kills, count, sequence, told = Kills(), 0, 0, list[Kill]()
    for number, (more, names) in enumerate(steps):
        count += more
        for _ in range(names):
            sequence += 1
            kills.name(victim(sequence), counted=True)
        told += kills.settle(count, float(number))
    told += kills.settle(count, 1e6, last=True)
    assert sum(kill.count for kill in told) == count
    named = [kill.victim.sequence for kill in told if kill.victim is not None]
    assert named == sorted(set(named))


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), max_size=30))
@STEADY
def test_everybody_is_named(steps: list[tuple[int, int, int, int]]) -> None:
    """Whom the kernel names in time, at whatever moments it is looked at."""
    kills, counted, named, told = Kills(), 0, 0, list[Kill]()
    for now, (first, second, third, fourth) in enumerate(steps):
        counted += first
        for number in range(named, min(named + second, counted)):
            kills.name(victim(number + 1), counted=True)
        read = named = min(named + second, counted)
        counted += third
        count = counted
        counted += fourth
        # All that was counted is in the log when it is read again.
        for number in range(named, counted):
            kills.name(victim(number + 1), counted=True)
        named = counted
        told += kills.settle(count, float(now), read=read)
    told += kills.settle(counted, 1e6, read=named)
    assert [kill.victim and kill.victim.sequence for kill in told] == list(range(1, counted + 1))


def test_what_waits_to_be_told_is_bounded() -> None:
    untold = Untold()
    for number in range(1, 100_001):
        untold.add(Kill(victim(number), counted=number % 2 == 0, missed=number <= 2000))
    untold.add(Kill(None, 7))
    assert len(untold) <= 1004
    first = untold.take()
    assert first.victim == victim(1)
    # There is room again, but whoever is named now comes after those of whom only a number is left.
    untold.add(Kill(victim(200_001)))
    rest = untold.take_all()
    assert len(untold) == 0
    assert [kill.sequence for kill in rest[:999]] == list(range(2, 1001))
    many = {(kill.counted, kill.missed): (kill.count, kill.sequence) for kill in rest[999:]}
    assert many == {
        (True, True): (500, 2000),
        (False, True): (500, 1999),
        (True, False): (49_000 + 7 + 1, 200_001),
        (False, False): (49_000, 99_999),
    }
    untold.add(Kill(victim(200_002)))
    assert untold.take_all() == [Kill(victim(200_002))]


@given(
    st.lists(
        st.builds(
            Kill,
            st.builds(victim, st.integers(1, 50)) | st.none(),
            st.integers(1, 3),
            missed=st.booleans(),
            counted=st.booleans(),
        )
        | st.none(),
        max_size=50,
    ),
    st.integers(1, 8),
)
@STEADY
def test_as_many_are_told_as_wait(steps: list[Kill | None], room: int) -> None:
    """None: one is told. However many are named, numbers and the last line are the same."""
    untold, told, given_ = Untold(), list[Kill](), list[Kill]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kills_module, "_WAITING", room)
        for step in steps:
            if step is not None:
                untold.add(step)
                given_.append(step)
            elif untold:
                told.append(untold.take())
            assert len(untold) <= room + 4
        told += untold.take_all()
    for counted, missed in itertools.product((True, False), repeat=2):
        before, after = (
            [kill for kill in kills if (kill.counted, kill.missed) == (counted, missed)]
            for kills in (given_, told)
        )
        assert sum(kill.count for kill in after) == sum(kill.count for kill in before)
        lines_ = [max((kill.sequence for kill in kills), default=0) for kills in (before, after)]
        assert lines_[0] == lines_[1]


@given(st.integers(1, 5), st.lists(st.floats(0, 30), max_size=200))
@STEADY
def test_a_pace(burst: int, steps: list[float]) -> None:
    pace, now, told = Pace(burst), 0.0, list[float]()
    for step in steps:
        now += step
        if pace.may(now):
            told.append(now)
            assert pace.wait(now) <= LONGEST_SECONDS
    for first, later in zip(told, told[burst:], strict=False):
        assert later - first >= FIRST_SECONDS


def test_a_pace_slows_down_and_recovers() -> None:
    pace = Pace()
    told = [second for second in range(5000) if pace.may(float(second))]
    assert told == [0, 10, 30, 70, 150, 310, 630, 1270, 1910, 2550, 3190, 3830, 4470]
    assert pace.may(4470 + 2 * LONGEST_SECONDS)
    assert not pace.may(4470 + 2 * LONGEST_SECONDS + 9)
    assert pace.may(4470 + 2 * LONGEST_SECONDS + 10)


def test_a_kill_in_words() -> None:
    text, details = alarm_events.kill(Kill(victim(1)), 32 << 20, init=False)
    assert text == "tail (pid 101), 2 KiB, at a limit of 32 MiB"
    assert (details["name"], details["pid"], details["count"]) == ("tail", "101", "1")
    assert "container_pid" not in details
    text, details = alarm_events.kill(Kill(None, 3, missed=True), None, init=False)
    assert text == "3 processes, while lxcd was away"
    assert details == {"count": "3", "missed": "true"}


def test_many_kills_in_words() -> None:
    many = [Kill(victim(number)) for number in range(20)] + [Kill(None, 5)]
    text, details = alarm_events.kills(many)
    assert text.startswith("25 processes: tail (pid 100), tail (pid 101), ")
    assert text.endswith(", ...")
    assert (details["count"], len(details["names"]) < 300) == ("25", True)


def test_a_hit_in_words() -> None:
    assert alarm_events.hit("pids", 1, 200, 0)[0] == "limit of processes met (200)"
    text, details = alarm_events.hit("memory", 12, 1 << 30, 10.2)
    assert text == "limit of memory met (1 GiB), 12 times in 10 s"
    assert details == {
        "limit": "memory",
        "count": "12",
        "limit_bytes": "1073741824",
        "seconds": "10",
    }


def line(key: str, value: str) -> Line:
    return Line(key, key, value, "", in_force=True)


def test_an_edit() -> None:
    before = [line("lxc.a", "1"), line("lxc.b", "2"), line("lxc.c", "3"), line("lxc.c", "4")]
    after = [line("lxc.a", "1"), line("lxc.c", "4"), line("lxc.d", "x" * 1000)]
    found = edits.details(before, after)
    assert edits.message(found) == "lxc.b, lxc.c, lxc.d"
    long = found.pop("after.lxc.d")
    assert len(long) < 300
    assert found == {
        "keys": "lxc.b lxc.c lxc.d",
        "before.lxc.b": "2",
        "before.lxc.c": "3\n4",
        "after.lxc.c": "4",
    }


lines = st.lists(st.builds(line, st.text(), st.text()), max_size=100)


@given(lines, lines)
@STEADY
def test_any_edit_is_bounded(before: list[Line], after: list[Line]) -> None:
    found = edits.details(before, after)
    assert len(found) <= 42
    assert sum(len(key) + len(value) for key, value in found.items()) < 50_000
    edits.message(found)
    assert edits.details(before, before) == {"keys": ""}
