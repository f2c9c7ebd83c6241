"""What happened, numbered. Kept in a file of the runtime directory, so that numbers go on after a
restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from lxcd.supervisor.records import DAMAGED, plain
from lxcd.supervisor.state import Cause, Exit, State

KEPT = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `sequence` grows by one."""

    sequence: int
    time_ns: int
    type: str
    container: str = ""
    lxcpath: str = ""
    generation: int = 0
    state: State | None = None
    exit: Exit | None = None
    message: str = ""
    details: dict[str, str] = field(default_factory=dict[str, str])


Filter = Callable[[Event], bool]


class Events:
    """The last KEPT events, in memory and on disk, and everybody who follows them."""

    def __init__(self, path: str) -> None:
        """Read what an earlier lxcd has written. A torn last line is passed over."""
        self._path = path
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._grown: list[asyncio.Future[None]] = []
        self._lines = 0
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(*DAMAGED):
                    self._kept.append(_event(json.loads(line)))
        self._file = -1
        self._rewrite()

    @property
    def last(self) -> int:
        """Number of the newest event."""
        return self._kept[-1].sequence if self._kept else 0

    def add(
        self,
        type_: str,
        *,
        container: str = "",
        lxcpath: str = "",
        generation: int = 0,
        state: State | None = None,
        exit_: Exit | None = None,
        message: str = "",
        details: dict[str, str] | None = None,
    ) -> Event:
        """Number it, keep it, tell everybody. A full disk costs the copy on disk, not the event."""
        event = Event(
            self.last + 1,
            time.time_ns(),
            type_,
            container,
            lxcpath,
            generation,
            state,
            exit_,
            message,
            details or {},
        )
        self._kept.append(event)
        try:
            os.write(self._file, _text(event))
            self._lines += 1
            if self._lines > 2 * KEPT:
                self._rewrite()
        except OSError as error:
            _log.warning("event %d is not on disk: %s", event.sequence, error)
        grown, self._grown = self._grown, []
        for future in grown:
            if not future.done():
                future.set_result(None)
        return event

    def since(self, sequence: int) -> Iterator[Event]:
        """Kept events after that number."""
        # From the newest back: whoever follows asks for few. Numbers may have holes, where the disk
        # was full when an earlier lxcd wrote.
        found: list[Event] = []
        for event in reversed(self._kept):
            if event.sequence <= sequence:
                break
            found.append(event)
        yield from reversed(found)

    def open_starts(self) -> list[Event]:
        """Starts that were begun, and nothing tells how they went."""
        begun: dict[tuple[str, str], Event] = {}
        for event in self._kept:
            key = (event.lxcpath, event.container)
            if event.type == "container.state" and event.state is State.STARTING:
                begun[key] = event
            elif event.type in ("container.started", "container.start_failed"):
                begun.pop(key, None)
        return list(begun.values())

    def last_of(self, lxcpath: str, container: str) -> Event | None:
        """The newest event of a container."""
        for event in reversed(self._kept):
            if (event.lxcpath, event.container) == (lxcpath, container):
                return event
        return None

    def has(self, type_: str, lxcpath: str, container: str, after: int) -> bool:
        """Whether this was told of a container after that number."""
        return any(
            (event.type, event.lxcpath, event.container) == (type_, lxcpath, container)
            for event in self.since(after)
        )

    def lost(self, sequence: int) -> int:
        """How many events after that number are not kept any more."""
        first = self._kept[0].sequence if self._kept else 1
        return max(0, first - sequence - 1)

    async def follow(self, sequence: int) -> AsyncIterator[Event]:
        """Kept events after that number, then each as it happens."""
        while True:
            for event in self.since(sequence):
                sequence = event.sequence
                yield event
            if not any(True for _ in self.since(sequence)):
                future = asyncio.get_running_loop().create_future()
                self._grown.append(future)
                try:
                    await future
                finally:
                    with contextlib.suppress(ValueError):
                        self._grown.remove(future)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _rewrite(self) -> None:
        """Write all that is kept to a new file, so that the old one does not grow for ever."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(f"{self._path}.new", flags, 0o600)
        text = b"".join(_text(event) for event in self._kept)
        try:
            if os.write(fd, text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301
            os.rename(f"{self._path}.new", self._path)
        except OSError as error:
            _log.warning("events are not on disk: %s", error)
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(f"{self._path}.new")
            # The old file, to go on with.
            if self._file < 0:
                self._file = os.open(self._path, flags & ~os.O_TRUNC, 0o600)
            return
        if self._file >= 0:
            os.close(self._file)
        self._file = fd
        self._lines = len(self._kept)


def _text(event: Event) -> bytes:
    return json.dumps(event, default=plain).encode() + b"\n"


def _event(data: dict[str, Any]) -> Event:
    if data["state"] is not None:
        data["state"] = State(data["state"])
    if data["exit"] is not None:
        fields = cast("dict[str, Any]", data["exit"])
        fields["cause"] = Cause(fields["cause"])
        data["exit"] = Exit(**fields)
    return Event(**data)
