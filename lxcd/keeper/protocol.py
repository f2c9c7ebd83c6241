"""What lxcd and the keeper say to each other: the closed list, its framing, and which descriptors
travel.

A SOCK_SEQPACKET unix socket in the runtime directory's private part; one JSON text a message,
`[name, {fields}]`, descriptors by SCM_RIGHTS. Both sides import this file; a message that it does
not describe ends the connection.

Children have an `id` that lxcd chooses and the keeper does not read. The keeper answers nothing out
of order: after HELLO it tells all it holds (CHILD, JOINED, STREAMS, RING, CLOSED, EXITED …), then
SYNCED, then what happens.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import types

VERSION = 1
MESSAGE_LIMIT = 192 * 1024
SOCKET_NAME = "keeper.sock"
JOURNAL_NAME = "exits.journal"


# ---- lxcd → keeper


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a connection. Descriptors: an eventfd that the keeper pokes when a ring has
    grown.
    """

    version: int
    build: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """The first half of a spawn: fork a child that waits for its Spec on its own channel.

    Descriptors: the child's end of the channel; with `into_cgroup` a cgroup v2 directory; then
    `cgroups` cgroup.procs files for the child to move into.
    """

    id: str
    # `init`: its streams are terminals and logs, which skip ahead; `exec`: data, which waits
    kind: str
    flags: int  # CLONE_NEW*
    into_cgroup: bool
    cgroups: int


@dataclass(frozen=True, slots=True)
class Drained:
    """A held ring was read: go on reading what fills it."""

    id: str
    stream: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """lxcd has taken note of this exit; the record may go."""

    id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Nobody asks for this child's streams any more; let go of them. Its exit is acknowledged with
    it.
    """

    id: str


@dataclass(frozen=True, slots=True)
class Leave:
    """End as soon as no child runs, without the usual wait."""


# ---- keeper → lxcd


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer to HELLO."""

    version: int
    build: str
    pid: int


@dataclass(frozen=True, slots=True)
class Synced:
    """All that the keeper held at HELLO has been told."""


@dataclass(frozen=True, slots=True)
class Child:
    """A child, new or found at HELLO. Descriptors: its pidfd."""

    id: str
    kind: str
    pid: int


@dataclass(frozen=True, slots=True)
class Refused:
    """PREPARE failed; there is no child."""

    id: str
    syscall: str
    errno: int


@dataclass(frozen=True, slots=True)
class Joined:
    """An exec is inside the container now, as this process. Descriptors: its pidfd."""

    id: str
    pid: int


@dataclass(frozen=True, slots=True)
class Streams:
    """Terminals and pipes of a child. Descriptors: the masters and read ends, in order."""

    id: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RingMade:
    """The first output of a stream arrived. Descriptors: the ring's memfd."""

    id: str
    stream: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A stream has ended; all of it is in its ring (or it has none)."""

    id: str
    stream: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A child ended. Told again at every HELLO until ACKNOWLEDGE."""

    id: str
    pid: int
    status: int  # a wait status
    time_ns: int  # CLOCK_REALTIME


Request = Hello | Prepare | Drained | Acknowledge | Forget | Leave
Answer = Welcome | Synced | Child | Refused | Joined | Streams | RingMade | Closed | Exited
Message = Request | Answer


class ProtocolError(ValueError):
    """The other side said something that is not in the list."""


def encode(message: Message) -> bytes:
    """One message as it travels."""
    return json.dumps([type(message).__name__, asdict(message)]).encode()


def decode_request(data: bytes) -> Request:
    """A message from lxcd. ProtocolError."""
    request: Request = _decode(data, _REQUESTS)
    return request


def decode_answer(data: bytes) -> Answer:
    """A message from the keeper. ProtocolError."""
    answer: Answer = _decode(data, _ANSWERS)
    return answer


def _decode(data: bytes, known: dict[str, tuple[type, dict[str, Any]]]) -> Any:  # noqa: ANN401
    try:
        name, values = json.loads(data)
        kind, types_of = known[name]
        if values.keys() != types_of.keys():
            raise ProtocolError(f"{name} has fields {sorted(values)}")
        for field, wanted in types_of.items():
            if wanted is tuple and type(values[field]) is list:
                values[field] = tuple(values[field])
                if not all(type(item) is str for item in values[field]):
                    raise ProtocolError(f"{name}.{field} is {values[field]!r}")
            elif type(values[field]) is not wanted:
                raise ProtocolError(f"{name}.{field} is {values[field]!r}")
        return kind(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"not a message: {data[:100]!r}") from error


def _table(union: types.UnionType) -> dict[str, tuple[type, dict[str, Any]]]:
    table: dict[str, tuple[type, dict[str, Any]]] = {}
    for kind in get_args(union):
        hints = get_type_hints(kind)
        table[kind.__name__] = (
            kind,
            {
                field.name: get_origin(hints[field.name]) or hints[field.name]
                for field in fields(kind)
            },
        )
    return table


_REQUESTS = _table(Request)
_ANSWERS = _table(Answer)
