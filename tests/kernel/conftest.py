"""Fixtures of the kernel tests: each runs in namespaces that end with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.keeper import RunningKeeper

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this folder needs root."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker("root")


@pytest.fixture
def unique() -> str:
    """A name that nobody else has."""
    return f"lxcd-test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[RunningKeeper]:
    """A keeper in a runtime directory of its own."""
    running = RunningKeeper(tmp_path / "run")
    yield running
    running.stop()
