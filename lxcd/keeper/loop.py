"""The keeper: its parts, put together, and its life from the first turn to the last."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from lxcd.keeper import protocol
from lxcd.keeper.children import Children
from lxcd.keeper.epoll import Epoll
from lxcd.keeper.link import Link, Peer
from lxcd.keeper.protocol import ProtocolError
from lxcd.keeper.store import Store
from lxcd.keeper.trust import Trust
from lxcd.keeper.upgrade import Upgrade

if TYPE_CHECKING:
    import socket

    from lxcd.keeper.journal import Journal

# How long a keeper without lxcd, children and unacknowledged exits stays.
IDLE_SECONDS = 10.0
_WITH_DESCRIPTORS = (
    protocol.Hello
    | protocol.Prepare
    | protocol.TakeInput
    | protocol.Adopt
    | protocol.AdoptStream
    | protocol.Upgrade
)


class Keeper:
    """All state of the process. `run` returns when there is nothing left to keep."""

    def __init__(
        self,
        listener: socket.socket,
        journal: Journal,
        build: str,
        notify: socket.socket | None = None,
        peer: Peer | None = None,
        *,
        ends: int = -1,
        trustee: int = -1,
    ) -> None:
        self.build = build
        self.journal = journal
        self.epoll = Epoll()
        self.store = Store(self.epoll, notify, ends)
        self.link = Link(self.epoll, listener, peer)
        self.children = Children(self.epoll, self.link, journal, self.store)
        self.upgrade = Upgrade(self)
        self.leaving = False
        self.link.obey = self._obey
        self.link.gone = self._parted
        self.trust = Trust(self.epoll, self.store, trustee) if trustee >= 0 else None
        if self.trust is not None:
            self.trust.again = self.children.keep_all

    def run(self) -> None:
        """Serve until nothing is left."""
        self._serve()
        self.store.stopping()

    def _serve(self) -> None:
        idle_since = time.monotonic()
        while True:
            alive = self.children.alive
            # Under a service manager it leaves when that says so: who would start it again?
            is_managed = self.store.notify is not None and self.trust is None
            wanted = self.link.peer is not None or is_managed
            busy = wanted or alive or bool(self.journal.pending)
            if busy:
                idle_since = time.monotonic()
            patience = IDLE_SECONDS - (time.monotonic() - idle_since)
            if (self.leaving and not alive) or patience <= 0:
                return
            self.epoll.turn(-1 if busy else patience + 0.05)
            self.link.poke()

    def _obey(self, request: protocol.Request, fds: list[int]) -> None:
        if fds and not isinstance(request, _WITH_DESCRIPTORS):
            raise ProtocolError(f"{type(request).__name__} brings no descriptors")
        match request:
            case protocol.Hello():
                self._hello(fds)
            case protocol.Acknowledge():
                self.journal.acknowledge(request.id)
            case protocol.Leave():
                self.leaving = True
            case protocol.Upgrade():
                if len(fds) != 1:
                    raise ProtocolError("UPGRADE wants one socket")
                self.upgrade.begin(fds[0])
            case _:
                self.children.obey(request, fds)

    def _parted(self) -> None:
        # Its candidate ends with it; the next lxcd brings its own.
        self.upgrade.forget()
        self.children.release()

    def _hello(self, fds: list[int]) -> None:
        if len(fds) != 1:
            raise ProtocolError("HELLO wants one eventfd, once")
        self.link.greet(fds[0])
        self.leaving = False
        self.link.tell(protocol.Welcome(protocol.VERSION, self.build, os.getpid()))
        self.children.tell_all()
        self.link.tell(protocol.Synced())
        self.link.grown = True
