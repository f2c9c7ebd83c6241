"""The fork. A child is a program of its own (`kernel/native/`): nothing in it is the keeper's."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc, spawn
from lxcd.kernel.native import images

# The kernel's own soft limit (INR_OPEN_CUR): a service manager has raised it for the fd store, and
# programs inside may close all that there could be, or use select(2).
_SOFT_NOFILE = 1024


def _found_nofile() -> tuple[int, int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (min(soft, _SOFT_NOFILE) if soft != resource.RLIM_INFINITY else _SOFT_NOFILE), hard


_TITLES = {"walker": "lxcd-walker", "pid1": "lxc-init"}
# Memfds. Nobody can change them, however he comes to one from inside a container (CVE-2019-5736);
# and nobody inside may read them, so that what is exec'ed there cannot be traced, from its first
# instruction on (would_dump() in the kernel).
_programs: dict[str, int] = {}
# RLIMIT_NOFILE before the keeper raised its own: what its children get back.
_inherited = {"nofile": _found_nofile()}


def load() -> str:
    """Have the programs ready that children become; why they are not, if so: nothing can be
    started then.
    """
    machine = os.uname().machine
    for name in ("walker", "pid1"):
        image = images.IMAGES[name].get(machine)
        if image is None:
            return f"lxcd has no program for {machine}"
        try:
            title = _TITLES[name]
            _programs[name] = kernel_fd.sealed_program(title, bytes.fromhex(image))
        except OSError as error:
            # EACCES where vm.memfd_noexec is 2.
            return f"memfd_create: {error.strerror}"
    return ""


def prepare(flags: int, channel: int, cgroups: list[int]) -> tuple[int, int, socket.socket]:
    """The first half of a spawn: a child in its namespaces and cgroups, waiting for its Spec on
    `channel`.

    Returns its pid, its pidfd and our end of its way to us; the caller owns both, and still owns
    what it gave. Raises OSError from clone3(2), or execveat(2).
    """
    if len(_programs) < len(_TITLES):
        raise libc.oserror(errno.EACCES, "memfd_create")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        with theirs:
            fds = [channel, theirs.fileno(), _programs["pid1"], *cgroups]
            words = [_TITLES["walker"], *map(str, [*fds[:3], flags, *cgroups])]
            pid, pidfd = spawn.spawn(flags, _programs["walker"], words, fds)
        with kernel_fd.Fd(pidfd) as owned:
            # RLIMIT_NOFILE is the one limit that the keeper changes for itself.
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, _inherited["nofile"])
            _reset_oom_score(pid)
            owned.take()
    except BaseException:
        ours.close()
        raise
    ours.setblocking(False)
    return pid, pidfd, ours


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
