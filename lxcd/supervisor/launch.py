"""Processes that not the keeper forks: the keeper itself, and a candidate for its place."""

from __future__ import annotations

import os
import sys
from hashlib import blake2b
from typing import TYPE_CHECKING, NoReturn

from lxcd import __version__

if TYPE_CHECKING:
    import socket
    from typing import Any


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# What a keeper runs.
_ROOMS = ("keeper", "container", "kernel")


def own_build() -> str:
    """Version and, behind a `+`, what the keeper's code is, in whatever language: two builds of a
    version may differ.
    """
    digest = blake2b(digest_size=6)
    for room in _ROOMS:
        for directory, folders, names in os.walk(os.path.join(_PACKAGE, room)):
            # What Python makes of the rest, when it likes.
            folders[:] = sorted(set(folders) - {"__pycache__"})
            for name in sorted(names):
                with open(os.path.join(directory, name), "rb") as file:
                    digest.update(name.encode() + b"\0" + file.read())
    return f"{__version__}+{digest.hexdigest()}"


def newer(own: str, other: str) -> bool:
    """Whether `own` is to take the place of `other`: of a later version, or of the same and not the
    same code.
    """
    (own_version, _, own_code), (version, _, code) = own.partition("+"), other.partition("+")
    if own_version == version:
        return own_code != code
    return _numbers(own_version) > _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def command(runtime_dir: str, build: str, *more: str) -> list[str]:
    """The launcher's argv."""
    code = (
        f"import sys; sys.path.append({os.path.dirname(_PACKAGE)!r}); "
        "from lxcd.keeper.launcher import main; main(sys.argv[1:])"
    )
    # The interpreter behind a virtual environment: the keeper needs nothing but the library.
    # -I -S: no user's site directory, no .pth file.
    interpreter = os.path.realpath(sys.executable)
    options = ["--runtime-dir", runtime_dir, "--build", build, *more]
    return [interpreter, "-I", "-S", "-B", "-c", code, *options]


def become_keeper(runtime_dir: str) -> NoReturn:
    """Exec a keeper under our own pid, with the environment in which a service manager says how to
    reach it. Raises OSError.
    """
    argv = command(runtime_dir, own_build())
    os.execve(argv[0], argv, dict(os.environ))


def spawn_keeper(runtime_dir: str, build: str, said: int) -> int:
    """Have a keeper started, detached from us: the pid of who does it and ends. `said` is its
    standard error until it has opened its log. Raises OSError.
    """
    argv = command(runtime_dir, build, "--entrusted", "yes")
    return _spawn(argv, [(os.POSIX_SPAWN_DUP2, said, 2)])


def spawn_candidate(runtime_dir: str, build: str, answers: socket.socket) -> int:
    """Start what may take the running keeper's place; it talks on `answers`. Raises OSError."""
    place = 3
    argv = command(runtime_dir, build, "--candidate", str(place))
    return _spawn(argv, [(os.POSIX_SPAWN_DUP2, answers.fileno(), place)])


def _spawn(argv: list[str], actions: list[tuple[Any, ...]]) -> int:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True)


def ended(pid: int) -> bool:
    """Whether a process that was spawned here has ended; it is reaped then."""
    try:
        found, _ = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return found != 0
