"""Consoles that bring more than anybody reads, and how sessions with them end."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import types_pb2
from tests.system import sessions
from tests.system.boxes import Box, box, busybox_up, defined, generation_runs, over
from tests.system.calls import application, refused
from tests.system.host import Api, Host
from tests.system.machine import DEADLINE, until
from tests.system.sessions import CONTROLLER

MIB = 1 << 20
RING = 256 * 1024
# Lines of 64 bytes, each with its number: what a console shows of it has a byte more, the carriage return.
LINE = 65


def flood(megabytes: int) -> str:
    count = megabytes * MIB // LINE
    program = f'BEGIN {{ for (i = 1; i < {count}; i++) printf "%063d\\n", i }}'
    # Its first line stands there already, then a fifo says when to begin.
    return f"printf '%063d\\n' 0; read go < /mnt/go; awk '{program}'; exit 7"


def shown(offset: int, size: int) -> bytes:
    """What the flood shows from an offset on."""
    first = offset // LINE
    lines = b"".join(b"%063d\r\n" % (first + n) for n in range(size // LINE + 2))
    return lines[offset - first * LINE :][:size]


@contextmanager
def flooding(host: Host, root: Path, megabytes: int) -> Iterator[Box]:
    """An application that floods its console once its fifo is written to."""
    share = host.root / "share"
    share.mkdir(exist_ok=True)
    os.mkfifo(share / "go")
    lines = (f"lxc.mount.entry = {share} mnt none bind 0 0", "lxc.tty.max = 0")
    try:
        with defined(host, application(host, root, "flood", *lines), "flood") as made:
            made.start("/bin/sh", "-c", flood(megabytes))
            yield made
    finally:
        (share / "go").unlink()


def peak(pid: int) -> int:
    """VmHWM, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def whole(api: Api, began: threading.Barrier) -> tuple[Any, ...]:
    """Watch a flood as fast as it goes: its hash, its length, what was lost of it, and how it ended."""
    attached = sessions.console(api, "flood")
    began.wait()
    digest = hashlib.sha256()
    while attached.end is None:
        if attached.take() == "output":
            digest.update(attached.data["console"])
            attached.data["console"].clear()
    end = attached.end
    return (
        digest.hexdigest(),
        attached.offsets["console"],
        tuple(attached.gaps),
        end.reason,
        end.exit.code,
    )


def slow_ones(host: Host, megabytes: int, root: Path) -> None:
    size = megabytes * MIB // LINE * LINE
    with flooding(host, root, megabytes) as made, ExitStack() as stack:
        assert host.daemon is not None
        # One that is stopped, one that takes a byte now and then, and one that never says that it took anything.
        stopped = subprocess.Popen(
            host.ctl_argv("console", "flood", "--read-only"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=host.environment,
        )
        stack.callback(stopped.kill)
        until(lambda: len(sessions.with_console(made)) == 1, "it watches")
        stopped.send_signal(signal.SIGSTOP)
        slow = sessions.console(made.api, "flood", giving_credit=False, window_bytes=1)
        deaf = sessions.console(made.api, "flood", giving_credit=False, window_bytes=RING)
        began = threading.Barrier(10)
        apis = [Api(host.address) for _ in range(9)]
        with ThreadPoolExecutor(9) as pool:
            nine = [pool.submit(whole, api, began) for api in apis]
            began.wait(DEADLINE)
            before = peak(host.daemon)
            (host.root / "share/go").write_bytes(b"\n")
            while not all(each.done() for each in nine):
                _one_byte(slow)
                time.sleep(0.05)
        expected = hashlib.sha256(shown(0, size)).hexdigest()
        assert {each.result() for each in nine} == {(expected, size, (), sessions.STOPPED, 7)}
        for api in apis:
            api.close()
        assert made.wait(generation=1).exit.code == 7
        # Windows of eleven, what gRPC has under way, and no more: not the flood.
        assert peak(host.daemon) - before < 24 * MIB
        # The slow ones learn exactly what they have missed.
        slow.cancel()
        for frame in slow.data.values():
            assert bytes(frame) == shown(0, len(frame))
        deaf.until(lambda: "console" in deaf.offsets)
        while not deaf.gaps:
            deaf.send(credit={"stream": "console", "offset": deaf.offsets["console"]})
            deaf.take()
        ((_, begin, end),) = deaf.gaps
        assert bytes(deaf.data["console"]) == shown(0, begin)
        rest = sessions.console(made.api, "flood", generation=1, offset=end)
        rest.to_the_end()
        assert bytes(rest.data["console"]) == shown(end, size - end)
        deaf.cancel()
        stopped.send_signal(signal.SIGCONT)
        output, _ = stopped.communicate(timeout=DEADLINE)
        assert output.endswith(shown(size - RING // 2, RING // 2))
        assert stopped.returncode == 0


def _one_byte(slow: sessions.Attached) -> None:
    """Take one byte more."""
    known = slow.offsets.get("console", 0)
    slow.send(credit={"stream": "console", "offset": known})
    if not slow.gaps:
        slow.until(lambda: slow.offsets.get("console", 0) > known or bool(slow.gaps))


@pytest.mark.slow
def test_viewers_that_stop_hold_up_nobody(host: Host, busybox_root: Path) -> None:
    slow_ones(host, 20, busybox_root)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_viewers_that_stop_hold_up_nobody_for_two_hundred_megabytes(
    host: Host, busybox_root: Path
) -> None:
    slow_ones(host, 200, busybox_root)


@pytest.mark.slow
def test_a_daemon_that_stops_holds_up_nobody(host: Host, busybox_root: Path) -> None:
    size = 20 * MIB // LINE * LINE
    with flooding(host, busybox_root, 20) as made:
        assert host.daemon is not None
        watcher = sessions.console(made.api, "flood")
        pid = made.info().pid
        host.machine.kill(host.daemon, signal.SIGSTOP)
        (host.root / "share/go").write_bytes(b"\n")
        until(lambda: _has_ended(pid), "the container has ended, and lxcd knows nothing of it")
        host.machine.kill(host.daemon, signal.SIGCONT)
        last = watcher.to_the_end()
        assert (last.reason, last.exit.code) == (sessions.STOPPED, 7)
        ((_, begin, end),) = watcher.gaps
        expected = shown(0, begin) + shown(end, size - end)
        assert bytes(watcher.data["console"]) == expected
        assert watcher.offsets["console"] == size


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# How it ends


def test_a_session_ends_with_the_container_or_the_daemon_and_says_how(
    host: Host, busybox_root: Path
) -> None:
    with box(host, over(host, busybox_root) + "lxc.tty.max = 1\n") as made:
        busybox_up(made)
        attached = sessions.console(made.api, "box", role=CONTROLLER)
        tty = sessions.console(made.api, "box", terminal="tty1")
        assert attached.started.generation == 1
        attached.type(b"reboot\n")
        for each in (attached, tty):
            last = each.to_the_end()
            assert (last.reason, last.next_generation) == (sessions.REBOOT, 2)
            assert last.exit.cause == types_pb2.CAUSE_REBOOT
        generation_runs(made, 2)
        error = refused(lambda: sessions.console(made.api, "box", generation=1))
        assert error.reason == "GENERATION_GONE"
        assert error.metadata["generation"] == "2"
        attached = sessions.console(made.api, "box", generation=2)
        attached.shows(b"busybox is up", "console")
        read = bytes(attached.data["console"])
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(host.stop_daemon)
            assert attached.to_the_end().reason == sessions.DAEMON_LEAVES
            assert stopping.result() == 0
        host.start_daemon()
        resumed = sessions.console(
            made.api, "box", generation=2, role=CONTROLLER, offsets={"console": len(read)}
        )
        resumed.type(b"echo resu''med\n")
        resumed.shows(b"resumed", "console")
        made.stop(kill=True)
        last = resumed.to_the_end()
        assert (last.reason, last.exit.signal) == (sessions.STOPPED, signal.SIGKILL)
        # Of a life that is over the rest can still be had.
        late = sessions.console(made.api, "box", generation=2)
        assert late.to_the_end().reason == sessions.STOPPED
        assert bytes(late.data["console"]).startswith(read)
