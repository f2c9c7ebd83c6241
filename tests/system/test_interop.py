"""Stock LXC starts what lxcctl defined, and lxcd starts what stock LXC made: one directory, two programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lxcd.v1 import types_pb2
from tests.system.boxes import Box, box, busybox_up, defined, over
from tests.system.host import Host
from tests.system.machine import until

Stock = Callable[..., subprocess.CompletedProcess[str]]
# Without a bridge and without AppArmor, which the kernel of a test machine need not have.
_PLAIN = (
    "lxc.mount.auto = proc:mixed sys:mixed\nlxc.net.0.type = empty\n"
    "lxc.apparmor.profile = unconfined\nlxc.pty.max = 16\n"
)


def _cgroups() -> set[str]:
    return {str(path) for path in Path("/sys/fs/cgroup").glob("*/lxc.pivot")}


@pytest.fixture
def stock(host: Host) -> Iterator[Stock]:
    """Run a command of stock LXC on the machine; its monitors, locks and cgroups go at the end."""
    if shutil.which("lxc-start") is None:
        pytest.fail("stock LXC is not installed (Debian: lxc)")
    machine, before = host.machine, _cgroups()
    # Private to the machine: its locks lie in /run/lxc, and newuidmap asks /etc/subuid even for root.
    made = [Path("/run/lxc")] if not Path("/run/lxc").exists() else []
    machine.run("mkdir", "-p", "/run/lxc")
    grants = host.root / "subid"
    grants.write_text("root:1000000:65536\n")
    machine.run("mount", "-t", "tmpfs", "none", "/run/lxc")
    machine.run("mount", "--bind", str(grants), "/etc/subuid")
    machine.run("mount", "--bind", str(grants), "/etc/subgid")

    def run(command: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        log = host.root / f"{command}-{name}.log"
        logging = ("-l", "DEBUG", "-o", str(log)) if command != "lxc-create" else ()
        argv = (command, "-P", str(host.lxcpath), "-n", name, *logging, *arguments)
        done = machine.run(*argv, check=False)
        text = log.read_text(errors="replace") if log.exists() else ""
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}\n{text[-4000:]}"
        return done

    yield run
    for directory in host.lxcpath.iterdir():
        argv = ("lxc-stop", "-P", str(host.lxcpath), "-n", directory.name, "-k")
        machine.run(*argv, check=False)
    until(lambda: not any("[lxc monitor]" in line for line in machine.processes()), "no monitor")
    for place in ("/etc/subgid", "/etc/subuid", "/run/lxc"):
        machine.run("umount", place)
    for directory in made:
        directory.rmdir()
    for cgroup in _cgroups() - before:
        # Stock LXC leaves it; somebody else's monitor may sit in it by now.
        with suppress(OSError):
            os.rmdir(cgroup)


def test_stock_lxc_starts_what_lxcctl_created(host: Host, stock: Stock, busybox_root: Path) -> None:
    with defined(host, over(host, busybox_root) + _PLAIN) as made:
        before = (made.directory / "config").read_bytes()
        stock("lxc-start", "box", "-d")
        assert "RUNNING" in stock("lxc-info", "box", "-s").stdout
        assert stock("lxc-attach", "box", "--clear-env", "--", "/bin/hostname").stdout == "box\n"
        stock("lxc-stop", "box", "-k")
        assert (made.directory / "config").read_bytes() == before
        # And back again: what one program stopped, the other starts.
        made.start()
        assert made.sh("hostname") == "box"


def test_stock_lxc_starts_the_host_image(host: Host, stock: Stock) -> None:
    with defined(host, _PLAIN.replace("lxc.pty.max", "# lxc.pty.max"), "app") as made:
        # Into a file: without a terminal lxc-start -F shows nothing of the console.
        script = "cat /proc/self/uid_map > /root/map"
        stock("lxc-start", "app", "-F", "--", "/bin/sh", "-c", script)
        seen = (made.directory / "rootfs/root/map").read_text().split()
        assert seen == ["0", "1000000", "65536"]
        made.start("id")
        assert made.wait(generation=1).exit.code == 0


def test_lxcd_starts_what_lxc_create_made(host: Host, stock: Stock) -> None:
    stock("lxc-create", "stock", "-f", "/dev/null", "-t", "busybox")
    before = (host.lxcpath / "stock/config").read_bytes()
    assert "stock" in host.ctl("list", "-1").stdout.split()
    host.ctl("start", "stock")
    assert host.ctl("exec", "stock", "--", "hostname").stdout == "stock\n"
    api = host.channel()
    made = Box.__new__(Box)
    made.host, made.name, made.api = host, "stock", api
    # Its /etc/inittab answers on tty1 only after its rcS: then init heeds signals.
    until(lambda: b"init" in made.run("ps").stdout, "init runs")
    assert made.info().state == types_pb2.STATE_RUNNING
    done = host.ctl("stop", "stock")
    assert "SIGUSR1 (lxc.signal.halt)" in done.stderr
    assert (host.lxcpath / "stock/config").read_bytes() == before
    stock("lxc-start", "stock", "-d")
    stock("lxc-stop", "stock", "-k")
    host.ctl("delete", "stock")
    assert not (host.lxcpath / "stock").exists()


def test_lxcd_starts_a_config_as_stock_lxc_saves_it(host: Host, busybox_root: Path) -> None:
    directory = host.lxcpath / "saved"
    directory.mkdir(mode=0o770)
    (directory / "config").write_text(
        "# Template used to create this container: /usr/share/lxc/templates/lxc-local\n"
        "# Parameters passed to the template:\n"
        "# For additional config options, please look at lxc.container.conf(5)\n\n"
        "lxc.include = /usr/share/lxc/config/common.conf\n"
        "lxc.arch = linux64\n" + over(host, busybox_root, "saved") + 'lxc.uts.name = "saved"\n'
    )
    host.ctl("start", "saved")
    assert host.ctl("exec", "saved", "--", "hostname").stdout == "saved\n"
    problems = host.ctl("info", "saved").stdout
    assert "lxc.seccomp.profile" in problems
    host.ctl("stop", "--kill", "saved")
    host.ctl("delete", "saved")


def test_a_container_that_lxcd_runs_is_not_taken_for_its_own_by_stock_lxc(
    host: Host, stock: Stock, busybox_root: Path
) -> None:
    with box(host, over(host, busybox_root) + _PLAIN) as made:
        busybox_up(made)
        assert "STOPPED" in stock("lxc-info", "box", "-s").stdout
        assert made.info().state == types_pb2.STATE_RUNNING
