"""What `contrib/bench` makes of its measurements."""

from __future__ import annotations

import json

import pytest

from contrib.benchmark import options, report, shape
from contrib.benchmark.figures import (
    FLOOR,
    LXCD,
    MILLISECONDS,
    PRIVILEGED,
    STOCK,
    Figure,
    Report,
    Target,
    judge,
    nearest_rank,
)

_TARGETS = (Target("start", LXCD, STOCK, 0.4), Target("start", LXCD, FLOOR, 3.0))


def _figure(what: str, *values: float, part_of: str = "") -> Figure:
    return Figure("start", PRIVILEGED, what, MILLISECONDS, values, part_of)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((5.0,), 5.0),
        ((1.0, 2.0), 2.0),
        (tuple(float(n) for n in range(1, 11)), 9.0),
        ((10.0, 1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0), 9.0),
        (tuple(float(n) for n in range(1, 12)), 10.0),
    ],
)
def test_p90_is_a_value_that_occurred(values: tuple[float, ...], expected: float) -> None:
    assert nearest_rank(values, 0.9) == expected


def test_a_target_compares_medians() -> None:
    figures = (_figure(LXCD, 1.0, 8.0, 900.0), _figure(STOCK, 20.0), _figure(FLOOR, 2.0, 2.0))
    verdicts = judge(figures, _TARGETS)
    assert [(v.value, v.missed) for v in verdicts] == [(0.4, False), (4.0, True)]


def test_a_target_without_its_peer_is_neither_met_nor_missed() -> None:
    (stock, floor) = judge((_figure(LXCD, 8.0), _figure(FLOOR, 4.0)), _TARGETS)
    assert stock.value is None
    assert not stock.missed
    assert floor.value == 2.0


def test_a_part_is_not_taken_for_the_whole() -> None:
    figures = (_figure(LXCD, 8.0), _figure(STOCK, 1.0, part_of=LXCD))
    assert judge(figures, _TARGETS[:1])[0].value is None


def test_a_target_of_its_own_is_judged_by_its_limit() -> None:
    target = Target("start", LXCD, "", 7.0, MILLISECONDS)
    assert judge((_figure(LXCD, 8.0),), (target,))[0].missed
    assert not judge((_figure(LXCD, 7.0),), (target,))[0].missed


def _report() -> Report:
    return Report(
        facts=(("kernel", "6.1"), ("cores", "2")),
        figures=(
            _figure(LXCD, 8.0, 9.0),
            _figure(STOCK, 10.0),
            _figure("walk", 5.0, 6.0, part_of=LXCD),
        ),
        remarks=("privileged, stock LXC: mounts: /x (tmpfs ro) only stock LXC",),
        absent=("Incus: not installed",),
        failure="it broke",
    )


def test_json_gives_back_the_report_and_adds_what_follows_from_it() -> None:
    text = report.to_json(_report())
    assert report.from_json(text) == _report()
    document = json.loads(text)
    assert document["figures"][0]["median"] == 8.5
    assert document["figures"][0]["n"] == 2
    assert [v["missed"] for v in document["verdicts"]] == [True, False]


def test_the_table_says_what_was_missed_and_what_is_missing() -> None:
    text = report.table(_report())
    lines = text.splitlines()
    assert any(STOCK in line and line.endswith("0.85") for line in lines)
    whole = next(i for i, line in enumerate(lines) if line.startswith(f"  {LXCD}"))
    assert lines[whole + 1].startswith("    of it: walk"), "behind what it is part of"
    assert f"{LXCD} / {STOCK}: 0.85 (target: at most 0.4): MISSED" in text
    assert f"{LXCD} / {FLOOR}: not measured" in text
    assert "targets: 0 of 1 met" in text
    assert "Incus: not installed" in text
    assert "only stock LXC" in text
    assert "ENDED EARLY: it broke" in text


def test_an_empty_report_has_a_table_too() -> None:
    assert report.table(Report(failure="no busybox")).strip() == "ENDED EARLY: no busybox"


def test_options_survive_the_way_to_another_process() -> None:
    wanted = options.parse(["--quick", "--only", "restart,start", "--rounds", "7"]).options
    assert options.decode(options.encode(wanted)) == wanted
    assert wanted.stages == ("start", "restart"), "in the order in which they run"
    assert (wanted.rounds, wanted.burst) == (7, options.QUICK.burst)


@pytest.mark.parametrize(
    "arguments", [["--only", "start,nonsense"], ["--rounds", "0"], ["--burst", "x"], ["more"]]
)
def test_a_mistake_on_the_command_line_is_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        options.parse(arguments)
    assert ended.value.code == 2


def test_shapes_differ_by_name() -> None:
    def made(*mounts: str) -> shape.Shape:
        same = frozenset({"x"})
        return shape.Shape(same, same, same, same, same, same, frozenset(mounts))

    assert shape.differences(made("/a"), made("/a"), "other") == []
    assert shape.differences(made("/a", "/b"), made("/a", "/c"), "other") == [
        "mounts: /c only other; /b only lxcd"
    ]
