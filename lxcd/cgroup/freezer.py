"""Freezing a container: the freezer of version 1, `cgroup.freeze` of version 2."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from lxcd.errors import DeadlineExceeded, FailedPrecondition

if TYPE_CHECKING:
    from lxcd.cgroup.tree import Payload

_PAUSE_SECONDS = 0.005


def _files(payload: Payload) -> tuple[str, bool]:
    """The file to write, and whether it is version 2's."""
    for key, directory in payload.directories.items():
        if "freezer" in key.split(","):
            return f"{directory}/freezer.state", False
    if "" in payload.directories:
        return f"{payload.directories['']}/cgroup.freeze", True
    raise FailedPrecondition("this host has no freezer", "KERNEL_FEATURE_MISSING")


def is_frozen(payload: Payload) -> bool:
    """Whether all of it is frozen right now."""
    path, unified = _files(payload)
    if not unified:
        return _read(path).strip() == "FROZEN"
    return "frozen 1" in _read(path.replace("cgroup.freeze", "cgroup.events"))


async def freeze(payload: Payload, *, frozen: bool, deadline_seconds: float = 30.0) -> None:
    """Freeze or thaw, and wait until it is so.

    A freeze that does not come about in time, or is cancelled, is taken back: a container is never
    left half frozen.
    """
    try:
        await _until(payload, frozen=frozen, deadline_seconds=deadline_seconds)
    except BaseException:
        if frozen:
            with contextlib.suppress(OSError):
                take_back(payload)
        raise


def take_back(payload: Payload) -> None:
    """Thaw what was asked to freeze and has not. Raises OSError."""
    path, unified = _files(payload)
    if not is_frozen(payload) and _read(path).strip() in ("1", "FREEZING"):
        _write(path, "0" if unified else "THAWED")


async def _until(payload: Payload, *, frozen: bool, deadline_seconds: float) -> None:
    path, unified = _files(payload)
    word = ("1" if frozen else "0") if unified else ("FROZEN" if frozen else "THAWED")
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_seconds
    while True:
        # Version 1 may answer FREEZING until it is told again (freezer-subsystem.rst).
        _write(path, word)
        if is_frozen(payload) == frozen:
            return
        if loop.time() > end:
            raise DeadlineExceeded(
                f"not {'frozen' if frozen else 'thawed'} in {deadline_seconds} s"
            )
        await asyncio.sleep(_PAUSE_SECONDS)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _write(path: str, word: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(word)
