"""What the tests of failures have in common: applications that do nothing, refusals, events, big messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import grpc
from google.protobuf.duration_pb2 import Duration

from lxcd.v1 import container_pb2, event_pb2, exec_pb2_grpc, types_pb2
from tests.system.boxes import KERNEL_MOUNTS, Box, Refused, defined, over
from tests.system.host import Api, Host
from tests.system.machine import DEADLINE

IDLE = ("/bin/sleep", "100000")


def seconds(value: float) -> Duration:
    """A Duration; negative ones too."""
    whole = int(value)
    return Duration(seconds=whole, nanos=round((value - whole) * 1e9))


def refused(call: Callable[[], Any]) -> Refused:
    """How the daemon refuses this call; AssertionError if it does not."""
    try:
        answer = call()
        if isinstance(answer, Iterator):
            answer = list(answer)
    except Refused as error:
        return error
    except grpc.RpcError as error:
        return Refused(error)
    message = f"was not refused, but answered {answer}"
    raise AssertionError(message)


def application(host: Host, root: Path, name: str, *lines: str) -> str:
    """The configuration of a container with a root of its own over `root`."""
    return over(host, root, name) + KERNEL_MOUNTS + "".join(f"{line}\n" for line in lines)


@contextmanager
def idle(host: Host, root: Path, name: str, *lines: str) -> Iterator[Box]:
    """An application that sleeps, running."""
    with defined(host, application(host, root, name, *lines), name) as made:
        made.start(*IDLE)
        yield made


def define(api: Api, name: str, config: str, **options: Any) -> container_pb2.Container:
    """CreateContainer; its last message."""
    request = container_pb2.CreateContainerRequest(name=name, config_text=config, **options)
    answers = list(api.container.CreateContainer(request, timeout=DEADLINE))
    made: container_pb2.Container = answers[-1].container
    return made


def get(api: Api, name: str) -> container_pb2.Container:
    """GetContainer."""
    request = container_pb2.GetContainerRequest(name=name)
    found: container_pb2.Container = api.container.GetContainer(request, timeout=DEADLINE)
    return found


def everything(api: Api) -> dict[str, container_pb2.Container]:
    """All containers of the default lxcpath, page by page."""
    found: dict[str, container_pb2.Container] = {}
    token = ""
    while True:
        request = container_pb2.ListContainersRequest(page_size=1000, page_token=token)
        page = api.container.ListContainers(request, timeout=DEADLINE)
        found |= {one.name: one for one in page.containers}
        token = page.next_page_token
        if not token:
            return found


def events(api: Api, *types: str, after: int = 0, names: tuple[str, ...] = ()) -> list[Any]:
    """All events that are kept, of these types and containers."""
    found: list[event_pb2.Event] = []
    token = ""
    while True:
        request = event_pb2.ListEventsRequest(
            after_sequence=after, types=types, containers=names, page_size=1000, page_token=token
        )
        page = api.event.ListEvents(request, timeout=DEADLINE)
        found += page.events
        token = page.next_page_token
        if not token:
            return found


def state(found: container_pb2.Container) -> str:
    """LXC's word."""
    return types_pb2.State.Name(found.state).removeprefix("STATE_")


@contextmanager
def large_messages(host: Host) -> Iterator[Any]:
    """ExecService for replies larger than gRPC's usual 4 MiB."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(host.address, options=options) as channel:
        yield exec_pb2_grpc.ExecServiceStub(cast("Any", channel))


def tree(top: Path) -> set[str]:
    """Every path below a directory."""
    found: set[str] = set()
    for folder, folders, names in os.walk(top):
        found |= {os.path.relpath(os.path.join(folder, name), top) for name in folders + names}
    return found
