"""Signals that a thread takes: which, and who acts on them."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

from lxcctl.signals import FORWARDED, SignalThread

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def ignored(*numbers: signal.Signals) -> Iterator[None]:
    """As nohup leaves them, or a shell for a job in the background."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def test_what_is_ignored_stays_ignored() -> None:
    acted: SimpleQueue[int] = SimpleQueue()
    with ignored(signal.SIGHUP, signal.SIGINT), SignalThread(FORWARDED, acted.put):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        # The lower numbers come first, so these would be here by now.
        assert acted.get(timeout=30) == signal.SIGTERM
    assert acted.empty()


def test_all_of_them_may_be_ignored() -> None:
    acted: SimpleQueue[int] = SimpleQueue()
    with ignored(*FORWARDED), SignalThread(FORWARDED, acted.put):
        os.kill(os.getpid(), signal.SIGTERM)
        assert not [thread for thread in threading.enumerate() if thread.name == "signals"]
    assert acted.empty()
