from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.container import channel
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


REPORTS = st.one_of(
    st.builds(channel.Reached, st.text()),
    st.builds(channel.Failed, st.integers(), st.text(), st.text(), st.integers(), st.text()),
    st.builds(channel.Executing),
)


@STEADY
@given(REPORTS)
def test_reports_round_trip(report: channel.Report) -> None:
    assert channel.decode(channel.encode(report)) == report


@STEADY
@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        channel.decode(data)


@pytest.mark.parametrize(
    "data", [b"[" * 60_000, b"null", b'["Failed", []]', b'[["Failed"], {}]', b'["Nothing", {}]']
)
def test_no_report(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        channel.decode(data)
