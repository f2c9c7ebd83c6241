"""kill -9 of lxcd while lxcctl has a session: the process inside notices nothing, no byte is lost or comes twice, each way;
of a console, its log, an exec.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
from pathlib import Path

import pytest

from tests.system.boxes import box, over
from tests.system.calls import idle
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

LINE = 8
STEP = 20_000  # lines between two deaths, at most


def stamped(count: int) -> bytes:
    """Eight bytes a line, and each says at which offset it stands."""
    return b"".join(b"%07d\n" % number for number in range(count))


def survive(host: Host, root: Path, options: tuple[str, ...], deaths: int, seed: int) -> None:
    """Bytes go in and come back out, while lxcd dies again and again at random places of them."""
    places = random.Random(seed)
    steps = [places.randrange(1, STEP) for _ in range(deaths + 1)]
    whole = stamped(sum(steps))
    got = bytearray()
    with idle(host, root, "app") as made:
        script = "cat; exit 42"
        argv = host.ctl_argv("exec", made.name, *options, "--", "/bin/sh", "-c", script)
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=host.environment
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            output = process.stdout

            def read() -> None:
                while data := os.read(output.fileno(), 1 << 16):
                    got.extend(data)

            reader = threading.Thread(target=read)
            reader.start()
            offset = 0
            for number, step in enumerate(steps):
                process.stdin.write(whole[offset : offset + step * LINE])
                process.stdin.flush()
                offset += step * LINE
                if number < deaths:
                    # Somewhere in the middle of what was just written.
                    least = offset - places.randrange(1, step * LINE)
                    until(lambda least=least: len(got) >= least, "it has come so far")  # type: ignore[misc]
                    host.kill_daemon()
                    host.start_daemon()
            process.stdin.close()
            assert process.wait(DEADLINE) == 42
            reader.join(DEADLINE)
        assert bytes(got) == whole


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--streamed",), ()], ids=["streamed", "descriptors"])
def test_what_goes_in_comes_out_though_lxcd_dies(
    host: Host, busybox_root: Path, options: tuple[str, ...]
) -> None:
    survive(host, busybox_root, options, 4, 4)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [("--streamed",), ()], ids=["streamed", "descriptors"])
def test_what_goes_in_comes_out_though_lxcd_dies_twenty_times(
    host: Host, busybox_root: Path, options: tuple[str, ...]
) -> None:
    survive(host, busybox_root, options, 20, 20)


# Writes so many lines when it is told to; of a terminal nobody is waited for, so a little at a time.
WRITER = """\
mkfifo /root/tell
n=0
while read count < /root/tell; do
  end=$((n + count))
  while [ $n -lt $end ]; do printf '%07d\\n' $n; n=$((n + 1)); done
done
"""
BURST = 500


def follow(host: Host, root: Path, command: tuple[str, ...], deaths: int) -> None:
    """Somebody looks at a console, through a client, while lxcd dies again and again."""
    got = bytearray()
    with box(host, over(host, root), "box", "/bin/sh", "-c", WRITER) as made:
        argv = host.ctl_argv(*command)
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=host.environment
        ) as process:
            assert process.stdout is not None
            output = process.stdout

            def read() -> None:
                while data := os.read(output.fileno(), 1 << 16):
                    got.extend(data)

            reader = threading.Thread(target=read)
            reader.start()
            for number in range(1, deaths + 2):
                made.sh(f"until [ -p /root/tell ]; do :; done; echo {BURST} > /root/tell")
                if number <= deaths:
                    least = (number - 1) * BURST * (LINE + 1) + 1
                    until(lambda least=least: len(got) >= least, "it has begun")  # type: ignore[misc]
                    host.kill_daemon()
                    host.start_daemon()
                else:
                    until(lambda: len(got) >= number * BURST * (LINE + 1), "all is there")  # noqa: B023
            made.stop(kill=True)
            process.wait(DEADLINE)
            reader.join(DEADLINE)
        expected = stamped((deaths + 1) * BURST).replace(b"\n", b"\r\n")
        assert bytes(got)[: len(expected)] == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("console", "box", "--read-only"), ("logs", "box", "--follow")],
    ids=["console", "logs"],
)
def test_who_looks_at_a_console_misses_nothing_though_lxcd_dies(
    host: Host, busybox_root: Path, command: tuple[str, ...]
) -> None:
    follow(host, busybox_root, command, 4)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "command",
    [("console", "box", "--read-only"), ("logs", "box", "--follow")],
    ids=["console", "logs"],
)
def test_who_looks_at_a_console_misses_nothing_though_lxcd_dies_twenty_times(
    host: Host, busybox_root: Path, command: tuple[str, ...]
) -> None:
    follow(host, busybox_root, command, 20)
