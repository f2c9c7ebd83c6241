"""Sockets of containers ↔ messages of the API. No decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.network.sockets import Kind
from lxcd.rpc.convert import FAMILIES, text_of
from lxcd.v1 import container_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxcd.network.sockets import Socket
    from lxcd.supervisor.sockets import Listing


def kinds(values: Iterable[container_pb2.Socket.Kind.ValueType]) -> frozenset[Kind]:
    """Kinds of sockets that are asked for. Raises InvalidArgument."""
    known = container_pb2.Socket.Kind
    found: set[Kind] = set()
    for value in values:
        name = known.Name(value) if value in known.values() else ""
        try:
            found.add(Kind(name.removeprefix("KIND_")))
        except ValueError:
            raise errors.InvalidArgument(f"no such kind: {value}", "INVALID_KIND") from None
    return frozenset(found)


def listing(value: Listing) -> container_pb2.ListSocketsResponse:
    """Sockets, with their holders."""
    message = container_pb2.ListSocketsResponse(truncated=value.cut)
    for one in value.sockets:
        told = _socket(one)
        for process in value.holders.get(one.inode, ()):
            told.holders.add(
                pid=process.pid,
                container_pid=process.container_pid,
                comm=text_of(process.comm),
            )
        message.sockets.append(told)
    return message


def _socket(value: Socket) -> container_pb2.Socket:
    return container_pb2.Socket(
        kind=container_pb2.Socket.Kind.Value(f"KIND_{value.kind.value}"),
        family=FAMILIES.get(value.family, types_pb2.ADDRESS_FAMILY_UNSPECIFIED),
        state=_state(value.state),
        local_address=value.local[0],
        local_port=value.local[1],
        remote_address=value.remote[0],
        remote_port=value.remote[1],
        receive_queue_bytes=value.receive_queue_bytes,
        send_queue_bytes=value.send_queue_bytes,
        backlog=value.backlog,
        backlog_max=value.backlog_max,
        uid=value.uid,
        inode=value.inode,
        protocol=value.protocol,
        type=value.type,
        path=text_of(value.path),
        peer_inode=value.peer_inode,
    )


def _state(number: int) -> container_pb2.Socket.State.ValueType:
    """The kernel's numbers are the API's; of a newer kernel's state nothing is said."""
    known = container_pb2.Socket.State.values()
    return next((value for value in known if value == number), known[0])
