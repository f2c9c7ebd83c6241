"""Run a function in a child process that may unshare, mount and drop what it likes."""

from __future__ import annotations

import json
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from lxcd.kernel import mount, process

JSON = Any


def in_child(act: Callable[[], JSON], unshare: int = 0) -> JSON:
    """What `act` returns in a forked child; AssertionError with its traceback if it raises."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with warnings.catch_warnings():
        # Newer Pythons warn of threads (xdist has some); the child only calls the kernel.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _child(act, unshare, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as file:
            answer = file.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    assert answer, f"the child ended without a word: wait status {status:#x}"
    good, value = json.loads(answer)
    assert good, value
    return value


def _child(act: Callable[[], JSON], unshare: int, writer: int) -> None:
    try:
        if unshare:
            process.unshare(unshare)
        if unshare & process.CLONE_NEWNS:
            root = mount.open_tree(mount.AT_FDCWD, "/", 0)
            mount.mount_setattr(root, propagation=mount.MS_PRIVATE, recursive=True)
            os.close(root)
        answer = json.dumps([True, act()])
    except BaseException:  # noqa: BLE001 - pytest of the parent shows it
        answer = json.dumps([False, traceback.format_exc()])
    view = memoryview(answer.encode())
    while view:
        view = view[os.write(writer, view) :]
    os._exit(0)


def wait(pid: int) -> int:
    """Its exit status, as a shell says it with a minus for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
