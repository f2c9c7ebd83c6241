"""Rates, sizes, columns, and what the keys of `top` do: all without a terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcctl import columns
from lxcctl.details import details
from lxcctl.output import columns_of
from lxcctl.usage import Rates, Usage, advance, follow, percent, size, span
from lxcctl.view import HELP, INTERVALS, Page, View, draw, press, rows, settled
from tests.unit.lxcctl.measuring import FROZEN, MEGA, bare, stats

if TYPE_CHECKING:
    from lxcctl.usage import Usages

STEADY = settings(deadline=None, derandomize=True, database=None)


def second(*, before: int = 0, now: int = 2, **how: float) -> Usage:
    """After two samples."""
    return advance(advance(None, stats(second=before, **how)), stats(second=now, **how))  # type: ignore[arg-type]


def test_rates() -> None:
    found = second(cpu=1.5)
    assert found.rates == Rates(150.0, 2048.0, 3.0 * MEGA, 1024.0, 10240.0)
    assert advance(None, stats()).rates == Rates()
    # Of the loopback nothing is counted.
    assert found.receive_bytes == 2048


def test_another_life_begins_anew() -> None:
    first = advance(None, stats(second=50))
    assert advance(first, stats(second=1, generation=2)).rates == Rates()
    # Even where it seems to go on.
    assert advance(first, stats(second=60, generation=2)).rates == Rates()


def test_a_counter_that_falls_has_no_rate() -> None:
    first = advance(None, stats(second=5))
    now = stats(second=6)
    del now.io[:]
    found = advance(first, now).rates
    assert (found.read_bytes, found.write_bytes) == (None, None)
    assert found.cpu_percent == 50.0


def test_samples_that_are_too_near() -> None:
    first = second()
    near = stats(second=2)
    near.uptime_usec += 10_000
    near.cpu.usage_usec += 10_000_000
    again = advance(first, near)
    assert again.rates == first.rates
    assert again.stats is near
    # The next one is compared with the one from which the rates went on.
    assert advance(again, stats(second=4)).rates.cpu_percent == 50.0


def test_a_clock_that_was_set() -> None:
    first = advance(None, stats(second=5))
    back = advance(first, stats(second=1))
    assert back.rates == Rates()
    assert advance(back, stats(second=2)).rates.cpu_percent == 50.0


def test_what_is_not_counted() -> None:
    found = follow(follow({}, [bare()]), [bare(second=1)])
    (usage,) = found.values()
    assert usage.rates == Rates(None, 0.0, 0.0, None, None)
    assert (usage.memory_bytes, usage.memory_percent) == (None, None)
    line = columns.line(columns.TOTALS, usage, 8)
    assert line.split() == [
        "001",
        "RUNNING",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "-",
        "0",
        "0",
        "2s",
    ]
    assert details(usage) == ["Uptime:    2s", "Block io:  read 0/s   write 0/s"]


def test_who_has_ended_is_gone() -> None:
    assert set(follow(follow({}, [stats("a"), stats("b")]), [stats("b")])) == {
        ("/var/lib/lxc", "b")
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0K"),
        (1536, "1.5K"),
        (10 * 1024, "10K"),
        (10 * 1024 - 1, "10K"),
        (1023.4 * 1024, "1023K"),
        (1023.6 * 1024, "1.0M"),
        (256 * MEGA, "256M"),
        (1 << 40, "1.0T"),
        ((1 << 64) - 1, "16E"),
    ],
)
def test_sizes(value: float | None, text: str) -> None:
    assert size(value) == text


@STEADY
@given(st.integers(0, (1 << 64) - 1))
def test_sizes_fit(value: int) -> None:
    text = size(value)
    assert len(text) <= 5
    unit = 1024.0 ** (" KMGTPE".index(text[-1]) if text[-1].isalpha() else 0)
    assert abs(float(text.rstrip("KMGTPE")) * unit - value) <= max(unit / 2, value * 0.06)


def test_percents_and_spans() -> None:
    assert [percent(v) for v in (None, 0.04, 99.94, 99.96, 1600.4)] == [
        "-",
        "0.0",
        "99.9",
        "100",
        "1600",
    ]
    seconds = (0, 59, 60, 3599, 3600, 86399, 86400, 1_000_000)
    assert [span(second * 1_000_000) for second in seconds] == [
        *("0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "11d13h")
    ]


def many() -> Usages:
    found: Usages = {}
    for one in (
        second(name="b", cpu=0.5, memory=3 * MEGA),  # type: ignore[arg-type]
        second(name="a", cpu=0.5, memory=2 * MEGA),  # type: ignore[arg-type]
        second(name="c", cpu=2.0, memory=1 * MEGA, state=FROZEN),  # type: ignore[arg-type]
        advance(None, bare("d")),
    ):
        found[one.stats.lxcpath, one.stats.name] = one
    return found


@pytest.mark.parametrize(
    ("word", "reverse", "names"),
    [
        ("name", False, "abcd"),
        ("name", True, "dcba"),
        ("cpu", False, "cabd"),
        ("cpu", True, "abcd"),
        ("memory", False, "bacd"),
        ("memory", True, "cabd"),
        ("state", False, "cabd"),
        ("io", False, "abcd"),
        ("net", True, "abcd"),
    ],
)
def test_order(word: str, names: str, *, reverse: bool) -> None:
    found = columns.ordered(many().values(), columns.RATES, word, reverse=reverse)
    assert "".join(usage.stats.name for usage in found) == names


@pytest.mark.parametrize("word", columns.SORTS)
def test_everything_can_be_sorted_by(word: str) -> None:
    for kind in (columns.RATES, columns.TOTALS):
        assert len(columns.ordered(many().values(), kind, word, reverse=False)) == 4


@pytest.mark.parametrize("room", [10, 40, 60, 80, 100, 132])
@pytest.mark.parametrize("keep", columns.SORTS)
def test_columns_that_fit(room: int, keep: str) -> None:
    found = columns.fitting(columns.RATES, room, keep, 10)
    words = {column.word for column in found}
    assert {"name", "cpu", "memory"} <= words
    assert words >= {"io": {"read", "write"}, "net": {"in", "out"}}.get(keep, {keep})
    if room >= 60:
        assert len(columns.heading(found, 10)) <= room
    if room == 132:
        assert len(found) == len(columns.RATES)


def test_columns_stand_below_their_titles() -> None:
    usage = second(memory=200 * MEGA)
    heading = columns.heading(columns.TOTALS, 8)
    line = columns.line(columns.TOTALS, usage, 8)
    assert len(heading) == len(line)
    for title in ("CPU%", "MEMORY", "WRITE", "UPTIME"):
        end = heading.index(title) + len(title)
        assert line[end - 1] != " "
        assert line[end : end + 1] in {"", " "}


def typed(keys: list[str], view: View | None = None, height: int = 10) -> View:
    found, view = many(), view or View()
    for key in keys:
        shown = rows(view, found)
        view = press(settled(view, found, shown, height), key, shown, height)
    return settled(view, found, rows(view, found), height)


def test_keys() -> None:
    assert typed(["m"]).sort == "memory"
    assert typed(["m", "m"]).reverse
    assert not typed(["m", "m", "m"]).reverse
    assert not typed(["m", "m", "n"]).reverse
    assert typed(["r"]).reverse
    assert typed(["a"]).columns == columns.TOTALS
    assert typed(["q"]).leaving
    assert typed(["h"]).page is Page.HELP
    assert typed(["h", "x"]).page is Page.LIST
    assert typed(["h", "q"]).leaving
    assert typed(["+"]).interval == 2.0
    assert typed(["+"] * 20).interval == INTERVALS[-1]
    assert typed(["-"] * 20).interval == INTERVALS[0]
    assert typed(["+"], View(interval=0.3)).interval == 0.5
    assert typed(["-"], View(interval=86400)).interval == 60.0


def test_keys_that_choose() -> None:
    assert typed(["DOWN"]).cursor == 1
    assert typed(["DOWN"] * 9).cursor == 3
    assert typed(["END", "UP"]).cursor == 2
    assert typed(["END", "HOME", "UP"]).cursor == 0
    chosen = typed(["DOWN", "ENTER"])
    assert (chosen.page, chosen.about) == (Page.DETAILS, ("/var/lib/lxc", "a"))
    assert typed(["DOWN", "ENTER", "ESC"]) == typed(["DOWN", "ENTER", "ENTER"])
    assert typed(["ENTER", "q"]).leaving


def test_keys_of_the_filter() -> None:
    found = typed(["/", "q", "BACKSPACE", "b"])
    assert (found.typing, found.wanted, found.leaving) == (True, "b", False)
    assert not typed(["/", "b", "ENTER"]).typing
    assert typed(["/", "b", "ESC"]) == typed(["/", "b", "ENTER", "ESC"])
    # Nobody is left to be chosen.
    assert typed(["/", "x", "ENTER", "ENTER"]).page is Page.LIST
    assert typed(["END", "/", "b", "ENTER"]).cursor == 0


def test_details_scroll_to_their_end_and_back() -> None:
    down = typed(["ENTER", "END"], height=6)
    assert down.scrolled > 0
    assert typed(["ENTER", "END", "UP"], height=6).scrolled == down.scrolled - 1
    assert typed(["ENTER", "END", "HOME"], height=6).scrolled == 0


KEYS = [*"ncmbskptuarqh?/+-x", "UP", "DOWN", "PAGE_UP", "PAGE_DOWN", "HOME", "END", "ENTER", "ESC"]


@STEADY
@given(
    st.lists(st.sampled_from(KEYS), max_size=20),
    st.integers(1, 60),
    st.integers(1, 200),
    st.text(max_size=40),
)
def test_every_screen_fits(keys: list[str], height: int, width: int, name: str) -> None:
    found = many()
    odd = stats(name)
    odd.network[0].interface = name
    odd.io[0].device = name
    found[odd.lxcpath, name] = advance(None, odd)
    view = View()
    for key in keys:
        shown = rows(view, found)
        view = press(settled(view, found, shown, height), key, shown, height)
    shown = rows(view, found)
    view = settled(view, found, shown, height)
    lines = draw(view, found, shown, (height, width), name)
    assert len(lines) <= height
    for line in lines:
        assert columns_of(line.text) <= width
        assert line.text.isprintable() or "\u3000" in line.text
    assert 0 <= view.cursor < max(1, len(shown))
    assert view.first <= view.cursor < view.first + max(1, height - 3)


def test_details_have_all() -> None:
    full = stats()
    full.cpu.quota_usec, full.cpu.period_usec, full.cpu.weight = 50_000, 100_000, 39
    full.cpu.throttled_periods, full.cpu.periods, full.cpu.throttled_usec = 3, 9, 2_000_000
    full.cpu.effective_cpus = "0-1"
    full.cpu.per_cpu_usage_usec.extend([1_000_000, 0, 61_000_000])
    full.memory.oom_kills = 2
    full.cpu_pressure.some.avg10_percent = 1.5
    full.cpu_pressure.full.avg60_percent = 100
    full.memory_pressure.some.avg300_percent = 0.25
    text = "\n".join(details(advance(None, full)))
    for part in (
        "limit 50%   weight 39   on CPUs 0-1",
        "throttled 3 of 9 periods   for 2s",
        "cpu0 1s   cpu2 1m01s",
        "used 64M   with cache 72M   limit 256M   share 25.0%",
        "killed 2",
        "sda   read 0, 0 operations   write 0, 0 operations",
        "cpu   some 1.5% 0.0% 0.0%   full 0.0% 100% 0.0%",
        "memory   some 0.0% 0.0% 0.2%",
    ):
        assert part in text
    assert max(map(len, HELP)) < 80


def test_details_of_who_has_ended() -> None:
    view = typed(["ENTER"])
    gone = replace(view, about=("/var/lib/lxc", "gone"))
    lines = draw(gone, many(), (), (10, 80))
    assert lines[2].text == "gone does not run"
