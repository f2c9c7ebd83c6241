"""What containers write: kept, counted, followed, and never in anybody's way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from lxcd.v1 import console_pb2, container_pb2, stream_pb2, types_pb2
from tests.system.boxes import Box, defined
from tests.system.calls import application, refused, seconds
from tests.system.host import Api, Host
from tests.system.losing import go, writing_end
from tests.system.machine import DEADLINE, until

RING = 256 * 1024
# Eight bytes a line, and each line says at which offset it stands.
LINE = 8


def stamped(first: int, last: int) -> bytes:
    """What `seq` writes of these numbers and a million: seven digits each."""
    return b"".join(b"%d\n" % (1_000_000 + number) for number in range(first, last + 1))


def read(api: Api, name: str, **options: Any) -> list[console_pb2.ReadConsoleLogResponse]:
    request = console_pb2.ReadConsoleLogRequest(name=name, **options)
    return list(api.console.ReadConsoleLog(request, timeout=DEADLINE))


def data(pieces: list[console_pb2.ReadConsoleLogResponse], stream: str = "stdout") -> bytes:
    return b"".join(piece.data for piece in pieces if piece.stream == stream)


def contiguous(pieces: list[console_pb2.ReadConsoleLogResponse], start: int = 0) -> int:
    """Assert that every byte from `start` on is there or told as lost; how many are lost."""
    lost = 0
    for piece in pieces:
        if not piece.stream:
            continue
        assert piece.offset == start + piece.gap_bytes
        lost += piece.gap_bytes
        start = piece.offset + len(piece.data)
    return lost


def credit(stream: str, offset: int) -> console_pb2.AttachConsoleRequest:
    return console_pb2.AttachConsoleRequest(credit=stream_pb2.Credit(stream=stream, offset=offset))


@contextmanager
def lossless(api: Api) -> Iterator[tuple[Iterator[Any], SimpleQueue[Any]]]:
    """A session that the application waits for: what it hears, and what it is to say; None says
    that nothing more comes.
    """
    say: SimpleQueue[Any] = SimpleQueue()
    start = console_pb2.AttachConsoleStart(name="writer", terminal="output", lossless=True)
    say.put(console_pb2.AttachConsoleRequest(start=start))
    call = api.console.AttachConsole(iter(say.get, None), timeout=DEADLINE)
    try:
        yield call, say
    finally:
        say.put(None)
        call.cancel()


@contextmanager
def writer(host: Host, root: Path, script: str, name: str = "writer") -> Iterator[Box]:
    """An application whose output goes into pipes."""
    (host.root / "share").mkdir(exist_ok=True)
    lines = f"lxc.mount.entry = {host.root}/share mnt none bind 0 0"
    with defined(host, application(host, root, name, lines), name) as made:
        made.start("/bin/sh", "-c", script, stdio=container_pb2.STDIO_PIPES)
        yield made


def ended(made: Box, generation: int = 1) -> None:
    made.wait(generation=generation)


def test_history_is_read_whole_from_an_offset_and_from_the_end(
    shared_host: Host, busybox_root: Path
) -> None:
    with writer(shared_host, busybox_root, "seq 1000001 1001000; echo no >&2") as made:
        ended(made)
        whole = stamped(1, 1000)
        api = made.api
        everything = read(api, "writer", stream="stdout")
        assert data(everything) == whole
        assert contiguous(everything) == 0
        assert all(piece.generation == 1 and not piece.HasField("exit") for piece in everything)
        assert data(read(api, "writer", stream="stdout", offset=4004)) == whole[4004:]
        assert data(read(api, "writer", stream="stdout", offset=8000)) == b""
        beyond = refused(lambda: read(api, "writer", stream="stdout", offset=1 << 63))
        assert (beyond.code, beyond.reason) == ("INVALID_ARGUMENT", "OFFSET_BEYOND_END")
        assert data(read(api, "writer", stream="stdout", tail_bytes=13)) == whole[-13:]
        assert data(read(api, "writer", stream="stdout", tail_bytes=0)) == b""
        assert data(read(api, "writer", stream="stdout", tail_bytes=(1 << 64) - 1)) == whole
        assert data(read(api, "writer", stream="stdout", tail_lines=3)) == stamped(998, 1000)
        assert data(read(api, "writer", stream="stdout", tail_lines=0)) == b""
        assert data(read(api, "writer", stream="stdout", tail_lines=(1 << 64) - 1)) == whole
        both = read(api, "writer", stream="output")
        assert (data(both), data(both, "stderr")) == (whole, b"no\n")
        both = read(api, "writer", stream="output", offsets={"stdout": 7992, "stderr": 1})
        assert (data(both), data(both, "stderr")) == (stamped(1000, 1000), b"o\n")


def test_lxcctl_logs_shows_history_byte_for_byte(shared_host: Host, busybox_root: Path) -> None:
    with writer(shared_host, busybox_root, "seq 1000001 1001000; exit 3") as made:
        ended(made)
        words = ("logs", "writer", "--stream", "stdout")
        assert shared_host.ctl_bytes(*words).stdout == stamped(1, 1000)
        assert shared_host.ctl_bytes(*words, "--tail", "2").stdout == stamped(999, 1000)
        assert shared_host.ctl_bytes(*words, "--bytes", "5").stdout == stamped(1000, 1000)[-5:]
        assert shared_host.ctl_bytes(*words, "--follow").stdout == stamped(1, 1000)


def test_every_byte_value_comes_through(shared_host: Host, busybox_root: Path) -> None:
    blob = bytes(range(256)) * 512
    (shared_host.root / "share").mkdir(exist_ok=True)
    (shared_host.root / "share/blob").write_bytes(blob)
    with writer(shared_host, busybox_root, "cat /mnt/blob; cat /mnt/blob >&2") as made:
        ended(made)
        both = read(made.api, "writer", stream="output")
        assert data(both) == blob
        assert data(both, "stderr") == blob


def test_no_line_begun_is_lost_to_who_follows_from_now_on(
    shared_host: Host, busybox_root: Path
) -> None:
    (shared_host.root / "share").mkdir(exist_ok=True)
    os.mkfifo(shared_host.root / "share/go")
    with writer(shared_host, busybox_root, "printf abc; cat /mnt/go; printf def") as made:
        made.shows("abc", stream="stdout")
        request = console_pb2.ReadConsoleLogRequest(
            name="writer", stream="stdout", follow=True, tail_lines=0
        )
        call = made.api.console.ReadConsoleLog(request, timeout=DEADLINE)
        # Headers come with the first message only; GetContainer on the same channel comes behind the request.
        made.info()
        go(shared_host, "go")
        until(lambda: made.info().state == types_pb2.STATE_STOPPED, "it has ended")
        pieces = list(call)
    # What was there is wanted or not; what came is wanted.
    assert data(pieces).endswith(b"def"), data(pieces)


def test_what_a_follower_missed_is_told_to_the_byte(shared_host: Host, busybox_root: Path) -> None:
    whole = stamped(1, 100_000)
    with writer(shared_host, busybox_root, "seq 1000001 1100000") as made:
        ended(made)
        pieces = read(made.api, "writer", stream="stdout", offset=8, follow=True)
        lost = contiguous(pieces, 8)
        assert len(whole) - RING <= lost + 8 < len(whole)
        assert data(pieces) == whole[8 + lost :]
        assert lost == pieces[0].gap_bytes
        oldest = read(made.api, "writer", stream="stdout")
        assert (oldest[0].gap_bytes, oldest[0].offset) == (0, lost + 8)


def test_the_last_message_of_a_follower_is_the_exit(shared_host: Host, busybox_root: Path) -> None:
    with writer(shared_host, busybox_root, "echo on; exit 37") as made:
        *pieces, last = read(made.api, "writer", stream="output", follow=True)
        assert data(pieces) == b"on\n"
        assert (last.exit.code, last.exit.cause, last.exit.generation) == (
            37,
            types_pb2.CAUSE_SELF,
            1,
        )
        assert last.data == b""


def test_a_reader_that_is_stuck_holds_neither_container_nor_readers(
    shared_host: Host, busybox_root: Path
) -> None:
    (shared_host.root / "share").mkdir(exist_ok=True)
    os.mkfifo(shared_host.root / "share/begin")
    script = "cat /mnt/begin; i=0; while [ $i -lt 20 ]; do seq 1000001 1100000; i=$((i+1)); done"
    whole = stamped(1, 100_000) * 20
    with writer(shared_host, busybox_root, script) as made:
        request = console_pb2.ReadConsoleLogRequest(name="writer", stream="stdout", follow=True)
        stuck = [made.api.console.ReadConsoleLog(request, timeout=DEADLINE) for _ in range(3)]
        results: list[list[Any]] = []

        def follow() -> None:
            with Api(shared_host.address) as api:
                results.append(read(api, "writer", stream="stdout", follow=True, offset=0))

        threads = [threading.Thread(target=follow) for _ in range(8)]
        for thread in threads:
            thread.start()
        go(shared_host, "begin")
        ended(made)
        for thread in threads:
            thread.join(DEADLINE)
        assert len(results) == len(threads)
        for pieces in results:
            contiguous(pieces)
            for piece in pieces[:-1]:
                assert piece.data == whole[piece.offset : piece.offset + len(piece.data)]
            assert pieces[-2].offset + len(pieces[-2].data) == len(whole)
            assert pieces[-1].HasField("exit")
        for call in stuck:
            call.cancel()
    (shared_host.root / "share/begin").unlink()


def test_a_lossless_reader_gets_every_byte_however_slow(
    shared_host: Host, busybox_root: Path
) -> None:
    with writer(shared_host, busybox_root, "seq 1000001 1300000; exit 7") as made:
        with lossless(made.api) as (frames, say):
            end = begin = None
            seen = b""
            for frame in frames:
                # It is running ahead already: from the oldest byte that is left, nothing is lost.
                assert not frame.HasField("gap")
                if frame.HasField("end"):
                    end = frame.end
                    say.put(None)
                elif frame.HasField("output"):
                    begin = frame.output.offset if begin is None else begin
                    assert frame.output.offset == begin + len(seen)
                    seen += frame.output.data
                    upto = frame.output.offset + len(frame.output.data)
                    say.put(credit(frame.output.stream, upto))
        assert seen == stamped(1, 300_000)[begin:]
        assert end is not None
        assert (end.reason, end.exit.code) == (stream_pb2.SESSION_END_STOPPED, 7)


def test_what_is_not_there_is_an_error_that_says_so(shared_host: Host, busybox_root: Path) -> None:
    script = "echo first"
    with writer(shared_host, busybox_root, script) as made:
        ended(made)
        api = made.api
        unknown = refused(lambda: iter(read(api, "writer", stream="nosuch")))
        assert (unknown.code, unknown.reason) == ("NOT_FOUND", "STREAM_NOT_FOUND")
        assert "stdout" in unknown.text
        gone = refused(lambda: iter(read(api, "writer", generation=9)))
        assert (gone.code, gone.reason) == ("NOT_FOUND", "GENERATION_GONE")
        assert refused(lambda: iter(read(api, "nosuch"))).code == "NOT_FOUND"
        made.start("/bin/echo", "second", stdio=container_pb2.STDIO_PIPES)
        ended(made, 2)
        assert data(read(api, "writer", stream="stdout", generation=2)) == b"second\n"
        assert refused(lambda: iter(read(api, "writer", generation=1))).code == "NOT_FOUND"
    assert shared_host.ctl("logs", "nosuch", check=False).returncode == 3


@pytest.mark.parametrize("signal_number", ["stop", "kill"])
def test_a_reader_resumes_after_the_daemon_with_no_byte_lost_or_repeated(
    host: Host, busybox_root: Path, signal_number: str
) -> None:
    (host.root / "share").mkdir()
    os.mkfifo(host.root / "share/steps")
    # A line of the fifo is a step; each writes 1000 lines.
    script = "while read a b; do seq $a $b; done < /mnt/steps"
    with (
        writer(host, busybox_root, script) as made,
        open(writing_end(host, "steps"), "w") as steps,
    ):

        def step(number: int) -> None:
            steps.write(f"{1_000_001 + number * 1000} {1_001_000 + number * 1000}\n")
            steps.flush()

        def follow(start: int, upto: int) -> bytes:
            """Read until `upto`, as a client that was cut off there."""
            seen = b""
            with Api(host.address) as api:
                request = console_pb2.ReadConsoleLogRequest(
                    name="writer", stream="output", follow=True, offsets={"stdout": start}
                )
                call = api.console.ReadConsoleLog(request, timeout=DEADLINE)
                for piece in call:
                    assert piece.gap_bytes == 0
                    if piece.data:
                        assert piece.offset == start + len(seen)
                    seen += piece.data
                    if start + len(seen) >= upto:
                        break
                call.cancel()
            return seen

        step(0)
        seen = follow(0, 1000 * LINE)
        host.kill_daemon() if signal_number == "kill" else host.stop_daemon()
        step(1)
        host.start_daemon()
        step(2)
        seen += follow(len(seen), 3000 * LINE)
        host.kill_daemon() if signal_number == "kill" else host.stop_daemon()
        step(3)
        steps.close()
        host.start_daemon()
        seen += data(
            read(made.api, "writer", stream="output", follow=True, offsets={"stdout": len(seen)})
        )
        assert seen == stamped(1, 4000)


def test_a_writer_does_not_wait_for_a_lossless_reader_that_died_with_the_daemon(
    host: Host, busybox_root: Path
) -> None:
    (host.root / "share").mkdir()
    os.mkfifo(host.root / "share/begin")
    with writer(host, busybox_root, "echo on; cat /mnt/begin; seq 1000001 1200000") as made:
        with lossless(made.api) as (frames, _):
            assert next(frames).HasField("started")
            assert next(frames).output.data == b"on\n"
            host.kill_daemon()
        host.start_daemon()
        go(host, "begin")
        wait = container_pb2.WaitContainerRequest(name="writer", generation=1, timeout=seconds(20))
        assert made.api.container.WaitContainer(wait, timeout=DEADLINE).reached, (
            "it waits for a reader that is gone"
        )
