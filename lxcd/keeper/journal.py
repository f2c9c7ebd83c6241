"""Exits that lxcd has not acknowledged, kept on disk: they survive the keeper too.

One JSON text a line, appended with one write(2). A line that is torn (the host went down, the disk
was full) is passed over when it is read. Once every exit is acknowledged the file is emptied.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict

from lxcd.keeper.protocol import Exited


class Journal:
    """The file, by a descriptor that this object owns, and the records that still count."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.pending: dict[str, Exited] = {}
        self.broken = ""  # why the last record is not on disk; it is kept in memory all the same
        for line in self._content().splitlines():
            try:
                record = json.loads(line)
                self.pending[record["id"]] = Exited(**record)
            except (ValueError, TypeError, KeyError):
                continue

    def add(self, exited: Exited) -> None:
        """Keep a record. A full disk must not stop the keeper: the record then lives in memory
        alone.
        """
        self.pending[exited.id] = exited
        try:
            os.write(self._fd, b"\n" + json.dumps(asdict(exited)).encode())
            self.broken = ""
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
