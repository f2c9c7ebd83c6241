"""`lxcd shutdown`: Drain and leave, from outside, and wait until daemon and keeper are gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from typing import TYPE_CHECKING

import grpc

from lxcd import errors
from lxcd.paths import Paths
from lxcd.v1 import host_pb2, host_pb2_grpc

if TYPE_CHECKING:
    from lxcd.config.daemon import Settings

_WAIT_MS = 30_000


def shut_down(settings: Settings) -> int:
    """Exit status: 0 all stopped. Raises Unavailable where there is no daemon."""
    paths = Paths(settings.lxcpath, settings.runtime_dir, settings.state_dir)
    address = settings.listen[0] if settings.listen else f"unix:{paths.socket}"
    for pidfd in asyncio.run(_drain(address)):
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_WAIT_MS):
            raise errors.Unavailable("lxcd has drained but does not end")
        os.close(pidfd)
    return 0


async def _drain(address: str) -> list[int]:
    """Have everything stopped; pidfds of daemon and keeper, which are about to leave."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = host_pb2_grpc.HostServiceStub(channel)
        try:
            host = await stub.GetHost(host_pb2.GetHostRequest(), timeout=30)
            pidfds = _open([host.pid, host.keeper_pid])
            reply = await stub.Drain(host_pb2.DrainRequest(leave=True))
        except grpc.aio.AioRpcError as error:
            raise errors.Unavailable(f"no lxcd at {address}: {error.details()}") from None
    for name in reply.stopped:
        killed = " (killed)" if name in reply.killed else ""
        print(f"stopped {name}{killed}", file=sys.stderr)
    return pidfds


def _open(pids: list[int]) -> list[int]:
    found: list[int] = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found.append(os.pidfd_open(pid))
    return found
