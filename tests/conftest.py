"""What all tests have in common: the event loop that lxcd itself runs on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping

import uvloop


def pytest_configure() -> None:
    """What a shell has ignored in a job in the background stays ignored in all that we start: there stock tools, and
    what they run, would do something else than in front of somebody.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asyncio test on uvloop (hook of pytest-asyncio 1.5)."""
    return {"uvloop": uvloop.new_event_loop}
