"""The commands of LXC 7.0, as a user of today has them in his fingers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcd.v1.container_pb2 import StartContainerRequest
from tests.system.calls import refused
from tests.system.compat import NEW, OLD, configuration, environment, lxc, running, shown
from tests.system.host import Host
from tests.system.machine import DEADLINE, until
from tests.system.seat import Seat


def _new(host: Host, command: str, *arguments: str) -> str:
    return shown(host, command, *arguments, era=NEW)


@pytest.fixture
def seat(host: Host) -> Iterator[Seat]:
    host.environment |= environment(host, NEW)
    made = Seat(host)
    yield made
    made.close()


def _create(host: Host, root: Path, name: str, *lines: str) -> None:
    file = configuration(host, root, name, *lines)
    assert _new(host, "create", "-t", "none", "-f", file, "-n", name) == ""


def test_the_life_of_a_container(host: Host, busybox_root: Path) -> None:
    _create(host, busybox_root, "box")
    # In the background, unless somebody says otherwise.
    assert _new(host, "start", "box") == ""
    assert _new(host, "wait", "-n", "box", "-s", "RUNNING", "-t", "0") == ""
    again = lxc(host, "start", "box", era=NEW)
    assert again.stderr == "lxc-start: box: Container is already running\n"
    assert _new(host, "info", "box", "-sH") == "RUNNING\n"
    assert _new(host, "freeze", "box") == ""
    assert _new(host, "info", "--state", "box") == "State:          FROZEN\n"
    assert _new(host, "unfreeze", "box") == ""
    # It does go on.
    assert _new(host, "unfreeze", "box") == ""
    first = _new(host, "info", "-pH", "box")
    until(lambda: "busybox is up" in host.ctl("logs", "box").stdout, "it knows its signals")
    assert _new(host, "stop", "--reboot", "box") == ""
    assert _new(host, "info", "-pH", "box") != first
    assert lxc(host, "destroy", "box", era=NEW, status=1).stderr == "lxc-destroy: box is running\n"
    # A clean shutdown, which busybox understands.
    assert _new(host, "stop", "box") == ""
    assert json.loads(host.ctl("--format", "json", "info", "box").stdout)["exit"]["cause"] == (
        "REQUESTED"
    )
    lxc(host, "stop", "box", era=NEW, status=2)
    assert _new(host, "unfreeze", "box") == ""
    lxc(host, "wait", "box", "-s", "RUNNING", "-t", "0", era=NEW, status=1)
    # What is not there does not run.
    assert _new(host, "wait", "nobody", "-s", "RUNNING|STOPPED", "-t", "1") == ""
    _new(host, "start", "box")
    assert _new(host, "stop", "-k", "box") == ""
    _new(host, "start", "box")
    done = lxc(host, "destroy", "--force", "box", era=NEW)
    assert "left the root file system" in done.stderr
    assert list(host.lxcpath.iterdir()) == []


def test_create_takes_the_default_configuration_of_the_daemon(
    cold_host: Host, busybox_root: Path
) -> None:
    host = cold_host
    file = configuration(host, busybox_root, "box", "lxc.group = default")
    host.config.write_text(f'default_config = "{file}"\n')
    host.start_daemon()
    assert f"Default config: {file}\n" in host.ctl("host").stdout
    assert _new(host, "create", "-t", "none", "-n", "box") == ""
    assert (host.lxcpath / "box/config").read_text() == Path(file).read_text()
    # One that is given counts more.
    other = configuration(host, busybox_root, "more")
    assert _new(host, "create", "-t", "none", "-n", "more", "-f", other) == ""
    assert "lxc.group" not in (host.lxcpath / "more/config").read_text()


def test_stop_need_not_wait(host: Host, busybox_root: Path) -> None:
    _create(host, busybox_root, "box")
    _new(host, "start", "box")
    host.ctl("wait", "box", "--for", "RUNNING")
    until(lambda: "busybox is up" in host.ctl("logs", "box").stdout, "it is up")
    assert _new(host, "stop", "-W", "box") == ""
    assert _new(host, "wait", "-s", "STOPPED", "box") == ""


def test_what_ls_shows(host: Host, busybox_root: Path) -> None:
    _create(host, busybox_root, "a1", "lxc.group = web", "lxc.group = db", "lxc.start.auto = 1")
    _create(host, busybox_root, "b-longer", "lxc.group = web")
    _new(host, "start", "b-longer")
    assert _new(host, "ls") == "a1      \nb-longer\n"
    assert _new(host, "ls", "-1") == "a1\nb-longer\n"
    assert _new(host, "ls", "-1", "--stopped") == "a1\n"
    assert _new(host, "ls", "-1", "--active") == "b-longer\n"
    assert _new(host, "ls", "-1", "--frozen", "--running") == "b-longer\n"
    assert _new(host, "ls", "-1", "-g", "web,db") == "a1\n"
    assert _new(host, "ls", "-1", "^a") == "a1\n"
    assert _new(host, "ls", "-1", "--filter=er$") == "b-longer\n"
    assert _new(host, "ls", "nothing") == ""
    assert _new(host, "ls", "-1", "^[[:alpha:]][[:digit:]]+$") == "a1\n"
    assert _new(host, "ls", "--fancy", "--stopped").splitlines() == [
        "NAME STATE   AUTOSTART GROUPS  IPV4 IPV6 UNPRIVILEGED ",
        "a1   STOPPED 1         web, db -    -    false        ",
    ]
    head, row = _new(host, "ls", "-f", "-F", "name,pid,ram", "--running").splitlines()
    assert head.split() == ["NAME", "PID", "RAM"]
    assert row.split()[:2] == ["b-longer", _new(host, "info", "-pH", "b-longer").strip()]
    assert row.split()[2].endswith("MB")


def test_what_info_shows(host: Host, busybox_root: Path) -> None:
    _create(host, busybox_root, "box", "lxc.group = a", "lxc.group = b")
    assert _new(host, "info", "box") == "Name:           box\nState:          STOPPED\n"
    assert _new(host, "info", "box", "-pi") == ""
    assert _new(host, "info", "box", "-c", "lxc.group") == "lxc.group = a\nb\n"
    assert _new(host, "info", "box", "-H", "-c", "lxc.group") == "a\nb\n"
    assert _new(host, "info", "box", "-sH", "--rcfile", "/dev/null") == "STOPPED\n"
    done = lxc(host, "info", "box", "-c", "lxc.group", "--rcfile", "/dev/null", era=NEW, status=1)
    assert "--rcfile" in done.stderr
    # One that could be there, and those that could not.
    assert _new(host, "info", "box", "-c", "lxc.cap.drop") == "lxc.cap.drop = \n"
    for key in ("lxc.nosuch", "no key"):
        done = lxc(host, "info", "box", "-c", key, "-c", "lxc.group", era=NEW)
        assert (done.stdout, done.stderr) == ("lxc.group = a\nb\n", f"lxc-info: {key} invalid\n")
    _new(host, "start", "box")
    labels = [line.partition(":")[0] for line in _new(host, "info", "box").splitlines()]
    assert labels[:4] == ["Name", "State", "PID", "CPU use"]
    assert "Memory use" in labels
    raw = dict(line.split(":") for line in _new(host, "info", "-SH", "box").splitlines())
    assert int(raw["Memory use"]) > 0
    assert int(raw["CPU use"]) > 0


def test_execute(host: Host, busybox_root: Path) -> None:
    file = configuration(host, busybox_root, "app")
    done = lxc(
        host, "execute", "app", "-f", file, "--", "/bin/sh", "-c", "echo $0 hi; exit 3",
        era=NEW, status=3,
    )  # fmt: skip
    assert done.stdout == "/bin/sh hi\n"
    lxc(
        host, "execute", "app", "-f", file, "--", "/bin/sh", "-c", "kill -9 $$", era=NEW, status=137
    )
    # As another user, and with a key of the configuration more.
    command = ("--", "/bin/sh", "-c", "id -u; hostname")
    options = ("-u", "65534", "-g", "65534", "-s", "lxc.uts.name = other")
    assert _new(host, "execute", "app", "-f", file, *options, *command) == "65534\nother\n"
    assert _new(host, "execute", "app", "-d", "-f", file, "--", "/bin/sleep", "100000") == ""
    assert _new(host, "ls", "-1") == "app\n"
    assert _new(host, "ls", "-1", "--defined") == ""
    _new(host, "stop", "-k", "app")
    assert _new(host, "ls") == ""


def test_execute_of_one_that_is_defined(host: Host, busybox_root: Path) -> None:
    _create(host, busybox_root, "box")
    assert _new(host, "execute", "box", "hostname") == "box\n"
    assert (host.lxcpath / "box/config").exists()
    # Its own init goes on to be what is started.
    _new(host, "start", "box")
    until(lambda: "busybox is up" in host.ctl("logs", "box").stdout, "it is up")
    _new(host, "stop", "-k", "box")


def test_execute_has_its_command_from_the_configuration(host: Host, busybox_root: Path) -> None:
    _create(host, busybox_root, "box", "lxc.execute.cmd = /bin/sh -c 'hostname; exit 4'")
    assert lxc(host, "execute", "box", era=NEW, status=4).stdout == "box\n"
    assert _new(host, "execute", "box", "-s", "lxc.execute.cmd = /bin/echo hi") == "hi\n"
    assert _new(host, "execute", "box", "/bin/echo", "own") == "own\n"
    file = configuration(host, busybox_root, "app")
    for arguments in (("-f", file), ()):
        done = lxc(host, "execute", "app", *arguments, era=NEW, status=1)
        assert "lxc.execute.cmd is not set" in done.stderr
    assert _new(host, "ls", "-1") == "box\n"
    with host.channel() as api:
        request = StartContainerRequest(name="box", application=True, system=True)
        assert refused(lambda: api.container.StartContainer(request)).reason == "INVALID_COMMAND"


def test_execute_needs_no_configuration(host: Host) -> None:
    assert _new(host, "execute", "-n", "none", "--", "sh", "-c", "echo $$").strip().isdigit()


def test_execute_that_is_stopped_from_elsewhere(host: Host, busybox_root: Path) -> None:
    file = configuration(host, busybox_root, "app")
    with running(host, "execute", "app", "-f", file, "/bin/sleep", "100000", era=NEW) as client:
        until(lambda: _new(host, "ls", "-1", "--running") == "app\n", "it runs")
        _new(host, "stop", "-k", "app")
        assert client.communicate(timeout=DEADLINE) == ("", "")
    assert client.returncode == 1


def test_a_command_in_place_of_init(host: Host, busybox_root: Path) -> None:
    _create(host, busybox_root, "box")
    done = _new(host, "start", "-F", "box", "--", "/bin/sh", "-c", "echo I am $$")
    assert done.split() == ["I", "am", "1"]


def test_attach(host: Host, busybox_root: Path) -> None:
    _create(host, busybox_root, "box")
    _new(host, "start", "box")
    done = lxc(host, "attach", "box", "--", "/bin/sh", "-c", "hostname; exit 7", era=NEW, status=7)
    assert done.stdout == "box\n"
    options = ("--clear-env", "-v", "A=b", "-u", "65534", "-g", "65534")
    found = _new(
        host, "attach", "box", *options, "--", "/bin/sh", "-c", "id -u; id -g; echo $A$LXCD_COMPAT"
    )
    assert found == "65534\n65534\nb\n"
    assert _new(host, "attach", "box", "--", "/bin/sh", "-c", "echo $LXCD_COMPAT") == f"{NEW}\n"
    only = _new(host, "attach", "box", "-s", "UTSNAME", "--", "/bin/hostname")
    assert only == "box\n"
    shell = subprocess.run(
        ["lxc-attach", "box"],
        input=b"hostname; exit 5\n",
        env=environment(host, NEW),
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )
    assert (shell.stdout, shell.returncode) == (b"box\n", 5)
    # Which is that of the container's own passwd.
    script = r"printf '#!/bin/sh\necho its own\n' > /bin/own; chmod 755 /bin/own"
    passwd = "echo root:x:0:0::/:/bin/own > /etc/passwd"
    assert _new(host, "attach", "box", "--", "/bin/sh", "-c", f"{script}; {passwd}") == ""
    assert _new(host, "attach", "box") == "its own\n"
    lxc(host, "attach", "box", "--", "/no/such", era=NEW, status=127)


def test_the_console(host: Host, busybox_root: Path, seat: Seat) -> None:
    _create(host, busybox_root, "box", "lxc.tty.max = 1")
    _new(host, "start", "box")
    seat.type("lxc-console -n box; echo left $?\r")
    seat.shows("Connected to tty 1").shows("login:")
    # There is one, and somebody sits at it.
    second = Seat(host)
    second.type("lxc-console box; echo left $?\r")
    second.shows("no free tty").shows("left 1")
    second.close()
    seat.type("\x01q")
    seat.shows("left 0").prompts()
    # Nobody could leave it by a key.
    done = lxc(host, "console", "box", era=NEW, status=1)
    assert done.stderr == "lxc-console: stdin is no terminal\n"
    seat.type("clear; lxc-console -n box -t 0 -e b; echo gone $?\r")
    seat.shows("Connected to tty 0")
    seat.type("\recho at the con''sole\r")
    seat.shows("at the console")
    seat.type("\x02q")
    seat.shows("gone 0").prompts()
    assert not seat.is_raw


def test_another_lxcpath(host: Host, busybox_root: Path) -> None:
    file = configuration(host, busybox_root, "box")
    place = host.root / "elsewhere"
    _new(host, "create", "-P", f"{place}/", "-n", "box", "-t", "none", "-f", file)
    assert (place / "box/config").exists()
    assert _new(host, "ls") == ""
    assert _new(host, "ls", "-1", "--lxcpath", str(place)) == "box\n"
    done = lxc(host, "destroy", "-P", str(place), "box", era=NEW)
    assert done.stdout == ""
    assert not (place / "box").exists()


def test_the_template_that_lxcd_has(host: Host) -> None:
    _new(host, "create", "-n", "box", "-t", "host")
    _new(host, "start", "box")
    assert _new(host, "attach", "box", "--", "cat", "/etc/hostname") == "box\n"
    lxc(host, "destroy", "-f", "box", era=NEW)
    assert list(host.lxcpath.iterdir()) == []


@pytest.mark.parametrize(("era", "template"), [(NEW, ("-t", "none")), (OLD, ())])
def test_a_container_without_a_root_of_its_own(
    host: Host, era: str, template: tuple[str, ...]
) -> None:
    text = "# mine\nlxc.uts.name = inside\nlxc.environment = A=b\n"
    file = host.root / "bare.conf"
    file.write_text(text)
    assert shown(host, "create", "-n", "box", *template, "-f", str(file), era=era) == ""
    assert [path.name for path in (host.lxcpath / "box").iterdir()] == ["config"]
    assert (host.lxcpath / "box/config").read_text() == text
    # It sees the host's.
    script = f"hostname; cat {file}"
    assert shown(host, "execute", "-n", "box", "--", "sh", "-c", script, era=era) == (
        f"inside\n{text}"
    )
    assert shown(host, "destroy", "-n", "box", era=era) == ""
    assert file.exists()
    assert list(host.lxcpath.iterdir()) == []


def test_messages_in_a_file(host: Host) -> None:
    log = host.root / "log"
    done = lxc(host, "info", "-o", str(log), "-q", "nobody", era=NEW, status=1)
    assert done.stderr == ""
    assert log.read_text() == "lxc-info: nobody doesn't exist\n"
    # Which is no name of a file.
    assert _new(host, "ls", "-o", "none") == ""
    assert not Path("none").exists()
    # Errors are none of what a log of this priority holds.
    lxc(host, "info", "-o", str(log), "-l", "FATAL", "nobody", era=NEW, status=1)
    assert log.read_text() == "lxc-info: nobody doesn't exist\n"


def test_checkconfig(host: Host) -> None:
    lines = _new(host, "checkconfig").splitlines()
    assert lines[0] == "LXC version 7.0.0"
    assert "--- Namespaces ---" in lines
    assert "Pid namespace: enabled" in lines
    assert _new(host, "version") == "lxc version: 7.0.0\n"
