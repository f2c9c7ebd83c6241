"""EventService."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.rpc import convert
from lxcd.rpc.status import Context, stream, unary
from lxcd.v1 import event_pb2 as pb
from lxcd.v1 import event_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from lxcd.supervisor.events import Event
    from lxcd.supervisor.house import House

_PAGE = 100
_LARGEST_PAGE = 1000
_LONGEST_TOKEN = 20  # digits of a 64-bit number


class Events(event_pb2_grpc.EventServiceServicer):
    """What happened."""

    def __init__(self, house: House) -> None:
        self._events = house.events

    @stream
    async def StreamEvents(
        self, request: pb.StreamEventsRequest, context: Context
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        """See event.proto."""
        del context
        matches = _filter(request)
        since = convert.nanoseconds(request.since) if request.HasField("since") else 0
        from_past = bool(request.after_sequence) or request.HasField("since")
        after = request.after_sequence if from_past else self._events.last
        lost = self._events.lost(after) if request.after_sequence else 0
        async for event in self._events.follow(after):
            if event.time_ns >= since and matches(event):
                yield pb.StreamEventsResponse(event=convert.event(event), lost=lost)
                lost = 0

    @unary
    async def ListEvents(
        self, request: pb.ListEventsRequest, context: Context
    ) -> pb.ListEventsResponse:
        """See event.proto."""
        del context
        if request.page_size < 0:
            raise errors.InvalidArgument("page_size is negative", "INVALID_PAGE_SIZE")
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        matches = _filter(request)
        since = convert.nanoseconds(request.since) if request.HasField("since") else 0
        after = request.after_sequence
        if request.page_token:
            token = request.page_token
            if not (token.isascii() and token.isdigit() and len(token) <= _LONGEST_TOKEN):
                raise errors.InvalidArgument("not a page_token of ours", "INVALID_PAGE_TOKEN")
            after = max(after, int(request.page_token))
        found: list[pb.Event] = []
        for event in self._events.since(after):
            if event.time_ns >= since and matches(event):
                if len(found) == size:
                    token = str(found[-1].sequence)
                    return pb.ListEventsResponse(events=found, next_page_token=token)
                found.append(convert.event(event))
        return pb.ListEventsResponse(events=found)


def _filter(request: pb.StreamEventsRequest | pb.ListEventsRequest) -> Callable[[Event], bool]:
    names = frozenset(request.containers)
    lxcpaths = frozenset(map(os.path.normpath, request.lxcpaths))
    types, exclude = tuple(request.types), tuple(request.exclude_types)

    def matches(event: Event) -> bool:
        return (
            (not names or event.container in names)
            and (not lxcpaths or event.lxcpath in lxcpaths)
            and (not types or _is_one(event.type, types))
            and not _is_one(event.type, exclude)
        )

    return matches


def _is_one(type_: str, wanted: Iterable[str]) -> bool:
    return any(type_.startswith(one[:-1]) if one.endswith(".*") else type_ == one for one in wanted)
