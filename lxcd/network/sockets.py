"""Sockets of a network namespace: sock_diag(7), and /proc for the raw ones, of which many kernels
(CONFIG_INET_RAW_DIAG) tell nothing else.
"""

from __future__ import annotations

import enum
import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.network import dump

if TYPE_CHECKING:
    from collections.abc import Iterable

# Of each kind and family.
LIMIT = 20_000

_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_ALL_STATES = 0xFFFFFFFF
_LISTEN = 10
# inet_diag.h: family, protocol, extensions, pad, states; then the id.
_INET_REQUEST = struct.Struct("=BBBBI")
_ID_BYTES = 48
# Family, state, timer, retransmissions; the id: both ports, both addresses, interface, cookie; then
# expiry, both queues, uid, inode. Ports and addresses are in the order of the network.
_INET = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
# unix_diag.h
_UNIX_REQUEST = struct.Struct("=BBHIII8s")
_UNIX = struct.Struct("=BBBBI8s")
_SHOW = 0x1 | 0x4 | 0x10 | 0x40  # name, peer, queues, uid
_UNIX_NAME, _UNIX_PEER, _UNIX_QUEUES, _UNIX_UID = 0, 2, 4, 7
_UNIX_TYPES = {
    socket.SOCK_STREAM: "stream",
    socket.SOCK_DGRAM: "dgram",
    socket.SOCK_SEQPACKET: "seqpacket",
}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Kind(enum.Enum):
    """What is said over it."""

    TCP = "TCP"
    UDP = "UDP"
    RAW = "RAW"
    UNIX = "UNIX"


@dataclass(frozen=True, slots=True)
class Socket:
    """One socket. What its kind has not got is empty or 0."""

    kind: Kind
    inode: int
    state: int  # of net/tcp_states.h
    uid: int  # on the host
    family: int = 0
    local: tuple[str, int] = ("", 0)
    remote: tuple[str, int] = ("", 0)
    receive_queue_bytes: int = 0
    send_queue_bytes: int = 0
    backlog: int = 0
    backlog_max: int = 0
    protocol: int = 0
    type: str = ""
    path: str = ""
    peer_inode: int = 0


def ask(opened: socket.socket, kinds: Iterable[Kind]) -> tuple[list[Socket], bool]:
    """Sockets of these kinds but RAW, where `opened`, of NETLINK_SOCK_DIAG, is; and whether there
    are more. Raises OSError.
    """
    wanted = list(kinds)
    found: list[Socket] = []
    cut = False
    for kind, protocol in ((Kind.TCP, socket.IPPROTO_TCP), (Kind.UDP, socket.IPPROTO_UDP)):
        for family in _FAMILIES if kind in wanted else ():
            body = _INET_REQUEST.pack(family, protocol, 0, 0, _ALL_STATES) + bytes(_ID_BYTES)
            answer = _ask(opened, body)
            found += [inet(kind, one) for one in answer.messages if len(one) >= _INET.size]
            cut |= answer.cut
    if Kind.UNIX in wanted:
        answer = _ask(opened, _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, _ALL_STATES, 0, _SHOW, b""))
        found += [unix(one) for one in answer.messages if len(one) >= _UNIX.size]
        cut |= answer.cut
    return found, cut


def _ask(opened: socket.socket, body: bytes) -> dump.Answer:
    try:
        return dump.ask(opened, _BY_FAMILY, body, limit=LIMIT)
    except FileNotFoundError:
        # This kernel has no such sockets.
        return dump.Answer([])


def inet(kind: Kind, message: bytes) -> Socket:
    """inet_diag_msg."""
    (
        family, state, _, _, near_port, far_port, near, far, _, _, _, received, sent, uid, inode,
    ) = _INET.unpack_from(message)  # fmt: skip
    listens = kind is Kind.TCP and state == _LISTEN
    return Socket(
        kind=kind,
        inode=inode,
        state=state,
        uid=uid,
        family=family,
        local=(_ip(family, near), int.from_bytes(near_port, "big")),
        remote=(_ip(family, far), int.from_bytes(far_port, "big")),
        receive_queue_bytes=0 if listens else received,
        send_queue_bytes=0 if listens else sent,
        backlog=received if listens else 0,
        backlog_max=sent if listens else 0,
    )


def unix(message: bytes) -> Socket:
    """unix_diag_msg."""
    _, kind, state, _, inode, _ = _UNIX.unpack_from(message)
    found = dump.attributes(message, _UNIX.size)
    queues = found.get(_UNIX_QUEUES, b"")
    received, sent = struct.unpack("=II", queues) if len(queues) == 8 else (0, 0)  # noqa: PLR2004
    name = found.get(_UNIX_NAME, b"")
    # One that is no file begins with a NUL and may hold more of them: unix(7).
    name = b"@" + name[1:] if name[:1] == b"\0" else name.rstrip(b"\0")
    listens = state == _LISTEN
    return Socket(
        kind=Kind.UNIX,
        inode=inode,
        state=state,
        uid=dump.number(found.get(_UNIX_UID)),
        receive_queue_bytes=0 if listens else received,
        send_queue_bytes=0 if listens else sent,
        backlog=received if listens else 0,
        backlog_max=sent if listens else 0,
        type=_UNIX_TYPES.get(kind, str(kind)),
        path=name.decode(errors="surrogateescape"),
        peer_inode=dump.number(found.get(_UNIX_PEER)),
    )


def raw(family: int, text: bytes) -> list[Socket]:
    """/proc/PID/net/raw, or raw6 (proc_pid_net(5)): where the port stands is the protocol."""
    found: list[Socket] = []
    for line in text.split(b"\n")[1 : LIMIT + 1]:
        words = line.decode("ascii", "replace").split()
        if len(words) < 10:  # noqa: PLR2004 - up to the inode
            continue
        near, _, protocol = words[1].partition(":")
        far = words[2].partition(":")[0]
        sent, _, received = words[4].partition(":")
        found.append(
            Socket(
                kind=Kind.RAW,
                inode=int(words[9]),
                state=int(words[3], 16),
                uid=int(words[7]),
                family=family,
                local=(_ip_of_hex(family, near), 0),
                remote=(_ip_of_hex(family, far), 0),
                receive_queue_bytes=int(received, 16),
                send_queue_bytes=int(sent, 16),
                protocol=int(protocol, 16),
            )
        )
    return found


def _ip(family: int, value: bytes) -> str:
    return socket.inet_ntop(family, value if family == socket.AF_INET6 else value[:4])


def _ip_of_hex(family: int, words: str) -> str:
    """Each 32 bits of an address stand as a number in the host's order."""
    parts = (words[place : place + 8] for place in range(0, len(words), 8))
    value = b"".join(int(part, 16).to_bytes(4, sys.byteorder) for part in parts)
    return socket.inet_ntop(family, value)
