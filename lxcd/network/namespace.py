"""Network namespaces: sockets in somebody else's.

setns(2) is of the thread that calls it. One that does nothing else and ends needs no way back, so
none can go wrong: 70 us. A socket stays in the namespace that it was opened in, and keeps that
alive: whoever holds one closes it when the container ends.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, TypeVar

from lxcd.kernel import process
from lxcd.network.netlink import Netlink

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.kernel.fd import Fd

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4

Found = TypeVar("Found")


def open_own() -> int:
    """Our own, the host's: a descriptor, the caller's. Raises OSError."""
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def open_of(pid: int) -> int:
    """That of a process: a descriptor, the caller's. Raises OSError."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def inside(namespace: int, work: Callable[[], Found]) -> Found:
    """What `work` returns, or raises, within a namespace. Blocks for as long as it takes."""
    found: list[Found] = []
    failure: list[BaseException] = []

    def go() -> None:
        try:
            process.setns(namespace, process.CLONE_NEWNET)
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised where it was asked for
            failure.append(error)

    thread = threading.Thread(target=go, name="network")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return found[0]


def netlink(namespace: int = -1, protocol: int = NETLINK_ROUTE) -> socket.socket:
    """A socket of netlink(7) in a namespace, or in our own: the caller's. Raises OSError."""

    def open_() -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        return socket.socket(socket.AF_NETLINK, kind, protocol)

    return open_() if namespace < 0 else inside(namespace, open_)


def rtnetlink(namespace: int = -1) -> Netlink:
    """The same, ready for requests."""
    return Netlink(netlink(namespace))


def opened(owned: Fd) -> socket.socket:
    """A socket of rtnetlink that whoever is inside has opened: the caller's, who gives its
    descriptor.
    """
    # With all three told nobody is asked.
    kind = socket.SOCK_RAW
    return socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE, fileno=owned.take())
