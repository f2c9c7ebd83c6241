"""Device nodes that a running container is given, and the right to use them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcd.cgroup import device_control, devices
from lxcd.cgroup.devices import Policy
from lxcd.cgroup.tree import Payload
from lxcd.v1 import container_pb2
from tests.system import roots
from tests.system.boxes import IDMAP, KERNEL_MOUNTS, Box, box, defined, over
from tests.system.calls import idle, refused
from tests.system.host import Host
from tests.system.machine import DEADLINE

pytestmark = pytest.mark.vm

BLOCK, CHARACTER = "/dev/loop5", "/dev/loop-control"
# Opens, and does nothing else.
READ = "dd if={} of=/dev/null count=0 2>&1"
WRITE = "dd if=/dev/null of={} count=0 conv=notrunc 2>&1"


def payload(made: Box) -> Payload:
    return Payload(dict(made.info().cgroups), ())


def in_force(made: Box) -> Policy:
    """What version 1 says."""
    return device_control.in_force(payload(made))


def close(made: Box) -> None:
    """Leave it the devices of a configuration that says nothing, whoever would else do that."""
    if in_force(made) == devices.EVERYTHING:
        device_control.enforce(payload(made), devices.DEFAULT)


def config(host: Host, root: Path) -> str:
    return over(host, root) + KERNEL_MOUNTS


@pytest.fixture(params=["privileged", "mapped"])
def running(
    shared_host: Host, busybox_root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Box]:
    """A container that may use few devices, and can write to its root file system."""
    text = config(shared_host, busybox_root)
    if request.param == "mapped":
        root = roots.copy(busybox_root, tmp_path / "root")
        text = f"lxc.rootfs.path = {root}\nlxc.rootfs.options = idmap=container\n"
        text += IDMAP + KERNEL_MOUNTS
    with box(shared_host, text) as made:
        close(made)
        yield made


def add(
    made: Box, path: str, inside: str = "", access: str = "", *, validate_only: bool = False
) -> None:
    request = container_pb2.AddDeviceNodeRequest(
        name=made.name, path=path, container_path=inside, access=access, validate_only=validate_only
    )
    made._call(lambda: made.api.container.AddDeviceNode(request, timeout=DEADLINE))


def remove(made: Box, inside: str, *, validate_only: bool = False) -> None:
    request = container_pb2.RemoveDeviceNodeRequest(
        name=made.name, container_path=inside, validate_only=validate_only
    )
    made._call(lambda: made.api.container.RemoveDeviceNode(request, timeout=DEADLINE))


def identity(made: Box, path: str) -> tuple[str, str]:
    """Type and numbers of a node inside; whose it is and what may be done with it."""
    kind, major, minor, rest = made.sh(f"stat -c '%F;%t;%T;%u:%g %a' {path}").split(";")
    return f"{kind} {int(major, 16)}:{int(minor, 16)}", rest


@pytest.mark.parametrize("path", [BLOCK, CHARACTER])
def test_a_node_comes_and_goes(running: Box, path: str) -> None:
    host, before = running.host, in_force(running)
    found = os.stat(path)
    kind = "block" if stat.S_ISBLK(found.st_mode) else "character"
    running.fails(READ.format(path))
    host.ctl("device", "add", running.name, path)
    numbers = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    mode = f"{found.st_mode & 0o777:o}"
    assert identity(running, path) == (f"{kind} special file {numbers}", f"0:0 {mode}")
    running.sh(READ.format(path))
    # What is done to it is not done to the host's.
    running.sh(f"chmod 666 {path}; chown 7:7 {path}")
    assert os.stat(path) == found
    host.ctl("device", "remove", running.name, path)
    assert "No such file" in running.fails(f"ls {path}")
    assert in_force(running) == before


def test_without_the_right_it_is_of_no_use(shared_host: Host, busybox_root: Path) -> None:
    with box(shared_host, config(shared_host, busybox_root)) as made:
        close(made)
        assert "not permitted" in made.fails("mknod /block b 7 5")
        # That may be made, and not opened.
        made.sh("mknod /made c 10 237")
        assert "not permitted" in made.sh(READ.format("/made") + "; true")
        add(made, CHARACTER)
        made.sh(READ.format("/made"))
        remove(made, CHARACTER)
        assert "not permitted" in made.sh(READ.format("/made") + "; true")


def test_another_place_and_less_access(running: Box) -> None:
    before = in_force(running)
    running.host.ctl("device", "add", running.name, BLOCK, "/srv/a/b//disk", "--access", "r")
    running.sh(READ.format("/srv/a/b/disk"))
    assert "not permitted" in running.sh(WRITE.format("/srv/a/b/disk") + "; true")
    # The same device once more, with another right: each takes only its own along.
    add(running, BLOCK, "/dev/disk", "rw")
    running.sh(WRITE.format("/srv/a/b/disk"))
    remove(running, "/srv/a/b/disk")
    running.sh(f"{READ.format('/dev/disk')} && {WRITE.format('/dev/disk')}")
    remove(running, "/dev/disk")
    assert in_force(running) == before
    assert running.sh("ls -A /srv/a/b") == ""


def test_it_survives_lxcd(running: Box) -> None:
    host, before = running.host, in_force(running)
    add(running, BLOCK)
    with_it = in_force(running)
    host.kill_daemon()
    host.start_daemon()
    assert in_force(running) == with_it
    running.sh(READ.format(BLOCK))
    assert refused(lambda: add(running, BLOCK)).reason == "PATH_EXISTS"
    remove(running, BLOCK)
    assert in_force(running) == before
    running.fails(f"ls {BLOCK}")


def test_a_change_of_what_runs_leaves_the_right_to_be_taken_back(running: Box) -> None:
    host, before = running.host, in_force(running)
    for key, value in (("limits.pids", "100"), ("lxc.cgroup2.devices.allow", "c 1:3 rwm")):
        add(running, BLOCK)
        host.ctl("config", "set", "--live-only", running.name, key, value)
        running.sh(READ.format(BLOCK))
        host.ctl("config", "unset", "--live-only", running.name, key)
        running.sh(READ.format(BLOCK))
        remove(running, BLOCK)
        assert in_force(running) == before


def test_it_ends_with_the_container(running: Box) -> None:
    # Also outside of /dev, where a file for it stays in the root file system.
    for path in (BLOCK, "/srv/disk"):
        add(running, BLOCK, path)
    running.stop(kill=True)
    running.start()
    close(running)
    assert devices.Rule(True, "b", 7, 5) not in in_force(running).exceptions
    running.fails(f"ls {BLOCK}")
    for path in (BLOCK, "/srv/disk"):
        add(running, BLOCK, path)
        running.sh(READ.format(path))
        remove(running, path)


def test_what_the_container_does_to_it(shared_host: Host, busybox_root: Path) -> None:
    with box(shared_host, config(shared_host, busybox_root)) as made:
        close(made)
        before = in_force(made)
        # Taken away, covered, moved elsewhere: the right goes all the same.
        for script in (
            f"umount {BLOCK}",
            f"umount {BLOCK}; rm {BLOCK}",
            f"mount --bind /etc/inittab {BLOCK}",
            f"umount {BLOCK}; rm {BLOCK}; ln -s /proc/sys {BLOCK}",
        ):
            add(made, BLOCK)
            made.sh(script)
            remove(made, BLOCK)
            assert in_force(made) == before
            made.sh(f"while umount {BLOCK} 2>/dev/null; do :; done; rm -f {BLOCK}")
        assert made.sh("ls /proc/sys/kernel/ostype")


def test_a_symlink_leads_nowhere(running: Box) -> None:
    host, before = running.host, in_force(running)
    outside = host.root / "outside"
    outside.mkdir(exist_ok=True)
    running.sh(f"mkdir -p /srv{host.root} && ln -s / /srv/up && ln -s {outside} /srv/last")
    for path in ("/srv/up/node", "/srv/last/node", "/srv/last"):
        error = refused(lambda path=path: add(running, BLOCK, path))  # type: ignore[misc]
        assert error.reason in ("PATH_UNSAFE", "PATH_EXISTS"), error
    assert not list(outside.iterdir())
    assert in_force(running) == before
    assert running.sh("ls -A /node 2>/dev/null; true") == ""


def test_the_second_half_fails(running: Box) -> None:
    """The right was there; without the node it goes again."""
    before = in_force(running)
    for path, reason in (
        ("/proc/1/node", "NODE_FAILED"),
        ("/proc/none/node", "NODE_FAILED"),
        ("/etc/inittab/node", "PATH_UNSAFE"),
        ("/etc/inittab", "PATH_EXISTS"),
        ("/dev", "PATH_EXISTS"),
        ("/dev/null", "PATH_EXISTS"),
    ):
        error = refused(lambda path=path: add(running, BLOCK, path))  # type: ignore[misc]
        assert error.reason == reason, error
        assert path in error.text
        assert in_force(running) == before
        assert refused(lambda path=path: remove(running, path)).code == "NOT_FOUND"  # type: ignore[misc]
    running.sh("test -c /dev/null && test -f /etc/inittab")


def test_a_trial_changes_nothing(running: Box) -> None:
    before = in_force(running)
    add(running, BLOCK, validate_only=True)
    assert in_force(running) == before
    running.fails(f"ls {BLOCK}")
    add(running, BLOCK)
    remove(running, BLOCK, validate_only=True)
    running.sh(READ.format(BLOCK))
    remove(running, BLOCK)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("add", "box", "/etc/passwd"), 2, "/etc/passwd is not a device node"),
        (("add", "box", "/dev"), 2, "/dev is not a device node"),
        (("add", "box", "/dev/none"), 3, "the host has no /dev/none"),
        (("add", "box", "/dev/null/none"), 3, "the host has no /dev/null/none"),
        (("add", "box", "loop5"), 2, "no absolute path"),
        (("add", "box", BLOCK, "disk"), 2, "no absolute path"),
        (("add", "box", BLOCK, "/"), 2, "cannot be at /"),
        (("add", "box", BLOCK, "/dev/../../x"), 2, "`..` leads elsewhere"),
        (("add", "box", BLOCK, f"/{'x' * 256}"), 2, "no absolute path"),
        (("add", "box", BLOCK, "/dev/null"), 4, "has a file /dev/null already"),
        (("add", "box", BLOCK, "--access", "rx"), 2, "no access is called 'x'"),
        (("add", "nobody", BLOCK), 3, "no container nobody"),
        (("remove", "box", "/dev/null"), 3, "was given no device node /dev/null"),
        (("remove", "box", "null"), 2, "no absolute path"),
        (("remove", "nobody", BLOCK), 3, "no container nobody"),
    ],
)
def test_what_cannot_be(
    shared_host: Host, busybox_root: Path, words: tuple[str, ...], status: int, text: str
) -> None:
    with idle(shared_host, busybox_root, "box"):
        done = shared_host.ctl("device", *words, check=False)
    assert done.returncode == status, done.stderr
    assert text in done.stderr


def test_not_now(shared_host: Host, busybox_root: Path) -> None:
    with box(shared_host, config(shared_host, busybox_root)) as made:
        add(made, BLOCK)
        shared_host.ctl("freeze", made.name)
        for call in (lambda: add(made, CHARACTER), lambda: remove(made, BLOCK)):
            assert refused(call).reason == "CONTAINER_FROZEN"
        shared_host.ctl("thaw", made.name)
        remove(made, BLOCK)
        made.stop(kill=True)
        for call in (lambda: add(made, CHARACTER), lambda: remove(made, BLOCK)):
            assert refused(call).reason == "CONTAINER_NOT_RUNNING"


@pytest.mark.parametrize("rule", ["c 1:3", "x 1:3 rwm", "c 99999999:0 r"])
@pytest.mark.parametrize("key", ["lxc.cgroup.devices.allow", "lxc.cgroup2.devices.deny"])
def test_a_rule_that_does_not_parse(
    shared_host: Host, busybox_root: Path, key: str, rule: str
) -> None:
    with defined(shared_host, config(shared_host, busybox_root)) as made:
        file = made.directory / "config"
        text = file.read_text()
        file.write_text(f"{text}{key} = {rule}\n")
        error = refused(made.start)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_CONFIG"), error
        line = f"{file}:{text.count(chr(10)) + 1}"
        assert error.metadata == {"origin": line, "key": key}
        assert error.text.startswith(f"{line}: "), error
        assert rule.split()[1].partition(":")[0] in error.text
        done = shared_host.ctl("config", "check", made.name, check=False)
        assert done.returncode != 0
        assert line in done.stdout + done.stderr
        file.write_text(text)
        made.start()
