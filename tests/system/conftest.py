"""Fixtures of the system tests: hosts, root file systems, and the ledger around every test."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.system import connected, guests, ledger, roots
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of `test_faults`: places of a start, faults, and what each led to."""
    columns: dict[str, dict[str, dict[str, str]]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "faults" and report.when == "call":
                    case, fault, results = json.loads(value)
                    columns.setdefault(case, {}).setdefault(fault, {}).update(results)
    for case, found in columns.items():
        terminalreporter.section(f"faults at every place of a start: {case}")
        places = list(dict.fromkeys(place for results in found.values() for place in results))
        faults = sorted(found)
        rows = [["", *faults], *([p, *(found[f].get(p, "-") for f in faults)] for p in places)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())


@pytest.fixture(autouse=True)
def nothing_outlives_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare the machine before and after. A shared host is compared at its own end."""
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
    # What it made ready for one test would appear while the next one, on a host of its own, runs.
    host.config.write_text("prepared_max = 0\n")
    try:
        host.start_daemon()
        yield host
    finally:
        host.close()
    ledger.settle(before)


@pytest.fixture
def unwired(cold_host: Host) -> Iterator[Host]:
    """A machine on which lxcd has not been started yet, to whose networks a test will connect what it likes."""
    cold_host.module = "tests.system.connected"
    yield cold_host
    for box in connected.BOXES:
        box.end_processes()
    connected.BOXES.clear()


@pytest.fixture
def wired(unwired: Host) -> Host:
    """The same, with lxcd running."""
    connected.start(unwired)
    return unwired


@pytest.fixture(scope="session")
def debian_root() -> Path:
    """Debian with systemd. Read only."""
    return roots.debian()


@pytest.fixture(scope="session")
def sysv_root() -> Path:
    """Debian with sysvinit. Read only."""
    return roots.sysv()


@pytest.fixture(scope="session")
def debian_vm_root() -> Path:
    """Debian with systemd that was a virtual machine. Read only."""
    return guests.debian()


@pytest.fixture(scope="session")
def sysv_vm_root() -> Path:
    """Debian with sysvinit that was one. Read only."""
    return guests.sysv()


@pytest.fixture(scope="session")
def busybox_root() -> Path:
    """One static binary. Read only."""
    return roots.busybox()
