"""Limits and device rules of a configuration: in force before anything of a container runs, obeyed, and refused by name."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcd.v1 import container_pb2, types_pb2
from tests.article import RESOURCES
from tests.system import ledger, roots, sessions
from tests.system.boxes import IDMAP, KERNEL_MOUNTS, Box, Refused, defined
from tests.system.calls import IDLE, application, events, idle
from tests.system.consistency import VERSION_1
from tests.system.host import Host
from tests.system.limits import BOMB, go, names_are_told, told, waiting
from tests.system.machine import DEADLINE, until

KILLED = "container.oom_killed"
# It fills as much at once, and then lets it go.
TAKE = "dd if=/dev/zero of=/dev/null bs={}M count=1 2>/dev/null"
OPEN = "dd if={} of=/dev/null count=0 2>&1"
VALUES = (
    {
        ("cpuset", "cpuset.cpus"): "0",
        ("cpu", "cpu.shares"): "512",
        ("memory", "memory.limit_in_bytes"): "268435456",
        ("memory", "memory.memsw.limit_in_bytes"): "536870912",
    }
    if VERSION_1
    else {
        ("cpuset", "cpuset.cpus"): "0",
        ("cpu", "cpu.weight"): "50",
        ("memory", "memory.max"): "268435456",
        ("memory", "memory.swap.max"): "268435456",
    }
)
# The article's 512 MB are of memory and swap together; without swap what does not fit into 256 MB has no place.
SWAP = len(Path("/proc/swaps").read_text().splitlines()) > 1
TOO_MUCH = 600 if SWAP else 300
ALLOWED = ["1:3", "1:5", "1:8", "1:9", "4:*", "5:0", "5:1", "5:2", "136:*", "254:0"]


def text(made: Box, controller: str, file: str) -> str:
    """What a file of its cgroup says."""
    # Several controllers may be in one tree, and their names in its own.
    cgroups = {name: path for key, path in made.info().cgroups.items() for name in key.split(",")}
    return Path(cgroups.get(controller) or cgroups["unified"], file).read_text().strip()


def payloads(name: str) -> list[str]:
    """Cgroups of a container that bears a name of its own."""
    return [path for path in ledger.cgroups() if f"payload.{name}" in path]


def nodes(host: Host) -> Path:
    """A directory with block devices that nobody has taken away."""
    path = host.root / "nodes"
    path.mkdir()
    for name, major in (("sda", 8), ("vda", 254)):
        os.mknod(path / name, stat.S_IFBLK | 0o666, os.makedev(major, 0))
        (path / name).chmod(0o666)
    return path


@pytest.fixture(params=["privileged", "mapped"])
def limited(
    host: Host, busybox_root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Box]:
    """A container with the article's limits, and block devices at /mnt."""
    config = application(host, busybox_root, "limited")
    if request.param == "mapped":
        root = roots.copy(busybox_root, tmp_path / "root")
        config = f"lxc.rootfs.path = {root}\nlxc.rootfs.options = idmap=container\n"
        config += IDMAP + KERNEL_MOUNTS
    config += f"lxc.mount.entry = {nodes(host)} mnt none bind 0 0\n{RESOURCES}"
    with defined(host, config, "limited") as made:
        made.start(*IDLE)
        yield made


@pytest.mark.vm(short=True)
def test_the_block_of_the_article(limited: Box) -> None:
    assert {key: text(limited, *key) for key in VALUES} == VALUES
    if VERSION_1:  # which alone can be asked; what it comes to is tried below
        listed = text(limited, "devices", "devices.list").splitlines()
        assert sorted(listed) == sorted(f"c {numbers} rwm" for numbers in ALLOWED)
    assert limited.sh("nproc") == "1"
    shown = limited.host.ctl("config", "show", "limited").stdout
    assert RESOURCES in shown
    # What it says of this container is nothing.
    assert not [p for p in limited.info().problems if "cgroup" in p.key]


@pytest.mark.vm(short=True)
def test_devices_of_the_article(limited: Box) -> None:
    for name in ("null", "zero", "random", "urandom", "ptmx"):
        limited.sh(OPEN.format(f"/dev/{name}"))
    # A terminal of its own, and the name by which whoever sits at it may open it.
    script = f"{OPEN.format('/dev/tty')} && touch /tmp/opened"
    made = sessions.create(limited, "/bin/sh", "-c", script, tty=True)
    attached = sessions.attach(limited.api, made.id, role=sessions.CONTROLLER)
    assert attached.to_the_end().exit.code == 0, attached.data
    limited.sh("test -e /tmp/opened")
    for name in ("sda", "vda"):
        assert "not permitted" in limited.sh(f"{OPEN.format(f'/mnt/{name}')}; true")
    assert "not permitted" in limited.sh("mknod /tmp/made b 8 0 2>&1; true")
    assert "not permitted" in limited.sh("mknod /tmp/made b 254 0 2>&1; true")
    assert "not permitted" in limited.sh("mknod /tmp/made c 1 1 2>&1; true")
    limited.sh("test ! -e /tmp/made")


@pytest.mark.vm(short=True)
def test_memory_of_the_article(limited: Box, busybox_root: Path) -> None:
    host = limited.host
    with idle(host, busybox_root, "beside") as beside:
        init = beside.info().pid
        limited.sh(TAKE.format(200))
        if SWAP:
            limited.sh(TAKE.format(300))
        names_are_told()
        assert limited.sh(f"{TAKE.format(TOO_MUCH)}; echo $?") == "137"
        (event,) = told(host, KILLED, "limited", 1)
        assert event.details["name"] == "dd"
        assert event.details["limit_bytes"] == "268435456"
        assert "a limit of 256 MiB" in event.message
        assert limited.info().state == types_pb2.STATE_RUNNING
        beside.sh(TAKE.format(300))
        assert beside.info().pid == init
        assert not events(host.channel(), KILLED, names=("beside",))


@pytest.mark.vm(short=True)
def test_an_init_that_takes_too_much(host: Host, busybox_root: Path) -> None:
    with (
        waiting(
            host,
            busybox_root,
            "eater",
            f"cat /mnt/0; exec {TAKE.format(TOO_MUCH)}",
            lines=RESOURCES.splitlines(),
            system=True,
        ) as made,
        idle(host, busybox_root, "beside") as beside,
    ):
        names_are_told()
        go(host, "eater")
        made.wait()
        (event,) = told(host, KILLED, "eater", 1)
        assert (event.details["name"], event.details["init"]) == ("dd", "true")
        how = made.info().exit
        assert (how.signal, how.oom_killed, how.cause) == (9, True, types_pb2.CAUSE_OOM)
        shown = json.loads(host.ctl("--format", "json", "info", "eater").stdout)
        assert shown["exit"]["cause"] == "OOM"
        assert beside.info().state == types_pb2.STATE_RUNNING
    assert not events(host.channel(), KILLED, names=("beside",))


# bad input

WRONG = {
    "lxc.cgroup.devices.allow = c 1:3": ("error", "TYPE MAJOR:MINOR ACCESS"),
    "lxc.cgroup.devices.deny = x 1:3 rwm": ("error", "TYPE MAJOR:MINOR ACCESS"),
    "lxc.cgroup.devices.allow = c 99999999:0 r": ("error", "99999999"),
    "lxc.cgroup.devices.open = c 1:3 r": ("error", "devices.allow, devices.deny"),
    "lxc.cgroup.cpuset.cpus = 999": ("error", "999"),
    "lxc.cgroup.cpuset.cpus = one": ("error", "one"),
    "lxc.cgroup.cpu.shares = many": ("error", "many"),
    "lxc.cgroup2.cpu.weight = 20000": ("error", "20000"),
    "lxc.cgroup2.pids.max = -4": ("error", "-4"),
    "lxc.cgroup2.pids.max = 99999999999": ("error", "99999999999"),
    "lxc.cgroup.memory.limit_in_bytes = lots": ("error", "lots"),
    "lxc.cgroup.memory.limit_in_byte = 1M": ("error", "memory.limit_in_bytes"),
    "lxc.cgroup.cpu.share = 1M": ("warning", "cpu.shares"),
    "lxc.cgroup.nothing.like = this": ("warning", "nothing is not a controller"),
    "lxc.cgroup.../cgroup.procs = 1": ("error", "is not the name of a file"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_told_with_its_line(
    shared_host: Host, busybox_root: Path, line: str
) -> None:
    host, (severity, word) = shared_host, WRONG[line]
    name = f"wrong-{os.getpid()}"
    config = application(host, busybox_root, name, line)
    number = config.splitlines().index(line) + 1
    done = host.ctl("config", "check", "--file", "-", input=config, check=False)
    (said,) = [row for row in done.stdout.splitlines() if "cgroup" in row]
    assert (severity in said, word in said, f":{number}" in said) == (True, True, True), said
    assert done.returncode == (1 if severity == "error" else 0)
    strict = host.ctl("config", "check", "--strict", "--file", "-", input=config, check=False)
    assert strict.returncode == 1
    directory = host.lxcpath / name
    directory.mkdir()
    (directory / "config").write_text(config)
    try:
        started = host.ctl("start", name, "--", *IDLE, check=False)
        assert (started.returncode != 0) == (severity == "error"), started.stderr
        if severity == "error":
            assert word in started.stderr
            assert f"{name}/config:{number}" in started.stderr
            assert not payloads(name)
    finally:
        host.ctl("delete", "--force", name)


# What only the kernel knows: there is no such disk.
REFUSED = "lxc.cgroup.blkio.throttle.read_bps_device = 999:999 1"


def test_a_limit_that_the_kernel_refuses(shared_host: Host, busybox_root: Path) -> None:
    name, line = f"refused-{os.getpid()}", REFUSED
    config = application(shared_host, busybox_root, name, "lxc.cgroup.cpu.shares = 512", line)
    number = config.splitlines().index(line) + 1
    with defined(shared_host, config, name) as made:
        with pytest.raises(Refused) as caught:
            made.start(*IDLE)
        error = caught.value
        assert error.reason == "START_FAILED"
        assert error.metadata["step"] == "limit"
        assert error.metadata["origin"] == f"{made.directory}/config:{number}"
        assert error.metadata["errno"] == "ENODEV"
        assert error.metadata["syscall"] == "write"
        assert made.info().state == types_pb2.STATE_STOPPED
        assert not payloads(name)
        shared_host.ctl("config", "unset", name, line.partition(" ")[0])
        made.start(*IDLE)
        assert text(made, "cpu", "cpu.shares") == "512"


# words of people

SUGAR = """\
[limits]
cpu = 0.5
memory = "64MiB"
pids = 50
"""


def sugared(host: Host, name: str, written: str = SUGAR) -> None:
    (host.lxcpath / name / "lxcd.toml").write_text(written)


def test_limits_of_lxcd_toml(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    lines = ("lxc.cgroup.memory.limit_in_bytes = 128M", "lxc.cgroup2.cpu.weight = 50")
    with defined(host, application(host, busybox_root, "sweet", *lines), "sweet") as made:
        host.ctl("config", "set", "sweet", "limits.memory", "64MiB")
        sugared(host, "sweet")
        shown = host.ctl("config", "check", "sweet").stdout
        assert re.search(r"warning.*limits.memory.*has no effect: lxc.cgroup.memory", shown), shown
        assert host.ctl("config", "check", "--strict", "sweet", check=False).returncode == 1
        plan = host.ctl("plan", "sweet").stdout
        for word in (
            "cpu.cfs_quota_us = 50000",
            "pids.max = 50",
            "memory.limit_in_bytes = 134217728",
        ):
            assert f"limit {word.partition('.')[0]}: {word}" in plan
        made.start(*IDLE)
        assert text(made, "cpu", "cpu.cfs_quota_us") == "50000"
        assert text(made, "pids", "pids.max") == "50"
        # A line of the configuration counts before it.
        assert text(made, "memory", "memory.limit_in_bytes") == str(128 << 20)
        host.ctl("config", "unset", "--live", "sweet", "lxc.cgroup.memory.limit_in_bytes")
        assert text(made, "memory", "memory.limit_in_bytes") == str(64 << 20)
        host.ctl("config", "set", "--live", "sweet", "limits.cpu", "2")
        assert text(made, "cpu", "cpu.cfs_quota_us") == "200000"
        assert "cpu = 2" in (made.directory / "lxcd.toml").read_text()


@pytest.mark.parametrize(
    "value", ["cpu = -1", 'memory = "many"', "pids = 0.5", "io = 3", "else = 1"]
)
def test_words_that_mean_nothing(shared_host: Host, busybox_root: Path, value: str) -> None:
    name = value.partition(" ")[0]
    with defined(shared_host, application(shared_host, busybox_root, "odd"), "odd") as made:
        sugared(shared_host, "odd", f"[limits]\n{value}\n")
        done = shared_host.ctl("config", "check", "odd", check=False)
        assert (done.returncode, f"limits.{name}" in done.stdout) == (1, True), done.stdout
        with pytest.raises(Refused) as caught:
            made.start(*IDLE)
        assert caught.value.reason == "INVALID_CONFIG"


def test_a_plan_shows_limits_and_devices(shared_host: Host, busybox_root: Path) -> None:
    config = application(shared_host, busybox_root, "planned") + RESOURCES
    with defined(shared_host, config, "planned") as made:
        shown = shared_host.ctl("plan", "planned").stdout
        for (controller, file), value in VALUES.items():
            assert f"limit {controller}: {file} = {value}" in shown
        for numbers in ALLOWED:
            assert f"devices: allow c {numbers} rwm" in shown
        request = container_pb2.PlanContainerRequest(name="planned")
        reply: Any = made.api.container.PlanContainer(request, timeout=DEADLINE)
        assert "config:" in str(reply)


@pytest.mark.vm(short=True)
def test_a_fork_bomb_meets_its_limit(shared_host: Host, busybox_root: Path) -> None:
    """What is asked meanwhile is answered, and it ends when it shall."""
    host = shared_host
    config = application(host, busybox_root, "bomb", "lxc.cgroup2.pids.max = 512")
    with idle(host, busybox_root, "beside") as beside, defined(host, config, "bomb") as made:
        made.start(*IDLE, system=True)
        cgroups = list(made.info().cgroups.values())
        made.run("/bin/sh", "-c", f"({BOMB}) 2>/dev/null >/dev/null </dev/null &")
        until(
            lambda: bool(events(host.channel(), "container.limit_hit", names=("bomb",))),
            "it wants more than it may",
        )
        for _ in range(200):
            assert beside.info().state == made.info().state == types_pb2.STATE_RUNNING
        assert int(text(made, "pids", "pids.current")) <= 512
        assert beside.sh("echo on") == "on"
        host.ctl("stop", "--kill", "bomb")
        assert not [path for path in cgroups if os.path.exists(path)]
        assert beside.info().state == types_pb2.STATE_RUNNING
        made.start(*IDLE)


def _usage(made: Box) -> Path:
    """The kernel's own file of the CPU time that it has used."""
    cgroups = made.info().cgroups
    if "cpuacct" in cgroups:
        return Path(cgroups["cpuacct"], "cpuacct.usage")
    return Path(cgroups["unified"], "cpu.stat")


def _nanoseconds(text: str) -> int:
    """What such a file says."""
    words = text.split()
    return int(words[0]) if len(words) == 1 else 1000 * int(words[words.index("usage_usec") + 1])


@pytest.mark.vm(short=True)
def test_two_share_a_cpu(shared_host: Host, busybox_root: Path) -> None:
    """One to two, of what both use together: others on that cpu take from both alike."""
    host, burn = shared_host, ("/bin/sh", "-c", "while :; do :; done")

    def config(name: str, shares: int) -> str:
        lines = ("lxc.cgroup.cpuset.cpus = 0", f"lxc.cgroup.cpu.shares = {shares}")
        return application(host, busybox_root, name, *lines)

    with (
        defined(host, config("half", 512), "half") as half,
        defined(host, config("whole", 1024), "whole") as whole,
    ):
        for made in (half, whole):
            made.start(*burn)

        files = [_usage(made) for made in (half, whole)]

        def used(*before: int) -> list[int]:
            # With nothing in between: what the second one uses meanwhile is counted to it alone.
            texts = [file.read_text() for file in files]
            now = [_nanoseconds(text) for text in texts]
            return [used - since for used, since in zip(now, before or (0, 0), strict=True)]

        before = used()
        # By what they have used, not by the clock: it may take long on a busy machine.
        until(lambda: sum(used(*before)) > 3_000_000_000, "both together have used three seconds")
        small, large = used(*before)
        assert 1.9 < large / small < 2.1, (small, large)
