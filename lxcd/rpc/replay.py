"""`request_id`: a retried request gets the answer of the first one, also if that is still being
worked on.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

from lxcd import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_KEPT = 10_000
_SECONDS = 24 * 3600.0
_MAXIMUM_LENGTH = 128

Answer = TypeVar("Answer")


class Replays:
    """Answers by request_id, in memory: a new lxcd has not heard of any."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[float, bytes, asyncio.Task[Any]]] = OrderedDict()

    async def once(self, request: Any, work: Callable[[], Awaitable[Answer]]) -> Answer:  # noqa: ANN401
        """Run `work`, or give what it gave before for the same id.

        With an id the work goes on if this caller goes away: the retry is to find its answer.
        Raises InvalidArgument when the id was used for another request.
        """
        if not request.request_id:
            return await work()
        if len(request.request_id) > _MAXIMUM_LENGTH:
            raise errors.InvalidArgument("request_id is too long", "INVALID_REQUEST_ID")
        self._expire()
        text = type(request).__name__.encode() + request.SerializeToString(deterministic=True)
        known = self._answers.get(request.request_id)
        if known is None:
            # Not a TaskGroup's: its error is the caller's, and the retry's.
            task = asyncio.ensure_future(work())
            self._answers[request.request_id] = (time.monotonic(), text, task)
        else:
            _, before, task = known
            if before != text:
                raise errors.InvalidArgument(
                    "this request_id was used for another request", "REQUEST_ID_REUSED"
                )
        return await asyncio.shield(task)

    def _expire(self) -> None:
        oldest = time.monotonic() - _SECONDS
        while self._answers:
            id_, (begun, _, task) = next(iter(self._answers.items()))
            if not task.done() or (begun > oldest and len(self._answers) < _KEPT):
                return
            del self._answers[id_]
