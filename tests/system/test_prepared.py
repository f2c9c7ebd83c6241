"""Prepared children: starts with and without them, what becomes of them, what they leave."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from lxcd.kernel import procfs
from lxcd.v1 import container_pb2
from tests.system import ledger
from tests.system.boxes import Box, defined
from tests.system.calls import IDLE, application, define, events, get, idle, state
from tests.system.consistency import VERSION_1
from tests.system.host import Host
from tests.system.losing import halted, slow_at
from tests.system.machine import DEADLINE, until

_LEAST = 4  # are kept of a kind that was asked for at all


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


def trees() -> set[str]:
    """Where those of version 1 are mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return {line.split()[4] for line in file if " - cgroup " in line}


def inodes(directories: Iterable[str]) -> dict[str, int]:
    """Of a child's directories of version 1, by tree: a rename changes none. Nothing if they are not there."""
    tops = trees()
    try:
        found = {os.path.dirname(path): os.stat(path).st_ino for path in directories}
    except FileNotFoundError:
        return {}
    return {top: inode for top, inode in found.items() if top in tops}


def namespaces(pid: int) -> dict[str, str]:
    """Those that every container of these tests has for itself."""
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in ("ipc", "mnt", "net", "uts")}


def waiting(host: Host) -> list[dict[str, str]]:
    """The namespaces of all that are prepared."""
    return [namespaces(pid) for pid in prepared(host)]


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
        # One after the other: when there is a second, the first is in stock.
        has_stock(host, 2)
        pids, before = prepared(host), waiting(host)
        made_ahead = [inodes(slot.values()) for slot in slots(host)]
        with idle(host, busybox_root, "second") as made:
            assert namespaces(made.info().pid) in before
            # It has become the container's: its directories have another name now.
            found = made.info().cgroups.values()
            assert {os.path.basename(path) for path in found} == {"lxc.payload.second"}
            if VERSION_1:
                assert inodes(found).keys() == trees()
                assert inodes(found) in made_ahead
            until(lambda: bool(set(prepared(host)) - set(pids)), "another is prepared")
            journaled = [set(slot.values()) for slot in slots(host)]
            for pid in prepared(host):
                own = {path for _, path in procfs.cgroups(pid).items() if "lxcd.slot." in path}
                assert all(
                    any(path.endswith(name) for slot in journaled for path in slot) for name in own
                )


def test_a_burst_of_starts_leaves_more_in_stock(host: Host, busybox_root: Path) -> None:
    daemon = host.daemon
    assert daemon is not None
    with ExitStack() as stack:
        first, *others = [
            stack.enter_context(defined(host, application(host, busybox_root, name), name))
            for name in (f"app{number}" for number in range(3 * _LEAST))
        ]
        first.start(*IDLE)
        has_stock(host, _LEAST)
        assert len(prepared(host)) == _LEAST

        def leaves_more() -> bool:
            with halted(daemon):
                # It finds them all at once, however slow we are.
                calls = [
                    made.api.container.StartContainer.future(
                        container_pb2.StartContainerRequest(name=made.name, command=IDLE),
                        timeout=DEADLINE,
                    )
                    for made in others
                ]
            assert all(call.result().pid > 0 for call in calls)
            has_stock(host, _LEAST)
            for made in others:
                made.stop(kill=True)
            # Made meanwhile, if it was a burst: where lxcd waits for a processor between one and the next it is none.
            return len(prepared(host)) > _LEAST

        until(leaves_more, "a burst has left more")


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


def _begun(name: str) -> int:
    """In how many trees of version 1 there is a cgroup of that name."""
    return sum(os.path.exists(f"{top}/{name}") for top in trees())


def _left(host: Host, pid: int) -> list[str]:
    """Cgroups of an lxcd that has ended, and of containers of its host."""
    names = (f"lxcd.slot.{pid}.", "lxc.payload.")
    return [
        f"{top}/{name}" for top in trees() for name in os.listdir(top) if name.startswith(names)
    ]


needs_slots = pytest.mark.skipif(not VERSION_1, reason="slots are cgroups of version 1")


@needs_slots
def test_whoever_leaves_takes_along_what_is_being_made(host: Host, busybox_root: Path) -> None:
    daemon = host.daemon
    assert daemon is not None
    with idle(host, busybox_root, "first"):
        has_stock(host, _LEAST)
        with slow_at(daemon, "mkdir", 0.1), idle(host, busybox_root, "second"):

            def one_is_begun() -> bool:
                names = {os.path.basename(path) for slot in slots(host) for path in slot.values()}
                return any(0 < _begun(name) < len(trees()) for name in names)

            until(one_is_begun, "a slot has some of its directories")
            host.stop_daemon()
            assert not [path for path in _left(host, daemon) if "lxcd.slot." in path]
            assert slots(host) == []
            host.start_daemon()


@needs_slots
def test_whoever_leaves_undoes_a_start_that_has_not_all_its_cgroups(
    host: Host, busybox_root: Path
) -> None:
    daemon = host.daemon
    assert daemon is not None
    config = application(host, busybox_root, "app")
    with defined(host, config, "app") as made:
        # In all, longer than a call is given to end by itself.
        with slow_at(daemon, "rename", 0.6):
            request = container_pb2.StartContainerRequest(name="app", command=IDLE)
            call = made.api.container.StartContainer.future(request, timeout=DEADLINE)
            until(lambda: 0 < _begun("lxc.payload.app") < len(trees()), "it has one of them")
            host.stop_daemon()
        assert call.exception() is not None
        assert _left(host, daemon) == []
        host.start_daemon()
        assert state(made.info()) == "STOPPED"
        made.start(*IDLE)
        made.stop()


_KEYS = """\
import ctypes
call = ctypes.CDLL(None).syscall
{act}
print(call(250, 10, -3, b"user", b"mine", 0) > 0)  # keyctl(KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, ...)
"""
_ADD_KEY = 'call(248, b"user", b"mine", b"text", 4, -3)  # add_key'
_FILLED = 50 << 20


def _application(act: str = "") -> tuple[str, ...]:
    """Writes down its environment, says whether its session keyring has a key of that name, and goes on."""
    keys = f"chroot /host python3 -c '{_KEYS.format(act=act)}'"
    return ("/bin/sh", "-c", f"cat /proc/$$/environ >/environ; {keys}; exec sleep 100000")


def _seen(made: Box) -> dict[str, str]:
    """What a container that was just started finds, of what another could have changed."""
    scripts = {
        "hostname": "hostname",
        "devices": "ip -o link",
        "descriptors": "ls /proc/self/fd | wc -l",
        "environment": "cat /proc/1/environ /environ | tr '\\0' '\\n'",
        "limits": "cat /proc/1/limits",
        "oom": "cat /proc/1/oom_score_adj",
        "files": "ls -A /tmp",
        "setting": "cat /proc/sys/net/ipv4/ip_forward",
    }
    return {name: made.sh(script) for name, script in scripts.items()}


def _most_used(made: Box) -> int:
    """Bytes of memory, in its life so far."""
    for top in made.info().cgroups.values():
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with suppress(FileNotFoundError):
                return int(Path(top, name).read_text())
    pytest.fail("nobody counts its memory")


def test_nothing_of_one_container_is_seen_by_the_next(host: Host, busybox_root: Path) -> None:
    """What a container did to its namespaces ends with it, though the next one's child was forked meanwhile."""
    tools = "lxc.mount.entry = / host none bind,ro,create=dir 0 0"
    lines = (
        tools,
        "lxc.uts.name = mine",
        "lxc.environment = SECRET=mine",
        "lxc.prlimit.nofile = 200:300",
        "lxc.proc.oom_score_adj = 123",
    )
    with defined(host, application(host, busybox_root, "two", tools), "two") as made:
        made.start(*_application())
        made.shows("False")
        before = _seen(made)
    with defined(host, application(host, busybox_root, "one", *lines), "one") as made:
        made.start(*_application(_ADD_KEY))
        made.shows("True")
        made.sh("ip link add dummy0 type dummy 2>/dev/null || ip link set lo mtu 1400")
        made.sh("hostname changed; touch /tmp/mine; echo 1 >/proc/sys/net/ipv4/ip_forward")
        made.sh(f"mount -t tmpfs none /mnt && head -c {_FILLED} /dev/zero >/mnt/full")
        assert _most_used(made) > _FILLED
        unlike = {name for name, value in _seen(made).items() if value != before[name]}
        assert unlike == before.keys() - {"descriptors"}
        has_stock(host, 1)
        meanwhile = waiting(host)
    with defined(host, application(host, busybox_root, "two", tools), "two") as made:
        made.start(*_application())
        assert namespaces(made.info().pid) in meanwhile
        made.shows("False")
        assert _seen(made) == before
        assert made.sh("hostname") == "two"
        assert "mtu 65536" in made.sh("ip link show lo")
        assert made.sh("ls /proc/self/fd | wc -l") == "4"
        assert made.sh("ls /proc | grep -c '^[0-9]'") in ("4", "5", "6")
        assert _most_used(made) < _FILLED // 2


def test_shutdown_without_a_daemon_stops_what_one_has_left(host: Host, busybox_root: Path) -> None:
    api = host.channel()
    for name, order in (("last", 1), ("first", 9)):
        define(api, name, application(host, busybox_root, name, f"lxc.start.order = {order}"))
        host.ctl("start", name, "--", *IDLE)
    host.kill_daemon()
    argv = [sys.executable, "-m", "lxcd", *host.roots, "shutdown"]
    assert host.machine.wait(host.machine.spawn(argv, host.environment, host.log)) == 0
    until(lambda: not host.machine.processes(), "the keeper was reaped")
    host.start_daemon()
    assert state(get(host.channel(), "first")) == "STOPPED"
    ended = [event.container for event in events(host.channel(), "container.exited")]
    assert ended == ["first", "last"]
