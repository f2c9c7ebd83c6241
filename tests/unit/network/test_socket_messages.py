"""Sockets, as sock_diag(7) and /proc tell of them."""

from __future__ import annotations

import socket
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcd.network import sockets
from lxcd.network.sockets import Kind, Socket
from tests.unit.network.messages import attribute, ip, u32


def inet(state: int, near: str, far: str, queues: tuple[int, int] = (0, 0)) -> bytes:
    family = socket.AF_INET6 if ":" in near else socket.AF_INET
    head = struct.pack("=BBBB", family, state, 0, 0)
    ports = struct.pack(">HH", 22, 50000)
    addresses = ip(near).ljust(16, b"\0") + ip(far).ljust(16, b"\0")
    return head + ports + addresses + bytes(12) + struct.pack("=IIIII", 0, *queues, 1000, 77)


def test_tcp() -> None:
    assert sockets.inet(Kind.TCP, inet(1, "10.0.0.2", "10.0.0.1", (5, 6))) == Socket(
        kind=Kind.TCP,
        inode=77,
        state=1,
        uid=1000,
        family=socket.AF_INET,
        local=("10.0.0.2", 22),
        remote=("10.0.0.1", 50000),
        receive_queue_bytes=5,
        send_queue_bytes=6,
    )
    assert sockets.inet(Kind.UDP, inet(7, "::", "fe80::1")).remote[0] == "fe80::1"


def test_the_queues_of_one_that_listens_are_no_bytes() -> None:
    found = sockets.inet(Kind.TCP, inet(10, "0.0.0.0", "0.0.0.0", (3, 128)))
    assert (found.backlog, found.backlog_max) == (3, 128)
    assert (found.receive_queue_bytes, found.send_queue_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"/run/x.sock\0", "/run/x.sock"),
        (b"\0abstract\0more", "@abstract\0more"),
        (b"/\xff\0", "/\udcff"),
        (b"", ""),
    ],
)
def test_unix(name: bytes, path: str) -> None:
    head = struct.pack("=BBBBI8x", 1, socket.SOCK_SEQPACKET, 10, 0, 55)
    body = u32(2, 56) + attribute(4, struct.pack("=II", 1, 128)) + u32(7, 1000)
    if name:
        body += attribute(0, name)
    assert sockets.unix(head + body) == Socket(
        kind=Kind.UNIX,
        inode=55,
        state=10,
        uid=1000,
        backlog=1,
        backlog_max=128,
        type="seqpacket",
        path=path,
        peer_inode=56,
    )


@pytest.mark.skipif(sys.byteorder != "little", reason="as a little-endian kernel writes it")
def test_raw() -> None:
    text = b"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
    1: 0200000A:0001 00000000:0000 07 00000000:00000040 00:00000000 00000000  1000        0 6547 2 0000 0
garbage
"""
    assert sockets.raw(socket.AF_INET, text) == [
        Socket(
            kind=Kind.RAW,
            inode=6547,
            state=7,
            uid=1000,
            family=socket.AF_INET,
            local=("10.0.0.2", 0),
            remote=("0.0.0.0", 0),
            receive_queue_bytes=64,
            protocol=1,
        )
    ]
    six = text.replace(
        b"0200000A:0001 00000000", b"000080FE000000000000000001000000:003A " + b"0" * 32
    )
    (found,) = sockets.raw(socket.AF_INET6, six)
    assert (found.local[0], found.remote[0], found.protocol) == ("fe80::1", "::", 58)
    assert sockets.raw(socket.AF_INET, b"") == []


@given(st.binary(min_size=16, max_size=100))
def test_any_unix_message_can_be_read(data: bytes) -> None:
    sockets.unix(data)
