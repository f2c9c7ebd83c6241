"""Signals for whoever runs a command in a container in the foreground.

A thread takes them by sigwait. A handler would run in the main thread, in the middle of a call of
gRPC's whose locks it must not take again, and only when that call comes up for air. The signals are
blocked before gRPC makes its threads, which inherit that.
"""

from __future__ import annotations

import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
# Besides these, of a terminal that is raw.
OF_A_TERMINAL = (signal.SIGWINCH, signal.SIGTSTP)


class SignalThread:
    """Calls `act` with the number of each of `numbers`, between `with`'s begin and end. Who acts
    may change meanwhile. What we were told to ignore (nohup, a job in the background) stays so: the
    kernel queues a signal that is blocked, ignored or not.
    """

    def __init__(self, numbers: tuple[signal.Signals, ...], act: Callable[[int], None]) -> None:
        self._lock = threading.Lock()
        self._act = act
        self._numbers = {n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
        self._leaving = False
        self._previous: set[int | signal.Signals] = set()
        self._thread = threading.Thread(target=self._wait, name="signals", daemon=True)

    def __enter__(self) -> Self:
        self._previous = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        if self._numbers:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        if self._thread.ident is not None:
            # To this thread, not to the process: it ends the sigwait and nothing else.
            signal.pthread_kill(self._thread.ident, next(iter(self._numbers)))
            self._thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._previous)

    def _wait(self) -> None:
        while True:
            number = signal.sigwait(self._numbers)
            if self._leaving:
                return
            with self._lock:
                self._act(number)

    @property
    def act(self) -> Callable[[int], None]:
        """Who acts. Once another one has been set, who acted before is done with it."""
        return self._act

    @act.setter
    def act(self, act: Callable[[int], None]) -> None:
        with self._lock:
            self._act = act
