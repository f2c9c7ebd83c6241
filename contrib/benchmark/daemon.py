"""lxcd with every root of it below one directory, and what a client may ask of it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from contrib.benchmark import processes
from contrib.benchmark.commands import DEADLINE_SECONDS, BenchError, Commands, await_end
from contrib.benchmark.containers import define
from lxcd.v1 import (
    console_pb2_grpc,
    container_pb2,
    container_pb2_grpc,
    exec_pb2,
    exec_pb2_grpc,
    host_pb2,
    host_pb2_grpc,
    stats_pb2,
    stats_pb2_grpc,
    types_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# A daemon that was just started again is there at once, not after gRPC's usual second of back-off.
_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
_LXCD = (sys.executable, "-P", "-m", "lxcd")
_TAIL_CHARACTERS = 3000


class Client:
    """An open channel with the stubs that are wanted."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=_CHANNEL)
        # The generated stubs are typed for grpc.aio alone; they work with either kind of channel.
        channel = cast("Any", self._channel)
        self._container: Any = container_pb2_grpc.ContainerServiceStub(channel)
        self._exec: Any = exec_pb2_grpc.ExecServiceStub(channel)
        self._console: Any = console_pb2_grpc.ConsoleServiceStub(channel)
        self._host: Any = host_pb2_grpc.HostServiceStub(channel)
        self._stats: Any = stats_pb2_grpc.StatsServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)

    def ping(self) -> None:
        """Make a call that does nothing."""
        self._health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)

    def start(self, name: str) -> container_pb2.StartContainerResponse:
        """Start a container that is defined."""
        return self.ask_start(container_pb2.StartContainerRequest(name=name))

    def run(self, name: str, config: str, *command: str) -> container_pb2.StartContainerResponse:
        """Start a command as an application, in a container that only this request defines."""
        return self.ask_start(
            container_pb2.StartContainerRequest(
                name=name,
                config_text=config,
                config_origin="bench",
                command=command,
                stdio=container_pb2.STDIO_PIPES,
                ephemeral=True,
            )
        )

    def ask_start(
        self, request: container_pb2.StartContainerRequest
    ) -> container_pb2.StartContainerResponse:
        """Send one request."""
        reply: container_pb2.StartContainerResponse = self._container.StartContainer(
            request, timeout=DEADLINE_SECONDS
        )
        return reply

    def wait(self, name: str, generation: int) -> types_pb2.Exit:
        """Wait for the end of a generation; how it ended."""
        request = container_pb2.WaitContainerRequest(name=name, generation=generation)
        reply: container_pb2.WaitContainerResponse = self._container.WaitContainer(
            request, timeout=DEADLINE_SECONDS
        )
        return reply.exit

    def exec(self, request: exec_pb2.RunExecRequest) -> exec_pb2.RunExecResponse:
        """Run a command in a container."""
        reply: exec_pb2.RunExecResponse = self._exec.RunExec(request, timeout=DEADLINE_SECONDS)
        return reply

    def attach_console(self, frames: Iterator[Any]) -> Any:  # noqa: ANN401  a call of gRPC's
        """Begin a session."""
        return self._console.AttachConsole(frames, timeout=DEADLINE_SECONDS)

    def kill(self, name: str) -> None:
        """Stop a container the short way."""
        request = container_pb2.StopContainerRequest(name=name, kill=True)
        self._container.StopContainer(request, timeout=DEADLINE_SECONDS)

    def get(self, name: str) -> container_pb2.Container:
        """One of them."""
        found: container_pb2.Container = self._container.GetContainer(
            container_pb2.GetContainerRequest(name=name), timeout=DEADLINE_SECONDS
        )
        return found

    def containers(self) -> list[container_pb2.Container]:
        """All of them."""
        request = container_pb2.ListContainersRequest(page_size=1000)
        found: list[container_pb2.Container] = []
        while True:
            reply: container_pb2.ListContainersResponse = self._container.ListContainers(
                request, timeout=DEADLINE_SECONDS
            )
            found += reply.containers
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    def statistics(self) -> stats_pb2.GetStatsResponse:
        """What each that runs uses."""
        reply: stats_pb2.GetStatsResponse = self._stats.GetStats(
            stats_pb2.GetStatsRequest(), timeout=DEADLINE_SECONDS
        )
        return reply

    def stream_statistics(self) -> Any:  # noqa: ANN401  a call of gRPC's
        """The same, again and again, each second."""
        return self._stats.StreamStats(stats_pb2.StreamStatsRequest(), timeout=DEADLINE_SECONDS)

    def host(self) -> host_pb2.GetHostResponse:
        """What lxcd says of itself."""
        reply: host_pb2.GetHostResponse = self._host.GetHost(
            host_pb2.GetHostRequest(), timeout=DEADLINE_SECONDS
        )
        return reply

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class Daemon:
    """One lxcd and its keeper. `with` starts it, and shuts it down with all its containers."""

    def __init__(self, commands: Commands, root: Path, runtime: Path) -> None:
        """`runtime` lies on a tmpfs, as /run does everywhere: lxcd has its records there on disk
        before it goes on.
        """
        self._commands = commands
        self._root = root
        self._log = root / "lxcd.log"
        self._runtime = runtime
        self._socket = runtime / "lxcd.sock"
        self.lxcpath = root / "lxc"
        self.address = f"unix:{self._socket}"
        self.pid = 0
        self.client = Client(self.address)

    def define(self, name: str, config: str) -> None:
        """Write a container's config where this lxcd looks for it."""
        define(self.lxcpath, name, config)

    def start(self) -> int:
        """Start lxcd, and wait until its socket accepts; perf_counter_ns() before its exec."""
        argv = (
            *_LXCD,
            *("--lxcpath", str(self.lxcpath), "--runtime-dir", str(self._runtime)),
            *("--state-dir", str(self._root / "state"), "--config", str(self._root / "lxcd.toml")),
        )
        begin = time.perf_counter_ns()
        self.pid = self._commands.spawn(argv, str(self._log))
        end = time.monotonic() + DEADLINE_SECONDS
        while not self._accepts():
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                self.pid = 0
                raise BenchError(f"lxcd ended instead of starting:\n{self.log()}")
            if time.monotonic() > end:
                raise BenchError(f"lxcd does not accept on {self._socket}:\n{self.log()}")
            time.sleep(0.001)
        return begin

    def kill(self) -> None:
        """SIGKILL to lxcd alone."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0

    def log(self) -> str:
        """The end of what lxcd wrote."""
        return self._log.read_text(errors="replace")[-_TAIL_CHARACTERS:]

    def lxcctl(self, *arguments: str, silent: bool = False) -> int:
        """Run `lxcctl` as a user does, against this lxcd; nanoseconds."""
        program = str(Path(sys.executable).with_name("lxcctl"))
        argv = (program, "--address", self.address, *arguments)
        return self._commands.run(*argv, silent=silent).nanoseconds

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def __enter__(self) -> Self:
        for directory in (self._root, self.lxcpath):
            directory.mkdir(mode=0o755)
        (self._root / "lxcd.toml").touch()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.client.close()
        if kind is not None:
            # The run is over: its warden ends what there is.
            return
        client = Client(self.address)
        # Shutting down asks every init politely; nobody here has anything to lose.
        for container in client.containers():
            if container.state == types_pb2.STATE_RUNNING:
                client.kill(container.name)
        keeper = client.host().keeper_pid
        trustee = processes.parent(keeper)
        client.close()
        argv = (*_LXCD, "--runtime-dir", str(self._runtime), "shutdown")
        self._commands.run(*argv)
        os.waitpid(self.pid, 0)
        await_end(keeper, "lxcd-keeper")
        await_end(trustee, "lxcd-trustee")
