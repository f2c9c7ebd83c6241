"""The API's own promises: numbers of events, pages, retries, trials, and who may reach it at all."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lxcd.v1 import container_pb2, event_pb2, host_pb2, types_pb2
from tests.system.boxes import box, defined
from tests.system.calls import (
    IDLE,
    application,
    define,
    events,
    everything,
    get,
    idle,
    refused,
    seconds,
    state,
)
from tests.system.host import Api, Host
from tests.system.machine import DEADLINE, until

pb = container_pb2


# Events


def test_events_go_on_where_they_were_across_restarts_of_the_daemon(
    host: Host, busybox_root: Path
) -> None:
    with idle(host, busybox_root, "app"):
        seen = [event.sequence for event in events(host.channel())]
        for end in (host.kill_daemon, host.stop_daemon):
            end()
            host.start_daemon()
            with Api(host.address) as api:
                last = events(api)[-1].sequence
                request = event_pb2.StreamEventsRequest(after_sequence=seen[-1])
                call = api.event.StreamEvents(request, timeout=DEADLINE)
                for answer in call:
                    assert answer.lost == 0
                    seen.append(answer.event.sequence)
                    if seen[-1] == last:
                        break
                call.cancel()
        assert seen == list(range(1, len(seen) + 1))
        assert len(events(host.channel(), "daemon.started")) == 3


def test_events_are_filtered_by_container_family_and_time(host: Host, busybox_root: Path) -> None:
    api = host.channel()
    for name in ("a", "b"):
        with idle(host, busybox_root, name):
            pass
    assert {event.container for event in events(api, names=("a",))} == {"a"}
    assert {event.type for event in events(api, "container.state")} == {"container.state"}
    family = events(api, "container.*")
    assert {event.container for event in family} == {"a", "b"}
    assert events(api, "nosuch.*") == []
    middle = family[len(family) // 2]
    request = event_pb2.ListEventsRequest(since=middle.time, page_size=1000)
    found = api.event.ListEvents(request, timeout=DEADLINE).events
    assert found[0].sequence == middle.sequence
    paged = []
    token = ""
    while True:
        request = event_pb2.ListEventsRequest(page_size=3, page_token=token)
        page = api.event.ListEvents(request, timeout=DEADLINE)
        paged += page.events
        assert len(page.events) <= 3
        token = page.next_page_token
        if not token:
            break
    assert paged == events(api)


def test_a_watch_shows_what_is_there_then_each_change_then_the_end(
    host: Host, busybox_root: Path
) -> None:
    api = host.channel()
    define(api, "one", application(host, busybox_root, "one"))
    call = api.container.WatchContainers(pb.WatchContainersRequest(), timeout=DEADLINE)
    answer = pb.WatchContainersResponse
    first, synced = next(call), next(call)
    assert (first.kind, first.container.name) == (answer.KIND_PRESENT, "one")
    assert synced.kind == answer.KIND_SYNCED
    api.container.StartContainer(
        pb.StartContainerRequest(name="one", command=IDLE), timeout=DEADLINE
    )
    until(lambda: next(call).container.state == types_pb2.STATE_RUNNING, "its start is seen")
    host.ctl("stop", "--kill", "one")
    until(lambda: next(call).container.state == types_pb2.STATE_STOPPED, "its stop is seen")
    host.ctl("rename", "one", "two")
    seen = set()

    def both() -> bool:
        change = next(call)
        seen.add((change.kind, change.container.name))
        return {(answer.KIND_REMOVED, "one"), (answer.KIND_CHANGED, "two")} <= seen

    until(both, "both names of a rename are seen")
    host.ctl("delete", "two")
    until(lambda: next(call).kind == answer.KIND_REMOVED, "its end is seen")
    call.cancel()


def test_waiting_tells_reached_from_given_up(shared_host: Host, busybox_root: Path) -> None:
    def wait(**options: Any) -> pb.WaitContainerResponse:
        request = pb.WaitContainerRequest(name="w", **options)
        reply: pb.WaitContainerResponse = api.container.WaitContainer(request, timeout=DEADLINE)
        return reply

    stopped, running = types_pb2.STATE_STOPPED, types_pb2.STATE_RUNNING
    with defined(shared_host, application(shared_host, busybox_root, "w"), "w") as made:
        api = made.api
        assert wait(states=[stopped]).reached
        look = wait(states=[running], timeout=seconds(0))
        assert (look.reached, look.state) == (False, stopped)
        next_end = api.container.WaitContainer.future(
            pb.WaitContainerRequest(name="w"), timeout=DEADLINE
        )
        made.start("/bin/sh", "-c", "exit 9")
        assert (next_end.result().reached, next_end.result().exit.code) == (True, 9)
        made.start(*IDLE)
        assert not wait(timeout=seconds(0)).reached
        # The first life is long over, though another runs.
        assert wait(generation=1).reached
        assert refused(lambda: wait(timeout=seconds(-1))).code == "INVALID_ARGUMENT"
        deleted = api.container.WaitContainer.future(
            pb.WaitContainerRequest(name="w", states=[types_pb2.STATE_FROZEN]), timeout=DEADLINE
        )
        made.delete(force=True)
        assert not deleted.result().reached
        assert refused(wait).code == "NOT_FOUND"


def test_health_and_reflection_answer(shared_host: Host) -> None:
    with Api(shared_host.address) as api:
        for service in ("", "lxcd.v1.ContainerService", "lxcd.v1.EventService"):
            request = health_pb2.HealthCheckRequest(service=service)
            reply = api.health.Check(request, timeout=DEADLINE)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING, service
        unknown = health_pb2.HealthCheckRequest(service="nosuch")
        assert refused(lambda: api.health.Check(unknown, timeout=DEADLINE)).code == "NOT_FOUND"
        channel: Any = api.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        (told,) = list(stub.ServerReflectionInfo(iter([question]), timeout=DEADLINE))
        names = {service.name for service in told.list_services_response.service}
    assert {
        f"lxcd.v1.{word}Service" for word in ("Container", "Exec", "Console", "Event", "Host")
    } <= (names)


# Pages, retries, trials


def test_a_list_comes_in_pages_that_miss_and_repeat_nothing(host: Host) -> None:
    api = host.channel()
    names = [f"{number:03}" for number in range(7)]
    for name in names:
        define(api, name, "lxc.rootfs.path = dir:/nowhere\n")
    for size in (1, 3, 7, 100):
        found: list[str] = []
        token = ""
        while True:
            request = pb.ListContainersRequest(page_size=size, page_token=token)
            page = api.container.ListContainers(request, timeout=DEADLINE)
            assert len(page.containers) <= size
            found += [one.name for one in page.containers]
            token = page.next_page_token
            if not token:
                break
        assert found == names


@pytest.mark.parametrize("token", ["no token", "!!!!", "/w==", "1" * 5001])
def test_what_is_no_page_is_refused(shared_host: Host, token: str) -> None:
    with Api(shared_host.address) as api:
        for call in (
            lambda: api.container.ListContainers(pb.ListContainersRequest(page_token=token)),
            lambda: api.event.ListEvents(event_pb2.ListEventsRequest(page_token=token)),
            lambda: api.container.ListContainers(pb.ListContainersRequest(page_size=-1)),
        ):
            assert refused(call).code == "INVALID_ARGUMENT"


def test_a_retry_gets_the_first_answer_and_does_nothing(
    shared_host: Host, busybox_root: Path
) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "re"), "re") as made:
        request = pb.StartContainerRequest(name="re", command=IDLE, request_id="start-re")
        calls = [
            made.api.container.StartContainer.future(request, timeout=DEADLINE) for _ in range(5)
        ]
        answers = [call.result() for call in calls]
        answers.append(made.api.container.StartContainer(request, timeout=DEADLINE))
        assert all(answer == answers[0] for answer in answers)
        assert made.info().generation == 1
        assert len(events(made.api, "container.started", names=("re",))) == 1
        other = pb.StartContainerRequest(name="re", request_id="start-re")
        stop = pb.StopContainerRequest(name="re", kill=True, request_id="start-re")
        for call in (
            lambda: made.api.container.StartContainer(other),
            lambda: made.api.container.StopContainer(stop),
        ):
            error = refused(call)
            assert (error.code, error.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
        # A failure is an answer too.
        wrong = pb.ThawContainerRequest(name="re", request_id="thaw-re")
        texts = {refused(lambda: made.api.container.ThawContainer(wrong)).text for _ in range(2)}
        assert len(texts) == 1
        long = pb.ThawContainerRequest(name="re", request_id="x" * 1000)
        assert refused(lambda: made.api.container.ThawContainer(long)).code == "INVALID_ARGUMENT"


def test_a_create_and_a_delete_can_be_retried(shared_host: Host) -> None:
    with Api(shared_host.address) as api:
        made = [define(api, "rc", "", request_id="create-rc") for _ in range(2)]
        assert made[0] == made[1]
        request = pb.DeleteContainerRequest(name="rc", request_id="delete-rc")
        for _ in range(2):
            api.container.DeleteContainer(request, timeout=DEADLINE)
        assert "rc" not in everything(api)


def test_an_update_wants_the_etag_that_was_read(shared_host: Host) -> None:
    with Api(shared_host.address) as api:
        before = define(api, "tag", "# mine\n")

        def change(etag: str, value: str) -> pb.Container:
            request = pb.UpdateContainerRequest(
                container=pb.Container(name="tag", etag=etag),
                changes=[pb.ConfigChange(key="lxc.group", values=[value])],
            )
            reply: pb.Container = api.container.UpdateContainer(request, timeout=DEADLINE)
            return reply

        after = change(before.etag, "one")
        assert after.etag != before.etag
        assert list(after.groups) == ["one"]
        error = refused(lambda: change(before.etag, "two"))
        assert (error.code, error.reason) == ("ABORTED", "ETAG_MISMATCH")
        stale = pb.DeleteContainerRequest(name="tag", etag=before.etag)
        assert refused(lambda: api.container.DeleteContainer(stale)).code == "ABORTED"
        assert get(api, "tag").etag == after.etag
        assert (shared_host.lxcpath / "tag/config").read_text().startswith("# mine\n")
        api.container.DeleteContainer(pb.DeleteContainerRequest(name="tag"), timeout=DEADLINE)


def _files(top: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for folder, folders, names in os.walk(top):
        for name in folders + names:
            known = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (known.st_ino, known.st_mtime_ns)
    return found


def test_a_trial_of_any_change_changes_nothing(cold_host: Host, busybox_root: Path) -> None:
    host = cold_host
    # What is prepared beside is written down when it likes.
    host.config.write_text("prepared_max = 0\n")
    host.start_daemon()
    with (
        box(host, application(host, busybox_root, "up"), "up", "/bin/sh", "-c", "sleep 100000"),
        defined(host, application(host, busybox_root, "down"), "down"),
    ):
        api = host.channel()
        service = api.container
        try_: dict[str, Any] = {"validate_only": True}
        up, down = {"name": "up", **try_}, {"name": "down", **try_}
        trials: list[Callable[[], Any]] = [
            lambda: list(service.CreateContainer(pb.CreateContainerRequest(name="new", **try_))),
            lambda: service.UpdateContainer(
                pb.UpdateContainerRequest(
                    container=pb.Container(name="down"),
                    changes=[pb.ConfigChange(key="lxc.group", values=["a"])],
                    validate_only=True,
                )
            ),
            lambda: service.DeleteContainer(pb.DeleteContainerRequest(**down)),
            lambda: service.DeleteContainer(pb.DeleteContainerRequest(force=True, **up)),
            lambda: service.RenameContainer(pb.RenameContainerRequest(new_name="n", **down)),
            lambda: service.StartContainer(pb.StartContainerRequest(command=IDLE, **down)),
            lambda: service.StartContainer(
                pb.StartContainerRequest(name="new", image="host", command=IDLE, **try_)
            ),
            lambda: service.StopContainer(pb.StopContainerRequest(**up)),
            lambda: service.RestartContainer(pb.RestartContainerRequest(**up)),
            lambda: service.FreezeContainer(pb.FreezeContainerRequest(**up)),
            lambda: service.SignalContainer(pb.SignalContainerRequest(signal=9, **up)),
            lambda: api.host.Drain(host_pb2.DrainRequest(leave=True, **try_)),
        ]
        files = [_files(top) for top in (host.lxcpath, host.state_dir, host.run_dir)]
        # Known a moment after the start.
        until(lambda: bool(get(api, "up").network_interfaces), "its network is known")
        told, found = events(api), everything(api)
        for trial in trials:
            trial()
            assert everything(api) == found
        assert events(api) == told
        assert [_files(top) for top in (host.lxcpath, host.state_dir, host.run_dir)] == files
        # And says what would be refused.
        wrong: list[Callable[[], Any]] = [
            lambda: list(service.CreateContainer(pb.CreateContainerRequest(**up))),
            lambda: service.DeleteContainer(pb.DeleteContainerRequest(**up)),
            lambda: service.StopContainer(pb.StopContainerRequest(**down)),
            lambda: service.StartContainer(pb.StartContainerRequest(**up)),
            lambda: service.ThawContainer(pb.ThawContainerRequest(**up)),
            lambda: service.RenameContainer(pb.RenameContainerRequest(new_name="n", **up)),
        ]
        codes = [refused(call).code for call in wrong]
        assert codes == ["ALREADY_EXISTS", *["FAILED_PRECONDITION"] * 5]


# Who may


def test_only_root_reaches_the_daemon_and_its_private_part(host: Host, busybox_root: Path) -> None:
    assert stat.S_IMODE(host.socket.stat().st_mode) == 0o660
    assert stat.S_IMODE(host.run_dir.stat().st_mode) == 0o711
    private = host.run_dir / "private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    with idle(host, busybox_root, "app"):
        for path in (host.socket, private, private / "containers", private / "keeper.sock"):
            for script in (f"cat {path}", f"ls {path}/", f": >> {path}"):
                done = subprocess.run(
                    [
                        "setpriv",
                        "--reuid=65534",
                        "--regid=65534",
                        "--clear-groups",
                        "sh",
                        "-c",
                        script,
                    ],
                    capture_output=True,
                    check=False,
                )
                assert done.returncode != 0, script
                assert done.stdout == b"", script
        for folder, _, names in os.walk(private):
            for name in names:
                assert os.lstat(os.path.join(folder, name)).st_mode & 0o077 == 0, name
        ours = {host.daemon, host.keeper_pid}
        inodes = {
            os.readlink(f"/proc/{pid}/fd/{number}").partition("[")[2].rstrip("]")
            for pid in ours
            for number in os.listdir(f"/proc/{pid}/fd")
            if os.path.islink(f"/proc/{pid}/fd/{number}")
        }
        for line in host.machine.run("cat", "/proc/net/unix").stdout.splitlines()[1:]:
            fields = line.split()
            if fields[6] in inodes and len(fields) > 7:
                assert not fields[7].startswith("@"), line


def test_a_socket_elsewhere_has_the_same_mode(cold_host: Host) -> None:
    path = cold_host.root / "api.sock"
    cold_host.start_daemon("--listen", f"unix:{cold_host.socket}", "--listen", f"unix:{path}")
    until(path.exists, "the second socket is there, too")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with Api(f"unix:{path}") as api:
        assert api.host.GetHost(host_pb2.GetHostRequest(), timeout=DEADLINE).pid
    cold_host.stop_daemon()
    assert not path.exists()
    with grpc.insecure_channel(f"unix:{path}"):
        assert (
            cold_host.ctl("list", check=False, env={"LXCD_ADDRESS": f"unix:{path}"}).returncode
            == 69
        )


def test_pid_one_of_an_application_tells_nothing_to_who_is_inside(
    shared_host: Host, busybox_root: Path
) -> None:
    with idle(shared_host, busybox_root, "hide") as made:
        # No descriptor of the keeper is there to be taken.
        assert os.listdir(f"/proc/{made.info().pid}/fd") == []
        assert state(made.info()) == "RUNNING"
