from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.supervisor.events import KEPT, Event, Events
from lxcd.supervisor.state import Cause, Exit, State

STEADY = settings(deadline=None, derandomize=True, database=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events"


def opened(path: Path) -> Events:
    return Events(str(path))


async def take(events: Events, after: int, count: int) -> list[Event]:
    found = []
    async for event in events.follow(after):
        found.append(event)
        if len(found) == count:
            break
    return found


def test_numbers_go_on_after_a_restart(path: Path) -> None:
    events = opened(path)
    ended = Exit(1, 0, False, False, 5, 2, Cause.SELF)
    first = events.add("EXITED", container="c", state=State.STOPPED, exit_=ended, message="x\udcff")
    events.close()
    again = opened(path)
    assert list(again.since(0)) == [first]
    assert again.add("STARTED").sequence == 2
    again.close()


def test_lost_counts_what_is_not_kept(path: Path) -> None:
    events = opened(path)
    assert (events.last, events.lost(0)) == (0, 0)
    for _ in range(KEPT + 5):
        events.add("E")
    assert events.lost(0) == 5
    assert events.lost(5) == 0
    assert [e.sequence for e in events.since(KEPT + 3)] == [KEPT + 4, KEPT + 5]
    assert next(iter(events.since(0))).sequence == 6
    events.close()


def test_a_torn_last_line_is_passed_over(path: Path) -> None:
    events = opened(path)
    events.add("ONE")
    events.add("TWO")
    events.close()
    path.write_bytes(path.read_bytes()[:-10])
    again = opened(path)
    assert [e.type for e in again.since(0)] == ["ONE"]
    again.close()


def without_line(path: Path, index: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[index]
    path.write_bytes(b"".join(lines))


def test_since_though_one_in_the_middle_never_reached_the_disk(path: Path) -> None:
    """A full disk costs the copy on disk (of event 3), then there was room again, then lxcd was restarted."""
    events = opened(path)
    for number in range(1, 6):
        events.add(f"E{number}")
    events.close()
    without_line(path, 2)
    again = opened(path)
    assert [e.sequence for e in again.since(2)] == [4, 5]
    assert [e.sequence for e in again.since(4)] == [5]
    again.close()


async def test_follow_ends_its_turn_though_one_is_missing(path: Path) -> None:
    events = opened(path)
    for number in range(1, 6):
        events.add(f"E{number}")
    events.close()
    without_line(path, 2)
    again = opened(path)
    # Only looked at so far as is safe: a follower that does not see the newest event never gives up its turn.
    assert [e.sequence for e in again.since(again.last - 1)] == [again.last]
    assert [e.sequence for e in await take(again, 4, 1)] == [5]
    again.close()


@STEADY
@given(st.binary(max_size=60))
def test_garbage_in_the_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("events") / "events"
    path.write_bytes(data)
    events = opened(path)
    assert events.add("E").sequence == 1
    events.close()


@pytest.mark.parametrize(
    "line", [b"[]", b'"text"', b"5", b"null", b"{}", b"[" * 100_000, b'{"state": "NONE"}']
)
def test_lines_that_are_no_events(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n")
    events = opened(path)
    assert events.last == 0
    events.close()


async def test_follow_wakes_up(path: Path) -> None:
    events = opened(path)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(take(events, 0, 3)) for _ in range(3)]
        await asyncio.sleep(0)
        for number in range(3):
            events.add(f"E{number}")
            await asyncio.sleep(0)
    for task in tasks:
        assert [e.sequence for e in task.result()] == [1, 2, 3]
    events.close()
