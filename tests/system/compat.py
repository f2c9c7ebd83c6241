"""LXC's own command names, as `contrib/lxc-compat/bin` has them, at a test's lxcd."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system import roots
from tests.system.host import CHECKOUT, Host
from tests.system.machine import DEADLINE

BIN = CHECKOUT / "contrib/lxc-compat/bin"
OLD = "0.7"
NEW = "7.0"

# The article's file system part, word for word but for the place of the root file system.
_APPLICATION = """\
# file system configuration
lxc.rootfs = {root}
lxc.mount.entry=/dev {root}/dev/ none bind 0 0
lxc.mount.entry=/dev/pts {root}/dev/pts none bind 0 0
"""


def environment(host: Host, era: str) -> dict[str, str]:
    """For a command, with the directory in front of PATH, as a user has it."""
    path = f"{BIN}:{host.environment['PATH']}"
    return {**host.environment, "PATH": path, "LXCD_COMPAT": era}


def lxc(
    host: Host, command: str, *arguments: str, era: str = OLD, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run `lxc-COMMAND`, off any terminal; it must end with `status`."""
    done = subprocess.run(
        [str(BIN / f"lxc-{command}"), *arguments],
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


@contextmanager
def running(
    host: Host, command: str, *arguments: str, era: str = OLD
) -> Iterator[subprocess.Popen[str]]:
    """An `lxc-COMMAND` that goes on meanwhile; killed at the end if it still does."""
    client = subprocess.Popen(
        [str(BIN / f"lxc-{command}"), *arguments],
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


def configuration(host: Host, root: Path, name: str) -> Path:
    """A file with the article's lines for an application container over `root`."""
    file = host.root / f"{name}.conf"
    overlay = roots.overlay(root, host.root / "upper" / name / "delta")
    file.write_text(f"# a comment\nlxc.utsname = {name}\nlxc.rootfs = {overlay}\n")
    return file
