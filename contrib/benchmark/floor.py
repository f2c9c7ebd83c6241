"""The floor: floor.c, compiled here and run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contrib.benchmark.commands import Commands, Conversation
    from contrib.benchmark.containers import Kind

_SOURCE = Path(__file__).with_name("floor.c")
# As its output has them, behind pid and total.
PARTS: tuple[str, ...] = ("cgroups", "clone", "move", "build", "exec")


@dataclass(frozen=True, slots=True)
class Started:
    """One line of its output."""

    pid: int
    nanoseconds: int
    parts: dict[str, int]  # of the above, by name
    exited_nanoseconds: int = 0  # until it was reaped, where that was asked for


class Floor:
    """Compiles on construction."""

    def __init__(self, commands: Commands, directory: Path) -> None:
        self._commands = commands
        self._program = str(directory / "floor")
        # Static: what is forked has as little to copy as can be.
        commands.run(commands.find("cc"), "-O2", "-static", "-o", self._program, str(_SOURCE))

    def start(
        self, name: str, kind: Kind, count: int, program: tuple[str, ...]
    ) -> tuple[list[Started], Conversation]:
        """Start `count` containers, back to back. They end with the conversation."""
        talk = self._commands.converse(*self._argv(name, kind, count, "stay"), *program)
        return [_started(line) for line in talk.read(count)], talk

    def run(self, name: str, kind: Kind, program: str) -> Started:
        """Start one and wait for its end."""
        return _started(self._commands.run(*self._argv(name, kind, 1, "run"), program).output)

    def _argv(self, name: str, kind: Kind, count: int, mode: str) -> tuple[str, ...]:
        host_id = -1 if kind.first_id is None else kind.first_id
        return (self._program, str(kind.rootfs), name, str(count), str(host_id), mode)


def _started(line: str) -> Started:
    pid, total, *rest = (int(word) for word in line.split())
    parts: dict[str, int] = dict(zip(PARTS, rest, strict=False))
    return Started(pid, total, parts, rest[len(PARTS)] if len(rest) > len(PARTS) else 0)
