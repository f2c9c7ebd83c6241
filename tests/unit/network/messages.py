"""Messages as the kernel writes them, made by hand: rtnetlink(7), sock_diag(7)."""

from __future__ import annotations

import socket
import struct


def attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def ip(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def family(text: str) -> int:
    return int(socket.AF_INET6 if ":" in text else socket.AF_INET)


def link(index: int, name: str, *attributes: bytes, flags: int = 0x11043, kind: int = 1) -> bytes:
    head = struct.pack("=BxHiII", 0, kind, index, flags, 0)
    return head + attribute(3, name.encode() + b"\0") + b"".join(attributes)


def address(
    index: int, text: str, length: int, *, scope: int = 0, flags: int = 0x80, peer: str = ""
) -> bytes:
    head = struct.pack("=BBBBI", family(text), length, flags & 0xFF, scope, index)
    own = attribute(2, ip(text)) if family(text) == socket.AF_INET or peer else b""
    return head + attribute(1, ip(peer or text)) + own + u32(8, flags)


def route(
    index: int,
    where: str,
    gateway: str = "",
    *attributes: bytes,
    table: int = 254,
    kind: int = 1,
    flags: int = 0,
) -> bytes:
    text, _, length = where.partition("/")
    head = struct.pack(
        "=BBBBBBBBI", family(text), int(length), 0, 0, min(table, 252), 3, 0, kind, flags
    )
    body = u32(15, table)
    if int(length):
        body += attribute(1, ip(text))
    if gateway:
        body += attribute(5, ip(gateway))
    if index:
        body += u32(4, index)
    return head + body + b"".join(attributes)


def frame(
    body: bytes, *, kind: int = 16, flags: int = 2, sequence: int = 1, port: int = 7
) -> bytes:
    length = 16 + len(body)
    head = struct.pack("=IHHII", length, kind, flags, sequence, port)
    return head + body + bytes(-length % 4)
