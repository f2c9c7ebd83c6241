"""The server: sockets, permissions, health, reflection."""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import socket
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lxcd import errors
from lxcd.config.daemon import SOCKET_PATH_BYTES, socket_path
from lxcd.rpc.status import Readers
from lxcd.v1 import (
    console_pb2,
    console_pb2_grpc,
    container_pb2,
    container_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    exec_pb2,
    exec_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    network_pb2,
    network_pb2_grpc,
    stats_pb2,
    stats_pb2_grpc,
)

if TYPE_CHECKING:
    from lxcd.rpc.consoles import Consoles
    from lxcd.rpc.containers import Containers
    from lxcd.rpc.events import Events
    from lxcd.rpc.execs import Execs
    from lxcd.rpc.hosts import Hosts
    from lxcd.rpc.networks import Networks
    from lxcd.rpc.stats import Stats

_log = logging.getLogger(__name__)
GROUP = "lxcd"
# Both directions: the largest reply is RunExec's output, the largest request a config text or
# stdin.
_MESSAGE_BYTES = 64 << 20
_SERVICES = (
    container_pb2.DESCRIPTOR.services_by_name["ContainerService"].full_name,
    exec_pb2.DESCRIPTOR.services_by_name["ExecService"].full_name,
    console_pb2.DESCRIPTOR.services_by_name["ConsoleService"].full_name,
    event_pb2.DESCRIPTOR.services_by_name["EventService"].full_name,
    host_pb2.DESCRIPTOR.services_by_name["HostService"].full_name,
    network_pb2.DESCRIPTOR.services_by_name["NetworkService"].full_name,
    stats_pb2.DESCRIPTOR.services_by_name["StatsService"].full_name,
)


class Server:
    """One grpc.aio server on local sockets."""

    def __init__(
        self,
        containers: Containers,
        execs: Execs,
        consoles: Consoles,
        events: Events,
        hosts: Hosts,
        networks: Networks,
        stats: Stats,
    ) -> None:
        self._server = grpc.aio.server(
            interceptors=[Readers()],
            options=[
                ("grpc.max_receive_message_length", _MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        container_pb2_grpc.add_ContainerServiceServicer_to_server(containers, self._server)
        exec_pb2_grpc.add_ExecServiceServicer_to_server(execs, self._server)
        console_pb2_grpc.add_ConsoleServiceServicer_to_server(consoles, self._server)
        event_pb2_grpc.add_EventServiceServicer_to_server(events, self._server)
        host_pb2_grpc.add_HostServiceServicer_to_server(hosts, self._server)
        network_pb2_grpc.add_NetworkServiceServicer_to_server(networks, self._server)
        stats_pb2_grpc.add_StatsServiceServicer_to_server(stats, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._paths: list[str] = []

    async def listen(self, addresses: tuple[str, ...]) -> None:
        """Bind and serve. An address is `unix:PATH`; the socket is 0660, root and group lxcd."""
        for address in addresses:
            try:
                path = socket_path(address)
            except ValueError as error:
                raise errors.InvalidArgument(str(error), "INVALID_ADDRESS") from None
            await self._bind(path)
        await self._server.start()
        for name in ("", *_SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def _bind(self, path: str) -> None:
        """GRPC unlinks whatever socket is at the path it binds: so it binds a name of ours, and
        only when nobody answers at the real one does that name move there (grpc#17122).
        """
        own = f"{path}.{os.getpid()}"
        if len(os.fsencode(own)) > SOCKET_PATH_BYTES:
            own = os.path.join(os.path.dirname(path), f".{os.getpid()}")
        if why := _why_not(own):
            raise errors.Unavailable(f"cannot listen on {path}: {why}")
        old = os.umask(0o117)
        try:
            bound = self._server.add_insecure_port(f"unix:{own}")
        except RuntimeError as error:
            raise errors.Unavailable(f"cannot listen on {path}: {error}") from None
        finally:
            os.umask(old)
        if not bound:
            raise errors.Unavailable(f"cannot listen on {path}")
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(own, 0, grp.getgrnam(GROUP).gr_gid)
        os.chmod(own, 0o660)
        os.rename(own, path)
        self._paths.append(path)

    async def not_serving(self) -> None:
        """Tell health checks that no new work is wanted."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """End: calls that are being worked on get `grace_seconds`, streams end with UNAVAILABLE."""
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        await self._server.stop(grace_seconds)


def refuse_served(addresses: tuple[str, ...]) -> None:
    """Raise AlreadyExists if somebody answers at one of them: before anything else is begun."""
    for address in addresses:
        path = address.removeprefix("unix:")
        if _answers(path):
            raise errors.AlreadyExists(f"somebody serves {path} already", "ADDRESS_IN_USE")


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _why_not(path: str) -> str:
    """What the kernel has against a socket there: gRPC does not tell. Empty if nothing."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(path)
        except OSError as error:
            return os.strerror(error.errno or 0)
    os.unlink(path)
    return ""
