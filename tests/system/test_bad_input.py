"""Names, configurations, root file systems and numbers that are wrong: a clear word, and nothing made of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from lxcd.v1 import container_pb2, exec_pb2, types_pb2
from tests.system.boxes import Refused, defined
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
    tree,
)
from tests.system.host import Api, Host
from tests.system.machine import DEADLINE

pb = container_pb2

BAD_NAMES = [
    "",
    ".",
    "..",
    "/",
    "a/b",
    "../a",
    "a\n",
    "a\tb",
    "x" * 256,
    "-a",
    "--force",
    "\x1b[2J",
]
API_NAMES = [*BAD_NAMES, "a\0b", "\0", "\u202e", "é" * 128]


def _calls(api: Api, name: str) -> dict[str, Callable[[], Any]]:
    """Every method that takes a name."""
    box = api.container
    return {
        "create": lambda: list(box.CreateContainer(pb.CreateContainerRequest(name=name))),
        "get": lambda: box.GetContainer(pb.GetContainerRequest(name=name)),
        "update": lambda: box.UpdateContainer(
            pb.UpdateContainerRequest(container=pb.Container(name=name))
        ),
        "delete": lambda: box.DeleteContainer(pb.DeleteContainerRequest(name=name, force=True)),
        "rename": lambda: box.RenameContainer(pb.RenameContainerRequest(name=name, new_name="n")),
        "rename to": lambda: box.RenameContainer(
            pb.RenameContainerRequest(name="here", new_name=name)
        ),
        "start": lambda: box.StartContainer(pb.StartContainerRequest(name=name)),
        "run": lambda: box.StartContainer(
            pb.StartContainerRequest(name=name, image="host", command=IDLE)
        ),
        "stop": lambda: box.StopContainer(pb.StopContainerRequest(name=name)),
        "restart": lambda: box.RestartContainer(pb.RestartContainerRequest(name=name)),
        "freeze": lambda: box.FreezeContainer(pb.FreezeContainerRequest(name=name)),
        "thaw": lambda: box.ThawContainer(pb.ThawContainerRequest(name=name)),
        "signal": lambda: box.SignalContainer(pb.SignalContainerRequest(name=name, signal=15)),
        "wait": lambda: box.WaitContainer(pb.WaitContainerRequest(name=name)),
        "plan": lambda: box.PlanContainer(pb.PlanContainerRequest(name=name)),
        "ps": lambda: box.ListProcesses(pb.ListProcessesRequest(names=[name])),
        "exec": lambda: api.exec.RunExec(
            exec_pb2.RunExecRequest(container=name, command=["/bin/true"])
        ),
    }


@pytest.fixture(scope="module")
def api(shared_host: Host) -> Api:
    made = shared_host.channel()
    define(made, "here", "")
    return made


@pytest.mark.parametrize("name", API_NAMES, ids=ascii)
def test_no_method_takes_what_is_no_name(shared_host: Host, api: Api, name: str) -> None:
    before, told = tree(shared_host.lxcpath), len(events(api))
    state_before = tree(shared_host.state_dir)
    for verb, call in _calls(api, name).items():
        error = refused(call)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_NAME"), verb
        assert error.text.isprintable(), verb
    assert tree(shared_host.lxcpath) == before
    assert tree(shared_host.state_dir) == state_before
    assert len(events(api)) == told


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_no_verb_takes_what_is_no_name(shared_host: Host, api: Api, name: str) -> None:
    before = tree(shared_host.lxcpath)
    # What looks like an option is a matter of the command line: behind `--` where a verb takes one.
    for verb in ("create", "start", "stop", "delete", "info", "logs", "freeze", "plan"):
        done = shared_host.ctl(verb, name, check=False)
        assert done.returncode == 2, (verb, done)
        assert done.stdout == "", verb
        assert "Traceback" not in done.stderr, verb
    assert tree(shared_host.lxcpath) == before


def test_a_name_that_does_not_exist_is_told_so_by_every_method(shared_host: Host, api: Api) -> None:
    for verb, call in _calls(api, "nosuch").items():
        if verb not in ("create", "run", "rename to"):
            error = refused(call)
            assert (error.code, error.reason) == ("NOT_FOUND", "CONTAINER_NOT_FOUND"), verb
    for words in (
        *(
            (verb, "nosuch")
            for verb in ("start", "stop", "delete", "info", "logs", "freeze", "plan")
        ),
        ("exec", "nosuch", "true"),
        ("wait", "nosuch", "--for", "exit"),
        ("signal", "nosuch", "TERM"),
        ("config", "get", "nosuch", "lxc.group"),
        ("rename", "nosuch", "other"),
    ):
        done = shared_host.ctl(*words, check=False)
        assert (done.returncode, done.stdout) == (3, ""), words
        assert "nosuch" in done.stderr, words


@pytest.mark.parametrize("name", ["001", "1e3", "a b", "é", "x" * 239, "a.b"])
def test_a_strange_name_is_a_name(shared_host: Host, name: str) -> None:
    # A host name is shorter than a name may be.
    config = "lxc.uts.name = short\n" if len(name) > 64 else ""
    with defined(shared_host, config, name) as made:
        made.start(*IDLE)
        assert made.sh("echo in") == "in"
        assert made.info().name == name
        if not name.startswith("."):
            assert name in everything(made.api)


# Configurations


def _write(host: Host, name: str, data: bytes) -> None:
    (host.lxcpath / name).mkdir()
    (host.lxcpath / name / "config").write_bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)) * 100,
        b"\0" * 100_000,
        b"=\n==\n = \n" * 1000,
        b"lxc.rootfs.path" * 100_000,
        b"lxc.group = a\n" * 700_000,
        b"lxc.nosuch.key = 1\n" * 50_000,
        b"lxc.include = config\n",
        b"lxc.include = .\n",
        b"lxc.include = /dev/zero\n",
        b"lxc.include = /proc/self/mem\n",
        b"\xff\xfe\x00l",
    ],
    ids=range(11),
)
def test_a_config_that_is_garbage_is_listed_explained_and_deleted(host: Host, data: bytes) -> None:
    api = host.channel()
    _write(host, "bad", data)
    define(api, "good", "")
    assert sorted(everything(api)) == ["bad", "good"]
    # Not through the API: ten megabytes of configuration are more than gRPC takes unasked.
    assert "bad" in host.ctl("info", "bad").stdout
    assert host.ctl("list", "-1").stdout == "bad\ngood\n"
    start = pb.StartContainerRequest(name="bad", command=IDLE)
    # Where nothing worse is in it than unknown keys it starts, as LXC would do: in the host's own root.
    try:
        api.container.StartContainer(start, timeout=DEADLINE)
        host.ctl("stop", "--kill", "bad")
    except grpc.RpcError as broken:
        error = Refused(broken)
        if error.reason not in ("INVALID_CONFIG", "START_FAILED"):
            raise error from None
    assert (host.lxcpath / "bad/config").read_bytes() == data
    host.ctl("delete", "bad")
    assert sorted(everything(api)) == ["good"]


def test_retired_unknown_and_repeated_keys_are_warnings(host: Host, busybox_root: Path) -> None:
    lines = (
        "lxc.pivotdir = mnt",
        "lxc.nosuch.key = 1",
        "lxc.uts.name = first",
        "lxc.uts.name = second",
    )
    text = application(host, busybox_root, "old", *lines)
    _write(host, "old", text.encode())
    api = host.channel()
    problems = {problem.key: problem for problem in get(api, "old").problems}
    for key, line in (("lxc.pivotdir", 3), ("lxc.nosuch.key", 4)):
        assert problems[key].severity == types_pb2.Problem.SEVERITY_WARNING
        assert problems[key].origin.endswith(f"config:{line}")
    host.ctl("start", "old", "--", *IDLE)
    assert host.ctl("exec", "old", "--", "hostname").stdout == "second\n"
    host.ctl("delete", "--force", "old")
    assert everything(api) == {}


@pytest.mark.parametrize("value", ["a\nlxc.mount.entry = /etc mnt none bind 0 0", "a\0b", "a\rb"])
def test_a_value_cannot_become_a_second_line(shared_host: Host, api: Api, value: str) -> None:
    before = (shared_host.lxcpath / "here/config").read_bytes()
    item = types_pb2.ConfigItem(key="lxc.group", value=value)
    change = pb.UpdateContainerRequest(
        container=pb.Container(name="here"),
        changes=[pb.ConfigChange(key="lxc.group", values=[value])],
    )
    key = pb.UpdateContainerRequest(
        container=pb.Container(name="here"),
        changes=[pb.ConfigChange(key=f"lxc.group = {value}", values=["a"])],
    )
    for call in (
        lambda: define(api, "new", "", define=[item]),
        lambda: api.container.StartContainer(pb.StartContainerRequest(name="here", define=[item])),
        lambda: api.container.UpdateContainer(change),
        lambda: api.container.UpdateContainer(key),
    ):
        assert refused(call).code == "INVALID_ARGUMENT"
    assert (shared_host.lxcpath / "here/config").read_bytes() == before
    assert list(everything(api)) == ["here"]


def test_a_text_with_a_nul_or_too_much_of_it_is_refused(api: Api) -> None:
    for text in ("lxc.group = a\0b\n", "\0", "#" * (17 << 20)):
        assert refused(lambda text=text: define(api, "new", text)).code == "INVALID_ARGUMENT"  # type: ignore[misc]
    assert "new" not in everything(api)


# Root file systems and programs


def _fails_to_start(host: Host, name: str, config: str) -> Refused:
    with Api(host.address) as api:
        define(api, name, config)
        request = pb.StartContainerRequest(name=name)
        error = refused(lambda: api.container.StartContainer(request, timeout=DEADLINE))
        assert error.reason == "START_FAILED", error
        assert error.metadata["origin"].startswith(str(host.lxcpath / name / "config")), error
        assert error.metadata["syscall"], error
        found = get(api, name)
        assert (state(found), found.pid) == ("STOPPED", 0)
        assert found.state_reason in error.text
        done = host.ctl("start", name, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert error.metadata["errno"] in done.stderr
        plan = host.ctl("plan", name).stdout
        assert error.metadata["errno"] in plan
        assert error.metadata["origin"] in plan
        api.container.DeleteContainer(pb.DeleteContainerRequest(name=name), timeout=DEADLINE)
        return error


@pytest.mark.parametrize(
    ("kind", "number"), [("missing", "ENOENT"), ("file", "ENOTDIR"), ("loop", "ELOOP")]
)
def test_a_root_that_is_none_fails_by_name(shared_host: Host, kind: str, number: str) -> None:
    place = shared_host.root / f"root-{kind}"
    if kind == "file":
        place.touch()
    if kind == "loop":
        place.symlink_to(place.name)
    error = _fails_to_start(shared_host, f"r-{kind}", f"lxc.rootfs.path = dir:{place}\n")
    assert error.metadata["errno"] == number
    assert str(place) in error.text


@pytest.mark.parametrize(
    ("init", "number"),
    [("/no/such", "ENOENT"), ("/etc/passwd", "EACCES"), ("/etc", "EACCES")],
)
def test_an_init_that_cannot_be_run_fails_by_name(
    shared_host: Host, busybox_root: Path, init: str, number: str
) -> None:
    name = "i" + init.replace("/", "-")
    line = f"lxc.init.cmd = {init}"
    error = _fails_to_start(shared_host, name, application(shared_host, busybox_root, name, line))
    assert (error.metadata["errno"], error.metadata["syscall"]) == (number, "execve")
    assert init in error.text


@pytest.mark.parametrize(
    ("command", "code"), [("/no/such", 127), ("no-such", 127), ("/etc/passwd", 126), ("/etc", 126)]
)
def test_an_application_that_cannot_be_run_exits_as_in_a_shell(
    shared_host: Host, busybox_root: Path, command: str, code: int
) -> None:
    with defined(shared_host, application(shared_host, busybox_root, "cmd"), "cmd") as made:
        made.start(command)
        made.wait(generation=1)
        assert made.info().exit.code == code
        assert command in made.log().decode()


# Numbers


@pytest.mark.parametrize("number", [0, -1, 65, 1000, -(2**31), 2**31 - 1])
def test_what_is_no_signal_is_refused(api: Api, number: int) -> None:
    request = pb.SignalContainerRequest(name="here", signal=number)
    error = refused(lambda: api.container.SignalContainer(request))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_SIGNAL")


def test_negative_times_are_refused(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "neg") as made:
        box = made.api.container
        minus: dict[str, Any] = {"name": "neg", "timeout": seconds(-1)}
        calls: list[Callable[[], Any]] = [
            lambda: box.StopContainer(pb.StopContainerRequest(**minus)),
            lambda: box.RestartContainer(pb.RestartContainerRequest(**minus)),
            lambda: box.WaitContainer(pb.WaitContainerRequest(**minus)),
        ]
        for call in calls:
            error = refused(call)
            assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_TIMEOUT")
        assert state(made.info()) == "RUNNING"
        assert made.info().generation == 1


def test_a_root_outside_of_the_container_stays_when_it_is_deleted(
    shared_host: Host, api: Api
) -> None:
    mine = shared_host.root / "mine"
    mine.mkdir()
    (mine / "precious").touch()
    define(api, "out", f"lxc.rootfs.path = dir:{mine}\n")
    request = pb.DeleteContainerRequest(name="out")
    reply = api.container.DeleteContainer(request, timeout=DEADLINE)
    assert reply.kept_rootfs == str(mine)
    assert os.listdir(mine) == ["precious"]
