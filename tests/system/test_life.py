"""A container's life as lxcctl shows it: freeze, restart, rename, signals, waiting, looking, changing."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import types_pb2
from tests.system.boxes import (
    KERNEL_MOUNTS,
    Box,
    Refused,
    box,
    busybox_up,
    defined,
    generation_runs,
    info,
    over,
)
from tests.system.calls import refused, seconds
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

pytestmark = pytest.mark.vm


@pytest.fixture
def running(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with box(shared_host, over(shared_host, busybox_root) + KERNEL_MOUNTS) as made:
        busybox_up(made)
        yield made


@pytest.fixture
def stopped(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with defined(shared_host, over(shared_host, busybox_root) + KERNEL_MOUNTS) as made:
        yield made


def _rows(host: Host, *arguments: str) -> Any:
    rows: Any = json.loads(host.ctl("--format", "json", *arguments).stdout)
    return rows


# freeze and thaw


def test_frozen_processes_stand_still_until_they_are_thawed(running: Box) -> None:
    host = running.host
    running.sh("(while :; do echo >> /root/ticks; usleep 1000; done) >/dev/null 2>&1 &")
    ticks = host.root / "upper/box/delta/root/ticks"

    def size() -> int:
        return ticks.stat().st_size if ticks.exists() else 0

    until(lambda: size() > 0, "it ticks")
    host.ctl("freeze", "box")
    assert info(host, "box")["state"] == "FROZEN"
    frozen = size()
    pid = running.info().pid
    wchan = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert wchan in ("D", "S")
    # A round trip through another container's life: time enough for 1000 ticks, and none came.
    host.ctl("run", "host", "--rm", "--", "true")
    assert size() == frozen
    host.ctl("thaw", "box")
    assert info(host, "box")["state"] == "RUNNING"
    until(lambda: size() > frozen, "it ticks again")


def test_exec_in_a_frozen_container_is_refused_and_leaves_nothing(running: Box) -> None:
    host = running.host
    host.ctl("freeze", "box")
    host.ctl("freeze", "box")  # it is already what was asked for
    done = host.ctl("exec", "box", "--", "true", check=False)
    assert done.returncode == 4
    assert "FROZEN" in done.stderr
    with pytest.raises(Refused) as caught:
        running.run("true")
    assert caught.value.reason == "CONTAINER_FROZEN"
    host.ctl("thaw", "box")
    assert host.ctl("exec", "box", "--", "echo", "warm").stdout == "warm\n"
    assert host.ctl("thaw", "box", check=False).returncode == 4


def test_stop_of_a_frozen_container_is_a_clean_one(running: Box) -> None:
    running.host.ctl("freeze", "box")
    reply = _rows(running.host, "stop", "box")
    assert (reply["method"], reply["killed"]) == ("SIGUSR1 (busybox)", False)


def test_kill_of_a_frozen_container_ends_it(running: Box) -> None:
    running.host.ctl("freeze", "box")
    running.host.ctl("stop", "--kill", "box")
    assert info(running.host, "box")["exit"]["signal"] == 9


@pytest.mark.parametrize("verb", ["freeze", "thaw", "stop", "restart"])
def test_what_needs_a_running_container_says_that_it_is_not(stopped: Box, verb: str) -> None:
    done = stopped.host.ctl(verb, "box", check=False)
    assert done.returncode == 4
    assert "STOPPED" in done.stderr
    assert stopped.host.ctl(verb, "nobody", check=False).returncode == 3


# start, stop, restart, signal, wait


def test_starting_twice_is_refused_and_changes_nothing(running: Box) -> None:
    before = running.info()
    done = running.host.ctl("start", "box", check=False)
    assert done.returncode == 4
    assert "RUNNING" in done.stderr
    after = running.info()
    assert (after.pid, after.generation) == (before.pid, before.generation)


def test_restart_is_a_stop_and_a_start(running: Box) -> None:
    before = running.info()
    done = running.host.ctl("restart", "box")
    assert "SIGUSR1 (busybox)" in done.stderr
    after = running.info()
    assert after.generation == before.generation + 1
    assert after.pid != before.pid
    assert after.exit.cause == types_pb2.CAUSE_REQUESTED
    assert after.state == types_pb2.STATE_RUNNING


def test_a_restart_that_kills_nobody_is_a_reboot(running: Box) -> None:
    before = running.info()
    done = running.host.ctl("restart", "--no-kill", "box")
    assert "SIGINT (reboot)" in done.stderr
    after = running.info()
    assert after.generation == before.generation + 1
    assert after.pid != before.pid
    assert after.exit.cause == types_pb2.CAUSE_REBOOT
    assert after.state == types_pb2.STATE_RUNNING
    # What is frozen hears it, too.
    busybox_up(running)
    running.host.ctl("freeze", "box")
    running.host.ctl("restart", "--no-kill", "box")
    assert running.info().generation == after.generation + 1


def test_a_reboot_that_init_does_not_hear_of(shared_host: Host, busybox_root: Path) -> None:
    deaf = ("/bin/sh", "-c", "trap 'echo asked' USR1 INT; echo deaf; while :; do sleep 1; done")
    config = over(shared_host, busybox_root) + "lxc.signal.reboot = SIGUSR1\n"
    with box(shared_host, config, "box", *deaf) as made:
        until(lambda: "deaf" in shared_host.ctl("logs", "box").stdout, "it does not listen")
        before = made.info()
        done = shared_host.ctl("restart", "--no-kill", "--timeout", "1", "box", check=False)
        assert done.returncode != 0
        assert "box did not reboot in 1 s after SIGUSR1 (lxc.signal.reboot)" in done.stderr
        # Its shell says so once its `sleep` is over.
        until(lambda: "asked" in shared_host.ctl("logs", "box").stdout, "it has heard it")
        # Only to ask for it.
        answer = made.restart(no_kill=True, timeout=seconds(0))
        after = made.info()
        assert (before.pid, before.generation) == (after.pid, after.generation)
        assert (answer.pid, answer.generation) == (after.pid, after.generation)
        assert after.state == types_pb2.STATE_RUNNING
        error = refused(lambda: made.restart(no_kill=True, kill=True))
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "KILL_AND_NO_KILL")
        made.restart(no_kill=True, validate_only=True)


def test_an_init_that_ends_where_it_was_to_reboot(shared_host: Host, busybox_root: Path) -> None:
    ends = ("/bin/sh", "-c", "trap 'exit 3' INT; echo ready; while :; do sleep 1; done")
    with box(shared_host, over(shared_host, busybox_root), "box", *ends) as made:
        until(lambda: "ready" in shared_host.ctl("logs", "box").stdout, "it listens")
        error = refused(lambda: made.restart(no_kill=True))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "CONTAINER_NOT_RUNNING")
        assert made.info().exit.code == 3


def test_a_restart_that_could_not_start_does_not_stop(running: Box) -> None:
    path = running.directory / "config"
    path.write_text(path.read_text() + "lxc.mount.entry = tmpfs /else tmpfs defaults 0 0\n")
    done = running.host.ctl("restart", "box", check=False)
    assert done.returncode != 0
    assert running.info().generation == 1
    assert running.info().state == types_pb2.STATE_RUNNING


def test_stop_without_kill_fails_when_init_does_not_listen(
    shared_host: Host, busybox_root: Path
) -> None:
    config = over(shared_host, busybox_root) + "lxc.init.cmd = /bin/sleep 1000\n"
    with box(shared_host, config) as made:
        done = shared_host.ctl("stop", "--no-kill", "--timeout", "0.2", "box", check=False)
        assert done.returncode == 1
        assert made.info().state == types_pb2.STATE_RUNNING
        reply = _rows(shared_host, "stop", "--timeout", "0.2", "box")
        assert reply["killed"] is True
        assert "SIGKILL" in reply["method"]
        assert reply["exit"]["cause"] == "REQUESTED"


def test_signal_reaches_init(shared_host: Host, busybox_root: Path) -> None:
    script = 'trap "echo got it" USR1; echo ready; while :; do sleep 1000 & wait $!; done'
    line = f"lxc.init.cmd = /bin/sh -c '{script}'\n"
    with box(shared_host, over(shared_host, busybox_root) + line) as made:
        made.shows("ready")
        shared_host.ctl("signal", "box", "USR1")
        made.shows("got it")
        assert shared_host.ctl("signal", "box", "NONSENSE", check=False).returncode == 2


def test_wait_ends_with_the_state_or_the_exit_it_was_told(running: Box) -> None:
    host = running.host
    assert host.ctl("wait", "box", "--for", "RUNNING").returncode == 0
    assert (
        host.ctl("wait", "box", "--for", "STOPPED", "--timeout", "0", check=False).returncode == 1
    )
    before = host.connections()
    waiters = [
        subprocess.Popen(
            host.ctl_argv("--format", "json", "wait", "box", "--for", goal),
            env=host.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        for goal in ("exit", "STOPPED|FROZEN")
    ]
    # An end that is over when they look is not what they wait for.
    until(lambda: len(host.connections() - before) >= 2, "both have come to lxcd")
    host.ctl("stop", "box")
    replies = [json.loads(waiter.communicate(timeout=DEADLINE)[0]) for waiter in waiters]
    assert [waiter.returncode for waiter in waiters] == [0, 0]
    assert replies[0]["exit"]["cause"] == "REQUESTED"
    assert replies[1]["state"] == "STOPPED"
    assert host.ctl("wait", "nobody", "--for", "exit", check=False).returncode == 3


# names


def test_rename_moves_the_directory_and_the_config_follows(
    shared_host: Host, busybox_root: Path
) -> None:
    config = (
        f"# mine\nlxc.rootfs.path = overlay:{busybox_root}:{shared_host.lxcpath}/old/delta\n"
        "lxc.uts.name = old\n"
    )
    with defined(shared_host, config, "old"):
        shared_host.ctl("rename", "old", "new")
        assert not (shared_host.lxcpath / "old").exists()
        text = (shared_host.lxcpath / "new/config").read_text()
        assert text.startswith("# mine\n")
        assert f":{shared_host.lxcpath}/new/delta" in text
        shared_host.ctl("start", "new")
        assert shared_host.ctl("exec", "new", "--", "hostname").stdout == "new\n"
        assert shared_host.ctl("info", "old", check=False).returncode == 3
        shared_host.ctl("delete", "--force", "new")


def test_rename_is_refused_while_it_runs_and_for_names_that_cannot_be(
    running: Box, stopped_twin: Box
) -> None:
    host = running.host
    assert host.ctl("rename", "box", "other", check=False).returncode == 4
    assert host.ctl("rename", "twin", "box", check=False).returncode == 4
    for name in ("../up", "", "a/b"):
        assert host.ctl("rename", "twin", name, check=False).returncode == 2
    assert stopped_twin.info().name == "twin"


def test_a_name_that_no_list_would_show_is_refused(stopped_twin: Box) -> None:
    # A listing of the directory passes over what begins with a dot: after a restart it would be lost.
    host = stopped_twin.host
    done = host.ctl("rename", "twin", ".hidden", check=False)
    host.ctl("delete", ".hidden", check=False)
    assert done.returncode == 2


@pytest.fixture
def stopped_twin(shared_host: Host, busybox_root: Path) -> Iterator[Box]:
    with defined(shared_host, over(shared_host, busybox_root, "twin"), "twin") as made:
        yield made


# looking


def test_ps_shows_both_pids_of_every_process_and_whose_it_is(running: Box) -> None:
    host = running.host
    running.sh("sleep 4321 >/dev/null 2>&1 &")
    processes: list[dict[str, Any]] = []

    def sleeps() -> bool:
        # Until then it is another shell.
        processes[:] = _rows(host, "ps", "box")
        return any(process["command"] == ["sleep", "4321"] for process in processes)

    until(sleeps, "it sleeps")
    (init,) = [p for p in processes if p["container_pid"] == 1]
    assert init["pid"] == running.info().pid
    (sleeper,) = [p for p in processes if p["command"] == ["sleep", "4321"]]
    inside = running.sh("pidof sleep").split()
    assert str(sleeper["container_pid"]) in inside
    assert {p["container"] for p in processes} == {"box"}
    table = host.ctl("ps").stdout.splitlines()
    assert table[0].split() == ["PID", "INSIDE", "CONTAINER", "COMMAND"]
    assert any(str(sleeper["pid"]) in line and "box" in line for line in table)
    everything = _rows(host, "ps", "--all")
    assert "" in {p["container"] for p in everything}
    with_options = host.ctl("ps", "--", "-eo", "pid,args").stdout
    assert any(
        "sleep 4321" in line and line.startswith("box") for line in with_options.splitlines()
    )


def test_a_listing_is_of_one_lxcpath(running: Box, busybox_root: Path) -> None:
    host = running.host
    place = host.root / "other"
    place.mkdir()
    other = ("--lxcpath", str(place))
    before = _rows(host, "host")
    config = over(host, busybox_root, "else") + KERNEL_MOUNTS
    host.ctl(*other, "create", "else", "--config", "-", input=config)
    try:
        host.ctl(*other, "start", "else")
        assert {row["container"] for row in _rows(host, "ps")} == {"box"}
        assert {row["container"] for row in _rows(host, *other, "ps")} == {"else"}
        # Nor is it the host's own, wherever it is.
        inside = {row["pid"] for row in _rows(host, *other, "ps")}
        assert not inside & {row["pid"] for row in _rows(host, "ps", "--all")}
        after = _rows(host, "host")
        for count in ("containers", "running"):
            assert after[count] == before[count] + 1
    finally:
        host.ctl(*other, "delete", "--force", "else")


def test_list_in_every_format_tells_the_same(running: Box) -> None:
    host = running.host
    (row,) = _rows(host, "list")
    (again,) = list(csv.DictReader(io.StringIO(host.ctl("--format", "csv", "list").stdout)))
    assert row["name"] == again["name"] == "box"
    assert row["state"] == again["state"] == "RUNNING"
    assert "box" in host.ctl("list").stdout
    assert '- name: "box"' in host.ctl("--format", "yaml", "list").stdout
    assert host.ctl("list", "--state", "STOPPED", "-1").stdout == ""


def test_checkconfig_tells_what_the_kernel_offers(shared_host: Host) -> None:
    done = shared_host.ctl("checkconfig")
    assert "Namespaces" in done.stdout
    features = {row["name"]: row for row in _rows(shared_host, "checkconfig")}
    assert all(row["available"] for row in features.values() if row["required"])
    programs = {name for name, row in features.items() if row["group"] == "Programs"}
    assert programs == {"dnsmasq", "nft"}
    assert not any(features[name]["required"] for name in programs)


def test_plan_shows_every_step_and_marks_the_one_that_failed(
    shared_host: Host, busybox_root: Path
) -> None:
    config = over(shared_host, busybox_root) + KERNEL_MOUNTS
    with defined(shared_host, config) as made:
        steps = _rows(shared_host, "plan", "box")["steps"]
        names = [step["name"] for step in steps]
        assert names.index("mount_proc") < names.index("pivot_root") < names.index("execute")
        assert not any(step["failed"] for step in steps)
        (proc,) = [step for step in steps if step["name"] == "mount_proc"]
        assert proc["origin"] == f"{made.directory}/config:2"
        entry = "lxc.mount.entry = tmpfs no/such/place tmpfs defaults 0 0\n"
        path = made.directory / "config"
        path.write_text(path.read_text() + entry)
        done = shared_host.ctl("start", "box", check=False)
        assert done.returncode == 1
        assert "ENOENT" in done.stderr
        assert f"asked for at {path}:4" in done.stderr
        steps = _rows(shared_host, "plan", "box")["steps"]
        (failed,) = [step for step in steps if step["failed"]]
        assert failed["name"] == "mount_filesystem"
        assert failed["failed_errno"] == 2
        assert failed["origin"] == f"{path}:4"
        assert "FAILED" in shared_host.ctl("plan", "box").stdout
        path.write_text(path.read_text().replace(entry, ""))
        shared_host.ctl("start", "box")
        steps = _rows(shared_host, "plan", "box")["steps"]
        assert not any(step["failed"] for step in steps)


def test_plan_marks_a_step_of_the_host_s_side(shared_host: Host) -> None:
    with defined(shared_host, "lxc.rootfs.path = /no/such/root\n") as made:
        assert shared_host.ctl("start", "box", check=False).returncode == 1
        steps = _rows(shared_host, "plan", "box")["steps"]
        (failed,) = [step for step in steps if step["failed"]]
        assert (failed["side"], failed["failed_errno"]) == ("host", 2)
        assert failed["origin"] == f"{made.directory}/config:1"
        assert "no/such/root" in made.info().state_reason


def test_events_are_numbered_without_gaps_and_tell_a_life(host: Host, busybox_root: Path) -> None:
    with box(host, over(host, busybox_root)) as made:
        busybox_up(made)
        made.run("reboot")
        generation_runs(made, 2)
        busybox_up(made)
        host.ctl("stop", "box")
    lines = host.ctl("--format", "json", "events", "--since", "1h").stdout
    events = (
        json.loads(lines) if lines.startswith("[") else [json.loads(x) for x in lines.splitlines()]
    )
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    told = [e["state"] or e["type"] for e in events if e["container"] == "box"]
    life = ["STARTING", "RUNNING", "container.started", "STOPPING", "STOPPED", "container.exited"]
    assert told == ["container.created", *life, *life, "container.deleted"]
    causes = [e["exit"]["cause"] for e in events if e["type"] == "container.exited"]
    assert causes == ["REBOOT", "REQUESTED"]
    later = host.ctl("events", "--after", str(events[-2]["sequence"]), "--since", "1h").stdout
    assert len(later.splitlines()) == 1


# changing


def test_config_set_and_unset_keep_comments_and_order(stopped: Box) -> None:
    host, path = stopped.host, stopped.directory / "config"
    path.write_text(
        f"# first\n{path.read_text()}\n# about ttys\nlxc.tty.max = 1  \nlxc.environment = A=1\n# last\n"
    )
    before = path.read_text()
    host.ctl("config", "set", "box", "lxc.tty.max", "3")
    assert path.read_text() == before.replace("lxc.tty.max = 1  ", "lxc.tty.max = 3")
    assert host.ctl("config", "get", "box", "lxc.tty.max").stdout == "3\n"
    host.ctl("config", "set", "box", "lxc.environment", "A=1", "B=2")
    assert host.ctl("config", "get", "box", "lxc.environment").stdout == "A=1\nB=2\n"
    host.ctl("config", "unset", "box", "lxc.environment")
    host.ctl("config", "unset", "box", "lxc.tty.max")
    assert host.ctl("config", "get", "box", "lxc.tty.max", check=False).returncode == 3
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert comments == ["# first", "# about ttys", "# last"]


def test_config_set_refuses_what_is_wrong_and_leaves_the_file(stopped: Box) -> None:
    path = stopped.directory / "config"
    before = path.read_bytes()
    for key, value in (("lxc.tty.max", "many"), ("lxc.no.such", "1"), ("lxc.idmap", "u 0 x 1")):
        done = stopped.host.ctl("config", "set", "box", key, value, check=False)
        assert done.returncode == 2, (key, done.stderr)
        assert path.read_bytes() == before
