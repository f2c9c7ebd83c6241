"""What a step is, and what came of one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


class Broken(Exception):  # noqa: N818  what happened, in words
    """A step did not come to its end; the text says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the article does."""

    name: str
    typed: str  # as the article has it, line by line
    article: str  # what it shows there; empty if it shows nothing
    holds: str  # what must be so here


@dataclass(frozen=True, slots=True)
class Chapter:
    """Some of them, under a heading."""

    title: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a step came to here."""

    text: str = ""
    typed: str = ""  # where it had to be something else than in the article
    because: str = ""  # and why
    wrong: tuple[str, ...] = ()  # each thing that does not hold


@dataclass(frozen=True, slots=True)
class Result:
    """One step, carried out."""

    step: str
    shown: Shown

    @property
    def good(self) -> bool:
        """Whether all holds."""
        return not self.shown.wrong


def to_line(result: Result) -> str:
    """One line of JSON."""
    return json.dumps({"step": result.step, "good": result.good, **asdict(result.shown)})


def from_line(line: str) -> Result:
    """The same, read."""
    found = json.loads(line)
    shown = Shown(found["text"], found["typed"], found["because"], tuple(found["wrong"]))
    return Result(found["step"], shown)


def lacks(text: str, *needed: str) -> tuple[str, ...]:
    """Of these, what a text lacks, as `Shown.wrong` wants it."""
    return tuple(f"it does not show {one!r}" for one in needed if one not in text)
