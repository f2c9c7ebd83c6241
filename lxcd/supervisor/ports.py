"""Ports of what the keeper holds: where sessions attach to a container's terminals and pipes, or to
an exec's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.console.port import Port
from lxcd.keeper.ring import INPUT_CAPACITY_BYTES, Ring

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
        ring = self._input(stream)
        count = min(len(data), ring.room())
        if count:
            ring.append(data[:count])
            self.keeper.feed(self.child, stream)
        return count

    def finish(self, stream: Stream) -> None:
        self._input(stream).finish()
        self.keeper.feed(self.child, stream)

    def _input(self, stream: Stream) -> Ring:
        """Made with the first of it."""
        if stream.input is None:
            stream.input = Ring.create(
                f"lxcd-input-{stream.name}", hold=True, capacity=INPUT_CAPACITY_BYTES
            )
            self.keeper.take_input(self.child, stream, stream.input)
        return stream.input


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
    """Where a session attaches that asks for a terminal, or for `output`. Raises NotFound."""
    if asked in PIPES:
        raise errors.NotFound(f"attach to {OUTPUT}: all pipes together", "STREAM_NOT_FOUND")
    names = names_of(child, asked)
    if names and names[0] not in PIPES:
        return terminal_port(keeper, child, names[0])
    return pipe_port(keeper, child)


def terminal_port(keeper: Keeper, child: Held, name: str) -> Port:
    """The one port of a terminal, which may be gone."""
    if name not in child.ports:
        stream = child.stream(name)
        _add(child, name, Port(_Ends(keeper, child), (stream,), stream, terminal=True))
    return child.ports[name]


def pipe_port(keeper: Keeper, child: Held) -> Port:
    """The one port of all of its pipes; it may have none."""
    if OUTPUT not in child.ports:
        outputs = tuple(child.stream(name) for name in PIPES if name in child.streams)
        typed = child.streams.get(STDIN)
        _add(child, OUTPUT, Port(_Ends(keeper, child), outputs, typed, terminal=False))
    return child.ports[OUTPUT]


def _add(child: Held, name: str, port: Port) -> None:
    port.over = child.exited is not None
    child.ports[name] = port


def container_port(keeper: Keeper, child: Held, asked: str) -> Port:
    """The same of a container's init, whose pipes wait for nobody who does not want all. Raises
    NotFound.
    """
    port = port_of(keeper, child, asked)
    if not port.terminal:
        port.on_left = lambda _: release_unread(keeper, child)
    return port


def release_unread(keeper: Keeper, child: Held) -> None:
    """Nobody reads its pipes without loss: then they do not hold it up."""
    if any(name in child.streams for name in PIPES):
        port = pipe_port(keeper, child)
        if not any(session.waits for session in port.sessions.values()):
            port.release()
