"""The daemon's log: standard logging to stderr, one line a record, with the container it is
about.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

# Set by the actor that works; every record of its task carries it.
container: ContextVar[str] = ContextVar("container", default="")


class _Formatter(logging.Formatter):
    """`level room [container]: text`; a service manager adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        name = container.get()
        room = record.name.removeprefix("lxcd.")
        where = f"{room} [{name}]" if name else room
        text = f"{record.levelname.lower()} {where}: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        # What comes from a container must not look like a line of its own.
        return text.replace("\r", "\\r").replace("\x1b", "\\e")


def set_up(level: str) -> None:
    """Call once, from the entry."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
