from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.config.names import reason, require_name
from lxcd.errors import InvalidArgument

# The same examples every time, no file kept, and no clock to fail by on a busy machine.
STEADY = settings(deadline=None, derandomize=True, database=None)

BAD = [
    "",
    ".",
    "..",
    "/",
    "a/b",
    "a\0b",
    "a\nb",
    "a\rb",
    "a\x1b[2J",
    "-x",
    "--help",
    "x" * 240,
    "日" * 80,
    "a\u2028b",
    "a\u202eb",
    "\udcff",
    "\u3000",
    "a\x7f",
    "a\u0085",
]


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        require_name(name)
    assert caught.value.reason == "INVALID_NAME"
    assert caught.value.text == reason(name)
    assert caught.value.text.isprintable()


@pytest.mark.parametrize(
    "name", ["001", "a", "web-1", "a.b", "x" * 239, "日本", "a b", "%41", "A_1"]
)
def test_accepted(name: str) -> None:
    assert reason(name) == ""
    assert require_name(name) == name
    assert len(f"lxc.payload.{name}-999".encode()) <= 255


@STEADY
@given(st.text(max_size=300))
def test_what_is_accepted_is_one_name_in_a_folder(name: str) -> None:
    if not reason(name):
        assert os.path.basename(os.path.join("/base", name)) == name
        assert os.path.normpath(os.path.join("/base", name)) == f"/base/{name}"
        assert not name.startswith("-")
        assert name.isprintable()
        assert name.encode().decode() == name
