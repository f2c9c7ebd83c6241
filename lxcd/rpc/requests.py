"""Reading fields that several requests have, and refusing what cannot be meant."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, TypeVar

from lxcd import errors
from lxcd.supervisor.definition import CONFIG_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from google.protobuf.duration_pb2 import Duration

Answer = TypeVar("Answer")


def text(value: str) -> bytes:
    """A configuration's text. Raises InvalidArgument for one that is too large."""
    encoded = value.encode()
    if len(encoded) > CONFIG_LIMIT_BYTES:
        raise errors.InvalidArgument("the configuration is too large", "INVALID_CONFIG")
    return encoded


def command(words: Iterable[str]) -> tuple[str, ...]:
    """A command line; may be empty. Raises InvalidArgument for one that cannot be exec'ed."""
    argv = tuple(words)
    if argv and not argv[0]:
        raise errors.InvalidArgument("the command is empty", "INVALID_COMMAND")
    if any("\0" in word for word in argv):
        raise errors.InvalidArgument("an argument holds a NUL", "INVALID_COMMAND")
    return argv


def seconds(
    request: Any,  # noqa: ANN401 - any message with such a field
    field: str,
    default: float | None,
) -> float | None:
    """A Duration field; `default` if it is not set. Raises InvalidArgument for a negative one."""
    if not request.HasField(field):
        return default
    value: Duration = getattr(request, field)
    found = value.seconds + value.nanos / 1e9
    if found < 0:
        raise errors.InvalidArgument(f"{field} is negative", "INVALID_TIMEOUT")
    return found


async def in_time(work: Awaitable[Answer], limit: float | None) -> Answer:
    """What somebody waits for, if it comes in time. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(limit):
            return await work
    except TimeoutError:
        raise errors.DeadlineExceeded(f"not so within {limit:g} s", "WAIT_TIMEOUT") from None


def read_token(token: str) -> str:
    """What a page_token of ours says: the name behind which the page begins."""
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except ValueError:
        raise errors.InvalidArgument("not a page_token of ours", "INVALID_PAGE_TOKEN") from None


def write_token(name: str) -> str:
    """The reverse."""
    return base64.urlsafe_b64encode(name.encode(errors="surrogateescape")).decode()
