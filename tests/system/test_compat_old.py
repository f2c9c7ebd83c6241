"""The commands of LXC 0.7, one after the other as the article types them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import article
from tests.system.compat import OLD, configuration, environment, lxc, running, shown
from tests.system.host import Host
from tests.system.machine import DEADLINE, until
from tests.system.seat import Seat

# Puts itself into the background, as sshd does.
DAEMON = ("/bin/sh", "/sbin/daemon")
_DAEMON = "#!/bin/sh\nsetsid sleep 100000 </dev/null >/dev/null 2>&1 &\nexit {status}\n"


@pytest.fixture
def seat(host: Host) -> Iterator[Seat]:
    host.environment |= environment(host, OLD)
    made = Seat(host, rows=40)
    yield made
    made.close()


def _runs(host: Host, name: str) -> bool:
    done = subprocess.run(
        ["lxc-info", "-n", name],
        env=environment(host, OLD),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    return done.stdout == f"'{name}' is RUNNING\n"


def _with_daemon(host: Host, root: Path, status: int = 0) -> str:
    file = configuration(host, root, "001")
    daemon = host.root / "upper/001/delta/sbin/daemon"
    daemon.parent.mkdir(parents=True, exist_ok=True)
    daemon.write_text(_DAEMON.format(status=status))
    return file


def _command_lines() -> list[list[str]]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        found.append([os.fsdecode(word) for word in text.rstrip(b"\0").split(b"\0")])
    return found


# ---- an application


def test_an_application_that_puts_itself_into_the_background(
    host: Host, busybox_root: Path
) -> None:
    file = _with_daemon(host, busybox_root, status=3)
    typed = ("-n", "001", "-f", file, *DAEMON)
    with running(host, "execute", *typed) as client:
        until(lambda: _runs(host, "001"), "001 runs")
        until(
            lambda: "sleep 100000" in shown(host, "ps", "--name", "001", "-ef"),
            "the daemon is in the background",
        )
        # The prompt does not come back, and the host's ps has both.
        assert client.poll() is None
        lines = _command_lines()
        assert ["lxc-execute", *typed] in lines
        assert ["lxc-init", "--", *DAEMON] in lines
        comm = Path(f"/proc/{client.pid}/comm").read_text()
        assert comm == "lxc-execute\n"
        lxc(host, "stop", "-n", "001")
        out, err = client.communicate(timeout=DEADLINE)
    assert (out, err) == ("", "")
    # 128 + SIGKILL.
    assert client.returncode == 137
    assert list(host.lxcpath.iterdir()) == []
    assert shown(host, "ls") == ""


def test_an_application_ends_with_its_last_process(host: Host, busybox_root: Path) -> None:
    file = _with_daemon(host, busybox_root, status=3)
    with running(host, "execute", "-n", "001", "-f", file, *DAEMON) as client:
        until(
            lambda: (
                _runs(host, "001")
                and "sleep 100000" in shown(host, "ps", "--name", "001", "-ef")
                and "/sbin/daemon" in shown(host, "ps", "--name", "001", "-ef")
            ),
            "the daemon is in the background",
        )
        done = host.ctl("exec", "001", "--", "/usr/bin/killall", "sleep")
        assert done.returncode == 0
        # The status is that of the command itself.
        assert client.wait(DEADLINE) == 3


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_execute_ends_with_the_status_of_its_command(
    host: Host, busybox_root: Path, status: int
) -> None:
    file = configuration(host, busybox_root, "001")
    script = f"echo out; echo err >&2; exit {status}"
    done = lxc(
        host, "execute", "-n", "001", "-f", file, "--", "/bin/sh", "-c", script, status=status
    )
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert list(host.lxcpath.iterdir()) == []


def test_execute_at_a_terminal(host: Host, busybox_root: Path, seat: Seat) -> None:
    file = _with_daemon(host, busybox_root)
    seat.type(f"lxc-execute -n 001 -f {file} {' '.join(DAEMON)}; echo ended $?\r")
    until(lambda: _runs(host, "001"), "001 runs")
    lxc(host, "stop", "-n", "001")
    seat.shows("ended 137")
    seat.type(f"lxc-execute -n 001 -f {file} -- /bin/sh -c 'tty; exit 4'; echo ended $?\r")
    seat.shows("ended 4")
    assert "/dev/pts/" in seat.text


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_execute_at_a_terminal_does_not_outlive_its_client(
    host: Host, busybox_root: Path, seat: Seat, number: int
) -> None:
    file = configuration(host, busybox_root, "001")
    seat.type(f"lxc-execute -n 001 -f {file} -- /bin/sh -c 'echo its pi''d; exec sleep 1000'\r")
    seat.shows("its pid")
    os.kill(seat.client("lxc-execute"), number)
    seat.prompts()
    until(lambda: shown(host, "ls") == "", "001 has ended")


# ---- a system


@pytest.mark.parametrize("name", ["001", "002"])
def test_the_articles_texts_are_kept_to_the_byte(host: Host, name: str) -> None:
    text = {"001": article.CONF_001, "002": article.CONF_002}[name] + article.RESOURCES
    file = host.root / f"{name}.conf"
    file.write_text(text)
    assert shown(host, "create", "-n", name, "-f", str(file)) == ""
    assert (host.lxcpath / name / "config").read_text() == text
    assert shown(host, "ls") == f"{name}\n"
    assert shown(host, "info", "-n", name) == f"'{name}' is STOPPED\n"
    assert shown(host, "destroy", "-n", name) == ""
    assert list(host.lxcpath.iterdir()) == []


def test_a_text_without_a_host_name_is_kept_to_the_byte(host: Host) -> None:
    file = host.root / "x.conf"
    file.write_bytes("# 設定\r\nlxc.rootfs = /lxc/rootfs/x".encode())
    lxc(host, "create", "-n", "x", "-f", str(file))
    assert (host.lxcpath / "x/config").read_bytes() == file.read_bytes()


def test_a_system_boots_at_the_terminal_and_powers_off(
    host: Host, busybox_root: Path, seat: Seat
) -> None:
    file = configuration(host, busybox_root, "002")
    seat.type(f"lxc-create -n 002 -f {file}; lxc-start -n 002; echo ended $?\r")
    seat.shows("busybox is up")
    seat.shows("busybox#")
    assert shown(host, "info", "-n", "002") == "'002' is RUNNING\n"
    seat.type("hostname\r")
    seat.until(lambda: "002" in seat.text.splitlines(), "its shell answers")
    seat.type("poweroff\r")
    seat.shows("ended 0")
    seat.prompts()
    assert not seat.is_raw
    assert shown(host, "info", "-n", "002") == "'002' is STOPPED\n"
    lxc(host, "destroy", "-n", "002")


def test_what_is_seen_of_systems(host: Host, busybox_root: Path, seat: Seat) -> None:
    for name in ("003", "004", "005", "006"):
        lxc(host, "create", "-n", name, "-f", configuration(host, busybox_root, name))
    for name in ("003", "005", "006"):
        assert shown(host, "start", "-n", name, "-d") == ""
    seat.type("lxc-ls\r")
    seat.shows("\n003  004  005  006\n003  005  006\n")
    # To a pipe as ls(1) has it.
    assert shown(host, "ls").split("\n") == [*("003", "004", "005", "006", "003", "005", "006", "")]
    assert shown(host, "info", "-n", "003") == "'003' is RUNNING\n"
    assert shown(host, "info", "-n", "004") == "'004' is STOPPED\n"
    for name in ("003", "005", "006"):
        assert shown(host, "stop", "-n", name) == ""
    # Of one that is stopped there is nothing to stop.
    lxc(host, "stop", "-n", "004")
    seat.type("clear; lxc-ls\r")
    seat.shows("003  004  005  006\nseat$")


def test_processes_and_sockets_of_a_system(host: Host, busybox_root: Path) -> None:
    file = configuration(host, busybox_root, "002")
    lxc(host, "create", "-n", "002", "-f", file)
    lxc(host, "start", "-n", "002", "-d")
    host.ctl(
        "exec", "002", "--", "/bin/sh", "-c", "ip link set lo up; nc -l -p 8022 >/dev/null 2>&1 &"
    )
    head, *lines = shown(host, "ps", "--name", "002", "-ef").splitlines()
    assert " ".join(head.split()) == "CONTAINER UID PID PPID C STIME TTY TIME CMD"
    assert head.startswith("CONTAINER  ")
    assert all(line.startswith("002        ") for line in lines)
    assert lines[0].split()[8] == "init"
    init = host.ctl("--format", "json", "info", "002").stdout
    assert f'"pid": {lines[0].split()[2]}' in init
    assert shown(host, "ps", "--lxc", "-ef").splitlines()[1:] == lines
    mine = [line for line in shown(host, "ps", "-ef").splitlines() if "002 " not in line]
    assert len(mine) > 1
    lxc(host, "ps", "--name", "002", "-o", "pid,comm")
    sockets = shown(host, "netstat", "--name", "002", "-an").splitlines()
    assert sockets[0] == "Active Internet connections (servers and established)"
    assert any("8022" in line and "LISTEN" in line for line in sockets)
    assert "8022" not in shown(host, "netstat", "-n", "002", "-l", "-u")
    assert "Kernel IP routing table" in shown(host, "netstat", "--name", "002", "-rn")
    lxc(host, "stop", "-n", "002")


@pytest.mark.skipif(
    not os.path.exists("/bin/netstat") and not os.path.exists("/usr/bin/netstat"),
    reason="the machine has no netstat of its own",
)
def test_options_that_only_netstat_knows(host: Host, busybox_root: Path) -> None:
    file = configuration(host, busybox_root, "002")
    with running(host, "execute", "-n", "002", "-f", file, "/bin/sleep", "100000"):
        until(lambda: _runs(host, "002"), "002 runs")
        assert "Tcp:" in shown(host, "netstat", "--name", "002", "-s")
        lxc(host, "stop", "-n", "002")


def test_checkconfig_has_the_articles_layout(host: Host) -> None:
    lines = shown(host, "checkconfig").splitlines()
    if not os.path.exists("/proc/config.gz"):
        assert lines.pop(0) == (
            "Kernel config /proc/config.gz not found, looking in other places..."
        )
        lines.pop(0)
    expected = article.CHECKCONFIG.splitlines()
    # Whether the kernel has it is the machine's affair.
    assert [line.partition(":")[0] for line in lines] == [
        line.partition(":")[0] for line in expected
    ]
    for line in lines:
        assert line.endswith(("---", ": enabled", ": missing")) or not line
    assert "Pid namespace: enabled" in lines


def test_the_small_ones(host: Host, busybox_root: Path) -> None:
    assert shown(host, "version") == "lxc version: 0.7.4.2\n"
    lxc(host, "create", "-n", "002", "-f", configuration(host, busybox_root, "002"))
    lxc(host, "start", "-n", "002", "-d")
    lxc(host, "freeze", "-n", "002")
    assert shown(host, "info", "-n", "002") == "'002' is FROZEN\n"
    lxc(host, "unfreeze", "-n", "002")
    lxc(host, "wait", "-n", "002", "-s", "RUNNING|STOPPED")
    done = lxc(host, "attach", "-n", "002", "--", "/bin/sh", "-c", "hostname; exit 6", status=6)
    assert done.stdout == "002\n"
    lxc(host, "kill", "--name=002", "9")
    lxc(host, "wait", "-n", "002", "-s", "STOPPED")
