"""Ports of what the keeper holds: where sessions attach to a container's terminals and pipes, or to
an exec's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.console.port import Port

if TYPE_CHECKING:
    from lxcd.console.stream import Stream
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.keeper import Keeper

# Standard output and error together, and standard input.
OUTPUT = "output"
PIPES = ("stdout", "stderr")
STDIN = "stdin"


@dataclass(frozen=True, slots=True)
class _Ends:
    """See console.port.Ends."""

    keeper: Keeper
    child: Held

    def drained(self, stream: Stream) -> None:
        self.keeper.drained(self.child, stream)

    def put(self, stream: Stream, data: memoryview) -> int:
        return self.keeper.put(self.child, stream, data)

    def finish(self, stream: Stream) -> None:
        self.keeper.finish(self.child, stream)


def names_of(child: Held, asked: str) -> list[str]:
    """The output streams that a name means: `output`, a terminal, or one of the pipes. Raises
    NotFound.
    """
    if asked == OUTPUT:
        pipes = [name for name in PIPES if name in child.streams]
        if pipes or STDIN in child.streams or "console" not in child.streams:
            return pipes
        asked = "console"
    if asked not in child.streams or asked == STDIN:
        known = ", ".join(sorted(child.streams)) or "none"
        raise errors.NotFound(f"no stream {asked!r}; there are: {known}", "STREAM_NOT_FOUND")
    return [asked]


def port_of(keeper: Keeper, child: Held, asked: str) -> Port:
    """The one port of that name: `output`, or a terminal. Raises NotFound."""
    names = names_of(child, asked)
    terminal = bool(names) and names[0] not in PIPES
    name = names[0] if terminal else OUTPUT
    port = child.ports.get(name)
    if port is None:
        outputs = tuple(child.stream(each) for each in names)
        typed = outputs[0] if terminal else child.streams.get(STDIN)
        port = Port(_Ends(keeper, child), outputs, typed, terminal=terminal)
        port.over = child.exited is not None
        child.ports[name] = port
    return port
