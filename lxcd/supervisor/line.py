"""The connection to the keeper: messages with descriptors each way, and nobody waits for it."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING

from lxcd.keeper import protocol
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel.fd import Fd

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


class Line:
    """One connection, from its first message to its end. `hear` gets each message and its
    descriptors, which are closed unless somebody takes them; `lost` is told why it is over, and
    closes it.
    """

    def __init__(
        self,
        connection: socket.socket,
        hear: Callable[[bytes, list[Fd]], None],
        lost: Callable[[str], None],
    ) -> None:
        self._socket = connection
        self._hear = hear
        self._lost = lost
        self._unsent: deque[tuple[bytes, list[Fd]]] = deque()
        self._open = True
        connection.setblocking(False)
        asyncio.get_running_loop().add_reader(connection.fileno(), self._read)

    def send(self, data: bytes, fds: list[int]) -> None:
        """Send, or queue with copies of the descriptors while the socket is full. Raises OSError
        when it is over.
        """
        if not self._unsent:
            try:
                kernel_fd.send(self._socket, data, fds)
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self._socket.fileno(), self._flush)
            else:
                return
        self._unsent.append((data, [Fd(os.dup(number)) for number in fds]))

    def _flush(self) -> None:
        while self._open and self._unsent:
            data, fds = self._unsent[0]
            try:
                kernel_fd.send(self._socket, data, [fd.fileno() for fd in fds])
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(str(error))
                return
            self._unsent.popleft()
        if self._open:
            asyncio.get_running_loop().remove_writer(self._socket.fileno())

    def _read(self) -> None:
        while self._open:
            try:
                data, numbers = kernel_fd.receive(self._socket, protocol.MESSAGE_LIMIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(str(error))
                return
            if not data:
                self._lost("it has closed the connection")
                return
            self._hear(data, [Fd(number) for number in numbers])

    def close(self) -> None:
        """End it, behind what can still be sent."""
        if not self._open:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._open = False
        while self._unsent:
            data, fds = self._unsent.popleft()
            try:
                kernel_fd.send(self._socket, data, [fd.fileno() for fd in fds])
            except OSError:
                break
        self._unsent.clear()
        self._socket.close()
