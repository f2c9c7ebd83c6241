from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.container import channel
from lxcd.container.calls import Program
from lxcd.container.fstab import parse_options
from lxcd.kernel import mount

STEADY = settings(deadline=None, derandomize=True, database=None)
WORDS = st.sampled_from(
    [
        "ro",
        "rw",
        "nosuid",
        "suid",
        "nodev",
        "dev",
        "noexec",
        "exec",
        "noatime",
        "atime",
        "relatime",
        "strictatime",
        "nodiratime",
        "bind",
        "rbind",
        "rslave",
        "rprivate",
        "shared",
        "optional",
        "create=dir",
        "create=file",
        "relative",
        "move",
        "defaults",
        "x",
        "a=b",
    ]
)


@STEADY
@given(st.lists(WORDS, max_size=8))
def test_the_last_word_counts(words: list[str]) -> None:
    found = parse_options(tuple(words))
    atime = mount.MOUNT_ATTR__ATIME
    assert not found.set_ & found.clear & ~atime
    for yes, no, bit in (
        ("ro", "rw", mount.MOUNT_ATTR_RDONLY),
        ("nosuid", "suid", mount.MOUNT_ATTR_NOSUID),
        ("nodev", "dev", mount.MOUNT_ATTR_NODEV),
        ("noexec", "exec", mount.MOUNT_ATTR_NOEXEC),
    ):
        said = [word for word in words if word in (yes, no)]
        assert bool(found.set_ & bit) == (said[-1:] == [yes])
        assert bool(found.clear & bit) == (said[-1:] == [no])
    # The kernel knows relatime 0x00, noatime 0x10, strictatime 0x20, and refuses 0x30.
    assert found.set_ & atime in (0, 0x10, 0x20)
    assert found.filesystem == tuple(
        ("x", None) if word == "x" else ("a", "b") for word in words if word in ("x", "a=b")
    )


def test_propagation() -> None:
    assert parse_options(("rslave",)).propagation == mount.MS_SLAVE
    assert parse_options(("rslave",)).propagation_recursive
    assert not parse_options(("rslave", "private")).propagation_recursive


@pytest.mark.parametrize("word", ["create=", "create=x", "create=dir,"])
def test_create(word: str) -> None:
    with pytest.raises(ValueError, match="create"):
        parse_options((word,))


PROGRAM = Program(
    b"", ((0, "wait", "network", ""), (0, "fsconfig", "tmpfs: size=x", "tmpfs")), ("mount",)
)


@pytest.mark.parametrize(
    ("kind", "call", "error", "words", "found"),
    [
        (1, 0, 0, b"", channel.Prepared()),
        (2, 0, 0, b"", channel.Reached("network")),
        (
            3,
            1,
            22,
            b"",
            channel.Failed(0, "mount", "fsconfig", 22, "Invalid argument: tmpfs: size=x"),
        ),
        (
            3,
            1,
            22,
            b"e bad\ne worse\n",
            channel.Failed(0, "mount", "fsconfig", 22, "Invalid argument: tmpfs: bad; worse"),
        ),
        (3, 2, 0, b"", channel.Failed(0, "mount", "", 0, "the spec ends without a program")),
        (
            3,
            0xFFFFFFFF,
            1,
            b"",
            channel.Failed(-1, "enter_cgroups", "write", 1, "Operation not permitted"),
        ),
        (4, 0, 0, b"", channel.Executing()),
    ],
)
def test_what_a_child_says(
    kind: int, call: int, error: int, words: bytes, found: channel.Report
) -> None:
    data = struct.pack("=IIiI", kind, call, error, len(words)) + words
    assert channel.decode(data, PROGRAM) == found


@STEADY
@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(channel.decode(data, PROGRAM), channel.Report)


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 0, 0, 0),
        (5, 0, 0, 0),
        (2, 1, 0, 0),
        (2, 9, 0, 0),
        (3, 3, 1, 0),
        (3, 0, -1, 0),
        (1, 0, 0, 7),
    ],
)
def test_no_report(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        channel.decode(struct.pack("=IIiI", *numbers), PROGRAM)
