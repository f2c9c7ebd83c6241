"""A session with a terminal or the streams of a command, from here: what is typed goes in, what
comes is handed on, and when the daemon goes away the session is taken up again, by offset, once it
is back. Nothing is lost and nothing comes twice.
"""

from __future__ import annotations

import os
import threading

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
# What may be typed and not be taken yet.
_AHEAD_BYTES = 4 << 20
_REASON_LEAVES = 4  # SESSION_END_DAEMON_LEAVES
_VIEWER = 1  # SESSION_ROLE_VIEWER
_PIPES = ("stdout", "stderr")
_ROBBED = ("NOT_THE_CONTROLLER", "CONTROL_TAKEN")
_NO_INPUT = ("NO_INPUT", "INPUT_AFTER_END")


class Attachment:
    """One session. `request` and `reply` are the frames' types; `start` fills in the first frame,
    anew for each connection. `known`: what it attaches to is there, so that a connection that is
    lost before the session has begun is made again, too. `controls`: it may type.
    """

    def __init__(
        self,
        session: Session,
        method: str,
        types: tuple[Any, Any],
        start: Callable[[Any], None],
        *,
        known: bool = False,
        controls: bool = True,
    ) -> None:
        self._session = session
        self._known = known
        self._method = method
        self._request, self._reply = types
        self.start = start
        self.offsets: dict[str, int] = {}
        self._credited: dict[str, int] = {}
        self._cut: set[str] = set()  # streams of which something was lost just now
        self.on_started: Callable[[Any], object] = lambda _: None
        # The daemon is away, and nothing has begun yet.
        self.on_waiting: Callable[[], None] = lambda: None
        self.on_output: Callable[[str, bytes], None] = lambda _stream, _data: None
        self.on_gap: Callable[[str, int], None] = lambda _stream, _bytes: None
        self.on_role: Callable[[bool, str], None] = lambda _controls, _by: None
        self._queue: SimpleQueue[Any] | None = None
        self.on_abandoned: Callable[[], None] = lambda: os._exit(0)
        # What was typed and is not safe yet; the offset of its first byte; how much of it this
        # connection has been told.
        self._changed = threading.Condition()
        self._unacked = bytearray()
        self._acked = 0
        self._sent = 0
        self._window = 0
        self._input_ended = False
        self._end_sent = False
        self._size: tuple[int, int] | None = None  # of the terminal, if it is not told yet
        self._live = False
        self._connected = False
        self._leaving = False
        self._over = False
        self._controls = controls  # until somebody takes that away

    # ---- the main thread

    def run(self) -> Any:  # noqa: ANN401 - the last frame of either service
        """Serve the session to its end, and return its last frame. Raises CallError."""
        try:
            return self._run()
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _run(self) -> Any:  # noqa: ANN401
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
                reads_on = self._controls and not (first or self._leaving)
                if reads_on and error.reason in _ROBBED:
                    # Something was under way when control was taken, or the connection was lost:
                    # what comes is ours still.
                    self._has_role(_VIEWER)
                elif reads_on and error.reason in _NO_INPUT and not self._unacked:
                    # Nothing is lost that was typed, only its end.
                    self._stop_typing()
                elif end is None and not self._comes_back(error, first=first):
                    raise
            finally:
                self._hang_up()
            if end is not None and (end.reason != _REASON_LEAVES or self._leaving):
                return end
            end = None
            patience.wait()
            self._session.channel.close()

    def _comes_back(self, error: CallError, *, first: bool) -> bool:
        if not error.is_lost_connection or self._leaving or (first and not self._known):
            return False
        if first:
            self.on_waiting()
        return True

    def _connection(self) -> Iterator[Any]:
        from queue import SimpleQueue

        queue: SimpleQueue[Any] = SimpleQueue()
        request = self._request()
        self.start(request.start)
        if not self._controls:
            request.start.role = _VIEWER
            request.start.steal = False
        for name, offset in self.offsets.items():
            request.start.offsets[name] = offset
        self._live = request.start.live_only
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
            self._sent = 0
            self._end_sent = False
            self._connected = True
            self._tell_size()
            self._pump()
        if first:
            if self._live:
                # Should the connection break before the first byte comes.
                with_streams = started.exec if hasattr(started, "exec") else started
                for state in with_streams.streams:
                    self.offsets.setdefault(state.name, state.head_offset)
            self.on_started(started)

    def _take(self, kind: str, frame: Any) -> None:  # noqa: ANN401
        match kind:
            case "output":
                output = frame.output
                self.on_output(output.stream, self._shown(output))
                self._consumed(output.stream, output.offset + len(output.data))
            case "gap":
                gap = frame.gap
                self._cut.add(gap.stream)
                self.on_gap(gap.stream, gap.end_offset - gap.begin_offset)
                self._consumed(gap.stream, gap.end_offset, at_once=True)
            case "input_ack":
                with self._changed:
                    self._acknowledge(frame.input_ack.offset)
                    self._pump()
            case "role":
                self._has_role(frame.role.role, frame.role.by)
            case _:
                return

    def _shown(self, output: Any) -> bytes:  # noqa: ANN401
        """A terminal's bytes with their beginning lost begin where they make sense."""
        data: bytes = output.data
        cut = output.stream in self._cut or (output.offset and output.stream not in self.offsets)
        self._cut.discard(output.stream)
        if not cut or output.stream in _PIPES:
            return data
        from lxcctl.escapes import behind_cut

        return behind_cut(data)

    @property
    def controls(self) -> bool:
        """Whether nobody has taken control away."""
        return self._controls

    def _has_role(self, role: int, by: str = "") -> None:
        if role == _VIEWER:
            self._stop_typing()
        else:
            self._controls = True
        self.on_role(self._controls, by)

    def _stop_typing(self) -> None:
        with self._changed:
            self._controls = False
            # Nobody takes it from us any more.
            self._unacked.clear()
            self._sent = 0
            self._changed.notify_all()

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
        count = max(0, min(offset - self._acked, len(self._unacked)))
        del self._unacked[:count]
        self._acked = max(self._acked, offset)
        self._sent = max(0, self._sent - count)
        self._changed.notify_all()

    def _pump(self) -> None:
        """Send what the window has room for. The caller has the lock."""
        connected = self._connected and self._controls
        while connected:
            count = min(len(self._unacked) - self._sent, self._window - self._sent, _FRAME_BYTES)
            if count <= 0:
                break
            self._send(input=bytes(self._unacked[self._sent : self._sent + count]))
            self._sent += count
        done = self._input_ended and self._sent == len(self._unacked)
        if connected and done and not self._end_sent:
            self._end_sent = True
            self._send(input_end=True)

    def type(self, data: bytes) -> int:
        """Send bytes, as fast as they are taken. What is typed ahead of that, or while the daemon
        is away, is kept, up to a limit: then this waits. So detach keys are found behind it.

        Returns:
            How many of them were still for this session: all, unless it is over.
        """
        for begin in range(0, len(data), _CHUNK):
            piece = data[begin : begin + _CHUNK]
            with self._changed:
                while not self._over and len(self._unacked) + len(piece) > _AHEAD_BYTES:
                    self._changed.wait()
                if self._over:
                    return begin
                if self._controls:
                    self._unacked += piece
                    self._pump()
        return len(data)

    def end_input(self) -> None:
        """Nothing more will be typed."""
        with self._changed:
            self._input_ended = True
            self._pump()

    def resize(self, rows: int, columns: int) -> None:
        """The terminal here has another size; told once the daemon is there."""
        with self._changed:
            self._size = (rows, columns)
            self._tell_size()

    def _tell_size(self) -> None:
        """The caller has the lock."""
        if self._size is not None and self._connected and self._controls:
            rows, columns = self._size
            self._send(resize={"rows": rows, "columns": columns})
            self._size = None

    def detach(self) -> bool:
        """Leave; what the session is attached to goes on. False if the session is over."""
        with self._changed:
            if self._over:
                return False
            self._leaving = True
            if self._connected:
                self._send(detach={})
                return True
        # Nobody is there to be told.
        self.on_abandoned()
        return True
