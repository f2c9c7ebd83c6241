"""The caller's own standard streams become the command's, where that can be: over the side socket,
so that not a byte crosses the daemon.

Pipes, sockets and /dev/null go as they are. A terminal or a file never enters a container: that is
copied here, through a pipe.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading

from lxcctl import output
from lxcctl.errors import CallError, ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_CHUNK = 128 * 1024
_NULL = os.makedev(1, 3)
_NAMES = ("stdin", "stdout", "stderr")
_WORDS = ("standard input", "standard output", "standard error")
_STDIN = 0
# The command does not read all of it; it was opened for writing only.
_NO_INPUT = {errno.EPIPE, errno.EBADF}


def _goes_as_it_is(fd: int) -> bool:
    status = os.fstat(fd)
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == _NULL
    return stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)


class OwnStreams:
    """What is handed over for 0, 1 and 2, and the copying for what is not."""

    def __init__(self) -> None:
        self._theirs: dict[str, int] = {}  # pipe ends for the command
        self._copies: list[_Copy] = []
        self._handed = [0, 1, 2]
        for fd, name in enumerate(_NAMES):
            if _goes_as_it_is(fd):
                continue
            if name == "stderr" and "stdout" in self._theirs and os.path.sameopenfile(1, 2):
                # One pipe for both: they stay in order.
                self._handed[fd] = self._theirs["stdout"]
                continue
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            self._theirs[name] = self._handed[fd] = read_end if fd == 0 else write_end
            self._copies.append(
                _Copy(fd, 0, write_end) if fd == 0 else _Copy(fd, read_end, fd),
            )

    def hand_over(self, address: str) -> str:
        """Give them to the daemon; the token by which a call names them. Empty where there is no
        side socket: at a remote daemon, or one that listens elsewhere. Raises CallError.
        """
        import socket

        path = os.path.join(os.path.dirname(address.removeprefix("unix:")), "side.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as side:
            try:
                side.connect(path)
            except OSError:
                return ""
            import json

            text = json.dumps({"streams": _NAMES}).encode()
            try:
                socket.send_fds(side, [text], self._handed)
                data = side.recv(4096)
            except ConnectionError:
                # Too many others are at it.
                return ""
        if not data:
            return ""
        answer = json.loads(data)
        if "token" not in answer:
            raise CallError("INVALID_ARGUMENT", answer["message"], answer["reason"])
        return str(answer["token"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def begin(self) -> None:
        """The command has its ends: from now on what it writes is copied."""
        self._let_go()
        for copy in self._copies:
            copy.start()

    def finish(self) -> None:
        """The command has ended: what it has written is still copied, what a child of it that
        lives on may write is not waited for. Raises BrokenPipeError if nobody reads that, and
        ClientError for what could not be written or read.
        """
        for copy in self._copies:
            copy.finish()
        for copy in self._copies:
            copy.check()

    def _let_go(self) -> None:
        for fd in self._theirs.values():
            os.close(fd)
        self._theirs.clear()


class _Copy(threading.Thread):
    """From one descriptor to another, until its end. `ours` is the standard stream among them."""

    def __init__(self, ours: int, source: int, target: int) -> None:
        super().__init__(name="copy", daemon=True)
        self._ours = ours
        self._source = source
        self._target = target
        self._error: OSError | None = None
        self._over, self._wake = os.pipe2(os.O_CLOEXEC)

    def run(self) -> None:
        try:
            self._copy()
        except OSError as error:
            self._error = error
        # The command is told: that there is no more to read, or that nobody reads what it writes.
        os.close(self._target if self._ours == _STDIN else self._source)

    def _copy(self) -> None:
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        poll.register(self._over, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._source in ready:
                data = os.read(self._source, _CHUNK)
                if not data:
                    return
                output.write_bytes(self._target, data)
            elif self._over in ready:
                return

    def finish(self) -> None:
        """Copy what is there, and no more; not for what the command reads."""
        os.write(self._wake, b"x")
        if self._ours != _STDIN:
            self.join()

    def check(self) -> None:
        """Raise what went wrong, if anybody has to know."""
        error = self._error
        if error is None or (self._ours == _STDIN and error.errno in _NO_INPUT):
            return
        if error.errno == errno.EPIPE:
            raise error
        # A terminal that has hung up says EIO, even when asked whether it is one; so does a disk.
        if error.errno != errno.EIO or not stat.S_ISCHR(os.fstat(self._ours).st_mode):
            raise ClientError(f"{_WORDS[self._ours]}: {error.strerror}")
