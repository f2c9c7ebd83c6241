"""Exits that lxcd has not acknowledged, kept on disk: they survive the keeper too.

One JSON text a line, appended with one write(2). A line that is torn (the host went down, the disk
was full) is passed over when it is read. Once every exit is acknowledged the file is emptied.
"""

from __future__ import annotations

import contextlib
import os

from lxcd.keeper.protocol import Exited, ProtocolError, decode_answer, encode


class Journal:
    """The file, by a descriptor that this object owns, and the records that still count."""

    def __init__(self, fd: int, pending: dict[str, Exited] | None = None) -> None:
        """`pending`: what is known to be left of it; else the file says that."""
        self._fd = fd
        self.pending: dict[str, Exited] = pending or {}
        self.broken = ""  # why the last record is not on disk; it is kept in memory all the same
        for line in self._content().splitlines() if pending is None else ():
            # The same checks as for what comes over the socket.
            with contextlib.suppress(ProtocolError):
                record = decode_answer(line)
                if isinstance(record, Exited):
                    self.pending[record.id] = record

    def fileno(self) -> int:
        """The file."""
        return self._fd

    def add(self, exited: Exited) -> None:
        """Keep a record. A full disk must not stop the keeper: the record then lives in memory
        alone.
        """
        self.pending[exited.id] = exited
        try:
            text = b"\n" + encode(exited)
            self.broken = "" if os.write(self._fd, text) == len(text) else "the disk is full"
        except OSError as error:
            self.broken = error.strerror or ""

    def acknowledge(self, id_: str) -> None:
        """Drop a record; the file shrinks when it was the last one."""
        if self.pending.pop(id_, None) is not None and not self.pending:
            try:
                os.ftruncate(self._fd, 0)
            except OSError as error:
                self.broken = error.strerror or ""

    def _content(self) -> bytes:
        size = os.fstat(self._fd).st_size
        return os.pread(self._fd, size, 0)
