"""A session with a terminal or the streams of a command, from here: what is typed goes in, what
comes is handed on, and when the daemon goes away the session is taken up again, by offset, once it
is back. Nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import os
import threading
from collections import deque

from lxcctl.channel import Patience
from lxcctl.errors import CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from queue import SimpleQueue
    from typing import Any

    from lxcctl.channel import Session

_FRAME_BYTES = 32 * 1024
# So much is processed before the daemon is told: a quarter of the window.
_CREDIT_BYTES = 64 * 1024
_CHUNK = 64 * 1024
_REASON_LEAVES = 4  # SESSION_END_DAEMON_LEAVES


class Attachment:
    """One session. `request` and `reply` are the frames' types; `start` fills in the first frame,
    anew for each connection.
    """

    def __init__(
        self,
        session: Session,
        method: str,
        types: tuple[Any, Any],
        start: Callable[[Any], None],
    ) -> None:
        self._session = session
        self._method = method
        self._request, self._reply = types
        self.start = start
        self.offsets: dict[str, int] = {}
        self._credited: dict[str, int] = {}
        self.on_started: Callable[[Any], None] = lambda _: None
        self.on_output: Callable[[str, bytes], None] = lambda _stream, _data: None
        self.on_gap: Callable[[str, int], None] = lambda _stream, _bytes: None
        self.on_role: Callable[[Any], None] = lambda _: None
        self._queue: SimpleQueue[Any] | None = None
        # What was typed and is not safe yet, and the offset of its first byte.
        self._changed = threading.Condition()
        self._unacked: deque[bytes] = deque()
        self._unacked_bytes = 0
        self._acked = 0
        self._window = 0
        self._input_ended = False
        self._connected = False
        self._leaving = False

    # ---- the main thread

    def run(self) -> Any:  # noqa: ANN401 - the last frame of either service
        """Serve the session to its end, and return its last frame. Raises CallError."""
        patience = Patience()
        first, end = True, None
        while True:
            try:
                for frame in self._connection():
                    kind = frame.WhichOneof("frame")
                    if kind == "started":
                        patience.reset()
                        self._has_started(frame.started, first=first)
                        first = False
                    elif kind == "end":
                        end = frame.end
                        # The daemon waits to see that we have it.
                        self._hang_up()
                    else:
                        self._take(kind, frame)
            except CallError as error:
                if end is None and (first or not error.is_lost_connection or self._leaving):
                    raise
            finally:
                self._hang_up()
            if end is not None and (end.reason != _REASON_LEAVES or self._leaving):
                return end
            end = None
            patience.wait()
            self._session.channel.close()

    def _connection(self) -> Iterator[Any]:
        from queue import SimpleQueue

        queue: SimpleQueue[Any] = SimpleQueue()
        request = self._request()
        self.start(request.start)
        for name, offset in self.offsets.items():
            request.start.offsets[name] = offset
        queue.put(request)
        self._credited.clear()
        self._queue = queue
        return self._session.channel.duplex(self._method, queue, self._request, self._reply)

    def _hang_up(self) -> None:
        with self._changed:
            self._connected = False
        if self._queue is not None:
            self._queue.put(None)

    def _has_started(self, started: Any, *, first: bool) -> None:  # noqa: ANN401
        with self._changed:
            self._window = started.input_window_bytes
            if first:
                self._acked = started.input_offset
            else:
                self._acknowledge(started.input_offset)
                for data in self._unacked:
                    self._send(input=data)
                if self._input_ended:
                    self._send(input_end=True)
            self._connected = True
            self._changed.notify_all()
        if first:
            self.on_started(started)

    def _take(self, kind: str, frame: Any) -> None:  # noqa: ANN401
        match kind:
            case "output":
                output = frame.output
                self.on_output(output.stream, output.data)
                self._consumed(output.stream, output.offset + len(output.data))
            case "gap":
                gap = frame.gap
                self.on_gap(gap.stream, gap.end_offset - gap.begin_offset)
                self._consumed(gap.stream, gap.end_offset, at_once=True)
            case "input_ack":
                with self._changed:
                    self._acknowledge(frame.input_ack.offset)
            case "role":
                self.on_role(frame.role)
            case _:
                return

    def _consumed(self, stream: str, offset: int, *, at_once: bool = False) -> None:
        self.offsets[stream] = offset
        before = self._credited.setdefault(stream, offset - _CREDIT_BYTES)
        if at_once or offset - before >= _CREDIT_BYTES:
            self._credited[stream] = offset
            self._send(credit={"stream": stream, "offset": offset})

    # ---- what is typed, from any thread

    def _send(self, **frame: Any) -> None:  # noqa: ANN401
        if self._queue is not None:
            self._queue.put(self._request(**frame))

    def _acknowledge(self, offset: int) -> None:
        """Forget what is safe. The caller has the lock."""
        count = min(offset - self._acked, self._unacked_bytes)
        self._acked = offset
        while count > 0:
            data = self._unacked.popleft()
            self._unacked_bytes -= min(count, len(data))
            if count < len(data):
                self._unacked.appendleft(data[count:])
            count -= len(data)
        self._changed.notify_all()

    def type(self, data: bytes) -> None:
        """Send bytes, as fast as they are taken: this waits. What is typed while the daemon is away
        is sent when it is back.
        """
        for begin in range(0, len(data), _FRAME_BYTES):
            piece = data[begin : begin + _FRAME_BYTES]
            with self._changed:
                while not self._connected or self._unacked_bytes + len(piece) > self._window:
                    self._changed.wait()
                self._unacked.append(piece)
                self._unacked_bytes += len(piece)
                self._send(input=piece)

    def end_input(self) -> None:
        """Nothing more will be typed."""
        with self._changed:
            self._input_ended = True
            if self._connected:
                self._send(input_end=True)

    def resize(self, rows: int, columns: int) -> None:
        """The terminal here has another size."""
        with self._changed:
            if self._connected:
                self._send(resize={"rows": rows, "columns": columns})

    def signal(self, number: int) -> None:
        """Send the command a signal."""
        with self._changed:
            if self._connected:
                self._send(signal=number)

    def detach(self) -> None:
        """Leave; what the session is attached to goes on."""
        with self._changed:
            self._leaving = True
            if self._connected:
                self._send(detach={})
                return
        # Nobody is there to be told.
        os._exit(0)

    def feed_from(self, fd: int, keys: Any = None, at_end: bytes | None = None) -> None:  # noqa: ANN401 - keys.DetachKeys
        """Type what comes from a descriptor, in a thread of its own; `keys` in it leave. At its end
        input ends, or, at a terminal, `at_end` is typed.
        """

        def feed() -> None:
            try:
                while data := os.read(fd, _CHUNK):
                    found = False
                    if keys is not None:
                        data, found = keys.feed(data)
                    self.type(data)
                    if found:
                        self.detach()
                        return
            except OSError:
                # Closed, or opened for writing only: there is no input.
                pass
            if at_end is None:
                self.end_input()
            else:
                self.type(at_end)

        threading.Thread(target=feed, name="input", daemon=True).start()
