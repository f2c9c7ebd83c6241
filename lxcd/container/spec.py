"""`Spec`: the flat list of steps that lxcd compiles and a child walks, and how it travels.

It travels as JSON: readable in a debugger, and a keeper of another version names a step that it
does not know instead of misreading it. Text that is no UTF-8 (paths, environment) survives as
surrogate escapes.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from lxcd.container.fault import Fault

if TYPE_CHECKING:
    from lxcd.container.walk import Walk

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")
_STEPS: dict[str, type[Step]] = {}


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
        _STEPS[cls.name] = cls

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of terminals and pipes that it hands to the keeper."""
        return ()

    @abstractmethod
    def describe(self) -> str:
        """The step in words, for `lxcctl plan`."""

    @abstractmethod
    def apply(self, walk: Walk) -> None:
        """Do it. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Spec:
    """All that a child needs besides descriptors. Steps name descriptors by their place among those
    handed over.
    """

    container: str
    steps: tuple[Step, ...]
    fault: Fault | None = None

    def encode(self) -> bytes:
        """The text that travels."""
        steps = [
            [step.name, {name: getattr(step, name) for name in _fields(type(step))}]
            for step in self.steps
        ]
        data: dict[str, Any] = {"container": self.container, "steps": steps}
        if self.fault is not None:
            data["fault"] = [self.fault.index, self.fault.act]
        return json.dumps(data).encode()


def decode(text: bytes) -> Spec:
    """Read the text back. ValueError names a step that this version does not know."""
    data = json.loads(text)
    steps: list[Step] = []
    for name, values in data["steps"]:
        kind = _STEPS.get(name)
        if kind is None:
            raise ValueError(f"this keeper does not know the step {name}")
        steps.append(kind(**{key: _tuples(value) for key, value in values.items()}))
    fault = Fault(*data["fault"]) if "fault" in data else None
    return Spec(container=data["container"], steps=tuple(steps), fault=fault)


def every_step() -> bytes:
    """The text of a Spec with one step of every kind, which can be read but not walked."""
    steps = [[name, dict.fromkeys(_fields(kind))] for name, kind in _STEPS.items()]
    return json.dumps({"container": "", "steps": steps}).encode()


def _fields(kind: type[Step]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _tuples(value: Any) -> Any:  # noqa: ANN401 - whatever JSON held
    if type(value) is list:
        return tuple(_tuples(item) for item in value)  # pyright: ignore[reportUnknownVariableType]
    return value
