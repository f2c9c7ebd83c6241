"""Containers that nobody should have: broken, hostile, without what a command needs. It is said what is wrong, and the daemon is none the worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcd.v1 import container_pb2
from tests.system import sessions
from tests.system.boxes import Box, Refused, defined
from tests.system.calls import application, idle, refused
from tests.system.host import Host
from tests.system.machine import until

pytestmark = pytest.mark.vm


@pytest.mark.parametrize(
    "script",
    [
        "umount -l /proc",
        "mount -t tmpfs none /proc; mkdir -p /proc/self/fd",
        "mount --bind /dev/zero /etc/passwd",
        "rm -rf /etc",
        "rm /bin/sh; ln -s /bin/sh /bin/sh",
        "mount -t tmpfs none /dev",
        "chmod 0 /root /tmp /",
    ],
)
def test_a_container_that_has_broken_itself(
    shared_host: Host, busybox_root: Path, script: str
) -> None:
    with idle(shared_host, busybox_root, "broken") as made:
        made.run("/bin/busybox", "sh", "-c", script)
        done = made.run("/bin/busybox", "echo", "on")
        assert (done.stdout, done.exit.code) == (b"on\n", 0)
        assert shared_host.ctl("exec", "broken", "--", "/bin/busybox", "true").returncode == 0


def test_a_shell_that_is_none(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "shell") as made:
        for script, code in (
            ("rm /bin/sh; ln -s /bin/sh /bin/sh", 126),
            ("rm /bin/sh; mkdir /bin/sh", 126),
            ("rmdir /bin/sh; head -c 4096 /dev/urandom > /bin/sh; chmod 755 /bin/sh", 126),
            ("rm /bin/sh; touch /bin/sh", 126),
            ("rm /bin/sh; mkfifo -m 755 /bin/sh", 126),
            ("rm /bin/sh", 127),
            ("printf '#!/no/such\n' > /bin/sh; chmod 755 /bin/sh", 127),
        ):
            made.run("/bin/busybox", "ash", "-c", script)
            assert made.run("/bin/sh", "-c", "true").exit.code == code, script


@pytest.mark.parametrize(
    "script",
    [
        "umount -l /dev/pts",
        "mount -t tmpfs none /dev/pts",
        "mount -t tmpfs none /dev/pts; mkfifo /dev/pts/ptmx",
        "mount -t tmpfs none /dev/pts; mknod /dev/pts/ptmx c 1 5",
        "mount -t tmpfs none /dev/pts; ln -s /dev/zero /dev/pts/ptmx",
        "mount -t tmpfs none /dev/pts; mkdir /dev/pts/ptmx",
        "umount -l /dev/pts; rmdir /dev/pts; ln -s /proc/1/fd /dev/pts",
    ],
)
def test_a_container_without_terminals(shared_host: Host, busybox_root: Path, script: str) -> None:
    with idle(shared_host, busybox_root, "blind") as made:
        made.run("/bin/sh", "-c", script)
        error = refused(lambda: sessions.create(made, "/bin/true", tty=True))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "NO_TERMINAL")
        # Without one all is well.
        assert made.sh("echo on") == "on"


def test_a_container_whose_terminals_are_all_taken(shared_host: Host, busybox_root: Path) -> None:
    with idle(shared_host, busybox_root, "full", "lxc.pty.max = 2", "lxc.tty.max = 0") as made:
        # Its console is not counted.
        first, second = (sessions.create(made, "/bin/cat", tty=True) for _ in range(2))
        error = refused(lambda: sessions.create(made, "/bin/cat", tty=True))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "NO_TERMINAL")
        assert error.metadata["errno"] == "ENOSPC"
        sessions.delete(made.api, first.id)
        sessions.delete(made.api, second.id)
        until(lambda: _can_be_made(made), "its terminal is free again")


def _can_be_made(made: Box) -> bool:
    try:
        found = sessions.create(made, "/bin/cat", tty=True)
    except Refused:
        return False
    sessions.delete(made.api, found.id)
    return True


def test_an_application_that_has_no_console(shared_host: Host, busybox_root: Path) -> None:
    lines = ("lxc.console.path = none", "lxc.tty.max = 0")
    with idle(shared_host, busybox_root, "mute", *lines) as made:
        error = refused(lambda: sessions.console(made.api, "mute"))
        assert (error.code, error.reason) == ("NOT_FOUND", "STREAM_NOT_FOUND")
    config = application(shared_host, busybox_root, "piped")
    with defined(shared_host, config, "piped") as made:
        made.start("/bin/sleep", "100000", stdio=container_pb2.STDIO_PIPES)
        attached = sessions.console(made.api, "piped", terminal="output", role=sessions.CONTROLLER)
        attached.send(input=b"x")
        error = refused(attached.to_the_end)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "NO_INPUT")
