"""rtnetlink(7): many requests in one send, what the kernel says to each, and notifications.

The one place that knows pyroute2, for what its messages look like. Its own sockets are not used:
the kernel carries a request out inside of sendmsg(2), waiting for locks that all network namespaces
share, so requests belong in a thread, whatever reads the answers; and a send may hold more than one
of them.
"""

# pyright: reportMissingTypeStubs=false
# pyroute2 has none.

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Any, Self, cast

from lxcd.kernel import libc

_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_CAP_ACK = 10
_EXT_ACK = 11
_GET_STRICT_CHK = 12
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_EXCL, _CREATE, _REPLACE, _APPEND = 0x200, 0x400, 0x100, 0x800
_CAPPED, _TLVS = 0x100, 0x200
_MESSAGE_TLV = 1
_RECEIVE_BYTES = 1 << 16
_BUFFER_BYTES = 1 << 20
# Requests in one send: the answers to all of them wait in the buffer, of which the kernel may give
# less than is asked for.
_AT_ONCE = 100
# What a dump may lose to a change beside it: NLM_F_DUMP_INTR.
_INTERRUPTED = 0x10
_ATTEMPTS = 5
_IPVLAN_KNOWN = 2  # attributes of an ipvlan that pyroute2 0.9 knows

AF_BRIDGE = 7

# linux/rtnetlink.h: the groups of notifications, by number.
GROUPS = {"link": 1, "ipv4_address": 5, "ipv4_route": 7, "ipv6_address": 9, "ipv6_route": 11}


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `what` and `origin` say in an error what was tried, and which line asked."""

    verb: str  # `newlink`, `setlink`, `dellink`, `newaddr`, `newroute`, `newneigh` …
    fields: dict[str, Any]
    attributes: list[tuple[str, Any]]
    what: str
    origin: str = "default"
    replace: bool = False  # what is there already is no error
    optional: bool = False  # that it is refused is no error


class RefusedError(OSError):
    """The kernel has refused a request. `text` is what it says beside the number, `syscall` its
    name in rtnetlink(7).
    """

    def __init__(self, number: int, request: Request, text: str) -> None:
        super().__init__(number, os.strerror(number))
        self.request = request
        self.refused = [request]  # with those that were refused after it
        self.text = text
        self.syscall = f"RTM_{request.verb.upper()}"


@dataclass(frozen=True, slots=True)
class Message:
    """What the kernel tells: a message's verb (`newlink`), fixed fields and attributes by name."""

    verb: str
    fields: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


# Verb: type of the message, flags, and which of pyroute2's classes says it.
_VERBS: dict[str, tuple[int, int, str]] = {
    "newlink": (16, _CREATE | _EXCL, "link"),
    "setlink": (16, 0, "link"),  # RTM_NEWLINK of one that there is
    "dellink": (17, 0, "link"),
    "getlink": (18, 0, "link"),
    "newaddr": (20, _CREATE | _EXCL, "address"),
    "deladdr": (21, 0, "address"),
    "getaddr": (22, 0, "address"),
    "newroute": (24, _CREATE | _EXCL, "route"),
    "delroute": (25, 0, "route"),
    "getroute": (26, 0, "route"),
    "newneigh": (28, _CREATE | _EXCL, "neighbour"),
    "delneigh": (29, 0, "neighbour"),
    # RTM_SETLINK and RTM_DELLINK for ports of a bridge: with family AF_BRIDGE.
    "bridgelink": (19, 0, "link"),
    "unbridgelink": (17, 0, "link"),
}
_TOLD = {
    16: ("newlink", "link"),
    17: ("dellink", "link"),
    20: ("newaddr", "address"),
    21: ("deladdr", "address"),
    24: ("newroute", "route"),
    25: ("delroute", "route"),
}


@functools.cache
def _classes() -> dict[str, Any]:
    """pyroute2's; imported on first use, which takes a tenth of a second."""
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: PLC0415
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: PLC0415
    from pyroute2.netlink.rtnl.ifinfmsg.plugins.ipvlan import ipvlan  # noqa: PLC0415
    from pyroute2.netlink.rtnl.ndmsg import ndmsg  # noqa: PLC0415
    from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: PLC0415

    if len(ipvlan.nla_map) == _IPVLAN_KNOWN:
        # linux/if_link.h has had a third since Linux 4.15: who may talk to whom.
        known: Any = ipvlan
        known.nla_map = (*ipvlan.nla_map, ("IFLA_IPVLAN_FLAGS", "uint16"))
    return {"link": ifinfmsg, "address": ifaddrmsg, "route": rtmsg, "neighbour": ndmsg}


def warm_up() -> None:
    """Load what is loaded once: not within somebody's first start. Blocks."""
    _classes()


def encode(request: Request, sequence: int, *, dump: bool = False) -> bytes:
    """One request as it travels."""
    number, flags, kind = _VERBS[request.verb]
    if request.replace:
        flags = (flags & ~_EXCL) | _REPLACE
    message = _classes()[kind]()
    for name, value in request.fields.items():
        message[name] = value
    message["attrs"] = request.attributes
    message["header"]["type"] = number
    message["header"]["flags"] = _REQUEST | (_DUMP if dump else _ACK | flags)
    message["header"]["sequence_number"] = sequence
    message.encode()
    return bytes(message.data)


def decode(data: bytes) -> list[Message]:
    """Notifications, or the answers to a dump; what is neither is passed over. Raises OSError, with
    EBADMSG, for a message that is none.
    """
    return [message for message, _, _ in _decoded(data)]


def _decoded(data: bytes) -> list[tuple[Message, int, int]]:
    """Message, sequence and flags of each."""
    found: list[tuple[Message, int, int]] = []
    for length, number, flags, sequence, start in _frames(data):
        if number not in _TOLD:
            continue
        verb, kind = _TOLD[number]
        try:
            message = _classes()[kind](data[start : start + length])
            message.decode()
            values = dict(message)
            attributes = {name: _plain(value) for name, value in values.pop("attrs", [])}
        except Exception as error:  # noqa: BLE001 - pyroute2's, and whatever it does not expect
            what = f"{type(error).__name__} in a message"
            raise libc.oserror(errno.EBADMSG, f"RTM_{verb.upper()}", what) from None
        found.append((Message(verb, values, attributes), sequence, flags))
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401 - what pyroute2 makes of an attribute
    if not isinstance(value, dict):
        return value
    nested = cast("dict[str, Any]", value)
    if "attrs" not in nested:
        return nested
    return {str(name): _plain(one) for name, one in nested["attrs"]}


def _frames(data: bytes) -> list[tuple[int, int, int, int, int]]:
    """Length, type, flags, sequence and place of each message."""
    found: list[tuple[int, int, int, int, int]] = []
    place = 0
    while place + _HEADER.size <= len(data):
        length, number, flags, sequence, _ = _HEADER.unpack_from(data, place)
        if length < _HEADER.size or place + length > len(data):
            break
        found.append((length, number, flags, sequence, place))
        place += (length + 3) & ~3
    return found


class Netlink:
    """A socket of rtnetlink, in whatever network namespace it was opened in. Owns it. Its calls
    block for what the kernel takes; not for two threads at once.
    """

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._sequence = 0
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            opened.setsockopt(_SOL_NETLINK, option, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Let it go, and with it the namespace."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, requests: list[Request]) -> None:
        """Have all of them done, in their order, in few sends. Raises RefusedError for the first
        that was not; those behind it were tried all the same. Raises OSError.
        """
        refusals: list[RefusedError] = []
        for place in range(0, len(requests), _AT_ONCE):
            refusals += self._run(requests[place : place + _AT_ONCE])
        if refusals:
            refusals[0].refused = [one.request for one in refusals]
            raise refusals[0]

    def _run(self, requests: list[Request]) -> list[RefusedError]:
        first = self._sequence + 1
        self._sequence += len(requests)
        parts = [encode(request, first + place) for place, request in enumerate(requests)]
        self._socket.send(b"".join(parts))
        failures: dict[int, tuple[int, str]] = {}
        open_ = set(range(len(requests)))
        while open_:
            data = self._socket.recv(_RECEIVE_BYTES)
            for length, number, flags, sequence, start in _frames(data):
                place = sequence - first
                if number == _ERROR and place in open_:
                    open_.discard(place)
                    code, text = _acknowledged(data[start : start + length], flags)
                    if code:
                        failures[place] = (code, text)
        return [
            RefusedError(code, requests[place], text)
            for place, (code, text) in sorted(failures.items())
            if not requests[place].optional
        ]

    def dump(self, request: Request) -> list[Message]:
        """All that there is of a kind. Raises OSError."""
        for _ in range(_ATTEMPTS):
            found, whole = self._dump(request)
            if whole:
                return found
        raise libc.oserror(errno.EAGAIN, f"RTM_{request.verb.upper()}", request.what)

    def _dump(self, request: Request) -> tuple[list[Message], bool]:
        self._sequence += 1
        own = self._sequence
        self._socket.send(encode(request, own, dump=True))
        found: list[Message] = []
        whole = True
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            for message, sequence, flags in _decoded(data):
                if sequence == own:
                    found.append(message)
                    whole = whole and not flags & _INTERRUPTED
            for length, number, flags, sequence, start in _frames(data):
                if sequence != own:
                    continue
                if number == _DONE:
                    code = _done(data[start : start + length])
                    if code:
                        raise RefusedError(code, request, "")
                    return found, whole and not flags & _INTERRUPTED
                if number == _ERROR:
                    code, text = _acknowledged(data[start : start + length], flags)
                    raise RefusedError(code or errno.EIO, request, text)

    # ---- notifications

    def listen(self, *groups: str) -> None:
        """Be told of changes: names of GROUPS. The socket does not block from now on."""
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, GROUPS[group])
        self._socket.setblocking(False)

    def receive(self) -> list[Message] | None:
        """What was told since; empty if nothing. None if something was lost (ENOBUFS): look again
        at everything then. Raises OSError.
        """
        try:
            return decode(self._socket.recv(_RECEIVE_BYTES))
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return None
            raise


def _done(frame: bytes) -> int:
    """Error number of NLMSG_DONE: a dump that is refused says it there."""
    if len(frame) < _HEADER.size + 4:
        return 0
    (code,) = struct.unpack_from("=i", frame, _HEADER.size)
    return int(-code) if code < 0 else 0


def _acknowledged(frame: bytes, flags: int) -> tuple[int, str]:
    """Error number and text of NLMSG_ERROR."""
    if len(frame) < _HEADER.size + 4:
        return errno.EBADMSG, ""
    (code,) = struct.unpack_from("=i", frame, _HEADER.size)
    text = ""
    if flags & _TLVS and len(frame) >= 2 * _HEADER.size + 4:
        place = _HEADER.size + 4
        (echoed,) = struct.unpack_from("=I", frame, place)
        place += _HEADER.size if flags & _CAPPED else (echoed + 3) & ~3
        while place + 4 <= len(frame):
            length, kind = struct.unpack_from("=HH", frame, place)
            if length < 4:  # noqa: PLR2004
                break
            if kind & 0x3FFF == _MESSAGE_TLV:
                text = frame[place + 4 : place + length].rstrip(b"\0").decode(errors="replace")
            place += (length + 3) & ~3
    return -code, text
