"""The connection to the daemon: the only file that imports grpc, with the first call.

Calls go by the name of their method: the stubs of `*_pb2_grpc` would only wrap the same, and cost
their import.
"""

from __future__ import annotations

import os
import sys

from lxcctl import output
from lxcctl.errors import NO_DAEMON, REFUSED, CallError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from queue import SimpleQueue
    from types import ModuleType
    from typing import Any, TypeVar

    import grpc
    from google.protobuf.message import Message

    Reply = TypeVar("Reply", bound=Message)

DEFAULT_ADDRESS = "unix:/run/lxcd/lxcd.sock"
# For calls that only look. Calls that act have no deadline: hooks and root file systems take the
# time they take, and Ctrl-C is always there.
LOOK_SECONDS = 30.0
# What a call may take beyond the time-out that the daemon itself was told.
GRACE_SECONDS = 30.0

_OPTIONS = (
    # The output of a command may be 16 MiB on each of two streams.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Never out of the house, whatever http_proxy says.
    ("grpc.enable_http_proxy", 0),
    # A shared pool would carry the back-off of a dead connection over to the next channel.
    ("grpc.use_local_subchannel_pool", 1),
)


def _load() -> ModuleType:
    # gRPC's core would write its own lines between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import gc

    import grpc

    # `main` switched it off. What is imported by now stays to the end; why look at it again.
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    return grpc


def normal_address(address: str) -> str:
    """`unix:PATH` or a bare path, as `unix:PATH`."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if path.startswith("//"):
            path = path.removeprefix("//")
    elif "/" in address and ":" not in address.split("/", 1)[0]:
        path = address
    else:
        path = ""
    if not path:
        raise UsageError(f"not an address of a daemon: {address!r} (unix:PATH or a path)")
    return f"unix:{path}"


class Channel:
    """One connection, made with the first call."""

    def __init__(self, address: str) -> None:
        self.address = normal_address(address)
        self._channel: grpc.Channel | None = None

    def call(
        self,
        method: str,
        request: Message,
        reply: type[Reply],
        timeout: float | None = None,
    ) -> Reply:
        """Call a unary method, `Service/Method`, and wait for its answer."""
        grpc, channel = self._open()
        handle = channel.unary_unary(
            f"/lxcd.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            return handle(request, timeout=timeout)
        except grpc.RpcError as error:
            raise self._call_error(error, timeout) from None

    def begin(
        self,
        method: str,
        request: Message,
        reply: type[Reply],
        timeout: float | None = None,
    ) -> Callable[[], Reply]:
        """Begin a unary call. The function that comes back waits for the answer."""
        grpc, channel = self._open()
        handle = channel.unary_unary(
            f"/lxcd.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        future = handle.future(request, timeout=timeout)

        def answer() -> Reply:
            try:
                return future.result()
            except grpc.RpcError as error:
                raise self._call_error(error, timeout) from None

        return answer

    def stream(self, method: str, request: Message, reply: type[Reply]) -> Iterator[Reply]:
        """Call a method that answers with a stream."""
        grpc, channel = self._open()
        handle = channel.unary_stream(
            f"/lxcd.v1.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        call = handle(request)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._call_error(error, None) from None
        finally:
            call.cancel()

    def duplex(
        self, method: str, queue: SimpleQueue[Any], request: type[Message], reply: type[Reply]
    ) -> Iterator[Reply]:
        """Call a method with a stream each way. What is put into `queue` is sent; None ends that
        direction.
        """
        grpc, channel = self._open()
        handle = channel.stream_stream(
            f"/lxcd.v1.{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        call = handle(iter(queue.get, None))
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._call_error(error, None) from None
        finally:
            queue.put(None)
            call.cancel()

    def close(self) -> None:
        """Hang up; the next call connects again."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _open(self) -> tuple[ModuleType, grpc.Channel]:
        channel = self._channel
        if channel is None:
            channel = self._channel = _load().insecure_channel(self.address, options=_OPTIONS)
        return _load(), channel

    def _call_error(self, error: Any, timeout: float | None) -> CallError:  # noqa: ANN401 - RpcError has no types
        code: str = error.code().name
        text: str = error.details() or code
        reason, metadata = _error_info(error)
        if code == "DEADLINE_EXCEEDED" and not reason:
            text = f"no answer from the daemon within {timeout:g} s"
        elif code == "UNIMPLEMENTED" and not reason:
            text = f"this daemon does not know that yet: {text}"
        elif code == "UNAVAILABLE" and not reason:
            text, status = self._diagnose(text)
            return CallError(code, text, status=status)
        return CallError(code, text, reason, metadata)

    def _diagnose(self, text: str) -> tuple[str, int]:
        """Why nobody answers. gRPC tells in its own way; the kernel tells it better."""
        import errno
        import socket

        path = self.address.removeprefix("unix:")
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(path)
        except OSError as error:
            if error.errno == errno.EACCES:
                return f"{path}: permission denied (are you root, or in its group?)", REFUSED
            why = error.strerror or str(error)
            hint = "is lxcd running? LXCD_ADDRESS names another socket"
            return f"no daemon at {self.address}: {why} ({hint})", NO_DAEMON
        return f"lost the daemon at {self.address}: {text}", NO_DAEMON


def _error_info(error: Any) -> tuple[str, dict[str, str]]:  # noqa: ANN401 - RpcError has no types
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            from google.protobuf.message import DecodeError
            from google.rpc import (  # type: ignore[import-untyped]
                error_details_pb2,
                status_pb2,
            )

            info = error_details_pb2.ErrorInfo()
            try:
                for detail in status_pb2.Status.FromString(value).details:
                    if detail.Unpack(info):
                        return info.reason, dict(info.metadata)
            except DecodeError:
                return "", {}
    return "", {}


class Patience:
    """The waits before attempts to come back to a daemon: 50 ms, then twice as long, up to 2 s."""

    FIRST = 0.05
    LONGEST = 2.0

    def __init__(
        self,
        tell: Callable[[str], None] = output.note,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`tell` is who hears of an absence that is not short; `sleep` waits so many seconds."""
        self._delay = self.FIRST
        self._tell = tell
        self._sleep = sleep

    def reset(self) -> None:
        """The daemon is there again."""
        self._delay = self.FIRST

    def wait(self, *, at_most: float | None = None) -> None:
        """Sleep before the next attempt.

        A restart of the daemon takes less than the sum of the short delays, so that it goes
        unnoticed; the note is for the longer absence.
        """
        import time

        if self.LONGEST / 2 <= self._delay < self.LONGEST:
            self._tell("lost the daemon, waiting for it to come back")
            sys.stderr.flush()
        sleep = self._sleep or time.sleep
        sleep(self._delay if at_most is None else max(0.0, min(self._delay, at_most)))
        self._delay = min(self._delay * 2, self.LONGEST)


class Session:
    """One run of the client: the connection, and how the answer is to look."""

    def __init__(self, address: str, lxcpath: str, form: str) -> None:
        self.channel = Channel(address)
        self.lxcpath = lxcpath
        self.form = form
