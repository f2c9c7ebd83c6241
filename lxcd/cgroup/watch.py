"""Word from the kernel that a container has met a limit, for all containers through one
descriptor. Nothing is asked while nothing happens.

Version 2 tells by inotify(7) that `memory.events`, `memory.swap.events` or `pids.events` has
changed: no descriptor per container. Version 1 has no such word for memory; there one eventfd(2)
per container stands for both `memory.oom_control` (somebody is about to be killed) and
`memory.pressure_level` (memory is reclaimed, as at a limit): cgroup-v1/memory.rst, sections 9 to
11. Its `pids.events` is watched like version 2's, which Linux tells of up to 6.10; later only the
kernel's log has the first hit (`kmsg.py`).
"""

from __future__ import annotations

import contextlib
import os
import select
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd.cgroup import counters
from lxcd.kernel import inotify
from lxcd.kernel.fd import Fd

if TYPE_CHECKING:
    from lxcd.cgroup.tree import Payload

_V2_FILES = ("memory.events", "memory.swap.events")


@dataclass(slots=True)
class _Held:
    watches: list[int] = field(default_factory=list[int])
    bell: Fd | None = None


class Watch:
    """Containers are numbers here, of the caller's choice. Not for more than one thread at a
    time.
    """

    def __init__(self) -> None:
        self._inotify = Fd(inotify.create())
        self._epoll = select.epoll()
        self._epoll.register(self._inotify.fileno(), select.EPOLLIN)
        self._held: dict[int, _Held] = {}
        self._of_watch: dict[int, int] = {}
        self._of_bell: dict[int, int] = {}

    def fileno(self) -> int:
        """Readable when there is something to `take`."""
        return self._epoll.fileno()

    def include(self, number: int) -> None:
        """Have `fileno` be readable when that descriptor is, too."""
        self._epoll.register(number, select.EPOLLIN)

    def add(self, number: int, payload: Payload) -> str:
        """Watch a container; what cannot be watched, for a person."""
        held = self._held[number] = _Held()
        memory, pids = counters.place(payload, "memory"), counters.place(payload, "pids")
        if pids.path:
            self._watch(number, held, f"{pids.path}/pids.events")
        if not memory.path:
            return ""
        if memory.version != 1:
            for name in _V2_FILES:
                self._watch(number, held, f"{memory.path}/{name}")
            return ""
        try:
            held.bell = Fd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            _ring(held.bell, memory.path, "memory.oom_control", "")
            # Without it only kills are told at once.
            with contextlib.suppress(OSError):
                _ring(held.bell, memory.path, "memory.pressure_level", " low,local")
        except OSError as error:
            if held.bell is not None:
                held.bell.close()
                held.bell = None
            return f"{memory.path}: {error.strerror}"
        self._of_bell[held.bell.fileno()] = number
        # Each ring is an edge, whether the count was read or not: nobody need read it.
        self._epoll.register(held.bell.fileno(), select.EPOLLIN | select.EPOLLET)
        return ""

    def _watch(self, number: int, held: _Held, path: str) -> None:
        # A host without that controller, or a container that is gone already.
        with contextlib.suppress(OSError):
            watch = inotify.add(self._inotify.fileno(), path, inotify.IN_MODIFY)
            held.watches.append(watch)
            self._of_watch[watch] = number

    def remove(self, number: int) -> None:
        """Do not watch it any more."""
        held = self._held.pop(number, None)
        if held is None:
            return
        for watch in held.watches:
            if self._of_watch.pop(watch, None) is not None:
                with contextlib.suppress(OSError):
                    inotify.remove(self._inotify.fileno(), watch)
        if held.bell is not None:
            self._of_bell.pop(held.bell.fileno(), None)
            held.bell.close()

    def take(self) -> set[int]:
        """Containers with which something has happened since."""
        found: set[int] = set()
        for number, _ in self._epoll.poll(0, max(1, len(self._of_bell) + 2)):
            if number in self._of_bell:
                found.add(self._of_bell[number])
        for watch in inotify.read(self._inotify.fileno()):
            if watch in self._of_watch:
                found.add(self._of_watch[watch])
            elif watch < 0:
                found.update(self._held)
        return found

    def close(self) -> None:
        """Let go of all."""
        for number in list(self._held):
            self.remove(number)
        self._epoll.close()
        self._inotify.close()


def _ring(bell: Fd, directory: str, name: str, how: str) -> None:
    """Have the kernel ring it. Nothing but the bell stays open."""
    target = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        control = os.open(f"{directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(control, f"{bell.fileno()} {target}{how}".encode())
        finally:
            os.close(control)
    finally:
        os.close(target)
