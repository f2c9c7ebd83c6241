"""What the tests of a lost keeper have in common: killing it, waiting for the next, other builds of lxcd, the order that must be."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lxcd.kernel import process, procfs
from lxcd.v1 import console_pb2, types_pb2
from tests.system import ledger
from tests.system.boxes import Box
from tests.system.calls import everything, state
from tests.system.consistency import half_written, inside, prepared, slots, too_many
from tests.system.host import CHECKOUT, Host
from tests.system.machine import DEADLINE, until

# Nobody else's container has this in its name, nor its cgroups.
TAG = f"k{os.environ[ledger.MARK][:8]}"


def mostly_long(names: Iterable[str], *default: str) -> list[Any]:
    """Parameters of a test: these in the default check, the others in the long one alone."""
    return [
        name if name in default else pytest.param(name, marks=pytest.mark.long) for name in names
    ]


def gone(pid: int) -> bool:
    """The process is no more, or a zombie."""
    try:
        return procfs.status(pid).state == "Z"
    except OSError:
        return True


def kernel_tells() -> bool:
    """Whether a pidfd still tells how a process ended that somebody else has reaped: Linux 6.15."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    pidfd = os.pidfd_open(pid)
    try:
        os.waitpid(pid, 0)
        return process.pidfd_get_info(pidfd).status == 0
    except OSError:
        return False
    finally:
        os.close(pidfd)


def kill_keeper(host: Host, pid: int) -> None:
    """SIGKILL to the keeper alone."""
    # Orphans come to the machine's init, which tells us of each and stops reaping if we do not listen.
    host.machine.poll(0)
    below = [found.pid for found in ledger.descendants(host.machine.pid)]
    if not gone(pid):
        # It may be dying already, where a test has seen to that.
        assert pid in below or gone(pid), "not ours"
        with suppress(ProcessLookupError, FileNotFoundError):
            assert procfs.status(pid).comm == "lxcd-keeper"
            os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), "the keeper is gone")


def kill_waiting_keeper(host: Host, pid: int) -> None:
    """SIGKILL to the keeper alone as it turns to wait for events: it has said of all that it has read. What it reads of
    a terminal just now would be lost, which is all that may be lost of a console.
    """
    host.machine.poll(0)
    assert procfs.status(pid).comm == "lxcd-keeper"
    with dying_at(pid, "?epoll_wait,?epoll_pwait", 1):
        until(lambda: gone(pid), "the keeper is gone")


def trustees(host: Host) -> list[int]:
    """Who holds what the keeper would leave behind: one, but for a moment."""
    found: list[int] = []
    for below in ledger.descendants(host.machine.pid):
        # It may end at any moment.
        with suppress(OSError):
            status = procfs.status(below.pid)
            if status.comm == "lxcd-trustee" and status.state != "Z":
                found.append(below.pid)
    return found


def kill_trustee(host: Host) -> None:
    """And wait until the keeper has started another."""
    (pid,) = trustees(host)
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(trustees(host)) == 1 and pid not in trustees(host), "there is another")


def kill_both(host: Host, pid: int) -> None:
    """Neither sees the other's end."""
    assert host.daemon is not None
    for number in (host.daemon, pid):
        os.kill(number, signal.SIGSTOP)
    kill_keeper(host, pid)
    host.kill_daemon()


def next_keeper(host: Host, old: int) -> int:
    """Wait until there is another; its pid."""
    until(lambda: host.keeper_pid not in (0, old), "there is another keeper")
    return host.keeper_pid


def replace_keeper(host: Host) -> int:
    """Kill it and wait for the next; its pid."""
    old = host.keeper_pid
    kill_keeper(host, old)
    return next_keeper(host, old)


def at_rest(pid: int) -> None:
    """Wait until a process waits for events: it has done all that led up to now."""
    until(
        lambda: procfs.read(pid, "wchan") in (b"ep_poll", b"do_epoll_wait"),
        f"process {pid} waits for events",
    )


@contextmanager
def halted(*pids: int) -> Iterator[None]:
    """They do nothing meanwhile; those that are still there go on afterwards."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        until(lambda pid=pid: procfs.status(pid).state == "T", "it is halted")  # type: ignore[misc]
    try:
        yield
    finally:
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def dying_at(pid: int, call: str, when: int) -> Iterator[None]:
    """The process is killed as it begins this system call for the n-th time from now on, if it comes to that."""
    with _injected(pid, f"{call}:signal=SIGKILL:when={when}"):
        yield


@contextmanager
def slow_at(pid: int, call: str, seconds: float) -> Iterator[None]:
    """Each of its threads takes so long for each of these system calls."""
    with _injected(pid, f"{call}:delay_enter={int(seconds * 1e6)}", "-f"):
        yield


@contextmanager
def _injected(pid: int, what: str, *options: str) -> Iterator[None]:
    call = what.partition(":")[0]
    argv = ["strace", *options, "-o", "/dev/null", "-p", str(pid)]
    argv += ["-e", f"trace={call}", "-e", f"inject={what}"]
    tracer = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with tracer:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            # It ends with whom it traces, or leaves him alone.
            tracer.terminate()
            tracer.wait(DEADLINE)


def settled(host: Host) -> dict[str, str]:
    """Wait until every container is there or not; the state of each."""
    found: dict[str, str] = {}

    def settle() -> bool:
        with host.channel() as api:
            found.clear()
            found.update({name: state(one) for name, one in everything(api).items()})
        return set(found.values()) <= {"RUNNING", "STOPPED", "FROZEN"}

    until(settle, f"every container is settled, as {found}")
    return found


def disorder(host: Host, keeper: int) -> list[str]:
    """What does not belong together: states, processes, cgroups, slots; of containers with TAG in their names."""
    assert host.daemon is not None
    with host.channel() as api:
        found = {name: one for name, one in everything(api).items() if one.pid}
    inits = {one.pid for one in found.values()}
    own = {path for one in found.values() for path in one.cgroups.values()}
    lines = [f"{name} has no init" for name, one in found.items() if gone(one.pid)]
    lines += [f"no cgroup {path}" for path in own if not os.path.isdir(path)]
    lines += [
        f"cgroup {path}"
        for path in ledger.cgroups()
        if TAG in path and not any(path == top or path.startswith(f"{top}/") for top in own)
    ]
    return [*lines, *half_written(host), *_processes(host, keeper, inits)]


def _processes(host: Host, keeper: int, inits: set[int]) -> list[str]:
    """All that run on the machine are lxcd, its keeper and its trustee, what is prepared, and what belongs to a container."""
    waiting = prepared(host)
    mine = {path for slot in waiting for path in slot}
    lines = [f"no {path}" for path in mine if not os.path.isdir(path)]
    known = {host.daemon, keeper, *inits}
    held = trustees(host)
    known.update(held)
    if len(held) != 1:
        lines.append(f"{len(held)} trustees")
    for pid in inits:
        known |= {below.pid for below in ledger.descendants(pid)}
    others = [
        process
        for process in ledger.descendants(host.machine.pid)
        if process.pid not in known
        and process.state != "Z"
        # A network's; tests of networks ask for more of it.
        and not process.command.startswith("dnsmasq ")
    ]
    ready = [process for process in others if process.parent == keeper]
    lines += [f"nobody's {process}" for process in others if process.parent != keeper]
    if too_many(len(ready), len(waiting)):
        lines += [f"{len(waiting)} are prepared, and there is {process}" for process in ready]
    ours = {str(process.pid) for process in ready}
    lines += [
        f"a slot that nobody knows of: {path}"
        for path in slots()
        if path not in mine and ours & set(inside(path))
    ]
    return lines


def in_order(host: Host, keeper: int) -> None:
    """Wait until there is none: what is being cleaned up or prepared is soon there or gone."""
    left: list[str] = []

    def clean() -> bool:
        left[:] = disorder(host, keeper)
        return not left

    try:
        until(clean, "all is in order", 30)
    except AssertionError:
        message = "\n  ".join(["not in order:", *left])
        raise AssertionError(message) from None


# lxcd that may not come up


@dataclass(frozen=True)
class Ended:
    """An lxcd that has ended instead of serving."""

    status: int
    text: str

    def is_one_message(self) -> str:
        """EX_UNAVAILABLE, and one line of its own about it, which is returned; what else it says is warnings and the log."""
        assert self.status == 69, self
        assert "Traceback" not in self.text, self.text
        lines = [line for line in self.text.splitlines() if not line.startswith(_LOGGED)]
        assert len(lines) == 1, self.text
        assert lines[0].startswith("lxcd: "), self.text
        return lines[0].removeprefix("lxcd: ")


_LOGGED = ("warning ", "info ", "error ")


def attempt(host: Host, patience: float = 45.0) -> Ended | None:
    """Start lxcd, which may end at once; None if it serves."""
    assert host.daemon is None
    before = len(host.log_text())
    argv = [sys.executable, "-m", "lxcd", *host.roots]
    pid = host.machine.spawn(argv, host.environment, host.log)
    try:
        until(
            lambda: host.machine.poll(pid) is not None or host._accepts(),
            "lxcd serves or has ended",
            patience,
        )
    except AssertionError:
        host.machine.kill(pid)
        host.machine.wait(pid)
        raise
    status = host.machine.poll(pid)
    if status is None:
        host.daemon = pid
        return None
    return Ended(status, host.log_text()[before:])


# Containers that wait for the test


def share(host: Host, *fifos: str) -> str:
    """A directory of the host at /mnt, with pipes by which the test tells containers to go on; its configuration line."""
    (host.root / "share").mkdir(exist_ok=True)
    for name in fifos:
        os.mkfifo(host.root / "share" / name)
    return f"lxc.mount.entry = {host.root}/share mnt none bind 0 0"


def writing_end(host: Host, fifo: str) -> int:
    """A descriptor to write to whoever reads it, once there is somebody."""
    path = host.root / "share" / fifo
    found: list[int] = []

    def opened() -> bool:
        try:
            found.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        return True

    until(opened, f"somebody reads {fifo}")
    return found[0]


def go(host: Host, fifo: str) -> None:
    """Let whoever reads it go on, once there is somebody."""
    os.close(writing_end(host, fifo))


def running(host: Host, command: str) -> list[int]:
    """Processes on the machine with this command line."""
    return [p.pid for p in ledger.descendants(host.machine.pid) if p.command == command]


def ends_with(code: int, fifo: str) -> tuple[str, ...]:
    """An application that waits for the test; it minds no terminal that goes away."""
    return ("/bin/sh", "-c", f"trap '' HUP PIPE; cat /mnt/{fifo}; exit {code}")


def how(made: Box) -> tuple[str, int, str]:
    """How its last life ended."""
    found = made.info().exit
    kind = found.WhichOneof("how") or ""
    return kind, getattr(found, kind, 0), types_pb2.Cause.Name(found.cause)


class Console:
    """Follows a container's console from its beginning, whatever happens."""

    def __init__(self, host: Host, name: str) -> None:
        request = console_pb2.ReadConsoleLogRequest(name=name, stream="console", follow=True)
        self._call = host.channel().console.ReadConsoleLog(request, timeout=DEADLINE * 2)
        self._pieces: Iterator[Any] = iter(self._call)
        self.data = b""

    def until(self, line: int) -> None:
        """Until this line has come, and none was left out."""
        while b"line %d\r\n" % line not in self.data:
            piece = next(self._pieces)
            assert not piece.gap_bytes
            assert piece.offset == len(self.data)
            self.data += piece.data
        lines = self.data.split(b"\r\n")[:-1]
        assert lines == [b"line %d" % number for number in range(1, len(lines) + 1)]

    def last(self) -> int:
        """The last whole line."""
        return self.data.count(b"\r\n")

    def close(self) -> None:
        self._call.cancel()


# Another lxcd


def package(host: Host, name: str, *edits: tuple[str, Callable[[str], str]]) -> Path:
    """A copy of lxcd's code with these files changed, which lxcd is started from next."""
    top = host.root / name
    shutil.copytree(CHECKOUT / "lxcd", top / "lxcd", ignore=shutil.ignore_patterns("__pycache__"))
    for file, change in edits:
        edit(top, file, change)
    host.environment["PYTHONPATH"] = str(top)
    # What is compiled of one copy must not be taken for another's.
    host.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return top


def edit(top: Path, file: str, change: Callable[[str], str]) -> None:
    """Change one file of a copy."""
    path = top / "lxcd" / file
    before = path.read_text()
    after = change(before)
    assert after != before, file
    path.write_text(after)


def version(number: str) -> tuple[str, Callable[[str], str]]:
    """Of the package."""
    return "__init__.py", lambda text: _replaced_line(text, "__version__ = ", f'"{number}"')


def protocol(change: int) -> tuple[str, Callable[[str], str]]:
    """Speak another version of the keeper's protocol than this one, by so much."""

    def changed(text: str) -> str:
        line = next(line for line in text.splitlines() if line.startswith("VERSION = "))
        number = int(line.removeprefix("VERSION = ")) + change
        return _replaced_line(text, "VERSION = ", str(number))

    return "keeper/protocol.py", changed


def _replaced_line(text: str, begin: str, value: str) -> str:
    lines = text.splitlines(keepends=True)
    (place,) = [number for number, line in enumerate(lines) if line.startswith(begin)]
    lines[place] = f"{begin}{value}\n"
    return "".join(lines)


def build_of(pid: int) -> str:
    """What a keeper says it is."""
    words = procfs.command(pid)
    return words[words.index("--build") + 1]
