"""A daemon that answers from a table, on a real socket with real gRPC, and lxcctl in this process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from concurrent import futures
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from lxcctl.__main__ import dispatch
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
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FILES = (
    (console_pb2, console_pb2_grpc),
    (container_pb2, container_pb2_grpc),
    (event_pb2, event_pb2_grpc),
    (exec_pb2, exec_pb2_grpc),
    (host_pb2, host_pb2_grpc),
    (network_pb2, network_pb2_grpc),
    (stats_pb2, stats_pb2_grpc),
)


class Refusal(Exception):  # noqa: N818 - it is an answer, not a mistake of the test
    """Raised by a handler: the error that the daemon answers with."""

    def __init__(self, code: str, text: str, reason: str = "", **metadata: str) -> None:
        super().__init__(text)
        self.code = getattr(grpc.StatusCode, code)
        self.text = text
        self.reason = reason
        self.metadata = metadata

    def send(self, context: grpc.ServicerContext) -> NoReturn:
        if not self.reason:
            context.abort(self.code, self.text)
        detail = any_pb2.Any()
        detail.Pack(
            error_details_pb2.ErrorInfo(reason=self.reason, domain="lxcd", metadata=self.metadata)
        )
        status = status_pb2.Status(code=self.code.value[0], message=self.text, details=[detail])
        context.abort_with_status(rpc_status.to_status(status))


class FakeDaemon:
    """`on["GetContainer"]` is called with the request; a handler of a stream is a generator. One of
    a stream each way gets an iterator over the client's frames.

    `requests` holds what was asked, in order, as (method, request); each frame is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = f"unix:{path}"
        self.on: dict[str, Callable[..., Any]] = {}
        self.requests: list[tuple[str, Any]] = []
        self._lock = threading.Lock()
        self.start()

    def start(self) -> None:
        self.server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=16),
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
            ],
        )
        for messages, stubs in _FILES:
            for service in messages.DESCRIPTOR.services_by_name.values():
                base = getattr(stubs, f"{service.name}Servicer")
                methods = {method.name: self._method(method) for method in service.methods}
                servicer = type(service.name, (base,), methods)()
                getattr(stubs, f"add_{service.name}Servicer_to_server")(servicer, self.server)
        self.server.add_insecure_port(self.address)
        self.server.start()

    def stop(self) -> None:
        self.server.stop(None).wait()

    def _method(self, method: Any) -> Callable[..., Any]:
        def note(request: Any) -> Callable[..., Any]:
            seen(request)
            return handler()

        def seen(request: Any) -> None:
            with self._lock:
                self.requests.append((method.name, request))

        def handler() -> Callable[..., Any]:
            if method.name not in self.on:
                raise Refusal("UNIMPLEMENTED", f"no handler for {method.name}")
            return self.on[method.name]

        def unary(_self: object, request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return note(request)(request)
            except Refusal as refusal:
                refusal.send(context)

        def stream(_self: object, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                yield from note(request)(request)
            except Refusal as refusal:
                refusal.send(context)

        def duplex(
            _self: object, frames: Iterator[Any], context: grpc.ServicerContext
        ) -> Iterator[Any]:
            def heard() -> Iterator[Any]:
                # A client that has gone says nothing more; that is no mistake of the daemon's.
                with contextlib.suppress(grpc.RpcError):
                    for frame in frames:
                        seen(frame)
                        yield frame

            try:
                yield from handler()(heard())
            except Refusal as refusal:
                refusal.send(context)

        if method.client_streaming:
            return duplex
        return stream if method.server_streaming else unary

    def asked(self, name: str) -> list[Any]:
        """The requests of one method."""
        with self._lock:
            return [request for method, request in self.requests if method == name]


class Result(NamedTuple):
    """What a command line led to."""

    status: int
    out: str
    err: str
    raw: bytes
    raw_err: bytes


if TYPE_CHECKING:

    class Lxcctl(Protocol):
        """The fixture `lxcctl`."""

        def __call__(self, *argv: str, stdin: bytes = b"") -> Result: ...


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(tmp_path / "s")
    yield fake
    fake.stop()


class FakeSide:
    """A side socket beside the daemon's: takes descriptors, and gives `answer` for them."""

    def __init__(self, path: Path) -> None:
        self.answer: dict[str, str] = {"token": "t0ken"}
        self.handed: SimpleQueue[list[int]] = SimpleQueue()
        self.asked: list[Any] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        # Shutting down is how `close` says that nobody else comes.
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client:
                    text, fds, _, _ = socket.recv_fds(client, 4096, 8)
                    self.asked.append(json.loads(text))
                    self.handed.put(fds)
                    client.send(json.dumps(self.answer).encode())

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        while not self.handed.empty():
            for fd in self.handed.get():
                os.close(fd)


@pytest.fixture
def side(daemon: FakeDaemon) -> Iterator[FakeSide]:
    fake = FakeSide(daemon.path.parent / "side.sock")
    yield fake
    fake.close()


@pytest.fixture
def refusal() -> type[Refusal]:
    return Refusal


@pytest.fixture
def lxcctl(
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> Lxcctl:
    """Runs a command line against `daemon`, or against nobody in a test that has none."""
    if "daemon" in request.fixturenames:
        address = request.getfixturevalue("daemon").address
    else:
        address = f"unix:{tmp_path}/nobody"
    monkeypatch.setenv("LXCD_ADDRESS", address)

    def run(*argv: str, stdin: bytes = b"") -> Result:
        capfdbinary.readouterr()
        file = tmp_path / "stdin"
        file.write_bytes(stdin)
        saved = os.dup(0)
        fd = os.open(file, os.O_RDONLY)
        try:
            os.dup2(fd, 0)
            status = dispatch(list(argv))
        finally:
            os.dup2(saved, 0)
            os.close(saved)
            os.close(fd)
        out, err = capfdbinary.readouterr()
        return Result(status, out.decode(errors="replace"), err.decode(errors="replace"), out, err)

    return run
