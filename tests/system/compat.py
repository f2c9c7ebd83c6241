"""LXC's own command names, as `contrib/lxc-compat/bin` has them, at a test's lxcd."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system import roots
from tests.system.boxes import KERNEL_MOUNTS
from tests.system.host import CHECKOUT, Host
from tests.system.machine import DEADLINE

BIN = CHECKOUT / "contrib/lxc-compat/bin"
OLD = "0.7"
NEW = "7.0"


def environment(host: Host, era: str) -> dict[str, str]:
    """For a command, with the directory in front of PATH, as a user has it."""
    path = f"{BIN}:{host.environment['PATH']}"
    return {**host.environment, "PATH": path, "LXCD_COMPAT": era}


def argv(command: str, *arguments: str) -> list[str]:
    """The command line of `lxc-COMMAND`."""
    return [str(BIN / f"lxc-{command}"), *arguments]


def lxc(
    host: Host, command: str, *arguments: str, era: str = OLD, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run `lxc-COMMAND`, off any terminal; it must end with `status`."""
    done = subprocess.run(
        argv(command, *arguments),
        env=environment(host, era),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    words = " ".join((command, *arguments))
    assert done.returncode == status, f"lxc-{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def shown(host: Host, command: str, *arguments: str, era: str = OLD) -> str:
    """What `lxc-COMMAND` prints, which succeeds and complains of nothing."""
    done = lxc(host, command, *arguments, era=era)
    assert done.stderr == ""
    return done.stdout


@contextmanager
def running(
    host: Host, command: str, *arguments: str, era: str = OLD
) -> Iterator[subprocess.Popen[str]]:
    """An `lxc-COMMAND` that goes on meanwhile; killed at the end if it still does."""
    client = subprocess.Popen(
        argv(command, *arguments),
        env=environment(host, era),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with client:
        try:
            yield client
        finally:
            client.kill()


def configuration(host: Host, root: Path, name: str, *lines: str) -> str:
    """A file with a configuration over `root`, as a command is given one."""
    file = host.root / f"{name}.conf"
    overlay = roots.overlay(root, host.root / "upper" / name / "delta")
    more = "".join(f"{line}\n" for line in lines)
    file.write_text(
        f"# of {name}\nlxc.utsname = {name}\nlxc.rootfs = {overlay}\n{KERNEL_MOUNTS}{more}"
    )
    return str(file)
