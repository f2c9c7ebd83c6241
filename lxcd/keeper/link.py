"""The keeper's end of the connection to lxcd: at most one at a time, and nobody waits for it."""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lxcd.keeper import protocol
from lxcd.keeper.protocol import ProtocolError
from lxcd.kernel import fd as kernel_fd

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.keeper.epoll import Epoll


_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Unsent:
    """A message that the socket had no room for, with copies of its descriptors."""

    data: bytes
    fds: tuple[int, ...] = ()


@dataclass(slots=True)
class Peer:
    """An lxcd that is connected."""

    socket: socket.socket
    poke: int = -1  # its eventfd; -1 until it has said HELLO
    unsent: deque[Unsent] = field(default_factory=deque[Unsent])


class Link:
    """Accepts lxcd, hears its requests, tells it answers.

    `obey` gets a request and its descriptors, `gone` is called when lxcd has left.
    """

    def __init__(self, epoll: Epoll, listener: socket.socket, peer: Peer | None = None) -> None:
        self.obey: Callable[[protocol.Request, list[int]], None]
        self.gone: Callable[[], None]
        self.grown = False  # a ring has: lxcd is poked at the end of this turn
        self._epoll = epoll
        self.listener = listener
        self.peer = peer
        self._listen()
        if peer is not None:
            epoll.watch(peer.socket.fileno(), self._serve, failed=self.hang_up)
            epoll.also_writable(peer.socket.fileno(), bool(peer.unsent))

    def _listen(self) -> None:
        self._epoll.watch(self.listener.fileno(), self._accept, failed=lambda: None)

    @property
    def greeted(self) -> bool:
        """Somebody is there, and has said HELLO."""
        return self.peer is not None and self.peer.poke >= 0

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError as error:
            # No descriptors, as a rule: whoever waits is still there later.
            print(f"keeper: {error}", file=sys.stderr)
            self._epoll.unwatch(self.listener.fileno())
            self._epoll.later(_AGAIN_SECONDS, self._listen)
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = int.from_bytes(credentials[4:8], sys.byteorder)
        # One lxcd at a time: the directory's lock sees to it; a second one gets nothing here
        # either.
        if uid != os.geteuid() or self.peer is not None:
            connection.close()
            return
        connection.setblocking(False)
        self.peer = Peer(connection)
        self._epoll.watch(connection.fileno(), self._serve, failed=self.hang_up)

    def _serve(self) -> None:
        if self.peer is None:
            return
        if self.peer.unsent:
            self._flush(self.peer)
        fds: list[int] = []
        try:
            data, fds = kernel_fd.receive(self.peer.socket, protocol.MESSAGE_LIMIT)
            if not data:
                self.hang_up()
                return
            self.obey(protocol.decode_request(data), fds)
        except BlockingIOError:
            return
        except (ProtocolError, OSError) as error:
            print(f"keeper: connection ended: {error}", file=sys.stderr)
            kernel_fd.close_all(fds)
            self.hang_up()

    def greet(self, poke: int) -> None:
        """It has said HELLO and given its eventfd, which is ours now. Raises ProtocolError for a
        second one.
        """
        if self.peer is None or self.peer.poke >= 0:
            raise ProtocolError("HELLO wants one eventfd, once")
        os.set_blocking(poke, False)
        self.peer.poke = poke

    def hang_up(self) -> None:
        """End the connection, from whichever side."""
        peer, self.peer = self.peer, None
        if peer is None:
            return
        self._epoll.unwatch(peer.socket.fileno())
        peer.socket.close()
        for message in peer.unsent:
            kernel_fd.close_all(message.fds)
        if peer.poke >= 0:
            os.close(peer.poke)
        self.gone()

    def tell(self, answer: protocol.Answer, fds: list[int] | None = None) -> None:
        """Send, or queue with copies of the descriptors, so that they may be closed here
        meanwhile.
        """
        peer = self.peer
        if peer is None or peer.poke < 0:
            # Who has not said HELLO yet is told all then.
            return
        data = protocol.encode(answer)
        if not peer.unsent:
            try:
                kernel_fd.send(peer.socket, data, fds or [])
            except BlockingIOError:
                self._epoll.also_writable(peer.socket.fileno(), True)
            except (BrokenPipeError, ConnectionResetError):
                # It has gone; the loop reads EOF next.
                return
            except OSError as error:
                # No memory right now: later.
                print(f"keeper: {error}", file=sys.stderr)
                self._epoll.also_writable(peer.socket.fileno(), True)
            else:
                return
        peer.unsent.append(Unsent(data, tuple(os.dup(number) for number in fds or [])))

    def _flush(self, peer: Peer) -> None:
        while peer.unsent:
            message = peer.unsent[0]
            try:
                kernel_fd.send(peer.socket, message.data, message.fds)
            except OSError:
                return
            kernel_fd.close_all(message.fds)
            peer.unsent.popleft()
        self._epoll.also_writable(peer.socket.fileno(), False)

    def poke(self) -> None:
        """At the end of a turn: tell lxcd that rings have grown."""
        if not self.grown or self.peer is None or self.peer.poke < 0:
            return
        self.grown = False
        try:
            os.eventfd_write(self.peer.poke, 1)
        except BlockingIOError:
            # The counter is full: lxcd has been told often enough.
            return
        except OSError as error:
            print(f"keeper: not an eventfd: {error}", file=sys.stderr)
            self.hang_up()
