from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.console import stream as console
from lxcd.console.stream import Stream
from lxcd.keeper.ring import CAPACITY_BYTES, Ring

STEADY = settings(deadline=None, derandomize=True, database=None)


@pytest.fixture
def stream() -> Iterator[Stream]:
    made = Stream("console", ring=Ring.create("test", hold=False))
    yield made
    made.close()


def append(stream: Stream, data: bytes) -> None:
    assert stream.ring is not None
    read_end, write_end = os.pipe()
    os.write(write_end, data)
    os.close(write_end)
    while stream.ring.read_from(read_end):
        continue
    os.close(read_end)
    stream.wake()


def reference(data: bytes, lines: int) -> bytes:
    """What tail(1) prints."""
    return b"".join(data.splitlines(keepends=True)[-lines:] if lines else [])


@STEADY
@given(st.text(alphabet="ab\n", max_size=20).map(str.encode), st.integers(0, 5))
def test_offset_of_lines(data: bytes, lines: int) -> None:
    stream = Stream("console", ring=Ring.create("test", hold=False))
    append(stream, data)
    offset = console.offset_of_lines(stream, lines)
    stream.close()
    assert 0 <= offset <= len(data)
    assert data[offset:] == reference(data, lines)


def test_nothing_was_written_yet() -> None:
    stream = Stream("console")
    assert (stream.head, stream.tail) == (0, 0)
    assert stream.read(0).data == b""


async def collect(stream: Stream, offset: int, *, until_head: bool) -> tuple[bytes, int]:
    data, gaps = b"", 0
    async for _, piece in console.follow([(stream, offset)], until_head=until_head):
        data += piece.data
        gaps += piece.gap_bytes
    return data, gaps


async def test_follow_until_head(stream: Stream) -> None:
    append(stream, b"one")
    assert await collect(stream, 0, until_head=True) == (b"one", 0)
    assert await collect(stream, 2, until_head=True) == (b"e", 0)
    assert await collect(stream, 3, until_head=True) == (b"", 0)


async def test_follow_goes_on_and_ends(stream: Stream) -> None:
    append(stream, b"one")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(collect(stream, 0, until_head=False))
        await asyncio.sleep(0)
        append(stream, b"two")
        await asyncio.sleep(0)
        stream.closed = True
        stream.wake()
    assert task.result() == (b"onetwo", 0)


async def test_a_viewer_who_is_too_slow_is_told_how_much_is_lost(stream: Stream) -> None:
    written = 0
    while written < 3 * CAPACITY_BYTES:
        append(stream, bytes(50_000))
        written += 50_000
    data, gaps = await collect(stream, 0, until_head=True)
    assert len(data) + gaps == written
    assert gaps == stream.tail
