"""A session that is taken up again: nothing is lost and nothing comes twice, wherever it breaks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcctl import attach
from lxcctl.attach import Attachment
from lxcctl.channel import Patience
from lxcctl.channel import Session as ClientSession
from lxcctl.errors import CallError
from lxcctl.keys import DetachKeys
from lxcctl.typist import Typist
from lxcd.v1 import exec_pb2
from tests.unit.lxcctl.playing import (
    CONTROLLER,
    DAEMON_LEAVES,
    DETACHED,
    EXEC,
    KICKED,
    VIEWER,
    kinds,
    starts,
)

if TYPE_CHECKING:
    from tests.unit.lxcctl.conftest import FakeDaemon, Refusal

STEADY = settings(deadline=None, derandomize=True, database=None)
TYPES = (exec_pb2.AttachExecRequest, exec_pb2.AttachExecResponse)


@pytest.fixture(scope="module", autouse=True)
def _at_once() -> Iterator[None]:
    """Nobody waits before he comes back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Patience, "FIRST", 0.0)
        yield


class Kept:
    """What a client made of a session."""

    def __init__(self, attachment: Attachment) -> None:
        self.pieces: dict[str, bytes] = {}
        self.gaps: list[tuple[str, int]] = []
        self.roles: list[tuple[bool, str]] = []
        attachment.on_output = self._output
        attachment.on_gap = lambda stream, count: self.gaps.append((stream, count))
        attachment.on_role = lambda controls, by: self.roles.append((controls, by))

    def _output(self, stream: str, data: bytes) -> None:
        self.pieces[stream] = self.pieces.get(stream, b"") + data


def attachment_over(session: Any) -> Attachment:
    def start(message: Any) -> None:
        message.id, message.role = "e1", CONTROLLER

    return Attachment(session, "ExecService/AttachExec", TYPES, start)


@pytest.fixture
def attachment(daemon: FakeDaemon) -> Iterator[Attachment]:
    session = ClientSession(daemon.address, "", "table")
    yield attachment_over(session)
    session.channel.close()


# ---- a daemon in this process, whose connections break where they are told to


class Plan(NamedTuple):
    """One connection: how many frames of input are taken at most, how much of the one behind them,
    and whether it is said that they were; how much is written; how it breaks.
    """

    frames: int
    last: int
    acks: bool
    writes: int
    how: str


class BreakingDaemon:
    """Stands for the channel. What is typed and written has one history over all connections."""

    def __init__(self, plans: list[Plan], written: bytes, window: int) -> None:
        self.plans = plans
        self.written = written
        self.window = window
        self.typed = b""
        self.ended = 0
        self.address = ""

    def close(self) -> None:
        pass

    def duplex(
        self, method: str, queue: SimpleQueue[Any], request: Any, reply: Any
    ) -> Iterator[Any]:
        assert (method, request, reply) == ("ExecService/AttachExec", *TYPES)
        plan = self.plans.pop(0) if self.plans else None
        start = queue.get().start
        at = start.offsets.get("stdout", 0)
        acked = base = len(self.typed)
        yield EXEC.started(base, self.window)
        if plan is not None:
            yield from self._output(at, at + plan.writes)
        else:
            yield from self._output(at, len(self.written))
        count = 0
        while True:
            stuck = plan is not None and not plan.acks and queue.empty()
            if plan is not None and (count >= plan.frames or self.ended or stuck):
                break
            if queue.empty() and acked < len(self.typed) and (plan is None or plan.acks):
                # Only now, when nothing else comes: it types as much ahead as it may.
                acked = len(self.typed)
                yield EXEC.ack(acked)
            frame = queue.get()
            kind = frame.WhichOneof("frame")
            assert kind in {"input", "input_end", "credit"}, "once, and nothing else"
            if kind == "credit":
                continue
            if kind == "input_end":
                self.ended += 1
                break
            assert 0 < len(frame.input) <= attach._FRAME_BYTES
            self.typed += frame.input
            assert len(self.typed) - acked <= self.window, "more than the window"
            count += 1
        if plan is None:
            yield EXEC.end(code=0)
            # Half-closed behind the end, and nothing but credit in front of that.
            assert set(kinds(iter(queue.get, None))) <= {"credit"}
            return
        if plan.last and not queue.empty():
            frame = queue.get()
            if frame.WhichOneof("frame") == "input":
                self.typed += frame.input[: plan.last]
        if plan.how == "leaves":
            yield EXEC.end(DAEMON_LEAVES)
        elif plan.how != "ok":
            raise CallError(plan.how, "Socket closed")

    def _output(self, begin: int, end: int) -> Iterator[Any]:
        for at in range(begin, min(end, len(self.written)), 5):
            yield EXEC.output(self.written[at : min(at + 5, end)], at)


PLANS = st.builds(
    Plan,
    st.integers(0, 4),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 40),
    st.sampled_from(["UNAVAILABLE", "CANCELLED", "leaves", "ok"]),
)


@STEADY
@given(
    plans=st.lists(PLANS, max_size=5),
    typed=st.lists(st.binary(max_size=40), max_size=8),
    written=st.binary(max_size=100),
    window=st.sampled_from([1, 7, 64, 64 * 1024]),
)
def test_wherever_it_breaks(
    plans: list[Plan], typed: list[bytes], written: bytes, window: int
) -> None:
    daemon = BreakingDaemon(plans, written, window)

    class Session:
        channel = daemon

    attachment = attachment_over(Session())
    kept = Kept(attachment)

    def type_all() -> None:
        for data in typed:
            attachment.type(data)
        attachment.end_input()

    thread = threading.Thread(target=type_all)
    attachment.on_started = lambda _: thread.start()
    end = attachment.run()
    thread.join()
    assert end.exit.code == 0
    assert daemon.typed == b"".join(typed)
    assert kept.pieces.get("stdout", b"") == written
    assert daemon.ended


# ---- over real connections


def test_input_that_was_not_taken_is_sent_again(
    daemon: FakeDaemon, attachment: Attachment, refusal: type[Refusal]
) -> None:
    taken = bytearray()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        again = bool(taken)
        yield EXEC.started(len(taken))
        for frame in heard:
            if frame.WhichOneof("frame") == "input_end":
                break
            # Of the first connection, three bytes reach the command, and it hears of two.
            taken.extend(frame.input if again else frame.input[:3])
            if not again:
                yield EXEC.ack(2)
                raise refusal("UNAVAILABLE", "Socket closed")
        yield EXEC.end(code=0)

    daemon.on["AttachExec"] = play

    def started(_: Any) -> None:
        attachment.type(b"0123456789")
        attachment.end_input()

    attachment.on_started = started
    assert attachment.run().exit.code == 0
    assert taken == b"0123456789"
    sent = [f.input for f in daemon.asked("AttachExec") if f.WhichOneof("frame") == "input"]
    assert sent == [b"0123456789", b"3456789"]


def test_window_and_frames(daemon: FakeDaemon, attachment: Attachment) -> None:
    data = os.urandom(300_000)
    window = 50_000
    sizes: list[int] = []

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started(0, window)
        taken = acked = 0
        for frame in heard:
            if frame.WhichOneof("frame") == "input_end":
                break
            sizes.append(len(frame.input))
            assert frame.input == data[taken : taken + len(frame.input)]
            taken += len(frame.input)
            assert taken - acked <= window
            if taken - acked == window or taken == len(data):
                acked = taken
                yield EXEC.ack(acked)
        yield EXEC.end(code=0 if taken == len(data) else 1)

    daemon.on["AttachExec"] = play

    def type_all() -> None:
        attachment.type(data)
        attachment.end_input()

    thread = threading.Thread(target=type_all)
    attachment.on_started = lambda _: thread.start()
    assert attachment.run().exit.code == 0
    thread.join()
    # As much as may be, no more than a frame holds.
    assert sizes[:2] == [32 * 1024, window - 32 * 1024]


def test_credit(daemon: FakeDaemon, attachment: Attachment) -> None:
    """A window's worth is never withheld: who has processed it says so in time."""
    window, whole = 256 * 1024, 2_000_000
    offsets: list[int] = []

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        sent = credited = 0
        while sent < whole:
            if sent - credited + 16_000 <= window:
                yield EXEC.output(bytes(16_000), sent)
                sent += 16_000
            else:
                credited = next(heard).credit.offset
                offsets.append(credited)
        yield EXEC.gap(sent, sent + 1_000_000)
        for frame in heard:
            if frame.credit.offset == sent + 1_000_000:
                yield EXEC.end(code=0)

    daemon.on["AttachExec"] = play
    kept = Kept(attachment)
    assert attachment.run().exit.code == 0
    assert len(kept.pieces["stdout"]) == whole
    assert kept.gaps == [("stdout", 1_000_000)]
    assert offsets == sorted(set(offsets))
    # And not for every frame.
    assert len(offsets) <= whole // (64 * 1024) + 1


@pytest.mark.parametrize("how", ["UNAVAILABLE", "CANCELLED", "DAEMON_LEAVES"])
def test_offsets_are_resumed(
    daemon: FakeDaemon, attachment: Attachment, refusal: type[Refusal], how: str
) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        start = next(heard).start
        yield EXEC.started()
        if not start.offsets:
            yield EXEC.output(b"abc", 5)
            yield EXEC.output(b"x", 0, "stderr")
            yield EXEC.gap(1, 100, "stderr")
            if how != "DAEMON_LEAVES":
                raise refusal(how, "Socket closed")
            yield EXEC.end(DAEMON_LEAVES)
        else:
            yield EXEC.output(b"def", 8)
            yield EXEC.end(code=0)

    daemon.on["AttachExec"] = play
    kept = Kept(attachment)
    assert attachment.run().exit.code == 0
    assert kept.pieces == {"stdout": b"abcdef", "stderr": b"x"}
    first, second = starts(daemon, "AttachExec")
    assert (dict(first.offsets), dict(second.offsets)) == ({}, {"stdout": 8, "stderr": 100})


def test_who_looks_live_loses_nothing_before_the_first_byte(
    daemon: FakeDaemon, attachment: Attachment, refusal: type[Refusal]
) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        start = next(heard).start
        states = [{"name": "stdout", "tail_offset": 5, "head_offset": 40}]
        yield EXEC.started(exec={"streams": states})
        if not start.offsets:
            raise refusal("UNAVAILABLE", "Socket closed")
        yield EXEC.end(code=0)

    def live(message: Any) -> None:
        message.live_only = True

    daemon.on["AttachExec"] = play
    attachment.start = live
    attachment.run()
    assert [dict(start.offsets) for start in starts(daemon, "AttachExec")] == [{}, {"stdout": 40}]


def test_half_closed_behind_the_end(daemon: FakeDaemon, attachment: Attachment) -> None:
    closed = threading.Event()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        yield EXEC.end(code=3)
        # This would wait without end for a client that only goes.
        assert list(heard) == []
        closed.set()

    daemon.on["AttachExec"] = play
    assert attachment.run().exit.code == 3
    assert closed.wait(30)


def test_an_end_is_an_end_even_if_the_connection_breaks_behind_it(
    daemon: FakeDaemon, attachment: Attachment, refusal: type[Refusal]
) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        yield EXEC.end(code=3)
        raise refusal("UNAVAILABLE", "Socket closed")

    daemon.on["AttachExec"] = play
    assert attachment.run().exit.code == 3
    assert len(starts(daemon, "AttachExec")) == 1


@pytest.mark.parametrize("code", ["UNAVAILABLE", "NOT_FOUND", "FAILED_PRECONDITION"])
def test_a_session_that_never_began_is_not_waited_for(
    daemon: FakeDaemon, attachment: Attachment, refusal: type[Refusal], code: str
) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield from ()
        raise refusal(code, "no")

    daemon.on["AttachExec"] = play
    with pytest.raises(CallError) as caught:
        attachment.run()
    assert caught.value.code == code


def test_detached(daemon: FakeDaemon, attachment: Attachment) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        if next(heard).WhichOneof("frame") == "detach":
            yield EXEC.end(DETACHED)

    daemon.on["AttachExec"] = play
    attachment.on_started = lambda _: attachment.detach()
    assert attachment.run().reason == DETACHED


def test_detach_is_not_stuck_behind_input(daemon: FakeDaemon, attachment: Attachment) -> None:
    """Nobody takes what is typed, and still the keys behind it leave."""

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started(0, 1000)
        for frame in heard:
            if frame.WhichOneof("frame") == "detach":
                yield EXEC.end(DETACHED)

    daemon.on["AttachExec"] = play
    read_end, write_end = os.pipe()
    pasted = b"x" * 1_000_000

    def paste() -> None:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(pasted + b"\x01q" + b"for the shell")

    thread = threading.Thread(target=paste)
    thread.start()
    typist = Typist(read_end, DetachKeys(b"\x01q"))
    attachment.on_started = lambda _: typist.type_into(attachment)
    assert attachment.run().reason == DETACHED
    thread.join()
    os.close(read_end)
    typed = [f.input for f in daemon.asked("AttachExec") if f.WhichOneof("frame") == "input"]
    assert b"".join(typed) == b"x" * 1000


def test_who_leaves_while_the_daemon_is_away(
    daemon: FakeDaemon, attachment: Attachment, refusal: type[Refusal]
) -> None:
    """There is nobody to be told; what was typed meanwhile does not hold him."""

    class AbandonedError(Exception):
        pass

    def abandon() -> None:
        raise AbandonedError

    attachment.type(b"x" * 100_000)
    attachment.on_abandoned = abandon
    with pytest.raises(AbandonedError):
        attachment.detach()


@pytest.mark.parametrize("told", [True, False])
def test_control_that_is_taken_away(
    daemon: FakeDaemon, attachment: Attachment, refusal: type[Refusal], *, told: bool
) -> None:
    """Whoever only watches from now on types nothing, and goes on to read, also where a key that
    was under way was refused.
    """
    typed = threading.Event()

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        start = next(heard).start
        yield EXEC.started()
        if start.offsets:
            assert (start.role, start.steal) == (VIEWER, False)
            yield EXEC.output(b"def", 3)
            yield EXEC.end(code=0)
            return
        yield EXEC.output(b"abc")
        if told:
            yield EXEC.role(VIEWER, "bob@there:1")
            typed.wait(30)
            yield EXEC.end(DAEMON_LEAVES)
        else:
            assert [next(heard).WhichOneof("frame") for _ in range(2)] == ["credit", "input"]
            raise refusal("PERMISSION_DENIED", "a viewer may not type", "NOT_THE_CONTROLLER")

    def steal(message: Any) -> None:
        message.role, message.steal = CONTROLLER, True

    daemon.on["AttachExec"] = play
    kept = Kept(attachment)
    kept_role = attachment.on_role

    def on_role(controls: bool, by: str) -> None:  # noqa: FBT001
        kept_role(controls, by)
        attachment.type(b"never sent")
        attachment.resize(10, 10)
        typed.set()

    attachment.on_role = on_role
    attachment.start = steal
    if not told:
        outer = attachment.on_output

        def on_output(stream: str, data: bytes) -> None:
            outer(stream, data)
            attachment._consumed("stdout", 3, at_once=True)
            attachment.type(b"x")

        attachment.on_output = on_output
    assert attachment.run().exit.code == 0
    assert kept.pieces == {"stdout": b"abcdef"}
    assert kept.roles == [(False, "bob@there:1" if told else "")]
    sent = [f.input for f in daemon.asked("AttachExec") if f.WhichOneof("frame") == "input"]
    assert sent == ([] if told else [b"x"])


def test_kicked(daemon: FakeDaemon, attachment: Attachment) -> None:
    def play(heard: Iterator[Any]) -> Iterator[Any]:
        next(heard)
        yield EXEC.started()
        yield EXEC.end(KICKED)

    daemon.on["AttachExec"] = play
    assert attachment.run().reason == KICKED
    assert kinds(daemon.asked("AttachExec")) == ["start"]


def test_control_that_was_taken_while_the_daemon_was_away(
    daemon: FakeDaemon, attachment: Attachment, refusal: type[Refusal]
) -> None:
    """Whoever comes back too late watches."""

    def play(heard: Iterator[Any]) -> Iterator[Any]:
        start = next(heard).start
        if start.offsets and start.role != VIEWER:
            raise refusal("FAILED_PRECONDITION", "bob has control", "CONTROL_TAKEN")
        yield EXEC.started()
        if not start.offsets:
            yield EXEC.output(b"abc")
            raise refusal("UNAVAILABLE", "Socket closed")
        yield EXEC.output(b"def", 3)
        yield EXEC.end(code=0)

    daemon.on["AttachExec"] = play
    kept = Kept(attachment)
    assert attachment.controls
    assert attachment.run().exit.code == 0
    assert kept.pieces == {"stdout": b"abcdef"}
    assert kept.roles == [(False, "")]
    assert not attachment.controls
