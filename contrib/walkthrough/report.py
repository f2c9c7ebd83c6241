"""What a run shows to people: the article on one side, this machine on the other."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from contrib.walkthrough.preparations import PREPARATIONS
from contrib.walkthrough.table import CHAPTERS, STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrib.walkthrough.figures import Result

_STEPS = {step.name: step for step in STEPS}
_FIRST = {chapter.steps[0].name: chapter.title for chapter in CHAPTERS}


def step(result: Result) -> str:
    """One step, with its verdict."""
    told, shown = _STEPS[result.step], result.shown
    lines = []
    if result.step in _FIRST:
        title = _FIRST[result.step]
        lines += ["", title, "=" * len(title)]
    lines += ["", f"[{result.step}]", *told.typed.splitlines()]
    if shown.typed and shown.typed != told.typed:
        lines.append(f"  typed here{f' ({shown.because})' if shown.because else ''}:")
        lines += _indented(shown.typed)
    elif shown.because:
        lines.append(f"  ({shown.because})")
    lines += ["  the article shows:", *_indented(told.article or "(nothing)")]
    lines += ["  here:", *_indented(shown.text or "(nothing)")]
    if result.good:
        lines.append(f"  ok: {told.holds}")
    else:
        lines.append(f"  DIFFERS: {told.holds}")
        lines += [f"    but {one}" for one in shown.wrong]
    return "\n".join((*lines, ""))


def _indented(text: str) -> list[str]:
    return [f"    {line}".rstrip() for line in text.strip("\n").splitlines()]


def preparations() -> str:
    """The table."""
    lines = ["", "What the article prepares, and whether lxcd needs it", "=" * 52, ""]
    rows = [
        ("preparation", "needed", "because"),
        *((p.what, p.needed, p.reason) for p in PREPARATIONS),
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines += [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows]
    return "\n".join((*lines, ""))


def summary(wanted: Sequence[str], results: dict[str, Result]) -> str:
    """The last lines."""
    missing = [name for name in wanted if name not in results]
    differing = [name for name in wanted if name in results and not results[name].good]
    lines = [
        "",
        f"{len(wanted) - len(missing) - len(differing)} of {len(wanted)} steps as in the article.",
    ]
    lines += [f"differs: {name}: {'; '.join(results[name].shown.wrong)}" for name in differing]
    lines += [f"not reached: {name}" for name in missing]
    return "\n".join((*lines, ""))


def as_json(result: Result) -> dict[str, Any]:
    """One step for programs."""
    told = _STEPS[result.step]
    return {
        "good": result.good,
        "article": told.article,
        "holds": told.holds,
        **asdict(result.shown),
    }
