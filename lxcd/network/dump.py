"""netlink(7) read with struct: what is asked often, and may be long.

pyroute2 takes a third of a millisecond and more for a link, fifteen times what this does, as it
reads all that is in it; whoever watches hundreds of namespaces, in which anybody may make any
number of anything, has not got that. Here a message is a slice, and only what is wanted of it is
looked at.
"""

from __future__ import annotations

import errno
import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.kernel import libc

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
# NLM_F_DUMP_INTR: something changed under the dump, and it may have missed of it.
_INTERRUPTED = 0x10
# NLA_F_NESTED and NLA_F_NET_BYTEORDER, which some attributes carry and some do not.
_KIND_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 16
_sequences = itertools.count(1)


@dataclass(slots=True)
class Answer:
    """What was found: each message from behind its header."""

    messages: list[bytes]
    cut: bool = False  # there were more than were wanted
    interrupted: bool = False  # by a change: ask again
    disturbed: bool = False  # notifications came between


class GivenUpError(Exception):
    """The caller's `going_on` said no."""


def ask(
    opened: socket.socket,
    kind: int,
    body: bytes,
    *,
    limit: int,
    dump: bool = True,
    going_on: Callable[[], bool] = lambda: True,
) -> Answer:
    """All messages that answer a request; those beyond `limit` are let go. The socket is bound and
    does not block, but the kernel may, for locks: not on a loop. `going_on` is asked before every
    system call.

    Raises OSError, GivenUpError.
    """
    port = opened.getsockname()[0]
    sequence = next(_sequences) & 0xFFFFFFFF
    flags = _REQUEST | (_DUMP if dump else _ACK)
    _check(going_on)
    opened.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body)
    answer = Answer([])
    while True:
        _check(going_on)
        data = opened.recv(_RECEIVE_BYTES)
        if _take(data, answer, (sequence, port), limit):
            return answer


def _check(going_on: Callable[[], bool]) -> None:
    if not going_on():
        raise GivenUpError


def _take(data: bytes, answer: Answer, ours: tuple[int, int], limit: int) -> bool:
    """One datagram. True: the answer is complete."""
    place, end = 0, len(data)
    while place + _HEADER.size <= end:
        length, kind, flags, *whose = _HEADER.unpack_from(data, place)
        if length < _HEADER.size or place + length > end:
            break
        # A notification has the sequence that the one who made the change has chosen; the port is
        # his, too, and nobody else's is ours.
        if tuple(whose) != ours:
            answer.disturbed = True
        elif kind in (_DONE, _ERROR):
            answer.interrupted |= bool(flags & _INTERRUPTED)
            code = signed(data[place + _HEADER.size : place + _HEADER.size + 4], 0)
            if code < 0:
                raise libc.oserror(-code, "netlink")
            return True
        elif len(answer.messages) < limit:
            answer.interrupted |= bool(flags & _INTERRUPTED)
            answer.messages.append(data[place + _HEADER.size : place + length])
        else:
            answer.cut = True
        place += (length + 3) & ~3
    return False


def drain(opened: socket.socket) -> bool:
    """Take all that was told and not asked for. Whether there was anything."""
    found = False
    while True:
        try:
            opened.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
        found = True


def attributes(data: bytes, place: int = 0) -> dict[int, bytes]:
    """Attributes by number, from a place on; of two with one number the last. What is torn ends
    it.
    """
    found: dict[int, bytes] = {}
    while place + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, place)
        if length < _ATTRIBUTE.size or place + length > len(data):
            break
        found[kind & _KIND_MASK] = data[place + _ATTRIBUTE.size : place + length]
        place += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute as it travels."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def number(value: bytes | None, default: int = 0) -> int:
    """An unsigned number of 32 bits in the host's order; `default` of an attribute that is not
    there.
    """
    return struct.unpack("=I", value)[0] if value is not None and len(value) == 4 else default  # noqa: PLR2004


def signed(value: bytes | None, default: int) -> int:
    """The same with a sign."""
    return struct.unpack("=i", value)[0] if value is not None and len(value) == 4 else default  # noqa: PLR2004


def text(value: bytes | None) -> str:
    """A name. Names of devices may be any bytes."""
    return (value or b"").rstrip(b"\0").decode(errors="surrogateescape")
