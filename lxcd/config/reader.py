"""Text to raw lines: what LXC calls a line, where each comes from, includes expanded.

Not in it: what a key means. The rules are those of lxc_config_read() (lxc.container.conf(5)):
lines end at newline or carriage return, leading blanks do not count, what does not begin with
`lxc.` is ignored, a `#` behind a value is part of the value. Unlike LXC, a directory is read in
sorted order, a relative include is looked up beside the file that names it (a daemon has no useful
working directory), and nothing that is included can hang or exhaust the reader.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lxcd.config.characters import BLANKS, forbidden, printable, quoted
from lxcd.config.model import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

MAXIMUM_FILE_BYTES = 1 << 20  # of one included file
MAXIMUM_TOTAL_BYTES = 16 << 20  # of the text itself and all that it includes
MAXIMUM_FILES = 1000  # a file that includes the next one twice is read 2^n times
MAXIMUM_DEPTH = 32
MAXIMUM_LINES = 100_000
_MAXIMUM_KEY = 255
INCLUDE = "lxc.include"
DEFINE = "define"

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class RawLine:
    """One `key = value` line, before anybody asks what it means."""

    key: str
    value: str
    origin: str
    usable: bool = (
        True  # False: the value is shown, but must not be acted upon (a Problem says why)
    )


@dataclass(frozen=True, slots=True)
class Stamp:
    """The identity of a file at the time when it was read. All zero: it could not be found."""

    path: str
    dev: int = 0
    ino: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


@dataclass(frozen=True, slots=True)
class RegularFile:
    """What a FileAccess found: a file. One byte more than the limit in `data` means more of it."""

    stamp: Stamp
    data: bytes


@dataclass(frozen=True, slots=True)
class Folder:
    """What a FileAccess found: a directory."""

    stamp: Stamp
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What a FileAccess found: a device, a FIFO, a socket."""

    stamp: Stamp
    what: str


class FileAccess(Protocol):
    """The only way of this room to the file system."""

    def read(self, path: str, limit: int) -> RegularFile | Folder | Unreadable:
        """Read a file up to `limit` + 1 bytes, or list a directory; never block. Raises OSError."""
        ...

    def stamp(self, path: str) -> Stamp:
        """Return the present identity of `path`, all zero if there is none. Never raises."""
        ...


class HostFiles:
    """FileAccess to the real file system."""

    def read(self, path: str, limit: int) -> RegularFile | Folder | Unreadable:
        """Read a file up to `limit` + 1 bytes, or list a directory; never block. Raises OSError."""
        # O_PATH looks without opening: opening a FIFO or a tape for real may block or act
        # (open(2)).
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            found = _stamp(path, status)
            if stat.S_ISDIR(status.st_mode):
                return Folder(found, tuple(os.listdir(f"/proc/self/fd/{handle}")))
            if not stat.S_ISREG(status.st_mode):
                return Unreadable(found, _KINDS.get(stat.S_IFMT(status.st_mode), "a special file"))
            # O_NONBLOCK for the "regular" files of /proc that wait for events: /proc/kmsg.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            source = os.open(f"/proc/self/fd/{handle}", flags)
            try:
                return RegularFile(found, _read_up_to(source, limit + 1))
            finally:
                os.close(source)
        finally:
            os.close(handle)

    def stamp(self, path: str) -> Stamp:
        """Return the present identity of `path`, all zero if there is none. Never raises."""
        try:
            return _stamp(path, os.stat(path))
        except (OSError, ValueError):
            return Stamp(path)


_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


def _stamp(path: str, status: os.stat_result) -> Stamp:
    return Stamp(
        path,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _read_up_to(source: int, count: int) -> bytes:
    parts: list[bytes] = []
    while count > 0:
        part = os.read(source, min(count, 1 << 16))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def unchanged(stamps: Iterable[Stamp], files: FileAccess) -> bool:
    """Tell whether every file is still what it was when the stamps were taken."""
    return all(files.stamp(old.path) == old for old in stamps)


@dataclass(slots=True)
class Reading:
    """What reading has brought so far: one per configuration; `text` and `define` add to it."""

    files: FileAccess
    lines: list[RawLine] = field(default_factory=list[RawLine])
    problems: list[Problem] = field(default_factory=list["Problem"])
    stamps: list[Stamp] = field(default_factory=list[Stamp])
    follow: bool = True  # includes
    _bytes_left: int = MAXIMUM_TOTAL_BYTES
    _files_left: int = MAXIMUM_FILES
    _full: bool = False

    def text(self, data: bytes, origin: str) -> None:
        """Read the text of the configuration itself. `origin` is its path, or a name for it."""
        # Known by identity, so that a file that includes itself is caught at once.
        look = self.follow and origin.startswith("/")
        known = self.files.stamp(origin) if look else Stamp(origin)
        try:
            self._spend(len(data))
        except ValueError as error:
            self._error(origin, "", str(error))
            return
        self._read(data, printable(origin), origin, (known,))

    def define(self, key: str, value: str) -> None:
        """Read one `key = value` that stands in no file."""
        value = unquote(value.strip(BLANKS))
        self._accept(key.strip(BLANKS), value, DEFINE, "", (Stamp(DEFINE),))

    def side_file(self, path: str, base: str, origin: str, key: str) -> tuple[str, bytes] | None:
        """Read a file that a value names, within the same bounds as an include.

        Args:
            path: as written; relative to the folder of `base`, the file that names it.
            base: that file.
            origin: the line that names it.
            key: the key of that line.

        Returns:
            The path that was read, and its text; None if there is a problem with it, which is
            noted.
        """
        found = self._find(path, base, origin, key)
        if found is None or isinstance(found, RegularFile):
            return (found.stamp.path, found.data) if found else None
        self._error(origin, key, f"{printable(found.stamp.path)} is a directory, not a file")
        return None

    def _read(self, data: bytes, origin: str, base: str, chain: tuple[Stamp, ...]) -> None:
        binary = data.find(b"\0")
        if binary >= 0:
            number = len(_LINE_END.findall(data, 0, binary)) + 1
            self._error(f"{origin}:{number}", "", "NUL bytes: this is not a text")
        for number, line in enumerate(_LINE_END.split(data), start=1):
            pair = split_line(line)
            if pair is None or self._full:
                continue
            key, value = pair
            where = f"{origin}:{number}"
            if value is None:
                self._error(where, printable(key)[:_MAXIMUM_KEY], "a line without =")
                continue
            self._accept(key, value, where, base, chain)

    def _accept(
        self, key: str, value: str, origin: str, base: str, chain: tuple[Stamp, ...]
    ) -> None:
        if len(self.lines) >= MAXIMUM_LINES:
            self._full = True
            self._error(origin, "", f"more than {MAXIMUM_LINES} lines: the rest is not read")
            return
        if not key.isprintable() or " " in key or len(key) > _MAXIMUM_KEY:
            text = f"not a key: too long, or a character that no key has: {quoted(key)}"
            shown = printable(key)[:_MAXIMUM_KEY]
            self.problems.append(Problem("warning", origin, shown, text))
            return
        why = forbidden(value)
        if why:
            self._error(origin, key, f"the value holds {why}")
            self.lines.append(RawLine(key, printable(value), origin, usable=False))
            return
        self.lines.append(RawLine(key, value, origin))
        if key == INCLUDE and value and self.follow:
            self._include(value, base, origin, chain)

    def _include(self, value: str, base: str, origin: str, chain: tuple[Stamp, ...]) -> None:
        found = self._find(value, base, origin, INCLUDE)
        if found is None:
            return
        chain = (*chain, found.stamp)
        path = found.stamp.path
        shown = " → ".join(printable(one.path) for one in chain)
        if any(_same_file(found.stamp, above) for above in chain[:-1]):
            self._error(origin, INCLUDE, f"{printable(path)} includes itself: {shown}")
            return
        if len(chain) > MAXIMUM_DEPTH:
            self._error(origin, INCLUDE, f"more than {MAXIMUM_DEPTH} includes deep: {shown}")
            return
        if isinstance(found, RegularFile):
            self._read(found.data, printable(path), path, chain)
            return
        # LXC takes them as readdir(3) gives them; sorted, so that the same folder means the same
        # every time. Hidden names are editors' (`.#x.conf` is a link to nowhere that Emacs leaves
        # behind).
        for name in sorted(found.names):
            if name.endswith(".conf") and not name.startswith(".") and not self._full:
                self._include(os.path.join(path, name), base, origin, chain)

    def _find(self, value: str, base: str, origin: str, key: str) -> RegularFile | Folder | None:
        path = os.path.join(os.path.dirname(base), value)
        try:
            if not path.startswith("/"):
                raise ValueError(f"{quoted(value)} must begin with a slash here")  # noqa: TRY301
            return self._look(path)
        except OSError as error:
            self.stamps.append(self.files.stamp(path))
            text = f"{printable(path)}: {error.strerror or 'cannot be read'}"
        except ValueError as error:
            text = str(error)
        self._error(origin, key, text)
        return None

    def _look(self, path: str) -> RegularFile | Folder:
        """Read a file or list a folder, within the bounds. Raises OSError, ValueError."""
        if self._files_left <= 0:
            self._full = True
            raise ValueError(f"more than {MAXIMUM_FILES} files: the rest is not read")
        self._files_left -= 1
        found = self.files.read(path, MAXIMUM_FILE_BYTES)
        self.stamps.append(found.stamp)
        if isinstance(found, Unreadable):
            raise ValueError(f"{printable(path)} is {found.what}, not a file")  # noqa: TRY004
        if isinstance(found, RegularFile):
            if len(found.data) > MAXIMUM_FILE_BYTES:
                text = f"is larger than {MAXIMUM_FILE_BYTES} bytes: not read"
                raise ValueError(f"{printable(path)} {text}")
            self._spend(len(found.data))
        return found

    def _spend(self, count: int) -> None:
        if count > self._bytes_left:
            self._bytes_left = 0
            raise ValueError(f"more than {MAXIMUM_TOTAL_BYTES} bytes in all: the rest is not read")
        self._bytes_left -= count

    def _error(self, origin: str, key: str, message: str) -> None:
        self.problems.append(Problem("error", printable(origin), key, message))


def in_same_text(one: str, other: str) -> bool:
    """Tell whether two lines, by their origins, stand in the same file."""
    file = one.rpartition(":")[0]
    return bool(file) and other.rpartition(":")[0] == file


def _same_file(one: Stamp, other: Stamp) -> bool:
    if one.ino and other.ino:
        return (one.dev, one.ino) == (other.dev, other.ino)
    return one.path == other.path


def split_line(line: bytes) -> tuple[str, str | None] | None:
    """Split one line into key and value.

    Returns:
        None for a line that LXC does not look at; a value of None where there is no `=`.
    """
    line = line.strip(b" \t")
    if not line.startswith(b"lxc."):
        return None
    key, equals, value = line.decode("utf-8", "surrogateescape").partition("=")
    return key.rstrip(BLANKS), unquote(value.lstrip(BLANKS)) if equals else None


def unquote(value: str) -> str:
    """Take one pair of matching quotes off a value, as LXC does."""
    if len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]:
        return value[1:-1]
    return value
