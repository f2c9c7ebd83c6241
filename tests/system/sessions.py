"""Sessions of a test: with a console, with an exec. Frames go in as they are given, what comes is checked for its offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Self

import grpc

from lxcd.v1 import console_pb2, exec_pb2, stream_pb2
from tests.system.boxes import Box, Refused
from tests.system.host import Api
from tests.system.machine import DEADLINE

VIEWER, CONTROLLER = stream_pb2.SESSION_ROLE_VIEWER, stream_pb2.SESSION_ROLE_CONTROLLER
STOPPED = stream_pb2.SESSION_END_STOPPED
REBOOT = stream_pb2.SESSION_END_REBOOT
KICKED = stream_pb2.SESSION_END_KICKED
DAEMON_LEAVES = stream_pb2.SESSION_END_DAEMON_LEAVES
DETACHED = stream_pb2.SESSION_END_DETACHED
FRAME = 32 * 1024


class Attached:
    """One session. Its frames are taken one after the other, by one thread; `send` may be called from another."""

    def __init__(
        self,
        method: Any,
        request: type[Any],
        *,
        giving_credit: bool = True,
        timeout: float = DEADLINE,
    ) -> None:
        self._request = request
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._call = method(iter(self._queue.get, None), timeout=timeout)
        self._frames = iter(self._call)
        self._credits = giving_credit
        self._window = 0
        self.started: Any = None
        self.end: Any = None
        self.offsets: dict[str, int] = {}
        self.data: dict[str, bytearray] = {}
        self.gaps: list[tuple[str, int, int]] = []
        self.acked = 0
        self.typed = 0
        self.roles: list[tuple[int, str]] = []
        self.sizes: list[tuple[int, int]] = []

    # ---- in

    def send(self, **frame: Any) -> None:
        """Any frame."""
        self._queue.put(self._request(**frame))

    def type(self, data: bytes) -> None:
        """Type it all, as fast as it is taken; what comes meanwhile is kept."""
        for begin in range(0, len(data), FRAME):
            piece = data[begin : begin + FRAME]
            while self.typed + len(piece) - self.acked > self._window:
                self.take()
            self.send(input=piece)
            self.typed += len(piece)

    def end_requests(self) -> None:
        """Say nothing more."""
        self._queue.put(None)

    def cancel(self) -> None:
        """Go away without a word."""
        self._queue.put(None)
        self._call.cancel()

    # ---- out

    def take(self) -> str:
        """Take the next frame; its kind. Refused if the session ended with an error, AssertionError behind its last frame."""
        try:
            frame = next(self._frames)
        except grpc.RpcError as error:
            raise Refused(error) from None
        except StopIteration:
            message = "the session is over"
            raise AssertionError(message) from None
        assert self.end is None, f"behind the last frame: {frame}"
        kind: str = frame.WhichOneof("frame")
        self._keep(kind, getattr(frame, kind))
        return kind

    def _keep(self, kind: str, frame: Any) -> None:
        match kind:
            case "started":
                assert self.started is None
                self.started = frame
                self.acked = self.typed = frame.input_offset
                self._window = frame.input_window_bytes
            case "output":
                known = self.offsets.setdefault(frame.stream, frame.offset)
                assert frame.offset == known, f"{frame.stream}: {frame.offset}, not {known}"
                assert frame.data
                self.data.setdefault(frame.stream, bytearray()).extend(frame.data)
                self._consume(frame.stream, frame.offset + len(frame.data))
            case "gap":
                known = self.offsets.setdefault(frame.stream, frame.begin_offset)
                assert known == frame.begin_offset < frame.end_offset
                self.gaps.append((frame.stream, frame.begin_offset, frame.end_offset))
                self._consume(frame.stream, frame.end_offset)
            case "input_ack":
                assert self.acked <= frame.offset
                self.acked = frame.offset
            case "role":
                self.roles.append((frame.role, frame.by))
            case "resized":
                self.sizes.append((frame.rows, frame.columns))
            case "end":
                self.end = frame
                # As every client does: the daemon waits to see that it has arrived.
                self._queue.put(None)
            case _:
                raise AssertionError(kind)

    def _consume(self, stream: str, offset: int) -> None:
        self.offsets[stream] = offset
        if self._credits:
            self.send(credit={"stream": stream, "offset": offset})

    def until(self, holds: Callable[[], bool]) -> Self:
        """Take frames until this holds."""
        while not holds():
            self.take()
        return self

    def shows(self, text: bytes, stream: str) -> Self:
        """Take frames until the stream has brought this."""
        return self.until(lambda: text in self.data.get(stream, b""))

    def to_the_end(self) -> Any:
        """Take all that comes; the last frame. AssertionError if anything comes behind it."""
        self.until(lambda: self.end is not None)
        assert next(self._frames, None) is None
        return self.end


def console(api: Api, name: str, *, giving_credit: bool = True, **start: Any) -> Attached:
    """Attach to a terminal of a container; the session has begun."""
    made = Attached(
        api.console.AttachConsole, console_pb2.AttachConsoleRequest, giving_credit=giving_credit
    )
    made.send(start={"name": name, **start})
    made.until(lambda: made.started is not None)
    return made


def attach(
    api: Api, id_: str, *, giving_credit: bool = True, timeout: float = DEADLINE, **start: Any
) -> Attached:
    """Attach to an exec; the session has begun."""
    made = Attached(
        api.exec.AttachExec,
        exec_pb2.AttachExecRequest,
        giving_credit=giving_credit,
        timeout=timeout,
    )
    made.send(start={"id": id_, **start})
    made.until(lambda: made.started is not None)
    return made


def create(made: Box, *command: str, **options: Any) -> exec_pb2.Exec:
    """CreateExec; Refused if it is."""
    request = exec_pb2.CreateExecRequest(container=made.name, command=command, **options)
    try:
        found: exec_pb2.Exec = made.api.exec.CreateExec(request, timeout=DEADLINE)
    except grpc.RpcError as error:
        raise Refused(error) from None
    return found


def look(api: Api, id_: str) -> exec_pb2.Exec:
    """GetExec."""
    found: exec_pb2.Exec = api.exec.GetExec(exec_pb2.GetExecRequest(id=id_), timeout=DEADLINE)
    return found


def listed(api: Api, name: str = "") -> dict[str, exec_pb2.Exec]:
    """ListExecs, as one page."""
    request = exec_pb2.ListExecsRequest(container=name)
    return {each.id: each for each in api.exec.ListExecs(request, timeout=DEADLINE).execs}


def delete(api: Api, id_: str, *, force: bool = True) -> None:
    """DeleteExec."""
    api.exec.DeleteExec(exec_pb2.DeleteExecRequest(id=id_, force=force), timeout=DEADLINE)


@contextmanager
def running(made: Box, *command: str, **options: Any) -> Iterator[exec_pb2.Exec]:
    """An exec; killed and forgotten at the end."""
    found = create(made, *command, **options)
    try:
        yield found
    finally:
        if found.id in listed(made.api, made.name):
            delete(made.api, found.id)
