"""Whoever sits at a descriptor and types: read by one thread, from session to session.

A thread for each session would leave one behind that waits in a read: it would take the first that
is typed into the next session, and have nobody to give it to.
"""

from __future__ import annotations

import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxcctl.attach import Attachment
    from lxcctl.keys import DetachKeys

_CHUNK = 64 * 1024


class Typist:
    """Types what comes from `fd` into the present session; `keys` in it leave. At its end input
    ends, or, at a terminal, `at_end` is typed. `fd` stays the caller's.
    """

    def __init__(
        self, fd: int, keys: DetachKeys | None = None, at_end: bytes | None = None
    ) -> None:
        self._fd = fd
        self._keys = keys
        self.at_end = at_end
        self._changed = threading.Condition()
        self._present: Attachment | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="input", daemon=True)

    def type_into(self, attachment: Attachment) -> None:
        """This is the present session. With the first one the reading begins."""
        with self._changed:
            if self._present is attachment:
                return
            begins = self._present is None
            self._present = attachment
            self._changed.notify_all()
            ended = self._ended
        if begins:
            self._thread.start()
        elif ended:
            self._end(attachment)

    def _read(self) -> None:
        try:
            while data := os.read(self._fd, _CHUNK):
                found = False
                if self._keys is not None:
                    data, found = self._keys.feed(data)
                self._type(data)
                if found:
                    self._detach()
                    return
        except OSError:
            # Closed, or opened for writing only: there is no input.
            pass
        with self._changed:
            self._ended = True
            present = self._present
        if present is not None:
            self._end(present)

    def _type(self, data: bytes) -> None:
        while True:
            attachment = self._present
            if attachment is None:
                return
            data = data[attachment.type(data) :]
            if not data:
                return
            self._await_other(attachment)

    def _detach(self) -> None:
        while (attachment := self._present) is not None and not attachment.detach():
            self._await_other(attachment)

    def _await_other(self, attachment: Attachment) -> None:
        """That one is over. What is left is for the one that follows, if one does."""
        with self._changed:
            while self._present is attachment:
                self._changed.wait()

    def _end(self, attachment: Attachment) -> None:
        if self.at_end is None:
            attachment.end_input()
        else:
            attachment.type(self.at_end)
