"""File systems that do not answer, and processes that wait for one: those cannot be frozen, and hear no signal meanwhile."""

from __future__ import annotations

import os
import select
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from lxcd.kernel import mount, process
from lxcd.kernel.fd import Fd
from lxcd.kernel.mount import FsContext

_CLONE_FS = 0x200  # linux/sched.h
_AT_FDCWD = -100
# linux/fuse.h
_INIT, _LOOKUP = 26, 1
_IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_READ_BYTES = 1 << 17


@contextmanager
def stuck(cgroups: Iterable[str]) -> Iterator[int]:
    """In these cgroups; its pid."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    pid = 0
    try:
        top = _mount(device)
        try:
            pid = _child([*cgroups], device, top)
        finally:
            os.close(top)
        # What nobody has read yet could still be interrupted.
        assert _request(device)[0] == _LOOKUP
        yield pid
    finally:
        # With the last descriptor of it the wait is over: the child may not have one.
        os.close(device)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@contextmanager
def silent(place: Path, namespaces: int) -> Iterator[Callable[[], bool]]:
    """A file system there, in the mounts of that process, that answers nothing; tells whether somebody waits for it."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)

    def attach() -> None:
        # This thread alone goes there.
        process.unshare(_CLONE_FS)
        with Fd(os.open(f"/proc/{namespaces}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as there:
            process.setns(there.fileno(), process.CLONE_NEWNS)
        mount.move_mount(top, _AT_FDCWD, str(place))

    try:
        top = _mount(device)
        try:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(attach).result()
        finally:
            os.close(top)
        poll = select.poll()
        poll.register(device, select.POLLIN)
        # What nobody has read can still be interrupted, by SIGKILL.
        yield lambda: bool(poll.poll(0))
    finally:
        os.close(device)


def _mount(device: int) -> int:
    options = {"source": "stuck", "fd": device, "rootmode": "40000", "user_id": 0, "group_id": 0}
    with FsContext("fuse") as context:
        for key, value in options.items():
            context.string(key, str(value))
        context.create()
        top = context.mount()
    opcode, unique = _request(device)
    assert opcode == _INIT
    answer = _INIT_OUT.pack(7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0)
    os.write(device, _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), 0, unique) + answer)
    return top


def _request(device: int) -> tuple[int, int]:
    _, opcode, unique, *_ = _IN_HEADER.unpack_from(os.read(device, _READ_BYTES))
    return opcode, unique


def _child(cgroups: list[str], device: int, top: int) -> int:
    pid, pidfd = process.clone3(0)
    if pid == 0:
        os.close(device)
        with suppress(BaseException):
            for path in cgroups:
                Path(path, "cgroup.procs").write_text("0")
            os.stat("anything", dir_fd=top)
        os._exit(1)
    os.close(pidfd)
    return pid
