"""Stock LXC on the machine of a test: a container that it has started, to attach to with its own tools."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.host import Host
from tests.system.machine import until

# Users for a busybox root: one with groups and a home, one without a home.
PEOPLE = """\
mkdir -p /home/alice && chown 1000:1000 /home/alice
echo 'alice:x:1000:1000::/home/alice:/bin/sh' >> /etc/passwd
echo 'bob:x:1001:1001::/no/home:/bin/odd' >> /etc/passwd
printf 'alice:x:1000:\\nstaff:x:50:alice\\n' >> /etc/group
sed -i 's/^tty:x:5:/tty:x:5:alice/' /etc/group
"""
Attach = Callable[[tuple[str, ...], tuple[str, ...]], list[str]]


def _cgroups() -> set[Path]:
    return set(Path("/sys/fs/cgroup").glob("*/lxc.pivot"))


@contextmanager
def started(host: Host, name: str, config: str) -> Iterator[Attach]:
    """A container that lxc-start has started; how to call lxc-attach with options and a command. Gone at the end."""
    if shutil.which("lxc-start") is None:
        pytest.fail("stock LXC is not installed (Debian: lxc)")
    machine, before = host.machine, _cgroups()
    made = [] if Path("/run/lxc").exists() else [Path("/run/lxc")]
    machine.run("mkdir", "-p", "/run/lxc")
    machine.run("mount", "-t", "tmpfs", "none", "/run/lxc")
    directory = host.lxcpath / name
    directory.mkdir()
    (directory / "config").write_text(config)
    path = ("-P", str(host.lxcpath), "-n", name)

    def attach(options: tuple[str, ...], command: tuple[str, ...]) -> list[str]:
        inside = ("nsenter", f"--target={machine.pid}", "--net", "--mount", "--root", "--wd", "--")
        return [*inside, "lxc-attach", *path, *options, "--", *command]

    try:
        log = host.root / "stock.log"
        done = machine.run("lxc-start", *path, "-d", "-l", "INFO", "-o", str(log), check=False)
        text = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{text}"
        yield attach
    finally:
        machine.run("lxc-stop", *path, "-k", check=False)
        until(
            lambda: not any("[lxc monitor]" in line for line in machine.processes()), "no monitor"
        )
        machine.run("umount", "/run/lxc")
        for place in made:
            place.rmdir()
        for cgroup in _cgroups() - before:
            subprocess.run(["rmdir", str(cgroup)], check=False, capture_output=True)
        shutil.rmtree(directory)
