"""Fixtures of the supervisor's unit tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.supervisor.lives import Lives


@pytest.fixture
async def lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lives]:
    """A house, and containers in it."""
    made = Lives(tmp_path, monkeypatch)
    yield made
    await made.close()
