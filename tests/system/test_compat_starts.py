"""How LXC's commands start, end and enter containers, where a user of LXC is used to a certain way."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from lxcd.v1.container_pb2 import StartContainerRequest
from lxcd.v1.types_pb2 import STATE_STOPPING
from tests.system.calls import get, refused
from tests.system.compat import NEW, OLD, argv, configuration, environment, lxc, running, shown
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

ERAS = pytest.mark.parametrize("era", [OLD, NEW])
# Whatever it is asked for, it stays.
_DEAF = ("/bin/sh", "-c", "trap 'echo asked' TERM PWR INT; echo deaf; while :; do sleep 1; done")


def _create(host: Host, root: Path, name: str, *lines: str) -> str:
    file = configuration(host, root, name, *lines)
    assert shown(host, "create", "-t", "none", "-f", file, "-n", name, era=NEW) == ""
    return file


def _state(host: Host, name: str) -> str:
    return shown(host, "info", "-sH", "-n", name, era=NEW).strip()


def _await_line(log: Path, text: str) -> None:
    # Lxcd makes it beside the start.
    until(lambda: log.exists() and text in log.read_text(), f"{log} tells of it")


# ---- another configuration


@ERAS
def test_a_file_for_one_start_of_a_defined_container(
    host: Host, busybox_root: Path, era: str
) -> None:
    """As the article types it: lxc-create -f, then lxc-start -f."""
    file = _create(host, busybox_root, "box")
    kept = (host.lxcpath / "box/config").read_bytes()
    assert shown(host, "start", "-d", "-n", "box", "-f", file, era=era) == ""
    # That it runs is said first, whatever the file holds.
    status = 255 if era == OLD else 0
    again = lxc(host, "start", "-d", "-n", "box", "-f", os.devnull, era=era, status=status)
    assert "running" in again.stderr.lower()
    lxc(host, "stop", "-k", "-n", "box", era=era)
    other = host.root / "other.conf"
    other.write_text(Path(file).read_text() + "lxc.utsname = other\n")
    lxc(host, "start", "-d", "-n", "box", "-f", str(other), "-s", "lxc.environment=A=b", era=era)
    assert host.ctl("exec", "box", "--", "hostname").stdout == "other\n"
    # Also in the eyes of an lxcd that comes later.
    host.kill_daemon()
    host.start_daemon()
    assert host.ctl("exec", "box", "--", "/bin/sh", "-c", "echo $A").stdout == "b\n"
    lxc(host, "stop", "-k", "-n", "box", era=era)
    # For that start alone.
    assert (host.lxcpath / "box/config").read_bytes() == kept
    lxc(host, "start", "-d", "-n", "box", era=era)
    assert host.ctl("exec", "box", "--", "hostname").stdout == "box\n"
    lxc(host, "stop", "-k", "-n", "box", era=era)
    done = lxc(host, "execute", "-n", "box", "-f", str(other), "hostname", era=era)
    assert done.stdout == "other\n"
    assert (host.lxcpath / "box/config").read_bytes() == kept


@ERAS
def test_a_file_without_a_root_for_a_defined_container(
    host: Host, busybox_root: Path, era: str
) -> None:
    """It would run on the host's."""
    _create(host, busybox_root, "box")
    bare = host.root / "bare.conf"
    for text in ("", "lxc.utsname = bare\n"):
        bare.write_text(text)
        status = 255 if era == OLD else 1
        done = lxc(host, "start", "-d", "-n", "box", "-f", str(bare), era=era, status=status)
        assert done.stderr == (
            f"lxc-start: box: {bare}: names no root file system (lxc.rootfs.path)\n"
        )
    assert _state(host, "box") == "STOPPED"


def test_what_goes_when_it_stops_is_never_a_defined_container(
    host: Host, busybox_root: Path
) -> None:
    text = Path(_create(host, busybox_root, "box")).read_text()
    with host.channel() as api:
        for request in (
            StartContainerRequest(name="box", config_text=text, ephemeral=True),
            StartContainerRequest(name="box", config_text=text, image="host"),
        ):
            error = refused(partial(api.container.StartContainer, request))
            assert error.reason == "CONTAINER_EXISTS"
    assert (host.lxcpath / "box/config").exists()


@ERAS
def test_a_key_that_nobody_knows(host: Host, busybox_root: Path, era: str) -> None:
    file = configuration(host, busybox_root, "box", "lxc.bogus = 1", "lxc.rebootsignal = SIGINT")
    line = len(Path(file).read_text().splitlines()) - 1
    told = f"{file}:{line}: warning: lxc.bogus: not a key of LXC: ignored\n"
    done = lxc(host, "execute", "-n", "box", "-f", file, "/bin/true", era=era)
    assert done.stderr == f"lxc-execute: {told}"
    done = lxc(host, "create", "-t", "none", "-n", "box", "-f", file, era=era)
    own = told.replace(file, str(host.lxcpath / "box/config"))
    assert done.stderr == f"lxc-create: {own}"
    done = lxc(host, "start", "-d", "-n", "box", "-s", "lxc.fake = 1", era=era)
    first, second = done.stderr.splitlines(keepends=True)
    assert first == f"lxc-start: {own}"
    assert "lxc.fake: not a key of LXC: ignored" in second


# ---- the console


def test_a_file_for_the_console(host: Host, busybox_root: Path) -> None:
    _create(host, busybox_root, "box")
    done = lxc(host, "start", "-n", "box", "-c", str(host.root / "log"), era=NEW, status=1)
    assert done.stderr == (
        "lxc-start: --console: lxcd keeps the console itself: -L FILE logs it, lxc-console shows"
        " it\n"
    )
    lxc(host, "start", "-n", "box", "-d", "-c", "/dev/null", era=OLD, status=255)
    lxc(host, "start", "-n", "box", "-c", "none", era=NEW)
    lxc(host, "stop", "-k", "-n", "box", era=NEW)
    for option, era in (("-c", OLD), ("-L", NEW)):
        # Beside whoever types it.
        subprocess.run(
            argv("start", "-n", "box", "-d", option, f"log{option}"),
            cwd=host.root,
            env=environment(host, era),
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=DEADLINE,
        )
        _await_line(host.root / f"log{option}", "busybox is up")
        lxc(host, "stop", "-k", "-n", "box", era=era)


@pytest.mark.parametrize(
    ("number", "era", "ends"),
    [
        (signal.SIGTERM, NEW, True),
        (signal.SIGTERM, OLD, True),
        (signal.SIGHUP, OLD, True),
        (signal.SIGHUP, NEW, False),
    ],
)
def test_a_signal_for_who_is_in_the_foreground(
    host: Host, busybox_root: Path, number: signal.Signals, era: str, *, ends: bool
) -> None:
    _create(host, busybox_root, "box")
    with running(host, "start", "-F", "-n", "box", era=era) as client:
        assert client.stdout is not None
        while "busybox is up" not in client.stdout.readline():
            pass
        client.send_signal(number)
        _, err = client.communicate(timeout=DEADLINE)
    assert client.returncode == 128 + number
    assert _state(host, "box") == ("STOPPED" if ends else "RUNNING")
    assert err == ("" if ends else "lxc-start: left box running\n")


# ---- a stop


def _deaf(host: Host, root: Path) -> None:
    """Running, and it has said so."""
    _create(host, root, "box", "lxc.signal.halt = SIGTERM")
    shown(host, "start", "-n", "box", "--", *_DEAF, era=NEW)
    until(lambda: "deaf" in host.ctl("logs", "box").stdout, "it does not listen")


def test_a_stop_that_is_interrupted_kills_nobody(host: Host, busybox_root: Path) -> None:
    _deaf(host, busybox_root)
    with running(host, "stop", "-n", "box", "-t", "5", era=NEW) as client, host.channel() as api:
        until(lambda: get(api, "box").state == STATE_STOPPING, "it is being stopped")
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=DEADLINE)
    assert client.returncode == 130
    # The daemon waits for it that long, and then has it go on.
    until(lambda: _state(host, "box") == "RUNNING", "it goes on")
    lxc(host, "stop", "-n", "box", "-k", era=NEW)


def test_a_stop_that_nobody_interrupts(host: Host, busybox_root: Path) -> None:
    _deaf(host, busybox_root)
    done = lxc(host, "stop", "-n", "box", "--nokill", "-t", "1", era=NEW, status=1)
    assert done.stderr == "lxc-stop: box did not stop in 1 s\n"
    assert _state(host, "box") == "RUNNING"
    assert shown(host, "stop", "-n", "box", "-t", "1", era=NEW) == ""
    assert _state(host, "box") == "STOPPED"


def test_a_reboot_kills_nobody(host: Host, busybox_root: Path) -> None:
    _deaf(host, busybox_root)
    pid = shown(host, "info", "-pH", "-n", "box", era=NEW)
    done = lxc(host, "stop", "-r", "-n", "box", "-t", "1", era=NEW, status=1)
    assert done.stderr == "lxc-stop: box did not reboot in 1 s after SIGINT (reboot)\n"
    for options in (("-W",), ("-t", "0"), ("-W", "-t", "60"), ("-W", "--nokill")):
        assert shown(host, "stop", "-r", "-n", "box", *options, era=NEW) == ""
    assert shown(host, "info", "-pH", "-n", "box", era=NEW) == pid
    assert _state(host, "box") == "RUNNING"
    lxc(host, "stop", "-n", "box", "-k", era=NEW)


# ---- an entry


@ERAS
def test_attach_begins_where_it_was_typed(host: Host, busybox_root: Path, era: str) -> None:
    _create(host, busybox_root, "box")
    shown(host, "start", "-d", "-n", "box", era=era)

    def typed_in(directory: Path, *command: str) -> str:
        done = subprocess.run(
            argv("attach", "-n", "box", *command),
            cwd=directory,
            input="pwd\n",
            env=environment(host, era),
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert typed_in(Path("/usr/bin"), "--", "pwd") == "/usr/bin\n"
    # Which is not inside; what was to be read is still there.
    assert typed_in(host.root) == "/\n"
    # A program of the host's.
    assert typed_in(host.root, "-s", "UTSNAME", "--", "/bin/pwd") == f"{host.root}\n"


# ---- what is not there


@ERAS
def test_a_wait_for_one_that_is_yet_to_come(host: Host, busybox_root: Path, era: str) -> None:
    with running(host, "wait", "-n", "box", "-s", "RUNNING", era=era) as client:
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(1.5)
        _create(host, busybox_root, "box")
        shown(host, "start", "-d", "-n", "box", era=era)
        assert client.communicate(timeout=DEADLINE) == ("", "")
    assert client.returncode == 0


@pytest.mark.parametrize("command", ["autostart", "monitor", "top", "copy"])
def test_no_other_lxc_acts_in_its_place(shared_host: Host, command: str) -> None:
    done = subprocess.run(
        [f"lxc-{command}", "-n", "x"],
        env=environment(shared_host, NEW),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"lxc-{command}: lxcd does not serve lxc-{command} yet")
