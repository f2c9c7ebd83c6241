"""Hearing from a child while it walks: the asyncio side of `container.channel`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING

from lxcd.container import channel
from lxcd.container.calls import NOTHING
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel.fd import Fd
from lxcd.supervisor.keeper import Keeper, gone
from lxcd.supervisor.stop import signal_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from lxcd.container.calls import Program
    from lxcd.supervisor.held import Held


def send_spec(ours: socket.socket, program: Program, progress: int = -1) -> None:
    """What it is to walk. If it has gone already, its end is what is looked at next."""
    with (
        contextlib.suppress(ConnectionError),
        kernel_fd.Fd(kernel_fd.sealed_memfd("lxcd-spec", program.text)) as memfd,
    ):
        channel.send_spec(ours, memfd.fileno(), len(program.text), progress)


async def next_report(ours: socket.socket, program: Program) -> channel.Report | None:
    """What the child that walks `program` says next; None once its end is closed: it has exec'ed,
    or it is gone.

    ValueError for what no child of ours says.
    """
    data, fds = await _receive(ours)
    kernel_fd.close_all(fds)
    return channel.decode(data, program) if data else None


async def first_report(ours: socket.socket) -> tuple[channel.Report | None, list[Fd]]:
    """What a child says before it has a Spec, and the descriptors that it hands over with it."""
    data, numbers = await _receive(ours)
    fds = [Fd(number) for number in numbers]
    return (channel.decode(data, NOTHING) if data else None), fds


async def _receive(ours: socket.socket) -> tuple[bytes, list[int]]:
    while True:
        try:
            return kernel_fd.receive(ours, channel.MESSAGE_LIMIT)
        except BlockingIOError:
            await _readable(ours)
        except ConnectionResetError:
            # It has gone and left something of ours unread; what it has said is still there. The
            # error is told once.
            continue


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


async def failure_of(
    keeper: Keeper,
    child: Held,
    ours: socket.socket,
    program: Program,
    streams: tuple[str, ...],
    at_ready: Callable[[], None],
) -> channel.Failed | None:
    """Hear from a child with one barrier until it has exec'ed: None. Or why it has not.

    At the barrier its streams are known here, and `at_ready` may still stop it. Raises what that
    raises, and Unavailable if the keeper is lost there.
    """
    executing = False
    while (report := await next_report(ours, program)) is not None:
        match report:
            case channel.Failed():
                if is_cut_off(report):
                    await child.until(lambda: child.exited is not None or keeper.lost(child))
                return report
            case channel.Executing():
                executing = True
            case channel.Reached():
                if not await keeper.known(child, *streams) and child.exited is None:
                    raise gone()
                at_ready()
                with contextlib.suppress(ConnectionError):
                    channel.send_go(ours)
            case channel.Prepared():
                continue
    if executing:
        return None
    await child.until(lambda: child.exited is not None or keeper.lost(child))
    status = child.exited.status if child.exited is not None else 0
    how = f"killed by {signal_name(status & 0x7F)}" if status & 0x7F else "it has ended"
    return channel.Failed(-1, "join", "", 0, how)
