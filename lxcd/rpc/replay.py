"""Work that is finished whoever waits for it, and `request_id`: a retry gets the first answer."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

from lxcd import errors
from lxcd.supervisor import patience

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_KEPT = 10_000
_SECONDS = 24 * 3600.0
_LARGE_SECONDS = 60.0
_MAXIMUM_LENGTH = 128

Answer = TypeVar("Answer")


class Replays:
    """Answers by request_id, in memory: a new lxcd has not heard of any."""

    def __init__(self, begin: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """`begin` runs a coroutine in the daemon's TaskGroup."""
        self._begin = begin
        self._answers: OrderedDict[str, tuple[float, bytes, asyncio.Future[Any]]] = OrderedDict()

    async def once(
        self,
        request: Any,  # noqa: ANN401 - any message with a request_id
        work: Callable[[], Awaitable[Answer]],
    ) -> Answer:
        """Have `work` done, or give what it gave before for the same id.

        A caller that goes away does not stop it: what was begun is finished, and never left half
        done. It only need not wait for others any more, unless the caller may come back for the
        answer. Raises InvalidArgument when the id was used for another request.
        """
        if not request.request_id:
            with patience.awaited():
                return await asyncio.shield(self._run(work))
        if len(request.request_id) > _MAXIMUM_LENGTH:
            raise errors.InvalidArgument("request_id is too long", "INVALID_REQUEST_ID")
        self._expire()
        whole = type(request).__name__.encode() + request.SerializeToString(deterministic=True)
        text = blake2b(whole, digest_size=16).digest()
        known = self._answers.get(request.request_id)
        if known is not None and known[1] != text:
            raise errors.InvalidArgument(
                "this request_id was used for another request", "REQUEST_ID_REUSED"
            )
        if known is None:
            known = (time.monotonic(), text, self._run(work))
            self._answers[request.request_id] = known
        answer: Answer = await asyncio.shield(known[2])
        return answer

    def _run(self, work: Callable[[], Awaitable[Answer]]) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                answer = await work()
            except asyncio.CancelledError:
                # The daemon ends.
                future.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - it is told to whoever asks
                future.set_exception(error)
                # If nobody asks any more, that is no mistake.
                future.exception()
            else:
                future.set_result(answer)

        self._begin(run())
        return future

    def forget_soon(self, request_id: str) -> None:
        """An answer that is too large to be kept for long."""
        asyncio.get_running_loop().call_later(_LARGE_SECONDS, self._answers.pop, request_id, None)

    def _expire(self) -> None:
        oldest = time.monotonic() - _SECONDS
        while self._answers:
            id_, (begun, _, future) = next(iter(self._answers.items()))
            if not future.done() or (begun > oldest and len(self._answers) < _KEPT):
                return
            del self._answers[id_]
