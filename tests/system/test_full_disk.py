"""No room: what needs it fails by name and loses nothing, what does not need it goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from lxcd.v1 import container_pb2, event_pb2, exec_pb2
from tests.system.boxes import Refused
from tests.system.calls import IDLE, define, events, everything, get, refused, state
from tests.system.consistency import VERSION_1, Watch
from tests.system.host import Host
from tests.system.losing import Ended, attempt
from tests.system.machine import DEADLINE, until


@contextmanager
def _small(host: Host, directory: Path) -> Iterator[Path]:
    """Put `directory` on a small disk, for lxcd alone, and start it; the disk as the test sees it."""
    directory.mkdir(exist_ok=True)
    run = host.machine.run
    run("mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "none", str(directory))
    host.start_daemon()
    try:
        yield Path(f"/proc/{host.machine.pid}/root{directory}")
    finally:
        (Path(f"/proc/{host.machine.pid}/root{directory}") / "filler").unlink(missing_ok=True)
        host.shutdown()
        # Its keeper and the trustee leave by themselves, and have files open there.
        until(lambda: not host.machine.processes(), "all have left")
        run("umount", str(directory))


def _fill(disk: Path) -> None:
    """Take every last page of it, also one that lxcd lets go of meanwhile: it prepares the next child."""
    with open(disk / "filler", "wb", buffering=0) as file:
        while os.statvfs(disk).f_bavail:
            with suppress(OSError):
                file.write(bytes(1 << 16))


def _free(disk: Path) -> None:
    (disk / "filler").unlink()


def _start(host: Host, name: str, image: str = "") -> None:
    request = container_pb2.StartContainerRequest(name=name, command=IDLE, image=image)
    host.channel().container.StartContainer(request, timeout=DEADLINE)


def _goes_on(host: Host, name: str) -> None:
    assert name in everything(host.channel())
    assert state(get(host.channel(), name)) == "RUNNING"
    request = exec_pb2.RunExecRequest(container=name, command=["echo", "in"])
    assert host.channel().exec.RunExec(request, timeout=DEADLINE).stdout == b"in\n"
    assert host.ctl("info", name).stdout


def _is_no_room(error: Refused) -> None:
    assert error.code == "RESOURCE_EXHAUSTED", error
    assert error.metadata["errno"] == "ENOSPC", error
    assert "No space left on device" in error.text, error


def test_a_full_lxcpath_refuses_what_is_new_and_keeps_what_is_there(cold_host: Host) -> None:
    host = cold_host
    with _small(host, host.lxcpath) as disk:
        api = host.channel()
        define(api, "old", "")
        _start(host, "old")
        _fill(disk)
        before = (disk / "old/config").read_bytes()
        there, own = set(os.listdir(disk)), set(os.listdir(disk / "old"))
        _is_no_room(refused(lambda: define(api, "new", "")))
        change = container_pb2.UpdateContainerRequest(
            container=container_pb2.Container(name="old"),
            changes=[container_pb2.ConfigChange(key="lxc.group", values=["x" * 10_000])],
        )
        _is_no_room(refused(lambda: api.container.UpdateContainer(change, timeout=DEADLINE)))
        assert (disk / "old/config").read_bytes() == before
        assert set(os.listdir(disk)) == there
        assert set(os.listdir(disk / "old")) == own
        assert list(everything(api)) == ["old"]
        _goes_on(host, "old")
        host.ctl("stop", "--kill", "old")
        _free(disk)
        api.container.UpdateContainer(change, timeout=DEADLINE)
        define(api, "new", "")
        _start(host, "new")
        _start(host, "old")


def test_a_full_state_directory_refuses_what_is_not_defined(cold_host: Host) -> None:
    host = cold_host
    with _small(host, host.state_dir) as disk:
        define(host.channel(), "old", "")
        _start(host, "old")
        _fill(disk)
        _is_no_room(refused(lambda: _start(host, "new", image="host")))
        assert list(everything(host.channel())) == ["old"]
        left = os.listdir(disk / "transient") if (disk / "transient").exists() else []
        assert left == []
        _goes_on(host, "old")
        _free(disk)
        _start(host, "new", image="host")
        host.ctl("stop", "--kill", "new")


def test_a_full_runtime_directory_refuses_a_start_and_holds_nothing_up(cold_host: Host) -> None:
    host = cold_host
    with _small(host, host.run_dir / "private") as disk:
        api = host.channel()
        for name in ("old", "other"):
            define(api, name, "")
        _start(host, "old")
        _fill(disk)
        _is_no_room(refused(lambda: _start(host, "other")))
        assert state(get(api, "other")) == "STOPPED"
        _goes_on(host, "old")
        # One that is to be found again by the next daemon cannot be written down: so it has not even begun.
        request = exec_pb2.CreateExecRequest(container="old", command=["touch", "/tmp/begun"])
        _is_no_room(refused(lambda: api.exec.CreateExec(request, timeout=DEADLINE)))
        assert host.ctl("execs", "old", "--format", "json").stdout.strip() in ("", "[]")
        look = exec_pb2.RunExecRequest(container="old", command=["test", "-e", "/tmp/begun"])
        assert api.exec.RunExec(look, timeout=DEADLINE).exit.code == 1
        host.ctl("stop", "--kill", "old")
        assert state(get(api, "old")) == "STOPPED"
        _free(disk)
        _start(host, "other")
        _start(host, "old")
        _goes_on(host, "other")


def test_an_end_that_could_not_be_written_down_is_known_to_the_next_daemon(
    cold_host: Host,
) -> None:
    host = cold_host
    with _small(host, host.run_dir / "private") as disk:
        api = host.channel()
        define(api, "app", "")
        _start(host, "app")
        _fill(disk)
        os.kill(get(api, "app").pid, signal.SIGKILL)
        until(lambda: state(get(api, "app")) == "STOPPED", "it is known to have ended")
        host.kill_daemon()
        _free(disk)
        host.start_daemon()
        # It is found with its end, and what is left of it is cleaned up beside.
        until(lambda: state(get(host.channel(), "app")) == "STOPPED", "its end is known")
        found = get(host.channel(), "app")
        assert found.pid == 0
        assert found.exit.signal == signal.SIGKILL
        _start(host, "app")


def test_a_daemon_comes_back_on_a_full_disk_and_loses_no_event(cold_host: Host) -> None:
    host = cold_host
    with _small(host, host.run_dir / "private") as disk:
        define(host.channel(), "app", "")
        _start(host, "app")
        before = events(host.channel())
        _fill(disk)
        host.kill_daemon()
        host.start_daemon()
        _goes_on(host, "app")
        _free(disk)
        host.kill_daemon()
        host.start_daemon()
        after = events(host.channel())
        assert after[: len(before)] == before
        # Those that found no room may be lost, but no number is given twice.
        numbers = [event.sequence for event in after]
        assert numbers == sorted(set(numbers))


def test_events_that_found_no_room_do_not_confuse_those_that_follow(cold_host: Host) -> None:
    host = cold_host
    with _small(host, host.run_dir / "private") as disk:
        api = host.channel()
        define(api, "app", "")
        _fill(disk)
        # More than fits the rest of the page in which the file ends.
        for number in range(30):
            refused(lambda: _start(host, "app"))
            assert number < len(events(api, "container.start_failed"))
        _free(disk)
        _start(host, "app")
        numbers = [event.sequence for event in events(api)]
        assert numbers == list(range(1, len(numbers) + 1))
        host.kill_daemon()
        host.start_daemon()
        api = host.channel()
        kept = [event.sequence for event in events(api)]
        assert kept == sorted(set(kept))
        for after in kept[-8:-1]:
            request = event_pb2.StreamEventsRequest(after_sequence=after)
            call = api.event.StreamEvents(request, timeout=20)
            try:
                assert next(call).event.sequence == kept[kept.index(after) + 1]
            except grpc.RpcError as error:
                message = f"no event after {after}"
                raise AssertionError(message) from error
            call.cancel()


def test_a_read_only_lxcpath_can_be_looked_at(cold_host: Host) -> None:
    host = cold_host
    host.start_daemon()
    define(host.channel(), "old", "")
    host.shutdown()
    run, path = host.machine.run, str(host.lxcpath)
    run("mount", "--bind", path, path)
    run("mount", "-o", "remount,bind,ro", path)
    try:
        host.start_daemon()
        api = host.channel()
        for attempt in (
            lambda: define(api, "new", ""),
            lambda: api.container.DeleteContainer(
                container_pb2.DeleteContainerRequest(name="old"), timeout=DEADLINE
            ),
            lambda: api.container.UpdateContainer(
                container_pb2.UpdateContainerRequest(
                    container=container_pb2.Container(name="old"),
                    changes=[container_pb2.ConfigChange(key="lxc.group", values=["a"])],
                ),
                timeout=DEADLINE,
            ),
        ):
            error = refused(attempt)
            assert error.code == "FAILED_PRECONDITION", error
            assert "Read-only file system" in error.text
        assert list(everything(api)) == ["old"]
        host.shutdown()
        until(lambda: not host.machine.processes(), "all have left")
    finally:
        run("umount", path)
    assert (host.lxcpath / "old/config").is_file()


@pytest.mark.timeout(600)
def test_a_first_start_without_room_says_so(cold_host: Host) -> None:
    """At each file that it makes: how many there may be is what the disk limits."""
    refused_with = []
    for files in range(2, 40):
        ended = _first_start(cold_host, f"size=1m,mode=755,nr_inodes={files}")
        if ended is None:
            break
        assert ended.status in (1, 69), (files, ended)
        *before, last = ended.text.splitlines()
        refused_with.append(last)
        assert last.startswith("lxcd: "), (files, ended.text)
        assert "No space left on device" in last, (files, ended.text)
        logged = [line for line in before if line.startswith(("warning ", "info "))]
        assert before == logged, (files, ended.text)
    else:
        raise AssertionError(refused_with)
    assert len(refused_with) >= 10, refused_with


def _first_start(host: Host, disk: str) -> Ended | None:
    """With a directory for what it writes that is such a disk, and empty; None: it serves, and has left again."""
    private = host.run_dir / "private"
    private.mkdir(exist_ok=True)
    host.machine.run("mount", "-t", "tmpfs", "-o", disk, "none", str(private))
    try:
        ended = attempt(host)
        if ended is None:
            host.stop_daemon()
        return ended
    finally:
        # A keeper that was started for it goes by itself.
        host.machine.run("umount", "--lazy", str(private))


@pytest.mark.skipif(not VERSION_1, reason="only slots of version 1 are written down")
def test_children_are_prepared_once_there_is_room_again(cold_host: Host) -> None:
    """Without another start, which would have to make its own."""
    host = cold_host
    with _small(host, host.run_dir / "private") as disk:
        define(host.channel(), "app", "")
        _fill(disk)
        _is_no_room(refused(lambda: _start(host, "app")))
        watch = Watch(host, "app")
        until(lambda: "no child could be prepared" in host.log_text(), "it was tried")
        assert watch.stock() == 0
        _free(disk)
        until(lambda: watch.stock() > 0, "a child is prepared")
