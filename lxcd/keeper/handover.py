"""What one image of the keeper leaves to the next, under the same pid: every descriptor by its
number, and what is known about it. One JSON text in a memfd.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from lxcd.keeper import protocol
from lxcd.keeper.child import Child, Stream
from lxcd.keeper.link import Peer, Unsent
from lxcd.keeper.ring import CAPACITY_BYTES, Ring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxcd.keeper.loop import Keeper

STATE = 2  # of this text; a newer image reads older ones
LIMIT_BYTES = 256 << 20


def state_of(keeper: Keeper) -> dict[str, Any]:
    """All of it."""
    peer = keeper.link.peer
    return {
        "state": STATE,
        "build": keeper.build,
        "leaving": keeper.leaving,
        "listener": keeper.link.listener.fileno(),
        "journal": keeper.journal.fileno(),
        "pending": [protocol.encode(exited).decode() for exited in keeper.journal.pending.values()],
        "store": keeper.store.handed_over(),
        "trustee": -1 if keeper.trust is None else keeper.trust.address,
        "lxcd": None
        if peer is None
        else {
            "socket": peer.socket.fileno(),
            "poke": peer.poke,
            "unsent": [
                [base64.b64encode(message.data).decode(), list(message.fds)]
                for message in peer.unsent
            ],
        },
        "children": [_child(child) for child in keeper.children.by_id.values()],
    }


def _child(child: Child) -> dict[str, Any]:
    return {
        "id": child.id,
        "kind": child.kind,
        "pid": child.pid,
        "pidfd": child.pidfd,
        "control": -1 if child.control is None else child.control.fileno(),
        "forked": child.forked,
        "ours": child.ours,
        "exited": None if child.exited is None else protocol.encode(child.exited).decode(),
        "streams": [
            {
                "name": stream.name,
                "fd": stream.fd,
                "capacity": stream.capacity,
                "peer": stream.peer,
                "ring": -1 if stream.ring is None else stream.ring.memfd,
                "input": -1 if stream.input is None else stream.input.memfd,
                "is_input": stream.is_input,
                "is_tty": stream.is_tty,
                "held": stream.held,
            }
            for stream in child.streams.values()
        ],
    }


def descriptors(state: dict[str, Any]) -> Iterator[int]:
    """Every number in it. Raises KeyError or TypeError for a text of another shape."""
    yield state["listener"]
    yield state["journal"]
    yield from (state["store"]["notify"], state["store"]["book"], state["store"].get("ends", -1))
    yield state.get("trustee", -1)
    if state["lxcd"] is not None:
        yield from (state["lxcd"]["socket"], state["lxcd"]["poke"])
        for _, fds in state["lxcd"]["unsent"]:
            yield from fds
    for child in state["children"]:
        yield from (child["pidfd"], child["control"])
        for stream in child["streams"]:
            # The first state knew of no input.
            yield from (stream["fd"], stream["peer"], stream["ring"], stream.get("input", -1))


def decode(text: bytes) -> dict[str, Any]:
    """The text as a state that this image understands. ValueError says what is wrong with it."""
    try:
        state: dict[str, Any] = json.loads(text)
        if state["state"] > STATE:
            raise ValueError(f"a state of version {state['state']}; this image reads {STATE}")
        if not all(type(number) is int for number in descriptors(state)):
            raise ValueError("a descriptor is no number")
        for words in state["children"]:
            for values in words["streams"]:
                values["name"].encode()
            _exited(words["exited"])
        for line in state["pending"]:
            _exited(line)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a state of the keeper: {error!r}") from None
    return state


def check_open(state: dict[str, Any]) -> None:
    """Every descriptor is there, every ring is one. Raises OSError or ValueError; nothing is
    changed.
    """
    for number in descriptors(state):
        if number >= 0:
            os.fstat(number)
    for child in state["children"]:
        for stream in child["streams"]:
            for number in (stream["ring"], stream.get("input", -1)):
                if number >= 0:
                    ring = Ring(os.dup(number))
                    ring.close()


def close_on_exec(state: dict[str, Any], wanted: bool) -> None:  # noqa: FBT001
    """Whether its descriptors go with an exec."""
    for number in descriptors(state):
        if number >= 0:
            os.set_inheritable(number, not wanted)


def peer_of(state: dict[str, Any]) -> Peer | None:
    """The lxcd that is connected."""
    values = state["lxcd"]
    if values is None:
        return None
    connection = socket.socket(fileno=values["socket"])
    connection.setblocking(False)
    peer = Peer(connection, values["poke"])
    for data, fds in values["unsent"]:
        peer.unsent.append(Unsent(base64.b64decode(data), tuple(fds)))
    return peer


def children_of(state: dict[str, Any]) -> Iterator[Child]:
    """The children, with their streams; nothing is watched yet."""
    for values in state["children"]:
        control = None
        if values["control"] >= 0:
            control = socket.socket(fileno=values["control"])
            control.setblocking(False)
        child = Child(
            values["id"],
            values["kind"],
            values["pid"],
            values["pidfd"],
            control,
            forked=values["forked"],
            ours=values["ours"],
            exited=_exited(values["exited"]),
        )
        for words in values["streams"]:
            child.streams[words["name"]] = Stream(
                child,
                words["name"],
                words["fd"],
                words.get("capacity", CAPACITY_BYTES),
                ring=None if words["ring"] < 0 else Ring(words["ring"]),
                peer=words["peer"],
                is_tty=words["is_tty"],
                is_input=words.get("is_input", False),
                input=None if words.get("input", -1) < 0 else Ring(words["input"]),
                held=words["held"],
            )
        yield child


def pending_of(state: dict[str, Any]) -> Iterator[protocol.Exited]:
    """Exits that lxcd has not acknowledged; some may not have got onto the disk."""
    for line in state["pending"]:
        if (exited := _exited(line)) is not None:
            yield exited


def _exited(text: str | None) -> protocol.Exited | None:
    if text is None:
        return None
    told = protocol.decode_answer(text.encode())
    if not isinstance(told, protocol.Exited):
        raise ValueError(f"not an exit: {text}")  # noqa: TRY004 - a wrong text, not a wrong type
    return told
