"""What commands in a container do, through lxcctl: as one expects, and as stock `lxc-attach` does where it should be the same."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.system import stock
from tests.system.boxes import Box, over
from tests.system.calls import idle
from tests.system.exec_cases import CASES, STOCK, Case
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

pytestmark = pytest.mark.vm

_STOCK_LINES = (
    "lxc.net.0.type = empty",
    "lxc.apparmor.profile = unconfined",
    "lxc.uts.name = same",
    "lxc.tty.max = 0",
)


def run(case: Case, argv: list[str], environment: dict[str, str], scratch: Path) -> tuple[str, int]:
    """What came on stdout, or the terminal, and the exit status."""
    with ExitStack() as stack:
        master = slave = -1
        numbers: list[int] = []
        outputs: list[int] = []
        if "tty" in case.streams:
            master, slave = pty.openpty()
            stack.callback(os.close, master)

            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 31, 97, 0, 0))
        feeding = reading = -1
        for fd, kind in enumerate(case.streams):
            if kind == "tty":
                numbers.append(os.dup(slave))
            elif kind == "null" or kind == "closed":
                numbers.append(os.open("/dev/null", os.O_RDWR))
            elif kind == "file":
                path = scratch / f"stream{fd}"
                path.write_bytes(case.stdin if fd == 0 else b"")
                numbers.append(os.open(path, os.O_RDWR))
            else:
                read, write = os.pipe()
                if fd == 0:
                    numbers.append(read)
                    feeding = write
                else:
                    numbers.append(write)
                    outputs.append(read)
                    if fd == 1:
                        reading = read
        closed = " ".join(f"{fd}<&-" for fd, kind in enumerate(case.streams) if kind == "closed")
        if closed:
            argv = ["/bin/sh", "-c", f"exec {shlex.join(argv)} {closed}"]
        if case.streams[0] == "tty":
            # As a shell has it: stock's tools look for their controlling terminal.
            argv = ["setsid", "--ctty", *argv]
        process = subprocess.Popen(
            argv,
            stdin=numbers[0],
            stdout=numbers[1],
            stderr=numbers[2],
            env={**environment, **case.environment},
            start_new_session="tty" not in case.streams[:1],
        )
        if master >= 0:
            os.close(slave)
        for number in numbers:
            os.close(number)
        taken = {number: bytearray() for number in (*outputs, *([master] if master >= 0 else ()))}
        feeder = threading.Thread(target=_feed, args=(feeding, case.stdin))
        typist = threading.Thread(target=_type, args=(master, case, taken.get(master, bytearray())))
        readers = [threading.Thread(target=_drain, args=(n, taken[n])) for n in taken]
        if feeding >= 0:
            feeder.start()
        for reader in readers:
            reader.start()
        if master >= 0:
            typist.start()
        code = process.wait(DEADLINE)
        for reader in readers:
            reader.join(DEADLINE)
        if feeding >= 0:
            feeder.join(DEADLINE)
        for number in outputs:
            os.close(number)
        if case.streams[1] == "file":
            return (scratch / "stream1").read_text(), code
        found = taken[master] if case.streams[1] == "tty" else taken.get(reading, bytearray())
        # lxc-attach leaves a terminal that it is started on its own carriage returns.
        return re.sub(r"\r+\n", "\n", found.decode()), code


def _feed(number: int, data: bytes) -> None:
    with suppress(BrokenPipeError):
        view = memoryview(data)
        while view:
            view = view[os.write(number, view) :]
    os.close(number)


def _type(master: int, case: Case, shown: bytearray) -> None:
    """Behind `ready`, which is waited for: by then lxcctl has made the terminal raw."""
    if not case.stdin:
        return
    until(lambda: b"ready" in shown, "the command is ready")
    os.write(master, case.stdin.removeprefix(b"ready"))


def _drain(number: int, into: bytearray) -> None:
    # The end of a terminal without a slave is EIO.
    with suppress(OSError):
        while data := os.read(number, 1 << 16):
            into += data


@pytest.fixture(scope="module")
def app(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with idle(
        shared_host, busybox_root, "app", "lxc.uts.name = same", "lxc.net.0.type = empty"
    ) as made:
        made.sh(stock.PEOPLE)
        yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_command_does_as_expected(app: Box, case: Case, tmp_path: Path) -> None:
    words = case.command or ("/bin/sh", "-c", case.script)
    argv = app.host.ctl_argv("exec", "app", *case.options, "--", *words)
    output, code = run(case, argv, app.host.environment, tmp_path)
    assert (output, code) == (case.output, case.code)


def test_frozen_and_stopped_containers_are_told_apart(app: Box) -> None:
    host = app.host
    host.ctl("freeze", "app")
    try:
        done = host.ctl("exec", "app", "--", "true", check=False)
        assert (done.returncode, "FROZEN" in done.stderr) == (4, True)
    finally:
        host.ctl("thaw", "app")
    assert host.ctl("exec", "app", "--", "echo", "on").stdout == "on\n"


def test_stock_lxc_attach_does_the_same(host: Host, busybox_root: Path, tmp_path: Path) -> None:
    config = over(host, busybox_root, "same") + "lxc.mount.auto = proc:mixed sys:mixed\n"
    config += "".join(f"{line}\n" for line in _STOCK_LINES) + "lxc.init.cmd = /bin/sleep 100000\n"
    different: list[str] = []
    with stock.started(host, "same", config) as attach:
        subprocess.run(
            attach((), ("/bin/sh", "-c", stock.PEOPLE)), check=True, stdin=subprocess.DEVNULL
        )
        for each in STOCK:
            assert each.stock is not None
            words = each.command or ("/bin/sh", "-c", each.script)
            options = each.stock or ("--clear-env",)
            output, code = run(each, attach(options, words), host.environment, tmp_path)
            if (output, code) != (each.output, each.code):
                different.append(f"{each.name}: {output!r} {code}, not {each.output!r} {each.code}")
    assert not different, "\n".join(different)
