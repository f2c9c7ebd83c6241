"""Asking over netlink: what belongs to an answer, and what came between."""

from __future__ import annotations

import errno
import socket
import struct
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcd.network import dump
from tests.unit.network.messages import attribute, frame, u32

PORT = 7


class Kernel:
    """Stands for the socket: `answers` are the datagrams, each given the sequence that was asked with."""

    def __init__(self, *answers: list[tuple[bytes, int, int]] | Exception) -> None:
        self._answers = list(answers)
        self.sequence = 0
        self.sent = b""

    def getsockname(self) -> tuple[int, int]:
        return PORT, 0

    def send(self, data: bytes) -> int:
        self.sent = data
        self.sequence = struct.unpack_from("=IHHII", data)[3]
        return len(data)

    def recv(self, _limit: int) -> bytes:
        if not self._answers:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return b"".join(
            frame(body, kind=kind, flags=flags, sequence=self.sequence, port=PORT)
            for body, kind, flags in answer
        )


DONE = (struct.pack("=i", 0), 3, 2)


def ask(kernel: Kernel, limit: int = 10) -> dump.Answer:
    return dump.ask(cast("socket.socket", kernel), 18, b"body", limit=limit)


def test_all_that_is_told_until_it_is_done() -> None:
    kernel = Kernel([(b"one.", 16, 2), (b"two.", 16, 2)], [(b"three", 16, 2)], [DONE])
    assert ask(kernel) == dump.Answer([b"one.", b"two.", b"three"])
    length, kind, flags, _, port = struct.unpack_from("=IHHII", kernel.sent)
    assert (length, kind, flags, port) == (20, 18, 0x301, 0)


def test_what_is_too_much_is_let_go() -> None:
    kernel = Kernel([(b"x", 16, 2)] * 5, [DONE])
    assert ask(kernel, 3) == dump.Answer([b"x"] * 3, cut=True)
    assert not ask(Kernel([(b"x", 16, 2)] * 3, [DONE]), 3).cut


def test_a_change_under_it_is_noted() -> None:
    assert ask(Kernel([(b"x", 16, 0x12)], [DONE])).interrupted
    assert ask(Kernel([(b"x", 16, 2), (struct.pack("=i", 0), 3, 0x12)])).interrupted


@pytest.mark.parametrize("kind", [2, 3])
def test_an_error_is_raised(kind: int) -> None:
    with pytest.raises(OSError, match="Operation not permitted") as caught:
        ask(Kernel([(struct.pack("=i", -errno.EPERM) + bytes(16), kind, 0)]))
    assert caught.value.errno == errno.EPERM


def test_an_answer_that_found_no_room_is_no_answer() -> None:
    with pytest.raises(BlockingIOError):
        ask(Kernel([(b"x", 16, 2)]))


def test_it_stops_when_it_is_told_to() -> None:
    left = iter([True, True, False])
    kernel = Kernel([(b"x", 16, 2)], [(b"y", 16, 2)])
    with pytest.raises(dump.GivenUpError):
        dump.ask(cast("socket.socket", kernel), 18, b"", limit=9, going_on=lambda: next(left))


@given(
    st.lists(
        st.tuples(st.sampled_from(["ours", "port", "sequence"]), st.binary(max_size=20)),
        max_size=20,
    )
)
def test_notifications_are_no_part_of_it_whatever_they_pretend(
    told: list[tuple[str, bytes]],
) -> None:
    class Mixed(Kernel):
        def recv(self, _limit: int) -> bytes:
            data = b""
            for whose, body in told:
                port = PORT + (whose == "port")
                sequence = self.sequence + (whose == "sequence")
                data += frame(body, sequence=sequence, port=port)
            return data + frame(struct.pack("=i", 0), kind=3, sequence=self.sequence, port=PORT)

    answer = ask(Mixed(), 100)
    assert answer.messages == [body for whose, body in told if whose == "ours"]
    assert answer.disturbed == any(whose != "ours" for whose, _ in told)


def test_draining_takes_all_and_says_whether_there_was_any() -> None:
    full = OSError(errno.ENOBUFS, "full")
    kernel = cast("socket.socket", Kernel([(b"x", 16, 0)], full, [(b"y", 16, 0)]))
    assert dump.drain(kernel)
    assert not dump.drain(kernel)
    with pytest.raises(OSError, match="gone"):
        dump.drain(cast("socket.socket", Kernel(OSError(errno.EBADF, "gone"))))


def test_attributes() -> None:
    data = attribute(1, b"a") + attribute(2 | 0x8000, b"bcd\0") + u32(3, 9)
    found = dump.attributes(b"head" + data, 4)
    assert found == {1: b"a", 2: b"bcd\0", 3: struct.pack("=I", 9)}
    assert dump.text(found[2]) == "bcd"
    assert (dump.number(found[3]), dump.number(found[1], 5), dump.number(None)) == (9, 5, 0)
    assert dump.signed(struct.pack("=i", -1), 5) == -1
    assert dump.attributes(dump.attribute(7, b"xyz")) == {7: b"xyz"}


@given(st.binary(max_size=100))
def test_anything_can_be_read(data: bytes) -> None:
    dump.attributes(data)
