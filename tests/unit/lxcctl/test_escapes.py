"""What a terminal of the host gets to see of a container's bytes."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcctl.escapes import Harmless, behind_cut
from lxcd.v1 import console_pb2
from tests.unit.lxcctl.playing import EXEC, client, says

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal

STEADY = settings(deadline=None, derandomize=True, database=None)


def shown(*pieces: bytes) -> bytes:
    harmless = Harmless()
    return b"".join(map(harmless.feed, pieces)) + harmless.end()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\tb\r\nc", b"a\tb\r\nc"),
        ("Grüße, 世界 👋🏽\n".encode(), "Grüße, 世界 👋🏽\n".encode()),
        # The clipboard, the title, where the cursor is, the alternate screen.
        (b"\x1b]52;c;aGk=\x07", b"\\x1b]52;c;aGk=\\x07"),
        (b"\x1b]0;title\x1b\\", b"\\x1b]0;title\\x1b\\"),
        (b"\x1b[6n\x1b[c\x05", b"\\x1b[6n\\x1b[c\\x05"),
        (b"\x1b[?1049h\x1b[2J\x08\x7f\x00", b"\\x1b[?1049h\\x1b[2J\\x08\\x7f\\x00"),
        # C1, as characters and as bytes.
        ("\x9b31m\x9d0;x\x9c".encode(), b"\\x9b31m\\x9d0;x\\x9c"),
        (b"\x9b31m", b"\\x9b31m"),
        (b"\xc3(", b"\\xc3("),
        # No colour: another command with the same end, and one that never ends.
        (b"\x1b[>4;1m", b"\\x1b[>4;1m"),
        (b"\x1b[" + b"1" * 65 + b"m", b"\\x1b[" + b"1" * 65 + b"m"),
        # Colours end with what is coloured.
        (b"\x1b[1;38:5:9mred", b"\x1b[1;38:5:9mred\x1b[m"),
        # What was under way when it ended.
        (b"x\x1b[3", b"x\\x1b[3"),
        (b"x\xc3", b"x\\xc3"),
    ],
)
def test_what_is_shown(data: bytes, text: bytes) -> None:
    assert shown(data) == text


@STEADY
@given(st.lists(st.sampled_from([b"\x1b", b"[", b"1", b";", b"m", b"\xc3", b"\xbc", b"x", b"\n"])))
def test_however_it_is_cut(pieces: list[bytes]) -> None:
    assert shown(*pieces) == shown(b"".join(pieces))


@STEADY
@given(st.binary())
def test_nothing_else_is_obeyed(data: bytes) -> None:
    rest = shown(data).decode()
    for colour in ("\x1b[m", "\x1b[0m"):
        rest = rest.replace(colour, "")
    assert all(c in "\t\r\n" or not 0 <= ord(c) < 32 for c in rest.replace("\x1b[", ""))
    assert not any(0x7F <= ord(c) <= 0x9F for c in rest)


@pytest.mark.parametrize(
    ("data", "rest"),
    [
        (b"5;10Hmiddle of a line\nnext", b"next"),
        (b"31mred\x1b[mplain", b"\x1b[mplain"),
        (b"52;c;aGk=\x07login: ", b"login: "),
        (b"52;c;aGk=\x1b\\login: ", b"login: "),
        (b"\x1b[mx\n", b"\x1b[mx\n"),
        # There is no better place in sight.
        ("ü".encode()[1:] + b"login: ", b"login: "),
        (b"\x98\x80" + b"x" * 5000 + b"\n", b"x" * 5000 + b"\n"),
        (b"login: ", b"login: "),
    ],
)
def test_where_a_replay_begins(data: bytes, rest: bytes) -> None:
    assert behind_cut(data) == rest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "seen"),
    [([], b"\\x1b]0;x\\x07\x1b[1mhi\x1b[m"), (["--raw"], b"\x1b]0;x\x07\x1b[1mhi")],
)
def test_logs_on_a_terminal(daemon: FakeDaemon, options: list[str], seen: bytes) -> None:
    def part(data: bytes, offset: int) -> Any:
        return console_pb2.ReadConsoleLogResponse(stream="console", offset=offset, data=data)

    daemon.on["ReadConsoleLog"] = lambda _: iter([part(b"\x1b]0;x\x07\x1b[", 0), part(b"1mhi", 8)])
    master, slave = os.openpty()
    with client(daemon, "logs", "001", *options, stdin=subprocess.DEVNULL, stdout=slave) as process:
        assert process.wait(30) == 0
    assert os.read(master, 1000) == seen
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("stream", "shown"),
    [
        ("terminal", b"\x1b[1mone\ntwothreefive"),
        ("stdout", b"0m\x1b[1mone\ntwothreefour\x1b\\five"),
    ],
)
def test_a_terminal_begins_where_it_makes_sense(
    daemon: FakeDaemon, refusal: type[Refusal], lxcctl: Lxcctl, stream: str, shown: bytes
) -> None:
    """Behind what is lost, and nowhere else; of a pipe not a byte is left out."""

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        again = bool(next(heard).start.offsets)
        yield EXEC.started()
        if not again:
            yield EXEC.output(b"0m\x1b[1mone\n", 1000, stream)
            yield EXEC.output(b"two", 1010, stream)
            raise refusal("UNAVAILABLE", "Socket closed")
        yield EXEC.output(b"three", 1013, stream)
        yield EXEC.gap(1018, 2000, stream)
        yield EXEC.output(b"four\x1b\\five", 2000, stream)
        yield EXEC.end(code=0)

    daemon.on["AttachExec"] = play
    assert lxcctl("attach", "e1").raw == shown


def test_what_begins_at_the_beginning_is_whole(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["AttachExec"] = says(EXEC, EXEC.output(b"one\ntwo", 0, "terminal"), EXEC.end(code=0))
    assert lxcctl("attach", "e1").raw == b"one\ntwo"
