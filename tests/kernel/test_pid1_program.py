"""The program of PID 1 as a file that a container can come to, and through the keeper that holds it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lxcd.container.devices import OpenPipes
from lxcd.container.rootfs import AttachRootfs, PivotRoot
from lxcd.keeper import spawn
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import identity, libc, process, procfs
from lxcd.kernel.native import images
from tests.kernel.forked import in_child
from tests.kernel.inits import exec_sealed, until
from tests.kernel.keeper import Connection, RunningKeeper
from tests.kernel.programs import O, execute, run

_BUSYBOX = shutil.which("busybox") or ""
_PTRACE = identity.capability_number("sys_ptrace")


@pytest.fixture
def program() -> Iterator[int]:
    """As a keeper holds it."""
    with kernel_fd.Fd(kernel_fd.sealed_program("lxc-init", b"\x7fELF" * 1024)) as held:
        yield held.fileno()


def _write(number: int) -> None:
    os.write(number, b"x")


def _map(number: int) -> None:
    mmap.mmap(number, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE)


def _punch(number: int) -> None:
    os.posix_fallocate(number, 0, 1 << 16)


@pytest.mark.parametrize(
    "act",
    [
        _write,
        _map,
        _punch,
        lambda number: os.ftruncate(number, 0),
        lambda number: os.ftruncate(number, 1 << 16),
        lambda number: fcntl.fcntl(number, kernel_fd.F_ADD_SEALS, 0),
        lambda number: os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_TRUNC),
    ],
)
def test_nobody_changes_it(program: int, act: Callable[[int], object]) -> None:
    # By root of the host, through a descriptor that may write: whoever finds it in a container has less.
    with kernel_fd.Fd(os.open(f"/proc/self/fd/{program}", os.O_RDWR)) as again:
        for number in (program, again.fileno()):
            with pytest.raises(PermissionError):
                act(number)
    assert kernel_fd.read_all(program, 1 << 20) == b"\x7fELF" * 1024


def test_it_is_there_to_be_executed_alone(program: int) -> None:
    found = os.fstat(program)
    assert found.st_mode & 0o7777 == 0o111
    assert found.st_uid == found.st_gid == 0xFFFFFFFE
    assert fcntl.fcntl(program, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def _readable(command: list[str], held: int, *, sealed: bool) -> bool:
    """Whether a child that has exec'ed lets us, of the same rights, read its memory."""
    channel, _ = os.pipe()
    pid, _ = process.clone3(0)
    if pid == 0:
        if sealed:
            exec_sealed(held, tuple(command), channel, {})
        else:
            os.execv(_BUSYBOX, command)
        os._exit(1)
    try:
        until(lambda: procfs.command(pid) == command, "it has exec'ed")
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    except PermissionError:
        return False
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return True


def _without_ptrace() -> None:
    """The root of a privileged container that may read every file, and trace only what lets itself be traced."""
    keep = frozenset(range(64)) - {_PTRACE}
    identity.drop_bounding(keep, identity.last_capability())
    identity.limit_permitted(keep)


def _in_user_namespace() -> None:
    """Root of a user namespace in which even the host's root is somebody."""
    process.unshare(process.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/self/{name}").write_text("0 0 1\n")


@pytest.mark.parametrize("where", [_without_ptrace, _in_user_namespace])
def test_what_it_becomes_cannot_be_traced_from_its_first_moment(where: Callable[[], None]) -> None:
    """Without a word of its own: this program does not ask for it."""

    def act() -> list[bool]:
        # As the keeper, who is of the host.
        held = kernel_fd.sealed_program("busybox", Path(_BUSYBOX).read_bytes())
        where()
        command = ["sleep", "1000"]
        return [_readable(command, held, sealed=False), _readable(command, held, sealed=True)]

    assert in_child(act) == [True, False]


def test_without_them_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str, _flags: int) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(spawn, "_programs", {})
    with monkeypatch.context() as patched:
        # What vm.memfd_noexec = 2 does.
        patched.setattr(os, "memfd_create", refuse)
        assert spawn.load() == "memfd_create: Permission denied"
    with monkeypatch.context() as patched:
        patched.setattr(images, "IMAGES", {"walker": {}, "pid1": {}})
        assert os.uname().machine in spawn.load()
    with pytest.raises(PermissionError) as caught:
        spawn.prepare(0, 0, [])
    assert libc.syscall_of(caught.value) == "memfd_create"


# held by the keeper


def _start(keeper: RunningKeeper, connection: Connection, id_: str) -> int:
    """An application; the pid of what reaps it."""
    steps = (
        AttachRootfs(origin=O, fd=0, source="/"),
        OpenPipes(origin=O),
        PivotRoot(origin=O),
        replace(execute("/bin/sleep", "1000"), reaper=True),
    )
    return run(keeper, connection, id_, steps).pid


def _is_the_program(pid: int) -> bool:
    return (
        os.readlink(f"/proc/{pid}/exe").startswith("/memfd:lxc-init")
        and Path(f"/proc/{pid}/exe").read_bytes().hex() == images.IMAGES["pid1"][os.uname().machine]
        and procfs.command(pid) == ["lxc-init", "--", "/bin/sleep", "1000"]
        and procfs.status(pid).comm == "lxc-init"
        and os.listdir(f"/proc/{pid}/fd") == []
    )


def test_every_image_of_the_keeper_has_it(keeper: RunningKeeper) -> None:
    connection = keeper.greeted()
    pids = [_start(keeper, connection, "first")]
    for number in range(2):
        held = keeper.descriptors()
        assert keeper.upgrade(connection, f"build-{number}") == ""
        assert keeper.descriptors() == held
        pids.append(_start(keeper, connection, f"later-{number}"))
    assert all(_is_the_program(pid) for pid in pids)
    assert "nothing can be started" not in keeper.log()
