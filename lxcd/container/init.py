"""The life of a child of the keeper, from the fork to exec: prepare, wait for the Spec, walk it.

Runs in the keeper's forked image, single-threaded, as root of the host or of a new user namespace.
It takes no lock, logs nothing, imports nothing: what goes wrong is told to lxcd as (step, system
call, errno, text) and ends the process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import NoReturn

from lxcd.container import (
    credentials,
    devices,
    join,
    mounts,
    namespaces,
    nodes,
    pid1,
    rootfs,
    spec,
)
from lxcd.container.channel import ChildEnd, Failed, Prepared, send_go
from lxcd.container.walk import Walk
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc, mount, process

# Importing them makes their steps known to `spec.decode`.
STEP_ROOMS = (join, namespaces, rootfs, mounts, devices, nodes, credentials)

_FAILED = 125
_REHEARSAL = spec.every_step()
_REHEARSED = (
    devices.MakeDev(origin="", size_bytes=500000, bind=False),
    devices.OpenTerminals(origin="", console=True, ttys=0, directory=""),
    namespaces.Barrier(origin="", barrier="", why=""),
    # All of them: none is dropped.
    credentials.LimitCapabilities(origin="", keep=tuple(range(64)), last=63),
)


def live(channel: socket.socket, keeper: socket.socket, cgroups: list[int], flags: int) -> NoReturn:
    """Be the child. `channel` leads to lxcd, `keeper` to the keeper; `cgroups` are files of
    version 1 cgroups to move into; `flags` are those of the clone.
    """
    end = ChildEnd(channel)
    # A module that were imported from now on would come out of the container's tree.
    sys.path.clear()
    sys.meta_path.clear()
    index, name = -1, "enter_cgroups"
    try:
        for procs in cgroups:
            # 0 is the writer itself: cgroups(7). Only a thread that moves itself need not wait for
            # an RCU grace period.
            kernel_fd.write(procs, b"0")
            os.close(procs)
        name = "receive_spec"
        # What can be done before somebody waits. What is done for nothing has pages copied that are
        # written to; what fails here fails again at its step, which is told.
        spec.decode(_REHEARSAL)
        if flags & process.CLONE_NEWNS:
            _rehearse()
            own = [0, 1, 2, channel.fileno(), keeper.fileno(), *pid1.descriptors()]
            kernel_fd.close_all_but(own)
        if flags & process.CLONE_NEWNET:
            with contextlib.suppress(OSError):
                namespaces.set_loopback_up()
        end.say(Prepared())
        text = end.receive_spec()
        name = "decode_spec"
        wanted = spec.decode(text)
        name = "receive_descriptors"
        walk = Walk(end, keeper, end.receive_fds())
        for step in wanted.steps:
            index, name = index + 1, step.name
            end.note(index)
            if wanted.fault is not None and wanted.fault.index == index:
                wanted.fault.strike(end)
            step.apply(walk)
        end.say(Failed(index, name, "", 0, "the spec ends without a program"))
    except OSError as error:
        path = f": {error.filename}" if isinstance(error.filename, str) and error.filename else ""
        text_of = f"{os.strerror(error.errno or 0)}{path}"
        end.say(Failed(index, name, libc.syscall_of(error), error.errno or 0, text_of))
    except Exception as error:  # noqa: BLE001 - there is nobody else to tell it to
        end.say(Failed(index, name, "", 0, f"{type(error).__name__}: {error}"))
    os._exit(_FAILED)


def _rehearse() -> None:
    """Walk the longest steps on mounts that hang nowhere and go with their descriptors. How far
    that comes is all the same (in a user namespace it is not far).
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with ours, theirs, contextlib.suppress(OSError):
        send_go(theirs)
        walk = Walk(ChildEnd(ours), ours, [])
        walk.root = mount.fsmount("tmpfs", (("mode", "755"),))
        walk.devpts = mount.fsmount("devpts", (("mode", "0620"), ("ptmxmode", "0666")))
        for rehearsed in _REHEARSED:
            with contextlib.suppress(OSError):
                rehearsed.apply(walk)
