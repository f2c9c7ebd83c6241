"""create, start, stop and their like: what is asked, what is said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from lxcd.v1 import container_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal


def created(request: Any) -> Iterator[Any]:
    yield container_pb2.CreateContainerResponse(progress="unpacking\x1b[2J")
    container = container_pb2.Container(name=request.name, state=types_pb2.STATE_STOPPED)
    container.problems.add(
        severity=types_pb2.Problem.Severity.SEVERITY_WARNING,
        origin="c:1",
        key="lxc.old",
        message="retired",
    )
    yield container_pb2.CreateContainerResponse(container=container)


def test_create(daemon: FakeDaemon, lxcctl: Lxcctl, tmp_path: Path) -> None:
    daemon.on["CreateContainer"] = created
    config = tmp_path / "c"
    config.write_text("lxc.uts.name = 001\n")
    result = lxcctl(
        "--lxcpath", "/lxc", "create", "001", "--config", str(config), "-s", "lxc.a=b=c",
        "--image", "host",
    )  # fmt: skip
    assert result.status == 0
    assert result.out == ""
    # Progress is for terminals.
    assert result.err == "lxcctl: 001: c:1: warning: lxc.old: retired\n"
    (request,) = daemon.asked("CreateContainer")
    assert request == container_pb2.CreateContainerRequest(
        name="001",
        lxcpath="/lxc",
        config_text="lxc.uts.name = 001\n",
        config_origin=str(config),
        define=[types_pb2.ConfigItem(key="lxc.a", value="b=c")],
        image="host",
    )


def test_create_from_stdin_as_json(
    daemon: FakeDaemon, lxcctl: Lxcctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.on["CreateContainer"] = created
    monkeypatch.setattr("sys.stdin", open(0, closefd=False))  # noqa: SIM115 - lives as long as fd 0
    result = lxcctl("create", "001", "--config", "-", "--format", "json", stdin=b"lxc.x = y\n")
    assert json.loads(result.out)["name"] == "001"
    assert daemon.asked("CreateContainer")[0].config_text == "lxc.x = y\n"


def test_progress_on_a_terminal_is_harmless(
    daemon: FakeDaemon, lxcctl: Lxcctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.on["CreateContainer"] = created
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    result = lxcctl("create", "001")
    assert result.err.startswith("\r\x1b[Kunpacking\\x1b[2J\r\x1b[K")


@pytest.mark.parametrize(
    ("content", "text"), [(None, "No such file"), (b"a\nb\n\xff", ":3: not UTF-8")]
)
def test_create_from_a_bad_file(
    daemon: FakeDaemon, lxcctl: Lxcctl, tmp_path: Path, content: bytes | None, text: str
) -> None:
    file = tmp_path / "c"
    if content is not None:
        file.write_bytes(content)
    result = lxcctl("create", "001", "--config", str(file))
    assert result.status == 1
    assert text in result.err
    assert not daemon.requests


def started(request: Any) -> Any:
    return container_pb2.StartContainerResponse(
        pid=100 + int(request.name), generation=2**40, timings_usec={"total": 5}
    )


def test_start_one(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["StartContainer"] = started
    result = lxcctl(
        "start", "001", "-s", "lxc.a=b", "--ephemeral", "--system", "--", "sh", "-c", "x"
    )
    assert (result.status, result.out, result.err) == (0, "", "")
    (request,) = daemon.asked("StartContainer")
    assert request == container_pb2.StartContainerRequest(
        name="001",
        command=["sh", "-c", "x"],
        system=True,
        ephemeral=True,
        define=[types_pb2.ConfigItem(key="lxc.a", value="b")],
    )


def test_start_as_json_is_an_object_for_one_and_a_list_for_more(
    daemon: FakeDaemon, lxcctl: Lxcctl
) -> None:
    daemon.on["StartContainer"] = started
    one = json.loads(lxcctl("start", "001", "--format", "json").out)
    assert one["name"] == "001"
    assert one["pid"] == 101
    assert one["generation"] == 2**40
    assert one["timings_usec"] == {"total": 5}
    more = json.loads(lxcctl("start", "001", "002", "--format", "json").out)
    assert [row["pid"] for row in more] == [101, 102]


def test_start_many_goes_on_after_a_failure(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    def start(request: Any) -> Any:
        if request.name == "002":
            raise refusal("NOT_FOUND", "no such container", "NOT_FOUND")
        if request.name == "003":
            raise refusal("FAILED_PRECONDITION", "003 runs already", "WRONG_STATE")
        return started(request)

    daemon.on["StartContainer"] = start
    result = lxcctl("start", "001", "002", "003", "004")
    assert result.status == 4
    assert result.err == "lxcctl: 002: no such container\nlxcctl: 003 runs already\n"
    assert sorted(r.name for r in daemon.asked("StartContainer")) == ["001", "002", "003", "004"]


def test_stop_says_what_it_took(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["StopContainer"] = lambda _: container_pb2.StopContainerResponse(
        method="SIGRTMIN+3 (systemd)", exit=types_pb2.Exit(code=0)
    )
    result = lxcctl("stop", "001", "--timeout", "0.5")
    assert (result.status, result.out) == (0, "")
    assert result.err == "001: SIGRTMIN+3 (systemd)\n"
    (request,) = daemon.asked("StopContainer")
    assert (request.timeout.seconds, request.timeout.nanos) == (0, 500_000_000)


def test_stop_timeout_zero_is_not_unset(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["StopContainer"] = lambda _: container_pb2.StopContainerResponse()
    lxcctl("stop", "001", "--timeout", "0")
    lxcctl("stop", "001", "--kill")
    lxcctl("stop", "001", "--no-kill")
    zero, kill, no_kill = daemon.asked("StopContainer")
    assert zero.HasField("timeout")
    assert kill.kill
    assert not kill.HasField("timeout")
    assert no_kill.no_kill


def test_restart(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["RestartContainer"] = lambda _: container_pb2.RestartContainerResponse(
        pid=7, generation=2, method="SIGKILL"
    )
    result = lxcctl("restart", "001", "--kill", "--format", "csv")
    assert result.out == "name,pid,generation,method\n001,7,2,SIGKILL\n"
    assert result.err == "001: SIGKILL\n"
    assert daemon.asked("RestartContainer")[0].kill
    assert not daemon.asked("RestartContainer")[0].no_kill
    assert lxcctl("restart", "001", "--no-kill").status == 0
    assert daemon.asked("RestartContainer")[-1].no_kill
    assert lxcctl("restart", "001", "--no-kill", "--kill").status == 2


def test_freeze_and_thaw(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["FreezeContainer"] = lambda _: container_pb2.FreezeContainerResponse()
    daemon.on["ThawContainer"] = lambda _: container_pb2.ThawContainerResponse()
    assert lxcctl("freeze", "001", "002").status == 0
    assert lxcctl("thaw", "001").status == 0
    assert sorted(r.name for r in daemon.asked("FreezeContainer")) == ["001", "002"]


def test_signal(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["SignalContainer"] = lambda _: container_pb2.SignalContainerResponse()
    assert lxcctl("signal", "001", "RTMIN+3").status == 0
    assert lxcctl("signal", "001", "-9").status == 0
    assert [r.signal for r in daemon.asked("SignalContainer")] == [37, 9]


def test_delete(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["DeleteContainer"] = lambda _: container_pb2.DeleteContainerResponse(
        kept_rootfs="/srv/x"
    )
    result = lxcctl("delete", "001", "--force")
    assert result.status == 0
    assert "/srv/x" in result.err
    assert daemon.asked("DeleteContainer")[0].force


def test_rename(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    daemon.on["RenameContainer"] = lambda r: container_pb2.Container(name=r.new_name)
    result = lxcctl("rename", "001", "002", "--format", "yaml")
    assert result.out.startswith('name: "002"\n')


def waiting(
    daemon: FakeDaemon,
    *,
    state: types_pb2.State.ValueType = types_pb2.STATE_RUNNING,
    reached: bool = True,
) -> None:
    daemon.on["GetContainer"] = lambda r: container_pb2.Container(
        name=r.name, state=state, generation=3
    )
    daemon.on["WaitContainer"] = lambda _: container_pb2.WaitContainerResponse(
        reached=reached, state=state
    )


@pytest.mark.parametrize(("reached", "status"), [(True, 0), (False, 1)])
def test_wait_for_a_state(
    daemon: FakeDaemon, lxcctl: Lxcctl, *, reached: bool, status: int
) -> None:
    waiting(daemon, reached=reached)
    result = lxcctl("wait", "001", "--for", "stopped|FROZEN", "--timeout", "0")
    assert (result.status, result.out, result.err) == (status, "", "")
    (request,) = daemon.asked("WaitContainer")
    assert list(request.states) == [types_pb2.STATE_STOPPED, types_pb2.STATE_FROZEN]
    assert request.HasField("timeout")
    assert request.generation == 0


@pytest.mark.parametrize(
    ("state", "generation"), [(types_pb2.STATE_RUNNING, 3), (types_pb2.STATE_STOPPED, 0)]
)
def test_wait_for_an_exit_means_the_present_generation(
    daemon: FakeDaemon, lxcctl: Lxcctl, state: types_pb2.State.ValueType, generation: int
) -> None:
    waiting(daemon, state=state)
    assert lxcctl("wait", "001", "--for", "exit").status == 0
    (request,) = daemon.asked("WaitContainer")
    assert not request.states
    assert not request.HasField("timeout")
    assert request.generation == generation


def test_wait_for_a_network(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    waiting(daemon)
    assert lxcctl("wait", "001", "--for", "network", "--timeout", "5").status == 0
    (request,) = daemon.asked("WaitContainer")
    assert (request.condition, request.generation) == (container_pb2.CONDITION_NETWORK, 3)
    assert not request.states


def test_wait_for_a_network_that_does_not_come(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    waiting(daemon, reached=False)
    result = lxcctl("wait", "001", "--for", "network", "--timeout", "0")
    assert (result.status, result.err) == (1, "")
    ended = container_pb2.WaitContainerResponse(state=types_pb2.STATE_STOPPED)
    ended.exit.code = 1
    daemon.on["WaitContainer"] = lambda _: ended
    result = lxcctl("wait", "001", "--for", "network")
    assert (result.status, result.out) == (1, "")
    assert result.err == "lxcctl: 001: it has ended before it had an address and a route\n"


def test_start_waits_for_a_network(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    daemon.on["StartContainer"] = lambda _: container_pb2.StartContainerResponse(generation=4)

    def wait(request: Any) -> Any:
        if request.name == "002":
            raise refusal("FAILED_PRECONDITION", "no network of its own", "NETWORK_SHARED")
        return container_pb2.WaitContainerResponse(reached=request.name == "001")

    daemon.on["WaitContainer"] = wait
    assert lxcctl("start", "001").status == 0
    assert daemon.asked("WaitContainer") == []
    assert lxcctl("start", "001", "--wait", "network").status == 0
    (request,) = daemon.asked("WaitContainer")
    assert (request.condition, request.generation) == (container_pb2.CONDITION_NETWORK, 4)
    result = lxcctl("start", "001", "002", "003", "--wait", "network")
    assert result.status == 4
    assert result.err.splitlines() == [
        "lxcctl: 002: no network of its own",
        "lxcctl: 003: it has ended before it had an address and a route",
    ]
    assert lxcctl("start", "001", "--wait", "network", "--console").status == 2


def test_wait_goes_on_after_the_daemon_was_away(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    waiting(daemon)
    answers = iter(["UNAVAILABLE", "CANCELLED", ""])

    def wait(_request: Any) -> Any:
        if code := next(answers):
            raise refusal(code, "going down")
        return container_pb2.WaitContainerResponse(reached=True)

    daemon.on["WaitContainer"] = wait
    assert lxcctl("wait", "001", "--for", "exit", "--timeout", "60").status == 0
    assert [r.generation for r in daemon.asked("WaitContainer")] == [3, 3, 3]


def test_wait_for_nobody(daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]) -> None:
    def get(_request: Any) -> None:
        raise refusal("NOT_FOUND", "no container 001", "NOT_FOUND")

    daemon.on["GetContainer"] = get
    assert lxcctl("wait", "001", "--for", "exit").status == 3
