"""Lxcd is told to leave while something is under way: what it undoes it undoes whole, the rest is the next one's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import container_pb2, types_pb2
from tests.stuck import silent
from tests.system.boxes import Box, busybox_up, defined, generation_runs, over
from tests.system.calls import IDLE, application, events, idle, seconds, state
from tests.system.consistency import VERSION_1
from tests.system.host import Host
from tests.system.losing import share, slow_at, writing_end
from tests.system.machine import DEADLINE, until
from tests.system.wires import kept, links, nic, pair, script

_STUBBORN = ("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")

either_ending = pytest.mark.parametrize("end", [Host.kill_daemon, Host.stop_daemon])


def _start(made: Box) -> Any:
    request = container_pb2.StartContainerRequest(name=made.name, command=IDLE)
    return made.api.container.StartContainer.future(request, timeout=DEADLINE)


def _cgroups(name: str) -> list[str]:
    """Those of a container; from some trees some may be gone already."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        tops = [line.split()[4] for line in file if " - cgroup" in line]
    paths = [f"{top}/lxc.payload.{name}" for top in tops]
    return [path for path in paths if os.path.exists(path)]


def test_a_shutdown_does_not_wait_for_a_stop_that_may_take_hours(
    cold_host: Host, busybox_root: Path
) -> None:
    host = cold_host
    host.config.write_text("shutdown_timeout_seconds = 1.0\n")
    host.start_daemon()
    with defined(host, application(host, busybox_root, "deaf"), "deaf") as made:
        pid = made.start(*_STUBBORN).pid
        made.shows("ready")
        request = container_pb2.StopContainerRequest(name="deaf", timeout=seconds(36000))
        call = made.api.container.StopContainer.future(request, timeout=DEADLINE)
        made.wait(types_pb2.STATE_STOPPING)
        host.shutdown()
        assert not os.path.exists(f"/proc/{pid}")
        assert call.result().killed
        host.start_daemon()
        assert made.info().exit.cause == types_pb2.CAUSE_REQUESTED


@pytest.mark.skipif(not VERSION_1, reason="a container gets its cgroups of version 1 one by one")
@either_ending
def test_a_reboot_whose_start_is_cut_short_is_made_up_for(
    host: Host, busybox_root: Path, end: Callable[[Host], Any]
) -> None:
    daemon = host.daemon
    assert daemon is not None
    with defined(host, over(host, busybox_root, "again"), "again") as again:
        again.start()
        busybox_up(again)
        with slow_at(daemon, "rename", 0.3):
            again.run("reboot")

            def starts() -> bool:
                found = again.info()
                return (found.generation, state(found)) == (2, "STARTING")

            until(starts, "its next life begins")
            until(lambda: bool(_cgroups("again")), "it has a cgroup")
            end(host)
        host.start_daemon()
        generation_runs(again, 3)
        busybox_up(again)
        assert again.info().exit.cause == types_pb2.CAUSE_REBOOT
        failed = events(again.api, "container.start_failed", names=("again",))
        assert len(failed) == 1


def test_what_is_being_undone_is_undone_whole(host: Host, busybox_root: Path) -> None:
    share(host, "down")
    fails = script(host, "fails", "exit 3")
    waits = script(host, "waits", f"cat {host.root}/share/down")
    with pair(host, "card0"):
        before = set(links(host))
        lines = nic("link = card0", kind="phys", number=1)
        lines += nic(f"script.down = {waits}") + nic(f"script.up = {fails}", number=2)
        with defined(host, over(host, busybox_root, "box") + lines, "box") as made:
            call = _start(made)
            fifo = writing_end(host, "down")
            assert set(links(host)) != before
            assert host.daemon is not None
            os.kill(host.daemon, signal.SIGTERM)
            # Its caller has waited as long as they may, and now lxcd ends what it does itself.
            assert call.exception() is not None
            os.close(fifo)
            host.stop_daemon()
            until(lambda: set(links(host)) == before, "the card is back")
            assert not _cgroups("box")
            host.start_daemon()
            assert kept(host) == []
            assert state(made.info()) == "STOPPED"


@pytest.mark.long
def test_a_thread_that_does_not_end_does_not_keep_lxcd(host: Host, busybox_root: Path) -> None:
    place = host.root / "silent"
    place.mkdir()
    line = f"lxc.mount.entry = {place}/some mnt none bind 0 0"
    with (
        idle(host, busybox_root, "lives") as lives,
        defined(host, application(host, busybox_root, "stuck", line), "stuck") as made,
    ):
        with silent(place, host.machine.pid) as somebody_waits:
            call = _start(made)
            until(somebody_waits, "its start waits for what it mounts")
            assert host.stop_daemon() == 1
            host.machine.run("umount", "--lazy", str(place))
        assert call.exception() is not None
        host.start_daemon()
        assert not _cgroups("stuck")
        assert state(made.info()) == "STOPPED"
        assert lives.sh("echo on") == "on"
        (place / "some").mkdir()
        made.start(*IDLE)
