"""Errors on the wire: google.rpc.Status with one ErrorInfo, from one table."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from lxcd import errors
from lxcd.rpc.convert import text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_log = logging.getLogger(__name__)
DOMAIN = "lxcd"
# A status travels as metadata, of which a client takes 8 KiB in all: text, percent-encoded, and
# details, which hold it again.
_TEXT_BYTES = 2048
_VALUE_BYTES = 512

Context = grpc.aio.ServicerContext[Any, Any]


class Malformed:
    """In place of a request that is none: bytes that protobuf refuses, text that is not UTF-8."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def refusal(self) -> errors.InvalidArgument:
        """What its caller is told."""
        return errors.InvalidArgument(f"not a request: {self._error}", "MALFORMED_REQUEST")


class Readers(grpc.aio.ServerInterceptor):
    """Reads requests in gRPC's place, which would tell the caller nothing of what is wrong."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401, D102
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return handler._replace(request_deserializer=_tolerant(handler.request_deserializer))


def _tolerant(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def tolerant(data: bytes) -> object:
        try:
            return read(data)
        except DecodeError as error:
            return Malformed(error)

    return tolerant


def readable(request: Any) -> Any:  # noqa: ANN401 - any message
    """A request that is one. Raises InvalidArgument."""
    if isinstance(request, Malformed):
        raise request.refusal()
    return request


CODES: dict[type[errors.LxcdError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    # Neither the request nor the state need be wrong: what the container is made of is.
    errors.StartFailed: grpc.StatusCode.UNKNOWN,
    errors.Internal: grpc.StatusCode.INTERNAL,
}


def status_of(error: errors.LxcdError) -> status_pb2.Status:
    """The status for an error of ours."""
    code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[key] = _clipped(value, _VALUE_BYTES)
    detail = any_pb2.Any()
    detail.Pack(info)
    number = code.value[0]
    return status_pb2.Status(
        code=number, message=_clipped(error.text, _TEXT_BYTES), details=[detail]
    )


def _clipped(text: str, limit: int) -> str:
    """As text for the wire, with `...` in place of what is too much."""
    data = text_of(text).encode()
    if len(data) <= limit:
        return data.decode()
    return data[:limit].decode(errors="ignore") + "..."


async def abort(context: Context, error: BaseException) -> None:
    """End the call with this error. Never returns."""
    if isinstance(error, errors.LxcdError):
        if isinstance(error, errors.Internal):
            _log.error("internal: %s", error.text)
        known = error
    else:
        _log.error("a call failed", exc_info=error)
        known = errors.Internal(f"{type(error).__name__}: {error}")
    status: grpc.Status = rpc_status.to_status(status_of(known))  # pyright: ignore[reportUnknownMemberType]
    await context.abort_with_status(status)


def unary(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Decorator of a method with one answer: what it raises becomes the call's status."""

    @functools.wraps(method)
    async def guarded(self: object, request: object, context: Context) -> object:
        try:
            return await method(self, readable(request), context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await abort(context, error)
            raise AssertionError from error

    return guarded


def stream(method: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """The same for a method that answers with a stream."""

    @functools.wraps(method)
    async def guarded(self: object, request: object, context: Context) -> AsyncIterator[object]:
        try:
            async for answer in method(self, readable(request), context):
                yield answer
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # noqa: BLE001
            await abort(context, error)

    return guarded


def duplex(method: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
    """The same for a method that reads and writes frames on its own."""

    @functools.wraps(method)
    async def guarded(self: object, requests: object, context: Context) -> None:
        del requests
        try:
            await method(self, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # noqa: BLE001
            await abort(context, error)

    return guarded
