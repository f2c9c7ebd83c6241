"""What all tests have in common: the event loop that lxcd itself runs on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.patience import PATIENCE


def pytest_configure() -> None:
    """What a shell has ignored in a job in the background stays ignored in all that we start: there stock tools, and
    what they run, would do something else than in front of somebody.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a slow machine every test has more time, as its own deadlines have."""
    if PATIENCE == 1:
        return
    usual = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0]) if marker else usual
        item.add_marker(pytest.mark.timeout(seconds * PATIENCE), append=False)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asyncio test on uvloop (hook of pytest-asyncio 1.5)."""
    return {"uvloop": uvloop.new_event_loop}
