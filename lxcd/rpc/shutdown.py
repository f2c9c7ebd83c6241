"""`lxcd shutdown`: Drain and leave, from outside, and wait until daemon and keeper are gone."""

from __future__ import annotations

import os
import select
import sys

import grpc

from lxcd import errors
from lxcd.config.daemon import Settings
from lxcd.paths import Paths
from lxcd.v1 import host_pb2, host_pb2_grpc

_WAIT_MS = 30_000


def shut_down(settings: Settings) -> int:
    """Exit status: 0 all stopped, 69 no daemon."""
    paths = Paths(settings.lxcpath, settings.runtime_dir, settings.state_dir)
    address = settings.listen[0] if settings.listen else f"unix:{paths.socket}"
    with grpc.insecure_channel(address) as channel:
        stub = host_pb2_grpc.HostServiceStub(channel)
        try:
            host = stub.GetHost(host_pb2.GetHostRequest(), timeout=30)
            pidfds = [_pidfd(pid) for pid in (host.pid, host.keeper_pid)]
            reply = stub.Drain(host_pb2.DrainRequest(leave=True))
        except grpc.RpcError as error:
            raise errors.Unavailable(f"no lxcd at {address}: {error.details()}") from None
    for name in reply.stopped:
        killed = " (killed)" if name in reply.killed else ""
        print(f"stopped {name}{killed}", file=sys.stderr)
    for pidfd in pidfds:
        if pidfd >= 0:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(_WAIT_MS):
                raise errors.Unavailable("lxcd has drained but does not end")
            os.close(pidfd)
    return 0


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1
