"""A report as JSON, which another program reads, and as a table, which a person reads. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict

from contrib.benchmark.figures import (
    LXCD,
    LXCD_GROWTH,
    MILLISECONDS,
    STOCK,
    Figure,
    Report,
    Verdict,
    find,
    judge,
)

_TITLES = {
    "start": "start, taking turns with a pause before each",
    "burst": "start, back to back",
    "run": "run `true` as an application, until its exit is known",
    "exec": "run `true` in a running container, until its exit is known",
    "stream": "read a large file out of a running container",
    "flood": "64 MiB of a console, until one viewer has them",
    "network": "a veth on a bridge, with a static address",
    "memory": "memory of the supervisor",
    "restart": "SIGKILL of lxcd with containers running, and started again",
    "statistics": "what many containers use",
    "bomb": "a fork bomb at its limit of processes",
}
# What the column of ratios compares with.
_OURS = {"start": LXCD, "burst": LXCD, "run": LXCD, "exec": LXCD, "memory": LXCD_GROWTH}
_WIDTH = 46


def to_json(report: Report) -> str:
    """Everything: what was measured, value by value, and what follows from it."""
    document = {
        "facts": dict(report.facts),
        "figures": [
            {**asdict(figure), "n": len(figure.values), "median": figure.median, "p90": figure.p90}
            for figure in report.figures
        ],
        "verdicts": [
            {
                **asdict(verdict.target),
                "config": verdict.config,
                "value": verdict.value,
                "missed": verdict.missed,
            }
            for verdict in judge(report.figures)
        ],
        "remarks": report.remarks,
        "absent": report.absent,
        "failure": report.failure,
    }
    return json.dumps(document, indent=2) + "\n"


def from_json(text: str) -> Report:
    """What `to_json` made."""
    document = json.loads(text)
    return Report(
        facts=tuple(document["facts"].items()),
        figures=tuple(
            Figure(
                row["stage"],
                row["config"],
                row["what"],
                row["unit"],
                tuple(row["values"]),
                row["part_of"],
            )
            for row in document["figures"]
        ),
        remarks=tuple(document["remarks"]),
        absent=tuple(document["absent"]),
        failure=document["failure"],
    )


def table(report: Report) -> str:
    """For a terminal, or an issue."""
    lines: list[str] = []
    width = max((len(name) for name, _ in report.facts), default=0)
    lines += [f"{name:{width}}  {value}" for name, value in report.facts]
    groups = dict.fromkeys((figure.stage, figure.config) for figure in report.figures)
    verdicts = judge(report.figures)
    for stage, config in groups:
        lines += _group(report.figures, stage, config, verdicts)
    if report.absent:
        lines += ["", "not measured:", *(f"  {line}" for line in report.absent)]
    if report.remarks:
        lines += [
            "",
            "not the same as in lxcd's containers:",
            *(f"  {line}" for line in report.remarks),
        ]
    missed = [verdict for verdict in verdicts if verdict.missed]
    judged = [verdict for verdict in verdicts if verdict.value is not None]
    if judged:
        lines += ["", f"targets: {len(judged) - len(missed)} of {len(judged)} met"]
    if report.failure:
        lines += ["", f"ENDED EARLY: {report.failure}"]
    return "\n".join(lines) + "\n"


def _group(
    figures: tuple[Figure, ...], stage: str, config: str, verdicts: tuple[Verdict, ...]
) -> list[str]:
    title = f"{_TITLES[stage]}{f', {config}' if config else ''}"
    ours = find(figures, stage, config, _OURS.get(stage, ""))
    lines = [
        "",
        f"{title:{_WIDTH}} {'n':>4} {'median':>11} {'p90':>11}{'   lxcd / it' if ours else ''}",
    ]
    if len(title) > _WIDTH:
        lines = ["", title, f"{'':{_WIDTH}} {lines[1][len(title) + 1 :]}"]
    rows = [figure for figure in figures if (figure.stage, figure.config) == (stage, config)]
    for whole in rows:
        if not whole.part_of:
            parts = [figure for figure in rows if figure.part_of == whole.what]
            lines += [_row(figure, ours) for figure in (whole, *parts)]
    lines += [_verdict(v) for v in verdicts if (v.target.stage, v.config) == (stage, config)]
    return lines


def _row(figure: Figure, ours: Figure | None) -> str:
    name = f"    of it: {figure.what}" if figure.part_of else f"  {figure.what}"
    numbers = (_number(value, figure.unit) for value in (figure.median, figure.p90))
    row = f"{name:{_WIDTH}} {len(figure.values):4} {' '.join(numbers)}"
    if ours is not None and figure is not ours and _is_contestant(figure) and figure.median:
        row += f" {ours.median / figure.median:11.2f}"
    return row


def _is_contestant(figure: Figure) -> bool:
    """Tell whether a row does what lxcd's row does."""
    return not figure.part_of and (figure.stage != "memory" or figure.what.startswith(STOCK))


def _number(value: float, unit: str) -> str:
    digits = 2 if unit == MILLISECONDS else 3
    return f"{value:8.{digits}f} {unit}"


def _verdict(verdict: Verdict) -> str:
    target = verdict.target
    subject = f"{target.what} / {target.base}" if target.base else target.what
    limit = f"target: at most {target.limit:g} {target.unit}".rstrip()
    if verdict.value is None:
        return f"  -> {subject}: not measured ({limit})"
    number = (
        f"{verdict.value:.2f} {target.unit}".rstrip()
        if target.base
        else _number(verdict.value, target.unit).strip()
    )
    return f"  -> {subject}: {number} ({limit}): {'MISSED' if verdict.missed else 'met'}"
