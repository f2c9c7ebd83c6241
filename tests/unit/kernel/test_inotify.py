from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.kernel import inotify
from lxcd.kernel.fd import Fd


@given(st.lists(st.tuples(st.integers(-1, 2**31 - 1), st.binary(max_size=40))))
@settings(deadline=None, derandomize=True, database=None)
def test_parse(events: list[tuple[int, bytes]]) -> None:
    data = b"".join(struct.pack("=iIII", watch, 2, 0, len(name)) + name for watch, name in events)
    assert inotify.parse(data) == [watch for watch, _ in events]


@given(st.binary())
@settings(deadline=None, derandomize=True, database=None)
def test_parse_anything(data: bytes) -> None:
    inotify.parse(data)


def test_a_file_that_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with Fd(inotify.create()) as number:
        watch = inotify.add(number.fileno(), str(path), inotify.IN_MODIFY)
        assert inotify.read(number.fileno()) == []
        path.write_text("x")
        assert set(inotify.read(number.fileno())) == {watch}
        inotify.remove(number.fileno(), watch)
