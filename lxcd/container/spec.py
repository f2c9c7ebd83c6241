"""`Spec`: the flat list of steps that lxcd compiles, and what a child is told of them.

A step says what it is (`describe`, for people) and what the child has to do (`compile`): what
travels are the system calls alone.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lxcd.container.walk import Walk

if TYPE_CHECKING:
    from lxcd.container.calls import Program
    from lxcd.container.fault import Fault

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(ABC):
    """One thing that the child does. `origin` is the line of the configuration that asks for it, or
    `default`.
    """

    origin: str
    name: ClassVar[str] = "step"

    def __init_subclass__(cls) -> None:
        # dataclass(slots=True) makes each class twice; the second one, which counts, comes last.
        cls.name = _WORD.sub("_", cls.__name__).lower()

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of terminals and pipes that it hands to the keeper."""
        return ()

    @abstractmethod
    def describe(self) -> str:
        """The step in words, for `lxcctl plan`."""

    @abstractmethod
    def compile(self, walk: Walk) -> None:
        """Write the calls that do it."""


@dataclass(frozen=True, slots=True)
class Spec:
    """All that a child does. Steps name descriptors by their place among those handed over."""

    steps: tuple[Step, ...]

    def compile(self, descriptors: int, fault: Fault | None = None) -> Program:
        """The calls, for so many descriptors; with a fault on purpose before one of the steps."""
        walk = Walk(descriptors)
        for index, step in enumerate(self.steps):
            walk.begin(step.name)
            if fault is not None and fault.index == index:
                fault.compile(walk)
            step.compile(walk)
        return walk.program()
