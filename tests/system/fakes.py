"""Something at the keeper's socket that is no keeper: it speaks garbage, half of the protocol, another version, or nothing."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lxcd.keeper import protocol
from lxcd.kernel import fd as kernel_fd
from tests.system.host import Host


class Peer:
    """An lxcd that has connected, from the fake's side."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def hear(self) -> bytes:
        """Its next message; empty when it has gone. Descriptors are let go of."""
        try:
            data, fds = kernel_fd.receive(self.socket, protocol.MESSAGE_LIMIT)
        except OSError:
            return b""
        kernel_fd.close_all(fds)
        return data

    def say(self, *answers: protocol.Answer | bytes, fds: tuple[int, ...] = ()) -> None:
        """Tell it things, of the protocol or not."""
        for answer in answers:
            data = answer if isinstance(answer, bytes) else protocol.encode(answer)
            with suppress(OSError):
                kernel_fd.send(self.socket, data, fds)

    def listen(self) -> None:
        """Say nothing more until it goes."""
        while self.hear():
            pass


@contextmanager
def fake_keeper(host: Host, behave: Callable[[Peer], None] | None) -> Iterator[None]:
    """At the socket of the host's keeper, which must have ended. Without `behave` it listens and never accepts."""
    private = host.run_dir / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    path = private / protocol.SOCKET_NAME
    path.unlink(missing_ok=True)
    fake = _Fake(path, behave)
    fake.start()
    try:
        yield
    finally:
        # Its name first: it is the next keeper's as soon as nobody listens there.
        path.unlink(missing_ok=True)
        fake.end()


class _Fake(threading.Thread):
    """Serves one lxcd after the other."""

    def __init__(self, path: Path, behave: Callable[[Peer], None] | None) -> None:
        super().__init__()
        self._behave = behave
        self._connection: socket.socket | None = None
        self._stop_read, self._stop_write = os.pipe()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(8)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._stop_read, 0)
        if self._behave is not None:
            poll.register(self._listener.fileno(), select.POLLIN)
        while self._stop_read not in [number for number, _ in poll.poll()]:
            self._connection, _ = self._listener.accept()
            with self._connection as connection:
                if self._behave is not None:
                    self._behave(Peer(connection))

    def end(self) -> None:
        os.close(self._stop_write)
        connection = self._connection
        if connection is not None:
            # Whoever waits for its next message reads its end.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.join()
        self._listener.close()
        os.close(self._stop_read)
