from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.keeper import protocol
from lxcd.keeper.journal import Journal
from lxcd.keeper.protocol import Exited

STEADY = settings(deadline=None, derandomize=True, database=None)
ONE = Exited("init/a/1", 10, 256, 5, True)
TWO = Exited("init/\udcff/2", 11, 9, 6, True)


@contextmanager
def journal(path: Path) -> Iterator[Journal]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield Journal(fd)
    finally:
        os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_records_survive(path: Path) -> None:
    with journal(path) as first:
        assert first.pending == {}
        first.add(ONE)
        first.add(TWO)
        assert first.broken == ""
    with journal(path) as second:
        assert second.pending == {ONE.id: ONE, TWO.id: TWO}


def test_the_file_is_emptied_with_the_last_one(path: Path) -> None:
    with journal(path) as made:
        made.add(ONE)
        made.add(TWO)
        made.acknowledge(ONE.id)
        made.acknowledge("nobody")
        assert path.stat().st_size > 0
        made.acknowledge(TWO.id)
        assert path.stat().st_size == 0
        made.add(ONE)
    with journal(path) as again:
        assert again.pending == {ONE.id: ONE}


def test_a_torn_line_costs_itself_only(path: Path) -> None:
    with journal(path) as made:
        made.add(ONE)
        made.add(TWO)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with journal(path) as torn:
            assert list(torn.pending.values()) in ([], [ONE])
            torn.add(TWO)
        with journal(path) as again:
            assert again.pending[TWO.id] == TWO


@STEADY
@given(st.lists(st.binary(max_size=30)))
def test_garbage(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    path.write_bytes(b"\n".join(lines))
    with journal(path) as made:
        made.add(ONE)
    with journal(path) as again:
        assert again.pending[ONE.id] == ONE


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b"null",
        b'{"id": 5, "pid": 1, "status": 0, "time_ns": 0}',
        b'{"id": "a", "pid": null, "status": 0, "time_ns": 0}',
        b'{"id": "a", "pid": 1, "status": 0}',
        b'{"id": "a", "pid": 1, "status": 0, "time_ns": 0, "more": 1}',
    ],
)
def test_a_line_that_is_no_record_is_passed_over(path: Path, line: bytes) -> None:
    """Whatever it takes from the file it will tell lxcd, which ends the connection over a wrong message."""
    path.write_bytes(line + b"\n")
    with journal(path) as made:
        for exited in made.pending.values():
            protocol.decode_answer(protocol.encode(exited))
        assert made.pending == {}


def test_a_full_disk(path: Path) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    # /dev/full reads as zeros without end, and has no size.
    made = Journal(full)
    made.add(ONE)
    assert made.pending == {ONE.id: ONE}
    assert made.broken == "No space left on device"
    made.acknowledge(ONE.id)
    assert made.pending == {}
    os.close(full)


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_disk_that_becomes_full_in_a_line(path: Path, room: int) -> None:
    """write(2) takes what fits, and says so by its result."""
    with journal(path) as made:
        made.add(ONE)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, limits[1]))
        try:
            made.add(TWO)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert made.pending == {ONE.id: ONE, TWO.id: TWO}
        assert made.broken
        made.add(TWO)
        assert not made.broken
    with journal(path) as again:
        assert again.pending == {ONE.id: ONE, TWO.id: TWO}
