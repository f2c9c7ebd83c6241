"""Fixtures of the system tests: hosts, root file systems, and the ledger around every test."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.system import ledger, roots
from tests.system.host import Host

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this folder needs root."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker("root")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what lxcd wrote beside a failure."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for name, value in item.funcargs.items():
            if isinstance(value, Host):
                report.sections.append((f"lxcd of {name}", value.log_text()))
    return report


@pytest.fixture(autouse=True)
def nothing_outlives_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare the machine before and after. A shared host is compared at its own end: it keeps things ready between tests."""
    if "shared_host" in request.fixturenames:
        yield
        return
    before = ledger.take()
    yield
    ledger.settle(before)


@pytest.fixture
def cold_host(nothing_outlives_the_test: None) -> Iterator[Host]:
    """A machine on which lxcd has not been started yet."""
    host = Host()
    yield host
    host.close()


@pytest.fixture
def host(cold_host: Host) -> Host:
    """A machine with lxcd running, for this test alone."""
    cold_host.start_daemon()
    return cold_host


@pytest.fixture(scope="module")
def shared_host() -> Iterator[Host]:
    """A machine with lxcd running, for all tests of a module that only need one. They tidy up after themselves."""
    before = ledger.take()
    host = Host()
    try:
        host.start_daemon()
        yield host
    finally:
        host.close()
    ledger.settle(before)


@pytest.fixture(scope="session")
def debian_root() -> Path:
    """Debian with systemd. Read only."""
    return roots.debian()


@pytest.fixture(scope="session")
def sysv_root() -> Path:
    """Debian with sysvinit. Read only."""
    return roots.sysv()


@pytest.fixture(scope="session")
def busybox_root() -> Path:
    """One static binary. Read only."""
    return roots.busybox()
