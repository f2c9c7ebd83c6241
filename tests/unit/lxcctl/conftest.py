"""A daemon that answers from a table, on a real socket with real gRPC, and lxcctl in this process."""

from __future__ import annotations

import os
import threading
from concurrent import futures
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
    """`on["GetContainer"]` is called with the request; a handler of a stream is a generator.

    `requests` holds what was asked, in order, as (method, request).
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
            with self._lock:
                self.requests.append((method.name, request))
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
