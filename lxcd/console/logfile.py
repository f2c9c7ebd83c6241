"""A console's log file: all that it shows, on disk, with the limits of `lxc.console.*`.

Its writer is a session like any other: it waits for nobody, and what it was too slow for is said in
the file. How far it is stands beside it in a position: the file had so many bytes when the stream
was at that offset. So the file's own size tells, after a crash of lxcd, which byte comes next.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Settings:
    """`lxc.console.logfile`, `.size` (0: no limit), `.rotate`."""

    path: str
    limit_bytes: int = 0
    rotate: bool = False


@dataclass(frozen=True, slots=True)
class Position:
    """The file `inode` has `size_bytes` of what was written before `offset`. `turning`: it had, and
    is to begin anew.
    """

    inode: int
    size_bytes: int
    offset: int
    turning: bool = False


class LogFile:
    """One stream's. Every method may wait for the disk: not on the loop. All raise OSError."""

    def __init__(
        self, settings: Settings, position_path: str, save: Callable[[str, bytes], None]
    ) -> None:
        """`save` replaces a file by a text, whole or not at all."""
        self._settings = settings
        self._position_path = position_path
        self._save = save
        self._fd = -1
        self._size = 0

    def open(self) -> int | None:
        """Open it; the offset that comes next, or None if this stream was never written to it."""
        found = self._read_position()
        self._reopen()
        if found is None:
            return None
        status = os.fstat(self._fd)
        if found.turning and (status.st_ino, status.st_size) == (found.inode, found.size_bytes):
            self._begin_anew()
            return found.offset
        if found.turning:
            return found.offset + status.st_size
        if status.st_ino != found.inode or status.st_size < found.size_bytes:
            # Somebody has put it away: what is in the ring is written once more.
            return found.offset
        return found.offset + status.st_size - found.size_bytes

    def begin(self, offset: int) -> None:
        """What is written from now on stands behind this offset."""
        self._save_position(Position(os.fstat(self._fd).st_ino, self._size, offset))

    def write(self, offset: int, data: bytes) -> None:
        """Add bytes that come next."""
        view = memoryview(data)
        while view:
            room = len(view)
            if self._settings.limit_bytes:
                if self._size >= self._settings.limit_bytes:
                    self._turn(offset)
                room = min(room, self._settings.limit_bytes - self._size)
            count = os.write(self._fd, view[:room])
            self._size += count
            offset += count
            view = view[count:]

    def note_gap(self, begin: int, end: int) -> None:
        """Say what is missing."""
        text = f"\n[lxcd: {end - begin} bytes are lost]\n".encode()
        os.write(self._fd, text)
        self._size += len(text)
        self.begin(end)

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def forget(self) -> None:
        """The stream has ended, and all of it is there."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._position_path)

    def _turn(self, offset: int) -> None:
        """It is full: begin anew, and keep the old one if that is wanted."""
        inode = os.fstat(self._fd).st_ino
        self._save_position(Position(inode, self._size, offset, turning=True))
        self._begin_anew()
        self.begin(offset)

    def _begin_anew(self) -> None:
        if self._settings.rotate:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._settings.path, f"{self._settings.path}.1")
            self.close()
            self._reopen()
        else:
            os.ftruncate(self._fd, 0)
            self._size = 0

    def _reopen(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        self._fd = os.open(self._settings.path, flags | os.O_NOFOLLOW, 0o600)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "no regular file", self._settings.path)
        self._size = status.st_size

    def _read_position(self) -> Position | None:
        try:
            with open(self._position_path, "rb") as file:
                return Position(**json.loads(file.read()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _save_position(self, position: Position) -> None:
        self._save(self._position_path, json.dumps(asdict(position)).encode())
