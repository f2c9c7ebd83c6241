"""The newest sample, read by a thread while somebody looks at another one."""

from __future__ import annotations

import threading
from collections import deque

from lxcctl.channel import Channel, Patience
from lxcctl.errors import ClientError
from lxcctl.sampling import samples

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcctl.sampling import Sample

_LONGEST_GOODBYE = 1.0  # seconds


class _ClosedError(Exception):
    """Nobody wants to read any more."""


class Feed:
    """Samples of a daemon that was there. `wake` is called, by the thread, for whatever is new."""

    def __init__(
        self, address: str, lxcpath: str, interval: float, wake: Callable[[], None]
    ) -> None:
        self.note = ""  # what is wrong at the moment
        self._channel = Channel(address)
        self._wake = wake
        self._newest: deque[Sample] = deque(maxlen=1)
        self._failure: ClientError | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(lxcpath, interval), name="samples", daemon=True
        )
        self._thread.start()

    def _run(self, lxcpath: str, interval: float) -> None:
        try:
            self._read(lxcpath, interval)
            self._failure = ClientError("the daemon has ended the samples")
        except ClientError as error:
            self._failure = error
        except _ClosedError:
            return
        except ValueError:
            # What gRPC says of a call on a channel that was closed a moment ago.
            if not self._closed.is_set():
                raise
        if not self._closed.is_set():
            self._wake()

    def _read(self, lxcpath: str, interval: float) -> None:
        patience = Patience(self._tell, self._pause)
        for sample in samples(self._channel, lxcpath, (), interval, patience, found=True):
            self._pause(0)
            self.note = ""
            self._newest.append(sample)
            self._wake()

    def _tell(self, text: str) -> None:
        self._pause(0)
        self.note = text
        self._wake()

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise _ClosedError

    def take(self) -> Sample | None:
        """The newest sample, if it was not taken already. Raises what ended the stream."""
        if self._failure is not None:
            raise self._failure
        return self._newest.pop() if self._newest else None

    def close(self) -> None:
        """No more of them; `wake` is not called again."""
        self._closed.set()
        self._channel.close()
        self._thread.join(_LONGEST_GOODBYE)
