"""What is on this machine, before a test and after: nothing that a test started or made may outlive it.

Other people work on a developer's machine at the same time. So a process counts if it descends from pytest (everything on
a test machine does, see `init.py`) or carries this session's mark in its environment; a cgroup does not count while only
strangers sit in it; and of files in shared directories only those with `lxc` in their name, as lxcd's TMPDIR is watched by
itself.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.patience import PATIENCE

# In the environment of everything that this pytest starts, and inherited: also what detached itself (tmux) is found.
MARK = "LXCD_TEST_SESSION"
os.environ.setdefault(MARK, uuid.uuid4().hex)

# For what the kernel finishes in its own time: cgroups and namespaces of a process that was just reaped.
DEADLINE = 30.0 * PATIENCE

# Roots of test machines; each is removed, and looked at, by its own Host.
HOST_PREFIX = "lxcd-host-"
# Those of this session: other people's loop devices come and go at the same time.
OWN_PREFIX = f"{HOST_PREFIX}{os.getpid()}-"

_OURS_ALONE = [
    "/var/lib/lxc",
    "/var/lib/lxcd",
    "/etc/lxc",
    "/etc/lxcd",
    "/run/lxc",
    "/run/lxcd",
    "/run/lock/lxc",
]
_SHARED = ["/tmp", "/run", "/run/lock", "/dev/shm", "/var/tmp"]
_CGROUP_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told from a later one with the same number by when it started."""

    pid: int
    parent: int
    start_time: int
    state: str
    command: str

    def __str__(self) -> str:
        return f"{self.pid} (parent {self.parent}, {self.state}) {self.command}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine at one moment. Identities only, nothing that changes by itself."""

    processes: dict[tuple[int, int], Process]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    links: frozenset[str]
    tables: frozenset[str]
    loops: frozenset[str]
    files: frozenset[str]


def take() -> Snapshot:
    """Look at everything."""
    return Snapshot(
        processes={(p.pid, p.start_time): p for p in _ours()},
        mounts=mounts(os.getpid()),
        cgroups=frozenset(cgroups()),
        links=frozenset(name for _, name in socket.if_nameindex()),
        tables=frozenset(_tables()),
        loops=frozenset(_loops()),
        files=frozenset(_files()),
    )


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """What is there now and was not, and what was taken away that belongs to the machine; one line each."""
    lines = [f"process {p}" for key, p in after.processes.items() if key not in before.processes]
    lines += [f"cgroup {path}" for path in sorted(after.cgroups - before.cgroups) if _is_ours(path)]
    lines += [f"file {path}" for path in sorted(after.files - before.files)]
    for what, old, new in [
        ("mount", before.mounts, after.mounts),
        ("network device", before.links, after.links),
        ("nftables table", before.tables, after.tables),
        ("loop device", before.loops, after.loops),
    ]:
        lines += [f"{what} {name}" for name in sorted(new - old)]
        lines += [f"{what} {name} is gone" for name in sorted(old - new)]
    return lines


def settle(before: Snapshot, deadline: float = DEADLINE) -> None:
    """Assert that the machine is as it was, or becomes so: reaping and removal may still be under way in the kernel."""
    end = time.monotonic() + deadline
    while lines := differences(before, take()):
        if time.monotonic() > end:
            text = "\n  ".join(["outlived the test:", *lines])
            raise AssertionError(text)
        time.sleep(0.05)


def descendants(ancestor: int) -> list[Process]:
    """Every process below `ancestor`, zombies included, itself not."""
    children: dict[int, list[Process]] = {}
    for process in _all():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    todo = [ancestor]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += [process.pid for process in below]
    return found


def mounts(pid: int) -> frozenset[str]:
    """What is mounted where, as this process sees it: id, place, type and source."""
    found: set[str] = set()
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fields = left.split()
            found.add(f"{fields[4]} (id {fields[0]}, {' '.join(right.split()[:2])})")
    return frozenset(found)


def descriptors(pid: int) -> dict[str, int]:
    """How many open descriptors of each kind a process has; two calls compare."""
    kinds: dict[str, int] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            kind = target.partition(":[")[0] if not target.startswith("/") else target
            kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def _all() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            # It may end at any moment; then it is not there.
            with suppress(FileNotFoundError, ProcessLookupError):
                yield _process(int(name))


def _process(pid: int) -> Process:
    with open(f"/proc/{pid}/stat", "rb") as file:
        head, _, tail = file.read().rpartition(b")")
    fields = tail.split()
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        command = file.read().replace(b"\0", b" ").strip() or head.partition(b"(")[2]
    return Process(
        pid, int(fields[1]), int(fields[19]), fields[0].decode(), command.decode(errors="replace")
    )


def _ours() -> Iterator[Process]:
    me = os.getpid()
    below = {process.pid for process in descendants(me)}
    mark = f"{MARK}={os.environ[MARK]}".encode()
    for process in _all():
        if process.pid in below:
            yield process
        elif process.pid != me:
            with suppress(OSError), open(f"/proc/{process.pid}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    yield process


def cgroups() -> Iterator[str]:
    """Every cgroup near the top of a tree."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = [line.partition(" - ") for line in file]
    trees = [
        left.split()[4] for left, _, right in lines if right.split()[0] in ("cgroup", "cgroup2")
    ]
    for tree in trees:
        for folder, names, _ in os.walk(tree):
            if folder.count("/") - tree.count("/") >= _CGROUP_DEPTH:
                names.clear()
                continue
            yield from (os.path.join(folder, name) for name in names)


def _is_ours(cgroup: str) -> bool:
    """Tell whether a new cgroup may be ours: an empty one, or one with a process of ours in it."""
    inside: set[int] = set()
    for folder, _, _ in os.walk(cgroup):
        # Gone since, or a threaded cgroup of v2, which has no cgroup.procs to read.
        with suppress(OSError), open(f"{folder}/cgroup.procs", encoding="ascii") as file:
            inside.update(int(line) for line in file)
    ours = {process.pid for process in _ours()}
    return os.path.isdir(cgroup) and (not inside or not inside.isdisjoint(ours))


def _tables() -> list[str]:
    nft = shutil.which("nft")
    if nft is None:
        return []
    # A kernel without nf_tables makes it fail: then there are none.
    done = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def _loops() -> Iterator[str]:
    """Those with something of a test machine behind them."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            path = backing.read_text().strip()
            if OWN_PREFIX in path:
                yield f"{backing.parts[3]} {path}"


def _files() -> Iterator[str]:
    for directory in _OURS_ALONE:
        for folder, folders, names in os.walk(directory):
            yield from (os.path.join(folder, name) for name in [*folders, *names])
    for directory in _SHARED:
        with suppress(FileNotFoundError):
            names = os.listdir(directory)
            yield from (
                f"{directory}/{n}" for n in names if "lxc" in n and not n.startswith(HOST_PREFIX)
            )
