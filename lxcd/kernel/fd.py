"""Descriptors: owning them, passing them over a socket, and the kinds that are made from
nothing.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING, Self

from lxcd.kernel import libc

if TYPE_CHECKING:
    from types import TracebackType

CLOSE_RANGE_CLOEXEC = 4
_UINT_MAX = 0xFFFFFFFF

# scm(7): at most SCM_MAX_FD (253) descriptors in one message.
MAX_FDS = 253

F_ADD_SEALS = 1033
F_SEAL_ALL = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write
_F_SEAL_EXEC = 0x20
_MFD_EXEC = 0x10

# The last id that there is: no user's, and in no sane map of ids.
_NOBODY_AT_ALL = 0xFFFFFFFE


class Fd:
    """A descriptor that is owned: closed once, by whoever holds this object, unless `take()`n."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The number, still owned by this object. ValueError after close or take."""
        if self._number < 0:
            raise ValueError("descriptor is closed or was taken")
        return self._number

    def take(self) -> int:
        """The number; the caller owns it now."""
        number = self.fileno()
        self._number = -1
        return number

    def close(self) -> None:
        """Close it. Doing so twice is allowed."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1

    @property
    def closed(self) -> bool:
        """Nothing is owned any more."""
        return self._number < 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def close_all(numbers: list[int] | tuple[int, ...]) -> None:
    """Close each; one that is closed already is passed over."""
    for number in numbers:
        try:
            os.close(number)
        except OSError:
            continue


def close_range(first: int, last: int = _UINT_MAX, flags: int = 0) -> None:
    """close_range(2). With CLOSE_RANGE_CLOEXEC they are only marked."""
    libc.check(
        libc.syscall(libc.SYS_CLOSE_RANGE, libc.UInt(first), libc.UInt(last), libc.UInt(flags)),
        "close_range",
    )


def close_all_but(keep: list[int]) -> None:
    """Close every descriptor of this process that is not in `keep`."""
    first = 0
    for number in sorted(set(keep)):
        if number > first:
            close_range(first, number - 1)
        first = number + 1
    close_range(first)


def send(channel: socket.socket, data: bytes, fds: list[int] | tuple[int, ...] = ()) -> None:
    """sendmsg(2): one message, with descriptors. The caller keeps its own copies of them.

    Raises OSError; ENOBUFS or EMSGSIZE for a message that the socket cannot hold (about 200 kB).
    """
    if len(fds) > MAX_FDS:
        raise libc.oserror(errno.E2BIG, "sendmsg")
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive(channel: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """recvmsg(2): one message and its descriptors, which the caller owns. Empty data: the other
    side has gone.

    Raises OSError: EAGAIN from a non-blocking socket, EMSGSIZE if the message or its descriptors
    did not fit (all descriptors are closed then).
    """
    room = socket.CMSG_SPACE(MAX_FDS * 4)
    data, ancillary, flags, _ = channel.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(fds.tolist())
        raise libc.oserror(errno.EMSGSIZE, "recvmsg")
    return data, fds.tolist()


def sealed_memfd(name: str, data: bytes) -> int:
    """memfd_create(2) with `data` in it that nobody can change any more. The caller owns the
    descriptor.
    """
    number = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _fill(number, data)
        fcntl.fcntl(number, F_ADD_SEALS, F_SEAL_ALL)
    except OSError:
        os.close(number)
        raise
    return number


def sealed_program(name: str, data: bytes) -> int:
    """The same with a program that everybody may execute, and nobody read or change. The caller
    owns the descriptor.

    Raises OSError: EACCES where vm.memfd_noexec is 2.
    """
    flags, seals = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING, F_SEAL_ALL
    try:
        number = os.memfd_create(name, flags | _MFD_EXEC)
        seals |= _F_SEAL_EXEC
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Before Linux 6.3: every memfd can be executed, and chmod cannot be forbidden.
        number = os.memfd_create(name, flags)
    try:
        _fill(number, data)
        os.fchmod(number, 0o111)
        # A file is its owner's, and his who is root over the owner: of a user namespace, too.
        with contextlib.suppress(OSError):
            os.fchown(number, _NOBODY_AT_ALL, _NOBODY_AT_ALL)
        fcntl.fcntl(number, F_ADD_SEALS, seals)
    except OSError:
        os.close(number)
        raise
    return number


def _fill(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def read_all(number: int, limit: int) -> bytes:
    """The content of a file or memfd from its start, wherever its offset is. EFBIG if it is over
    `limit` bytes.
    """
    parts: list[bytes] = []
    offset = 0
    # As much as there is, and one more: the whole megabyte would be mapped and unmapped each time.
    size = max(4096, min(os.fstat(number).st_size, 1 << 20) + 1)
    while True:
        part = os.pread(number, min(size, limit + 1 - offset), offset)
        if not part:
            return b"".join(parts)
        parts.append(part)
        offset += len(part)
        if offset > limit:
            raise libc.oserror(errno.EFBIG, "pread")


def write_once(dirfd: int, name: str, data: bytes) -> None:
    """Write `data` to an existing file by one write(2), as files of /proc and of cgroups want
    it.
    """
    try:
        number = os.open(
            name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=dirfd if dirfd >= 0 else None
        )
    except OSError as error:
        raise libc.oserror(error.errno or 0, "openat", name) from None
    try:
        os.write(number, data)
    except OSError as error:
        raise libc.oserror(error.errno or 0, "write", name) from None
    finally:
        os.close(number)


def write(number: int, data: bytes) -> None:
    """write(2), once; its error names the file."""
    try:
        os.write(number, data)
    except OSError as error:
        where = os.readlink(f"/proc/self/fd/{number}")
        raise libc.oserror(error.errno or 0, "write", where) from None


def lock_range(number: int, first: int, length: int, *, exclusive: bool) -> bool:
    """F_OFD_SETLK: lock bytes of a file (`length` of 0: to its end, wherever that will be) for as
    long as anybody has this very opening of it: fcntl(2), a loop device too. False if somebody
    else's lock is in the way.
    """
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(number, fcntl.F_OFD_SETLK, _flock(kind, first, length))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise libc.oserror(error.errno or 0, "fcntl F_OFD_SETLK") from None
    return True


def is_locked(number: int, first: int, length: int) -> bool:
    """F_OFD_GETLK: somebody else has any lock on one of these bytes."""
    try:
        found = fcntl.fcntl(number, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, first, length))
    except OSError as error:
        raise libc.oserror(error.errno or 0, "fcntl F_OFD_GETLK") from None
    return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)


def _flock(kind: int, first: int, length: int) -> bytes:
    """As `struct flock` of 64-bit machines."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, first, length, 0)


def only_writes(number: int) -> bool:
    """Whether nothing can be read from it: fcntl(2) F_GETFL."""
    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
