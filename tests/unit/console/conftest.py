"""What tests of ports and sessions begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.unit.console.made import Made


@pytest.fixture
async def made() -> AsyncIterator[Callable[..., Made]]:
    """Makes ports; they are closed at the end."""
    every: list[Made] = []

    def make(*names: str, **more: bool) -> Made:
        every.append(Made(*names, **more))
        return every[-1]

    yield make
    for one in every:
        one.close()
