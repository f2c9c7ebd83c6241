"""Reading what containers use out of their cgroups' files, many containers in one go.

A file is opened, read and closed: there are twenty of them for each container, too many to hold
open. It is named from its tree's mountpoint, of which a descriptor is held while the round lasts:
5 us, and by its whole path a quarter more.

Whoever looks again need not look at all: what only a task that runs can change has not changed
where none has run; and limits are changed rarely, if at any time. The first are taken from an
earlier reading, of at most five seconds ago; for streams the others, too.

Reading may wait for locks of the kernel, so not on the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from lxcd.cgroup import usage_v1, usage_v2
from lxcd.cgroup.usage import Usage
from lxcd.kernel import directory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxcd.cgroup.tree import Trees
    from lxcd.cgroup.usage import Cpu, Io, Memory, Pids, Text

EARLIER_SECONDS = 5.0

_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_READ_BYTES = 16384
# The kernel fills a page with whole lines; less than half of one was the last.
_LAST_BYTES = 2048
# The directory is gone, or going; the kernel has no such file, or does not count it.
_ABSENT = {errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES}
# Of a container's own making, as systemd does inside; whoever makes more is not counted.
_DIRECTORIES_MOST = 1000
_NO_SUBDIRECTORIES = 2  # links of such a directory

_CONTROLLERS = frozenset({"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio"})
_LIMITS = frozenset(
    {
        *("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.effective_cpus"),
        *("cpu.max", "cpu.weight", "cpuset.cpus.effective", "memory.max", "memory.swap.max"),
        "pids.max",
    }
)
# What only its tasks change, by running. Not memory: what others do can be charged to it, and be
# taken away from it; nor what devices do.
_TASKS = frozenset(
    {
        *("cpuacct.stat", "cpu.stat", "pids.current", "pids.peak", "pids.events"),
        *("memory.failcnt", "memory.oom_control", "memory.events"),
    }
)
_KEPT = _LIMITS | _TASKS


@dataclass(frozen=True, slots=True)
class Earlier:
    """What may be taken from an earlier reading of one container."""

    texts: dict[str, Text]
    cpu: Cpu
    pids: Pids
    ran: Text  # what counts its time: another text if a task of it has run since
    time: float  # time.monotonic() when it was all read


# One container's directory in one tree, which may be gone at any time: a descriptor of the tree's
# mountpoint, and the path from there with a slash at its end.
Place = tuple[int, str]


class _Files:
    """One container's files, of all trees, and what is known of them from earlier."""

    def __init__(self, places: dict[str | None, Place], known: dict[str, Text]) -> None:
        self.places = places  # by key of the tree; "" is version 2
        self.noted: dict[str, Text] = {}
        self._known = known

    def text(self, key: str | None, name: str) -> Text:
        """What a file holds; None if there is none, or no such tree. Raises OSError."""
        if name in self._known:
            text = self._known[name]
        else:
            place = self.places.get(key)
            text = None if place is None else _text(place[0], place[1] + name)
        if name in _KEPT:
            self.noted[name] = text
        return text


class Reading:
    """One round. `with` it, in one thread."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        # Of those in which there is something to read: descriptor, and what to cut off a path.
        self._mounts: dict[str, tuple[int, int]] = {}
        # Which tree of version 1 has a controller is the same for all containers.
        first = {
            name: tree.key
            for tree in trees.hierarchies
            if tree.version == 1
            for name in tree.key.split(",")
        }
        self._cpu_key, self._time_key = first.get("cpu"), first.get("cpuacct")
        self._cpuset_key, self._memory_key = first.get("cpuset"), first.get("memory")
        self._pids_key, self._blkio_key = first.get("pids"), first.get("blkio")
        self._devices: dict[tuple[int, int], str] = {}

    def __enter__(self) -> Self:
        try:
            for tree in self._trees.hierarchies:
                if tree.version == 1 and not _CONTROLLERS.intersection(tree.key.split(",")):
                    continue
                fd = os.open(tree.mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                self._mounts[tree.key] = (fd, len(tree.mountpoint) + 1)
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for fd, _cut in self._mounts.values():
            os.close(fd)
        self._mounts.clear()

    def usage(
        self,
        directories: Mapping[str, str],
        earlier: Earlier | None = None,
        *,
        limits_now: bool = True,
    ) -> tuple[Usage, Earlier]:
        """A container's, by its topmost directory in each tree, and what a next reading may have
        for `earlier`. What goes away meanwhile is left out.

        Raises OSError if it cannot be known: no descriptors, no memory.
        """
        places: dict[str | None, Place] = {
            key: (mount, directories[key][cut:] + "/")
            for key, (mount, cut) in self._mounts.items()
            if key in directories
        }
        now = time.monotonic()
        # Before all else: a task that runs from here on makes the next reading a new one.
        ran = self._ran(places)
        rested = False
        known: dict[str, Text] = {}
        if earlier is not None and now - earlier.time < EARLIER_SECONDS:
            now = earlier.time
            rested = ran is not None and ran == earlier.ran
            if rested and not limits_now:
                # Of most containers, most of the time.
                files = _Files(places, earlier.texts)
                return self._all(files, earlier.cpu, earlier.pids), earlier
            names = _TASKS if rested else frozenset[str]() if limits_now else _LIMITS
            known = {name: earlier.texts[name] for name in names if name in earlier.texts}
        files = _Files(places, known)
        cpu = self._cpu(files, ran)
        pids = self._pids(files, earlier.pids.processes if rested and earlier else None)
        usage = self._all(files, cpu, pids)
        return usage, Earlier(files.noted, cpu, pids, ran, now)

    def _all(self, files: _Files, cpu: Cpu, pids: Pids) -> Usage:
        return Usage(
            cpu=cpu,
            memory=self._memory(files),
            pids=pids,
            io=self._io(files),
            cpu_pressure=usage_v2.pressure(files.text("", "cpu.pressure")),
            memory_pressure=usage_v2.pressure(files.text("", "memory.pressure")),
            io_pressure=usage_v2.pressure(files.text("", "io.pressure")),
        )

    def _ran(self, places: dict[str | None, Place]) -> Text:
        key, name = "", "cpu.stat"
        if self._cpu_key is not None:
            if self._time_key is None:
                return None
            key, name = self._time_key, "cpuacct.usage_percpu"
        place = places.get(key)
        return None if place is None else _text(place[0], place[1] + name)

    # ---- each controller, in the tree that has it

    def _cpu(self, files: _Files, ran: Text) -> Cpu:
        if self._cpuset_key is not None:
            effective = files.text(self._cpuset_key, "cpuset.effective_cpus")
        else:
            effective = files.text("", "cpuset.cpus.effective")
        if self._cpu_key is None:
            most, weight = files.text("", "cpu.max"), files.text("", "cpu.weight")
            return usage_v2.cpu(ran, most, weight, effective)
        key = self._cpu_key
        quota = files.text(key, "cpu.cfs_quota_us")
        unlimited = quota is None or quota.startswith(b"-")
        return usage_v1.cpu(
            ran,
            files.text(self._time_key, "cpuacct.stat"),
            files.text(key, "cpu.stat"),
            files.text(key, "cpu.shares"),
            quota,
            None if unlimited else files.text(key, "cpu.cfs_period_us"),
            effective,
        )

    def _memory(self, files: _Files) -> Memory:
        key = self._memory_key
        if key is not None:
            return usage_v1.memory(
                files.text(key, "memory.usage_in_bytes"),
                files.text(key, "memory.max_usage_in_bytes"),
                files.text(key, "memory.stat"),
                files.text(key, "memory.kmem.usage_in_bytes"),
                files.text(key, "memory.failcnt"),
                files.text(key, "memory.oom_control"),
            )
        return usage_v2.memory(
            files.text("", "memory.current"),
            files.text("", "memory.peak"),
            files.text("", "memory.max"),
            files.text("", "memory.stat"),
            files.text("", "memory.swap.current"),
            files.text("", "memory.swap.max"),
            files.text("", "memory.events"),
        )

    def _pids(self, files: _Files, processes: int | None) -> Pids:
        # systemd inside makes directories in version 2's tree, and in this one of version 1 none:
        # one file to count processes by there, dozens here.
        key = self._pids_key or ""
        current = files.text(key, "pids.current")
        if processes is None and key in files.places:
            # One task is one process.
            processes = 1 if current == b"1\n" else _processes(*files.places[key])
        return usage_v2.pids(
            current,
            files.text(key, "pids.peak"),
            files.text(key, "pids.max"),
            files.text(key, "pids.events"),
            processes,
        )

    def _io(self, files: _Files) -> tuple[Io, ...]:
        if self._blkio_key is not None:
            key, operations = self._blkio_key, None
            size = files.text(key, "blkio.throttle.io_service_bytes_recursive")
            if size is not None and b"Read" in size:
                # Both tell of the same devices, or of none.
                operations = files.text(key, "blkio.throttle.io_serviced_recursive")
            found = usage_v1.io(size, operations)
        else:
            found = usage_v2.io(files.text("", "io.stat"))
        return tuple(replace(one, device=self._device(one.major, one.minor)) for one in found)

    def _device(self, major: int, minor: int) -> str:
        """Name below /dev; empty if there is none. Looked up once in each round: numbers are given
        to other devices when one is taken away.
        """
        name = self._devices.get((major, minor))
        if name is None:
            try:
                link = os.readlink(f"/sys/dev/block/{major}:{minor}")
            except OSError:
                link = ""
            # sysfs has no slash in a name: `cciss!c0d0`.
            name = os.path.basename(link).replace("!", "/")
            self._devices[major, minor] = name
        return name


def _processes(mount: int, top: str) -> int | None:
    """How many processes are in a directory and below; None if it is gone, or there is too much
    below. Whether there is anything its links tell.
    """
    count = 0
    waiting = [top]
    for visited in range(_DIRECTORIES_MOST):
        here = waiting.pop()
        # Of a threaded cgroup nothing: its domain has its processes.
        text = _text(mount, f"{here}cgroup.procs")
        if text is None and not visited:
            return None
        count += (text or b"").count(b"\n")
        with contextlib.suppress(FileNotFoundError):
            if os.stat(here, dir_fd=mount).st_nlink > _NO_SUBDIRECTORIES:
                waiting += _below(mount, here)
        if not waiting:
            return count
    return None


def _below(mount: int, here: str) -> list[str]:
    fd = os.open(here, _FLAGS | os.O_DIRECTORY, dir_fd=mount)
    try:
        return [f"{here}{name}/" for name in directory.subdirectories(fd)]
    finally:
        os.close(fd)


def _text(mount: int, path: str) -> Text:
    try:
        fd = os.open(path, _FLAGS, dir_fd=mount)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None
    try:
        text = last = os.read(fd, _READ_BYTES)
        while len(last) >= _LAST_BYTES:
            last = os.read(fd, _READ_BYTES)
            text += last
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None
    finally:
        os.close(fd)
    return text
