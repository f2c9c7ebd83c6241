"""The vectors of LXC's own parse_config_file.c, and what it does not test."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.config.entries import overlaps
from lxcd.config.loader import load
from lxcd.config.model import IdMapping

# The same examples every time, no file kept, and no clock to fail by on a busy machine.
STEADY = settings(deadline=None, derandomize=True, database=None)

VALID = [
    ("u 0 0 1", ("u", 0, 0, 1)),
    ("g 0 0 1", ("g", 0, 0, 1)),
    ("u 1 100001 999999999", ("u", 1, 100001, 999999999)),
    ("u 0 0 0", ("u", 0, 0, 0)),
    ("u    0\t\t5000\t100000", ("u", 0, 5000, 100000)),
    ("g\t\t577\t789 5", ("g", 577, 789, 5)),
    ("u 65536 65536 1\t", ("u", 65536, 65536, 1)),
    ("u 0 0 4294967295", ("u", 0, 0, 4294967295)),
    ("u 4294967294 4294967294 1", ("u", 4294967294, 4294967294, 1)),
]
INVALID = [
    "1u 0 0 0",
    "1g 0 0 0a",
    "1 u 0 0 0",
    "g -1 0 -10",
    "a 1 0 10",
    "u 1 1 0 10",
    "g 1 0 10\t z ",
    "u 0 0",
    "u",
    "b 0 0 1",
    "U 0 0 1",
    "u +1 0 1",
    "u 0x10 0 1",
    "u 010 0 1",
    "u 1_0 0 1",
    "u \uff11 0 1",
    "u\u30000 0 1",
    "u 4294967295 0 1",
    "u 4294967296 0 1",
    "u 18446744073709551616 0 1",
    "u 99999999999999999999999999999999 0 1",
    "u 0 4294967294 2",
    "u 1 0 4294967295",
]


@pytest.mark.parametrize(("text", "expected"), VALID)
@pytest.mark.parametrize("key", ["lxc.idmap", "lxc.id_map"])
def test_valid(key: str, text: str, expected: tuple[str, int, int, int]) -> None:
    config, _ = load(f"{key} = {text}\n".encode(), "c")
    assert config.problems == ()
    (one,) = config.idmap
    assert (one.kind, one.first, one.host, one.count, one.origin) == (*expected, "c:1")


@pytest.mark.parametrize("text", INVALID)
def test_invalid(text: str) -> None:
    config, _ = load(f"lxc.idmap = {text}\n".encode(), "c")
    assert config.idmap == ()
    assert [(p.severity, p.origin, p.key) for p in config.problems] == [
        ("error", "c:1", "lxc.idmap")
    ]


def test_empty_clears() -> None:
    config, _ = load(b"lxc.idmap = u 0 1 1\nlxc.idmap =\nlxc.idmap = g 0 5 1\n", "c")
    assert [one.kind for one in config.idmap] == ["g"]


@pytest.mark.parametrize(
    "lines",
    [
        ["u 0 100 10", "u 9 200 10"],
        ["u 0 100 10", "u 20 109 10"],
        ["u 0 0 4294967295", "u 5 5 1"],
        ["u 0 0 100", "u 200 500 1", "u 50 900 1"],
    ],
)
def test_overlap_is_an_error(lines: list[str]) -> None:
    config, _ = load("".join(f"lxc.idmap = {one}\n" for one in lines).encode(), "c")
    assert "error" in {p.severity for p in config.problems}
    assert len(config.idmap) == len(lines)


def test_neighbours_and_other_kind_do_not_overlap() -> None:
    text = b"lxc.idmap=u 0 100 10\nlxc.idmap=g 0 100 10\nlxc.idmap=u 10 110 5\nlxc.idmap=u 5 5 0\n"
    assert load(text, "c")[0].problems == ()


@STEADY
@given(
    st.lists(
        st.builds(
            IdMapping,
            st.sampled_from(["u", "g"]),
            st.integers(0, 30),
            st.integers(0, 30),
            st.integers(0, 6),
            st.just("o"),
        ),
        max_size=6,
    )
)
def test_overlaps_against_sets(mappings: list[IdMapping]) -> None:
    expected = False
    for place, one in enumerate(mappings):
        for other in mappings[:place]:
            if one.kind == other.kind:
                inside = set(range(one.first, one.first + one.count))
                outside = set(range(one.host, one.host + one.count))
                expected |= bool(inside & set(range(other.first, other.first + other.count)))
                expected |= bool(outside & set(range(other.host, other.host + other.count)))
    assert bool(overlaps(mappings)) == expected


def test_ten_thousand_lines() -> None:
    text = "".join(f"lxc.idmap = u {n} {n + 100000} 1\n" for n in range(10_000))
    config, _ = load(text.encode(), "c")
    assert len(config.idmap) == 10_000
    assert config.problems == ()
