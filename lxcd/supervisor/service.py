"""A service manager that has started lxcd: telling it how we are, sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket


def tell(state: str) -> None:
    """`READY=1`, `STOPPING=1`; nothing without a service manager."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify,
    ):
        notify.setblocking(False)
        notify.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
