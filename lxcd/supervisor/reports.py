"""Hearing from a child while it walks: the asyncio side of `container.channel`."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from lxcd.container import channel
from lxcd.kernel import fd as kernel_fd

if TYPE_CHECKING:
    import socket


async def next_report(ours: socket.socket) -> channel.Report | None:
    """What the child says next; None once its end is closed: it has exec'ed, or it is gone.

    ValueError for what no child of ours says.
    """
    while True:
        try:
            data, fds = kernel_fd.receive(ours, channel.MESSAGE_LIMIT)
        except BlockingIOError:
            await _readable(ours)
            continue
        except ConnectionResetError:
            # It has gone and left something of ours unread; what it has said is still there. The
            # error is told once.
            continue
        kernel_fd.close_all(fds)
        return channel.decode(data) if data else None


async def _readable(ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not arrived.done():
            arrived.set_result(None)

    loop.add_reader(ours.fileno(), note)
    try:
        await arrived
    finally:
        loop.remove_reader(ours.fileno())


def is_cut_off(report: channel.Failed) -> bool:
    """It could not hand something to the keeper: that this is lost is what we are told next."""
    # The latter if the keeper has left something unread: unix(7).
    return report.errno in (errno.EPIPE, errno.ECONNRESET)
