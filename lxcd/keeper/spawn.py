"""The fork."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
from typing import NoReturn

from lxcd.container import init, pid1
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import process

# The kernel's own soft limit (INR_OPEN_CUR): a service manager has raised it for the fd store, and
# programs inside may close all that there could be, or use select(2).
_SOFT_NOFILE = 1024


def _found_nofile() -> tuple[int, int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (min(soft, _SOFT_NOFILE) if soft != resource.RLIM_INFINITY else _SOFT_NOFILE), hard


# RLIMIT_NOFILE before the keeper raised its own: what its children get back.
_inherited = {"nofile": _found_nofile()}


def prepare(
    flags: int, channel: int, cgroup: int, cgroups: list[int]
) -> tuple[int, int, socket.socket]:
    """The first half of a spawn: a child in its namespaces and cgroups, waiting for its Spec on
    `channel`.

    Returns its pid, its pidfd and our end of its way to us; the caller owns both, and still owns
    what it gave. Raises OSError from clone3(2).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        pid, pidfd = process.clone3(flags, cgroup)
        if pid == 0:
            _child(channel, theirs.detach(), cgroups, flags)
        _reset_oom_score(pid)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return pid, pidfd, ours


def _child(channel: int, control: int, cgroups: list[int], flags: int) -> NoReturn:
    """The child's first acts, in the keeper's image: nothing of the keeper's or of another
    container stays open.
    """
    try:
        gc.disable()
        kernel_fd.close_all_but([0, 1, 2, channel, control, *cgroups, *pid1.descriptors()])
        # RLIMIT_NOFILE is the one limit that the keeper changes for itself.
        resource.setrlimit(resource.RLIMIT_NOFILE, _inherited["nofile"])
        ours, keeper = socket.socket(fileno=channel), socket.socket(fileno=control)
        init.live(ours, keeper, cgroups, flags)
    finally:
        os._exit(125)


def _reset_oom_score(pid: int) -> None:
    """Take the keeper's protection from a child, before it can do anything.

    By the keeper, who has the capability where it has the protection: only then the kernel forgets
    the lowest value too, which the child, or a container's root, could go back to (proc(5)).
    """
    with contextlib.suppress(OSError):
        _write_oom_score(pid, 0)


def _write_oom_score(pid: int | str, score: int) -> None:
    with open(f"/proc/{pid}/oom_score_adj", "r+b", buffering=0) as file:
        if int(file.read()) != score:
            file.write(str(score).encode())


def inherited_nofile() -> tuple[int, int]:
    """RLIMIT_NOFILE, soft and hard, that children get."""
    return _inherited["nofile"]


def inherit_nofile(limits: list[int]) -> None:
    """As an earlier image of the keeper found it: this one sees only what that one has made of
    it.
    """
    soft, hard = limits
    _inherited["nofile"] = (soft, hard)


def raise_own_limits() -> list[str]:
    """For the keeper itself: as many descriptors as it may have, and the last to be killed for want
    of memory.

    Returns what could not be had, by the capability that it wants.
    """
    missing: list[str] = []
    _, hard = _inherited["nofile"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        _write_oom_score("self", -999)
    except OSError:
        missing.append("CAP_SYS_RESOURCE: the keeper has no protection from the OOM killer")
    return missing
