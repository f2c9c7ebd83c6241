"""lxcd under a real systemd: the units of `contrib/systemd` on a machine that is a container of ours.

The outer container is Debian with systemd and may do all that a machine may. Its lxcd is that of this checkout, run by
this Python, both mounted read-only at their own paths.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from lxcd.v1 import host_pb2, types_pb2
from tests.system import roots
from tests.system.boxes import KERNEL_MOUNTS, Box, box, generation_runs
from tests.system.host import CHECKOUT, Api, Host
from tests.system.machine import DEADLINE, until

pytestmark = pytest.mark.vm

SOURCE = CHECKOUT / "contrib" / "systemd"
DAEMON, KEEPER, CONTAINERS = "lxcd.service", "lxcd-keeper.service", "lxcd-containers.service"
UNITS = (DAEMON, KEEPER, CONTAINERS)

# As much as a machine has: a container with all capabilities, no user namespace, its kernel file systems writable.
_OUTER = """\
lxc.mount.auto = proc:rw sys:rw cgroup:rw
lxc.cap.drop =
lxc.tty.max = 1
lxc.pty.max = 256
"""

# Says at /mnt/say's bidding what it is given, and ends when that is a number. It opens the pipe
# once, for both: between an end of file and the next open what others write would be lost.
_TALKER = """\
exec 3<>/mnt/say
echo up
while read -r line <&3; do
  case $line in
    [0-9]*) exit "$line" ;;
    *) echo "$line" ;;
  esac
done
"""
# Ends when it is told to, and takes a note of that.
_LISTENER = """\
trap 'echo "$1" >>/mnt/stopped; exit 0' TERM
echo up
while :; do
  sleep 1000 &
  wait
done
"""


# This Python and this checkout, inside


def _libraries() -> set[str]:
    """The shared libraries of this Python and of the packages of lxcd, under the names that the loader looks for."""
    folders = (Path(sysconfig.get_path("stdlib"), "lib-dynload"), *_packages())
    modules = [path for folder in folders for path in folder.rglob("*.so")]
    done = subprocess.run(
        ["ldd", _interpreter(), *modules], capture_output=True, text=True, check=False
    )
    found = re.findall(r"(?:=> |^\s+)(/\S+) \(", done.stdout, re.MULTILINE)
    # What is a link here (/lib, /lib64) is one there too: a mount hangs below the directory itself.
    return {
        os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        for path in found
    }


def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _packages() -> set[Path]:
    return {Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))}


def _libc(top: Path) -> bytes:
    """Which C library a root file system has, in its own words."""
    for path in top.glob("usr/lib/*/libc.so.6"):
        found = re.search(rb"GNU C Library \([^)]*\)", path.read_bytes())
        if found is not None:
            return found[0]
    return b""


def _mounts() -> str:
    """Mount entries for all that the lxcd of this checkout needs of this machine, libraries aside."""
    paths = {_interpreter(), sysconfig.get_path("stdlib"), str(CHECKOUT), str(roots.busybox())}
    paths |= {str(path) for path in _packages()}
    lines: list[str] = []
    for path in sorted(paths):
        if not any(path.startswith(f"{above}/") for above in paths):
            kind = "dir" if os.path.isdir(path) else "file"
            word = path.replace(" ", r"\040")
            lines.append(f"lxc.mount.entry = {word} {word[1:]} none rbind,ro,create={kind} 0 0\n")
    return "".join(lines)


def _install(top: Path, root: Path) -> None:
    """Commands and units as a package would bring them, and the libraries that `root` has not; over it, at `top`."""
    # Its own will do, unless they are of another release.
    same = _libc(Path("/")) == _libc(root)
    for path in _libraries():
        if not (same and os.path.lexists(f"{root}{path}")):
            os.makedirs(f"{top}{os.path.dirname(path)}", exist_ok=True)
            shutil.copy(path, f"{top}{path}")
    modules = ":".join(map(str, (CHECKOUT, *_packages())))
    for name in ("lxcd", "lxcctl"):
        command = top / "usr/local/bin" / name
        command.parent.mkdir(parents=True, exist_ok=True)
        words = shlex.join(["env", f"PYTHONPATH={modules}", _interpreter(), "-B", "-m", name])
        command.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        command.chmod(0o755)
    units = top / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in SOURCE.iterdir():
        shutil.copy(unit, units)


# The machine


class Station:
    """A machine with systemd, and the lxcd that it runs."""

    def __init__(self, outer: Box, share: Path) -> None:
        self.outer = outer
        self.share = share
        # The machine's own file system, from outside.
        self.root = Path(f"/proc/{outer.info().pid}/root")
        self.lxcpath = self.root / "var/lib/lxc"

    def channel(self) -> Api:
        """A new channel to the lxcd inside; what a Box asks a host for."""
        return Api(f"unix:{self.root}/run/lxcd/lxcd.sock")

    def define(self, name: str, script: str, *lines: str) -> Box:
        """A container inside whose init is a shell script; /mnt is the share."""
        (self.share / f"{name}.sh").write_text(script)
        upper = self.share / name
        upper.mkdir()
        config = [
            # Its changes go to the share: an overlay cannot lie on another one.
            f"lxc.rootfs.path = {roots.overlay(roots.busybox(), Path('/share') / name / 'delta')}",
            "lxc.mount.entry = /share mnt none bind 0 0",
            f"lxc.init.cmd = /bin/sh /mnt/{name}.sh {name}",
            *lines,
        ]
        text = KERNEL_MOUNTS + "".join(f"{line}\n" for line in config)
        return Box(cast("Any", self), name, text)

    def up(self) -> None:
        """Wait until systemd has come up."""

        def answers() -> bool:
            said = self.outer.run("systemctl", "is-system-running", "--wait").stdout.strip()
            return said not in (b"", b"offline")

        until(answers, "systemd answers")

    def systemctl(self, *words: str) -> str:
        """What it says; it must succeed."""
        done = self.outer.run("systemctl", *words)
        assert done.exit.code == 0, f"systemctl {words} ended with {done.exit}: {done.stderr!r}"
        return done.stdout.decode().strip()

    def main_pid(self, unit: str) -> int:
        """Of a unit that is up, by the machine's own count; 0 while it is not."""
        text = self.systemctl("show", "--property=ActiveState,MainPID", unit)
        found = dict(line.split("=") for line in text.splitlines())
        return int(found["MainPID"]) if found["ActiveState"] == "active" else 0

    def kill(self, *units: str, number: str = "KILL") -> None:
        """A signal for all in the units' cgroups; wait until systemd has brought them up again."""
        before = {unit: self.main_pid(unit) for unit in units}
        self.systemctl("kill", f"--signal={number}", *units)

        def again() -> bool:
            return all(self.main_pid(unit) not in (0, pid) for unit, pid in before.items())

        until(again, f"{units} are up again")

    def serves(self) -> host_pb2.GetHostResponse:
        """Wait until lxcd answers; what it says of itself."""
        with self.channel() as api:
            request = host_pb2.GetHostRequest()
            reply: host_pb2.GetHostResponse = api.host.GetHost(
                request, timeout=DEADLINE, wait_for_ready=True
            )
            return reply


@contextmanager
def _machine(host: Host, debian: Path) -> Iterator[Station]:
    """Debian, up, with the units enabled and started."""
    here = Path(tempfile.mkdtemp(prefix="machine-", dir=host.root))
    share, upper = here / "share", here / "delta"
    share.mkdir()
    _install(upper, debian)
    lines = [f"lxc.rootfs.path = {roots.overlay(debian, upper)}\n", _OUTER, _mounts()]
    lines.append(f"lxc.mount.entry = {share} share none bind,create=dir 0 0\n")
    with box(host, "".join(lines), "machine") as outer:
        station = Station(outer, share)
        station.up()
        station.systemctl("enable", "--now", DAEMON)
        yield station


@pytest.fixture
def station(shared_host: Host, debian_root: Path) -> Iterator[Station]:
    with _machine(shared_host, debian_root) as made:
        yield made


@pytest.fixture
def talker(station: Station) -> Box:
    """A container that says on its console what the share's `say` is told, and ends with a number that it is told."""
    os.mkfifo(station.share / "say")
    made = station.define("talker", _TALKER)
    made.start()
    made.shows("up")
    return made


def _say(station: Station, *words: str) -> None:
    with open(station.share / "say", "w") as fifo:
        fifo.write("".join(f"{word}\n" for word in words))


def _said(*words: str) -> bytes:
    return "".join(f"{word}\r\n" for word in words).encode()


def _listeners(station: Station) -> dict[str, Box]:
    """Three containers with an order to be stopped in."""
    found: dict[str, Box] = {}
    for name, order in (("last", 1), ("middle", 5), ("first", 9)):
        lines = (f"lxc.start.order = {order}", "lxc.signal.halt = SIGTERM")
        found[name] = station.define(name, _LISTENER, *lines)
        found[name].start()
        found[name].shows("up")
    return found


def _stopped(station: Station) -> list[str]:
    note = station.share / "stopped"
    return note.read_text().split() if note.exists() else []


# Coming up


def test_the_units_are_right_and_come_up(station: Station) -> None:
    done = station.outer.run("systemd-analyze", "verify", *UNITS)
    said = done.stderr.decode().splitlines()
    # Of systemd 254; an older one passes over it.
    assert all("'FileDescriptorStorePreserve'" in line for line in said), said
    assert done.exit.code == 0
    assert station.systemctl("is-active", *UNITS).split() == ["active"] * 3
    reply = station.serves()
    assert reply.pid == station.main_pid(DAEMON)
    assert reply.keeper_pid == station.main_pid(KEEPER)
    # What it would hold systemd holds.
    assert "lxcd-trustee" not in station.outer.sh("cat /proc/[0-9]*/comm")


def test_a_container_belongs_to_no_unit(station: Station, talker: Box) -> None:
    cgroups = station.outer.sh(f"cat /proc/{talker.info().pid}/cgroup").splitlines()
    paths = {line.split(":")[2].removesuffix("/inner") for line in cgroups}
    assert paths == {"/lxc.payload.talker"}
    keeper = station.outer.sh(f"cat /proc/{station.main_pid(KEEPER)}/cgroup").splitlines()
    assert any(line.endswith(f"/{KEEPER}") for line in keeper)
    status = station.outer.sh(f"cat /proc/{talker.info().pid}/status")
    ignored = re.search(r"^SigIgn:\s(\w+)$", status, re.MULTILINE)
    assert ignored is not None
    # systemd starts a service with that one ignored, and programs inherit it.
    assert not int(ignored[1], 16) & (1 << (signal.SIGPIPE - 1))
    assert talker.sh("ulimit -S -n") == "1024"


# Going on


@pytest.mark.parametrize("how", ["restart", "stop", "kill"])
def test_containers_go_on_without_the_daemon(station: Station, talker: Box, how: str) -> None:
    before, keeper = talker.info(), station.main_pid(KEEPER)
    _say(station, "one")
    talker.shows("one")
    if how == "kill":
        station.kill(DAEMON)
    else:
        station.systemctl(how, DAEMON)
    _say(station, "two")
    if how == "stop":
        station.systemctl("start", DAEMON)
    station.serves()
    _say(station, "three")
    talker.shows("three")
    after = talker.info()
    assert (after.state, after.pid) == (types_pb2.STATE_RUNNING, before.pid)
    assert after.generation == before.generation
    assert station.main_pid(KEEPER) == keeper
    assert talker.log() == _said("up", "one", "two", "three")
    assert talker.sh("echo on") == "on"
    _say(station, "37")
    end = talker.wait(generation=1).exit
    assert (end.code, end.cause) == (37, types_pb2.CAUSE_SELF)


def _knows_how_it_ended(station: Station, end: Any, code: int) -> None:
    """Told as it was, where the kernel remembers (Linux 6.15)."""
    release = re.match(r"(\d+)\.(\d+)", station.serves().kernel_release)
    assert release is not None
    if (int(release[1]), int(release[2])) >= (6, 15):
        assert (end.code, end.cause) == (code, types_pb2.CAUSE_SELF)
    else:
        assert end.cause == types_pb2.CAUSE_KEEPER_LOST


@pytest.mark.parametrize("units", [(KEEPER,), (DAEMON, KEEPER)], ids=["keeper", "both"])
def test_containers_go_on_without_the_keeper(
    station: Station, talker: Box, units: tuple[str, ...]
) -> None:
    before = talker.info()
    _say(station, "one")
    talker.shows("one")
    for number in ("two", "three"):
        station.kill(*units)
        _say(station, number)
        station.serves()
        talker.shows(number)
        after = talker.info()
        assert (after.state, after.pid) == (types_pb2.STATE_RUNNING, before.pid)
        assert after.generation == before.generation
    assert talker.log() == _said("up", "one", "two", "three")
    assert talker.sh("echo on") == "on"
    _say(station, "37")
    _knows_how_it_ended(station, talker.wait(generation=1).exit, 37)
    talker.start()
    assert talker.info().generation == 2


def test_the_keeper_may_be_restarted_by_hand(station: Station, talker: Box) -> None:
    before = talker.info()
    ways: dict[str, Callable[[], Any]] = {
        "one": lambda: station.systemctl("restart", KEEPER),
        "two": lambda: [station.systemctl(verb, KEEPER) for verb in ("stop", "start")],
        "three": lambda: station.kill(KEEPER, number="TERM"),
    }
    for word, restart in ways.items():
        restart()
        _say(station, word)
        talker.shows(word)
        assert talker.sh("echo on") == "on"
    assert talker.info().pid == before.pid
    assert talker.log() == _said("up", *ways)


def test_what_a_container_did_while_nobody_was_there_is_known(
    station: Station, talker: Box
) -> None:
    station.systemctl("mask", "--runtime", DAEMON)
    station.systemctl("kill", "--signal=KILL", DAEMON, KEEPER)
    _say(station, "alone", "41")
    station.systemctl("unmask", "--runtime", DAEMON)
    station.systemctl("start", DAEMON)
    station.serves()
    _knows_how_it_ended(station, talker.wait(generation=1).exit, 41)
    assert talker.log() == _said("up", "alone")


# The end


@pytest.mark.parametrize(
    "how", ["poweroff", pytest.param("reboot", marks=pytest.mark.timeout(300)), "stop"]
)
def test_a_machine_that_goes_down_stops_its_containers_in_order(
    shared_host: Host, debian_root: Path, how: str
) -> None:
    with _machine(shared_host, debian_root) as station:
        _listeners(station)
        station.systemctl("restart", DAEMON)
        assert _stopped(station) == []
        if how == "stop":
            assert not station.outer.stop().killed
        else:
            station.outer.run("systemctl", how)
        station.outer.wait(generation=1)
        assert _stopped(station) == ["first", "middle", "last"]
        if how == "reboot":
            generation_runs(station.outer, 2)
            again = Station(station.outer, station.share)
            again.up()
            assert again.systemctl("is-active", *UNITS).split() == ["active"] * 3
            assert (again.serves().containers, again.serves().running) == (3, 0)


def test_shutdown_ends_both_services_for_good(station: Station) -> None:
    boxes = _listeners(station)
    done = station.outer.run("lxcd", "shutdown")
    assert done.exit.code == 0
    assert _stopped(station) == ["first", "middle", "last"]

    def over_() -> bool:
        said = station.outer.run("systemctl", "is-active", DAEMON, KEEPER).stdout.split()
        return said == [b"inactive", b"inactive"]

    until(over_, "both services are inactive")
    station.systemctl("start", DAEMON)
    station.serves()
    assert all(made.info().state == types_pb2.STATE_STOPPED for made in boxes.values())
