"""How long a start waits for an image that somebody is about to let go of.

With a stranger it has little patience. What the container's own life before has written goes to
disk before its loop device is gone, however much that is: nothing is in the way then but time. A
caller that does not wait any more ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from lxcd.storage.choice import LOOK_S, OWN_TEARDOWN_S, TEARDOWN_S

if TYPE_CHECKING:
    from collections.abc import Generator

    from lxcd.storage.choice import ImageBusyError

# To look costs something: who has waited long is not in a hurry.
_SHARE = 0.05

# Set when the caller of what this task does has gone away. None: there is no caller.
_gone: ContextVar[asyncio.Event | None] = ContextVar("gone", default=None)


@contextlib.contextmanager
def awaited() -> Generator[None]:
    """Tasks that are begun in here are done for the one who waits in here."""
    gone = asyncio.Event()
    token = _gone.set(gone)
    try:
        yield
    except asyncio.CancelledError:
        gone.set()
        raise
    finally:
        _gone.reset(token)


def on_its_own() -> None:
    """What this task does from now on nobody waits for."""
    _gone.set(None)


class Patience:
    """Of one start, which the present task does."""

    def __init__(self) -> None:
        self._gone = _gone.get() or asyncio.Event()
        self._begun = 0.0  # when the image was first busy
        self._strange = 0.0  # since when somebody else may have it

    def lasts(self, error: ImageBusyError) -> bool:
        """Whether to look again."""
        now = time.monotonic()
        self._begun = self._begun or now
        # After its own device has gone, its file is let go of: that looks like a stranger's doing.
        self._strange = now if error.own else self._strange or now
        if self._gone.is_set():
            return False
        if error.own:
            return now < self._begun + OWN_TEARDOWN_S
        return now < self._strange + TEARDOWN_S

    async def pause(self) -> None:
        """Wait until it is time for that."""
        waited = time.monotonic() - self._begun
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(LOOK_S, waited * _SHARE)):
                await self._gone.wait()
