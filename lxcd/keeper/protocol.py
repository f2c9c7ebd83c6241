"""What lxcd and the keeper say to each other: the closed list, its framing, and which descriptors
travel.

A SOCK_SEQPACKET unix socket in the runtime directory's private part; one JSON text a message,
`[name, {fields}]`, descriptors by SCM_RIGHTS. Both sides import this file; a message that it does
not describe ends the connection.

Children have an `id` that lxcd chooses and the keeper does not read. The keeper answers nothing out
of order: after HELLO it tells all it holds (CHILD, FORKED, STREAMS, RING, CLOSED, EXITED …), then
SYNCED, then what happens.

HELLO, WELCOME, SYNCED, UPGRADE, UPGRADED and NOT_UPGRADED stay as they are in every version, so
that an lxcd of one version can bring a keeper of another up to its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    import types

# Of the messages, and of the steps that children are given.
VERSION = 6
MESSAGE_LIMIT = 192 * 1024
PROCESS_NAME = "lxcd-keeper"
CHILD_NAME = "lxcd-walker"  # until it becomes something
STREAM_NAME = re.compile(r"[a-z0-9]{1,32}")
CHILD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
SOCKET_NAME = "keeper.sock"
TRUSTEE_NAME = "trustee.sock"  # not lxcd's to talk to: see `trustee`
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

    Descriptors: the child's end of the channel; then `cgroups` files of version 1 cgroups for the
    child to move itself into.
    """

    id: str
    # `init`: its streams are terminals and logs, which skip ahead; `exec`: data, which waits
    kind: str
    flags: int  # CLONE_NEW*
    cgroups: int


@dataclass(frozen=True, slots=True)
class Drained:
    """A held ring was read: go on reading what fills it."""

    id: str
    stream: str


@dataclass(frozen=True, slots=True)
class TakeInput:
    """What stands in a ring is to be written to a stream. Descriptors: the ring's memfd."""

    id: str
    stream: str


@dataclass(frozen=True, slots=True)
class Feed:
    """Something was put into a stream's input ring; or it was closed, and so is the stream behind
    the last byte.
    """

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


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take a child that an earlier keeper has forked. Descriptors: its pidfd, unless it has
    `ended` (the rest tells how, then).

    What the keeper has of it already stays. So many ADOPT_STREAM follow: its end is looked at
    behind them, or it would be told before what it wrote last is in its rings.
    """

    id: str
    kind: str
    pid: int
    forked: bool
    ended: bool
    status: int
    time_ns: int
    known: bool
    streams: int = 0


@dataclass(frozen=True, slots=True)
class AdoptStream:
    """Take a stream of a child, unless there is one of that name. Descriptors: its master or its
    end of a pipe if it is `open`, then its ring if it `has_ring`, then its input ring.
    """

    id: str
    name: str
    open: bool
    has_ring: bool
    has_input: bool = False


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Become another image under the same pid. Descriptors: a socket to a candidate, which stands
    in a mount tree of its own and has checked nothing yet; see `upgrade`.
    """


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
class Forked:
    """A child goes on as this process: its first half has made it where it shall be. Descriptors:
    its pidfd.
    """

    id: str
    pid: int


@dataclass(frozen=True, slots=True)
class Streams:
    """Terminals and pipes of a child. Descriptors: the masters and our ends, in order."""

    id: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RingMade:
    """The first output of a stream arrived. Descriptors: the ring's memfd."""

    id: str
    stream: str


@dataclass(frozen=True, slots=True)
class InputMade:
    """A stream has an input ring: told at HELLO. Descriptors: the ring's memfd."""

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
    known: bool  # False: a child of an earlier keeper, and the kernel does not tell how it ended


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The keeper is the candidate's image now; it holds what it held."""

    version: int
    build: str


@dataclass(frozen=True, slots=True)
class NotUpgraded:
    """The keeper is what it was; `why` says what was wrong with the candidate."""

    why: str


Request = (
    Hello
    | Prepare
    | Drained
    | TakeInput
    | Feed
    | Acknowledge
    | Forget
    | Leave
    | Adopt
    | AdoptStream
    | Upgrade
)
Answer = (
    Welcome
    | Synced
    | Child
    | Refused
    | Forked
    | Streams
    | RingMade
    | InputMade
    | Closed
    | Exited
    | Upgraded
    | NotUpgraded
)
Message = Request | Answer


class ProtocolError(ValueError):
    """The other side said something that is not in the list."""


def encode(message: Message) -> bytes:
    """One message as it travels."""
    return json.dumps(
        [type(message).__name__, {name: getattr(message, name) for name in message.__slots__}]
    ).encode()


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
