"""What all tests have in common: the event loop that lxcd itself runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asyncio test on uvloop (hook of pytest-asyncio 1.5)."""
    return {"uvloop": uvloop.new_event_loop}
