"""Reading what containers use out of their cgroups' files, many containers in one go.

A file is opened, read and closed: there are twenty of them for each container, too many to hold
open. It is named from its tree's mountpoint, of which a descriptor is held while the round lasts:
that takes a quarter of the time less than its whole path.

Reading may wait for locks of the kernel, so not on the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from lxcd.cgroup import usage_v1, usage_v2
from lxcd.cgroup.usage import Usage
from lxcd.kernel import directory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxcd.cgroup.tree import Trees
    from lxcd.cgroup.usage import Cpu, Io, Memory, Pids, Text

_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_READ_BYTES = 16384
# The kernel fills a page with whole lines; less than half of one was the last.
_LAST_BYTES = 2048
# The directory is gone, or going; the kernel has no such file, or does not count it.
_ABSENT = {errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES}
# Of a container's own making, as systemd does inside; whoever makes more is not counted.
_DIRECTORIES_MOST = 1000
_NO_SUBDIRECTORIES = 2  # links of such a directory


class Place:
    """One container's directory in one tree. It may be gone at any time."""

    def __init__(self, mount: int, path: str) -> None:
        """`path` from the mountpoint, of which `mount` is a descriptor."""
        self._mount = mount
        self._path = path

    def text(self, name: str) -> Text:
        """What a file holds; None if there is none. Raises OSError."""
        return _text(self._mount, f"{self._path}/{name}")

    def processes(self) -> int | None:
        """How many processes are in it and below; None if it is gone, or there is too much below.

        Tells the number of its subdirectories by its links: mostly there is none.
        """
        count = 0
        waiting = [self._path]
        for visited in range(_DIRECTORIES_MOST):
            here = waiting.pop()
            # Of a threaded cgroup nothing: its domain has its processes.
            text = _text(self._mount, f"{here}/cgroup.procs")
            if text is None and not visited:
                return None
            count += (text or b"").count(b"\n")
            with contextlib.suppress(FileNotFoundError):
                if os.stat(here, dir_fd=self._mount).st_nlink > _NO_SUBDIRECTORIES:
                    waiting += self._below(here)
            if not waiting:
                return count
        return None

    def _below(self, here: str) -> list[str]:
        fd = os.open(here, _FLAGS | os.O_DIRECTORY, dir_fd=self._mount)
        try:
            return [f"{here}/{name}" for name in directory.subdirectories(fd)]
        finally:
            os.close(fd)


class Nowhere(Place):
    """In place of a directory in a tree that this host has not got."""

    def __init__(self) -> None:
        super().__init__(-1, "")

    def text(self, name: str) -> Text:
        """See Place."""
        del name
        return None

    def processes(self) -> int | None:
        """See Place."""
        return None


_NOWHERE = Nowhere()


class Reading:
    """One round. `with` it, in one thread."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._mounts: dict[str, tuple[int, int]] = {}  # descriptor, and what to cut off a path
        # Which tree of version 1 has a controller is the same for all containers.
        self._keys = {
            name: tree.key
            for tree in trees.hierarchies
            if tree.version == 1
            for name in tree.key.split(",")
        }
        self._devices: dict[tuple[int, int], str] = {}

    def __enter__(self) -> Self:
        try:
            for tree in self._trees.hierarchies:
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

    def usage(self, directories: Mapping[str, str]) -> Usage:
        """A container's, by its topmost directory in each tree. What goes away meanwhile is left
        out. Raises OSError if it cannot be known: no descriptors, no memory.
        """
        unified = self._place(directories, "")
        return Usage(
            cpu=self._cpu(directories, unified),
            memory=self._memory(directories, unified),
            pids=self._pids(directories, unified),
            io=self._io(directories, unified),
            cpu_pressure=usage_v2.pressure(unified.text("cpu.pressure")),
            memory_pressure=usage_v2.pressure(unified.text("memory.pressure")),
            io_pressure=usage_v2.pressure(unified.text("io.pressure")),
        )

    # ---- each controller, in the tree that has it

    def _cpu(self, directories: Mapping[str, str], unified: Place) -> Cpu:
        if "cpuset" in self._keys:
            effective = self._first(directories, "cpuset").text("cpuset.effective_cpus")
        else:
            effective = unified.text("cpuset.cpus.effective")
        if "cpu" not in self._keys:
            return usage_v2.cpu(
                unified.text("cpu.stat"),
                unified.text("cpu.max"),
                unified.text("cpu.weight"),
                effective,
            )
        acct, cpu = self._first(directories, "cpuacct"), self._first(directories, "cpu")
        quota = cpu.text("cpu.cfs_quota_us")
        unlimited = quota is None or quota.startswith(b"-")
        return usage_v1.cpu(
            acct.text("cpuacct.usage_percpu"),
            acct.text("cpuacct.stat"),
            cpu.text("cpu.stat"),
            cpu.text("cpu.shares"),
            quota,
            None if unlimited else cpu.text("cpu.cfs_period_us"),
            effective,
        )

    def _memory(self, directories: Mapping[str, str], unified: Place) -> Memory:
        if "memory" in self._keys:
            place = self._first(directories, "memory")
            return usage_v1.memory(
                place.text("memory.usage_in_bytes"),
                place.text("memory.max_usage_in_bytes"),
                place.text("memory.stat"),
                place.text("memory.kmem.usage_in_bytes"),
                place.text("memory.failcnt"),
                place.text("memory.oom_control"),
            )
        return usage_v2.memory(
            unified.text("memory.current"),
            unified.text("memory.peak"),
            unified.text("memory.max"),
            unified.text("memory.stat"),
            unified.text("memory.swap.current"),
            unified.text("memory.swap.max"),
            unified.text("memory.events"),
        )

    def _pids(self, directories: Mapping[str, str], unified: Place) -> Pids:
        place = self._first(directories, "pids") if "pids" in self._keys else unified
        return usage_v2.pids(
            place.text("pids.current"),
            place.text("pids.peak"),
            place.text("pids.max"),
            place.text("pids.events"),
            # systemd inside makes directories in version 2's tree, and not in this one of version
            # 1: one file there, dozens here.
            place.processes(),
        )

    def _io(self, directories: Mapping[str, str], unified: Place) -> tuple[Io, ...]:
        if "blkio" in self._keys:
            place = self._first(directories, "blkio")
            found = usage_v1.io(
                place.text("blkio.throttle.io_service_bytes_recursive"),
                place.text("blkio.throttle.io_serviced_recursive"),
            )
        else:
            found = usage_v2.io(unified.text("io.stat"))
        return tuple(replace(one, device=self._device(one.major, one.minor)) for one in found)

    # ---- where

    def _first(self, directories: Mapping[str, str], controller: str) -> Place:
        key = self._keys.get(controller)
        return _NOWHERE if key is None else self._place(directories, key)

    def _place(self, directories: Mapping[str, str], key: str) -> Place:
        path, mount = directories.get(key), self._mounts.get(key)
        return _NOWHERE if path is None or mount is None else Place(mount[0], path[mount[1] :])

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
