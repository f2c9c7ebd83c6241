"""The one thing that the keeper waits in: descriptors and their handlers, and a few timers."""

from __future__ import annotations

import heapq
import select
import time
import traceback
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN


class Epoll:
    """Descriptors -> handlers. One turn serves all that is ready; nothing in it waits for anybody.

    A mistake in a handler is told and costs its descriptor the watch, or does what `failed` says;
    it must not take the other children with it.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, tuple[Callable[[], object], Callable[[], object] | None]] = {}
        self._stale: set[int] = set()  # descriptors let go of in this turn
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()

    def watch(
        self,
        number: int,
        handler: Callable[[], object],
        *,
        failed: Callable[[], object] | None = None,
        read: bool = True,
        write: bool = False,
    ) -> None:
        """Call `handler` whenever `number` is readable, or has room for a `write`, or is hung up;
        in place of what it was watched for before. Raises OSError.
        """
        known = number in self._handlers
        self._handlers[number] = (handler, failed)
        mask = (READ if read else 0) | (select.EPOLLOUT if write else 0)
        if known:
            self._epoll.modify(number, mask)
            return
        try:
            self._epoll.register(number, mask)
        except OSError:
            del self._handlers[number]
            raise

    def takes(self, number: int) -> bool:
        """Whether it is something that can be waited for, and is not watched."""
        try:
            self._epoll.register(number, READ)
        except OSError:
            return False
        self._epoll.unregister(number)
        return True

    def unwatch(self, number: int) -> None:
        """Before `number` is closed: lxcd may hold a copy, so closing would not take it out."""
        if self._handlers.pop(number, None) is not None:
            self._epoll.unregister(number)
            self._stale.add(number)

    def also_writable(self, number: int, wanted: bool) -> None:  # noqa: FBT001
        """Call the handler also when `number` has room, or no longer."""
        self._epoll.modify(number, READ | (select.EPOLLOUT if wanted else 0))

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        """Call `act` once, in a while."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), act))

    def turn(self, seconds: float) -> None:
        """Wait at most so long (below 0: for ever) and serve what is ready."""
        self._stale.clear()
        if self._timers:
            due = max(0.0, self._timers[0][0] - time.monotonic())
            seconds = due if seconds < 0 else min(seconds, due)
        for number, _ in self._epoll.poll(seconds):
            # What was closed since poll returned may be another's number by now.
            if number in self._handlers and number not in self._stale:
                handler, failed = self._handlers[number]
                self._call(handler, failed or (lambda number=number: self.unwatch(number)))  # type: ignore[misc]
        # Those that were due by now: one that begins anew each time must not keep us here.
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, act = heapq.heappop(self._timers)
            self._call(act, None)

    @staticmethod
    def _call(act: Callable[[], object], failed: Callable[[], object] | None) -> None:
        try:
            act()
        except Exception:  # noqa: BLE001 - see the class
            traceback.print_exc()
            if failed is not None:
                failed()
