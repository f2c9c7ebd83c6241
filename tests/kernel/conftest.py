"""Fixtures of the kernel tests: each runs in namespaces that end with it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.keeper import RunningKeeper
from tests.kernel.left import inheriting
from tests.kernel.notified import ManagedKeeper, Manager

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


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], RunningKeeper]]:
    """Starts a keeper; each in the place of the last, which must have ended. What that leaves comes to this process."""
    started: list[RunningKeeper] = []

    def begin() -> RunningKeeper:
        started.append(RunningKeeper(tmp_path / "run"))
        return started[-1]

    with inheriting():
        yield begin
        for keeper in reversed(started):
            keeper.stop()


@pytest.fixture
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    """A service manager; with a parameter one whose address is no path."""
    address = "@" + os.urandom(8).hex() if hasattr(request, "param") else str(tmp_path / "notify")
    made = Manager(address)
    yield made
    made.close()


@pytest.fixture
def managed(tmp_path: Path, manager: Manager) -> Iterator[Callable[..., ManagedKeeper]]:
    """Starts a keeper with what the service manager has; each in the place of the last, which must have ended."""
    started: list[ManagedKeeper] = []

    def begin(**environment: str) -> ManagedKeeper:
        started.append(ManagedKeeper(tmp_path / "run", manager, environment))
        manager.until_ready(started[-1])
        return started[-1]

    with inheriting():
        yield begin
        for keeper in reversed(started):
            keeper.stop()
