"""Prepared children: starts with and without them, what becomes of them, what they leave."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lxcd.kernel import procfs
from tests.system import ledger
from tests.system.boxes import defined
from tests.system.calls import IDLE, application, define, events, get, idle, state
from tests.system.host import Host
from tests.system.machine import until


def slots(host: Host) -> list[dict[str, str]]:
    """The directories of each, as they are journaled."""
    try:
        text = (host.run_dir / "private/slots").read_text()
    except FileNotFoundError:
        return []
    return [slot["directories"] for slot in json.loads(text)]


def prepared(host: Host) -> list[int]:
    """Children of the keeper that wait to become something."""
    found: list[int] = []
    for process in ledger.descendants(host.keeper_pid):
        with suppress(OSError):
            status = procfs.status(process.pid)
            if status.comm == "lxcd-walker" and status.state != "Z":
                found.append(process.pid)
    return found


def has_stock(host: Host, number: int) -> None:
    until(lambda: len(prepared(host)) >= number, f"{number} are prepared")


@pytest.fixture
def strange_cgroup() -> Iterator[str]:
    """One of another lxcd's."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        tops = [line.split()[4] for line in file if " - cgroup" in line]
    path = f"{tops[0]}/lxcd-test-{os.getpid()}"
    os.mkdir(path)
    os.setxattr(path, "trusted.lxcd", b"of another")
    try:
        yield path
    finally:
        os.rmdir(path)


def test_without_any_everything_works(cold_host: Host, busybox_root: Path) -> None:
    cold_host.config.write_text("prepared_max = 0\n")
    cold_host.start_daemon()
    for _ in range(2):
        with idle(cold_host, busybox_root, "app") as made:
            assert made.sh("echo on") == "on"
            assert prepared(cold_host) == []
            left = [path for slot in slots(cold_host) for path in slot.values()]
            assert not any(map(os.path.exists, left))


def test_a_start_takes_one_and_another_is_made(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "first"):
        has_stock(host, 1)
        waiting = prepared(host)
        with idle(host, busybox_root, "second") as made:
            # It has become the container's: its directories have another name now.
            for name in made.info().cgroups.values():
                assert name.endswith("lxc.payload.second")
            until(lambda: bool(set(prepared(host)) - set(waiting)), "another is prepared")
            journaled = [set(slot.values()) for slot in slots(host)]
            for pid in prepared(host):
                own = {path for _, path in procfs.cgroups(pid).items() if "lxcd.slot." in path}
                assert all(
                    any(path.endswith(name) for slot in journaled for path in slot) for name in own
                )


def test_the_end_of_a_prepared_child_is_made_good(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "first"):
        has_stock(host, 1)
        pids = prepared(host)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not set(pids) & set(prepared(host)), "they are gone")
        with idle(host, busybox_root, "second") as made:
            assert made.sh("echo on") == "on"
            has_stock(host, 1)
    host.shutdown()


def test_those_of_a_daemon_that_was_killed_are_swept(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "app"):
        has_stock(host, 1)
        pids, left = prepared(host), slots(host)
        host.kill_daemon()
        until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "they end with it")
        host.start_daemon()
        for directories in left:
            marks = {str(slot) for slot in slots(host)}
            if str(directories) not in marks:
                assert not any(map(os.path.exists, directories.values()))


def test_a_journal_of_slots_that_names_what_is_anothers_does_no_harm(
    cold_host: Host, strange_cgroup: str
) -> None:
    private = cold_host.run_dir / "private"
    private.mkdir(mode=0o700)
    slot = {"directories": {"x": strange_cgroup}, "made": [strange_cgroup], "mark": "00" * 8}
    (private / "slots").write_text(json.dumps([slot]))
    cold_host.start_daemon()
    assert os.path.isdir(strange_cgroup)


def test_a_shutdown_leaves_none(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "app"):
        has_stock(host, 1)
    directories = slots(host)
    host.shutdown()
    assert slots(host) == []
    assert not any(os.path.exists(path) for slot in directories for path in slot.values())


def test_nothing_of_one_container_is_seen_by_the_next(host: Host, busybox_root: Path) -> None:
    """What a container did to its namespaces ends with it, though the next one's child was forked meanwhile."""
    lines = ("lxc.uts.name = mine",)
    with defined(host, application(host, busybox_root, "one", *lines), "one") as made:
        made.start(*IDLE)
        made.sh("ip link add dummy0 type dummy 2>/dev/null || ip link set lo mtu 1400; echo set")
        made.sh("hostname changed; touch /tmp/mine; echo set")
    with defined(host, application(host, busybox_root, "two"), "two") as made:
        made.start(*IDLE)
        assert made.sh("hostname") == "two"
        assert "mtu 65536" in made.sh("ip link show lo")
        assert "dummy0" not in made.sh("ip link")
        assert made.sh("ls /proc/self/fd | wc -l") == "4"
        assert made.sh("ls /proc | grep -c '^[0-9]'") in ("4", "5", "6")


def test_shutdown_without_a_daemon_stops_what_one_has_left(host: Host, busybox_root: Path) -> None:
    api = host.channel()
    for name, order in (("last", 1), ("first", 9)):
        define(api, name, application(host, busybox_root, name, f"lxc.start.order = {order}"))
        host.ctl("start", name, "--", *IDLE)
    host.kill_daemon()
    argv = [sys.executable, "-m", "lxcd", *host.roots, "shutdown"]
    assert host.machine.wait(host.machine.spawn(argv, host.environment, host.log)) == 0
    assert not host.machine.processes()
    host.start_daemon()
    assert state(get(host.channel(), "first")) == "STOPPED"
    ended = [event.container for event in events(host.channel(), "container.exited")]
    assert ended == ["first", "last"]
