"""What there is in one network namespace, kept as a picture, by one socket in it.

A notification is a door bell: it says that something is different, and all is looked at anew, after
a moment, as changes come in handfuls. What is in it is never read. So nothing depends on the order
or the completeness of what is told: a bell that overflows (ENOBUFS) has rung all the same, and of
some changes the kernel tells nobody: of a device that goes down it takes the IPv4 routes away
without a word (fib_sync_down_dev in net/ipv4/fib_semantics.c). Nor can the inside of a namespace
keep us busy: while a look is due nobody listens, and looks become rare when they keep being due.

The socket keeps the namespace alive. It is closed as soon as somebody says so; if a look is under
way, by the thread that does that, behind the system call that it is in.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from lxcd.network import dump, namespace, picture
from lxcd.network.netlink import GROUPS
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lxcd.kernel.fd import Fd
    from lxcd.network.picture import Counters, Picture

_log = logging.getLogger(__name__)

# What a picture holds at most; what a container can make of each is only bounded by its memory.
INTERFACES, ADDRESSES, ROUTES = 256, 512, 256

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _NO_ENOBUFS, _GET_STRICT_CHK = 1, 5, 12
_GETLINK, _GETADDR, _GETROUTE, _GETNSID = 18, 22, 26, 90
_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS = 29, 8
_NETNSA_NSID, _NETNSA_FD = 1, 3
# Of bells: one that does not fit has no need to.
BUFFER_BYTES = 64 << 10
_ATTEMPTS = 3
# Bells have filled the buffer, and the answer found no room; or it is still under way (EBUSY).
_CROWDED = {errno.EAGAIN, errno.ENOBUFS, errno.EBUSY}
# From a bell to the look: long enough for a handful of commands.
_PAUSE_SECONDS = 0.01
# So many looks in a row, then so many a second; and in the long run at most a twentieth of the time
# is spent on looking.
_IN_A_ROW, _A_SECOND, _SHARE = 20, 1.0, 20

Found = TypeVar("Found")


class Pace:
    """How soon to look again: at once, unless that has been done too often of late."""

    def __init__(self, now: float) -> None:
        self._left = float(_IN_A_ROW)
        self._last = now

    def pause(self, now: float, spent: float) -> float:
        """Seconds to wait before a look that is due now; the last one took `spent`."""
        self._left = min(_IN_A_ROW, self._left + (now - self._last) * _A_SECOND) - 1
        self._last = now
        return max(_PAUSE_SECONDS, -self._left / _A_SECOND, spent * _SHARE)


class Watch:
    """One namespace. `run` is its life; `changed` is called on the loop with each new picture."""

    def __init__(
        self,
        host: int,
        changed: Callable[[Picture], None],
        before_look: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`host` is a descriptor of the host's namespace, the caller's. `before_look` is waited for
        before each look.
        """
        self.picture: Picture | None = None
        self._host = host
        self._changed = changed
        self._before_look = before_look
        self._socket: socket.socket | None = None
        self._listening = -1
        self._bell = asyncio.Event()
        self._turn = asyncio.Lock()
        # Between the loop and the thread that uses the socket; held for a moment only.
        self._guard = threading.Lock()
        self._busy = False
        self._closed = False

    # ---- on the loop

    async def run(self, inside: Fd, *, opened: bool = False) -> None:
        """Watch until it is closed. `inside` is the namespace, or a process in it by its pidfd, or,
        with `opened`, a socket of rtnetlink that was opened there; taken over.
        """
        try:
            if opened:
                self._begin(namespace.opened(inside))
            else:
                await in_thread(self._open, inside)
            pace = Pace(time.monotonic())
            while True:
                if self._before_look is not None:
                    await self._before_look()
                self._bell.clear()
                spent = await self._look()
                await self._rings()
                await asyncio.sleep(pace.pause(time.monotonic(), spent))
        except dump.GivenUpError:
            pass
        except OSError as error:
            if not self._closed:
                _log.warning("a network namespace is not watched: %s", error)
        finally:
            self.close()

    def close(self) -> None:
        """Let the namespace go, at once. Twice is allowed."""
        self._stop_listening()
        with self._guard:
            self._closed = True
            if self._socket is not None and not self._busy:
                self._socket.close()
        self._bell.set()

    async def counters(self) -> dict[int, Counters]:
        """What has passed each device by now, by its index; none if that cannot be known."""
        try:
            found, disturbed = await self._use(self._count)
        except (OSError, dump.GivenUpError):
            return {}
        if disturbed:
            self._bell.set()
        return found

    async def _look(self) -> float:
        """Have a new picture. Seconds of a processor's time that it took."""
        try:
            found, disturbed, spent = await self._use(self._everything)
        except OSError as error:
            if error.errno not in _CROWDED:
                raise
            self._bell.set()
            return 0.0
        if disturbed:
            self._bell.set()
        if found != self.picture and not self._closed:
            self.picture = found
            self._changed(found)
        return spent

    async def _rings(self) -> None:
        """Wait for the bell."""
        async with self._turn:
            self._listen()
        await self._bell.wait()

    def _listen(self) -> None:
        if self._closed or self._socket is None or self._listening >= 0 or self._bell.is_set():
            return
        self._listening = self._socket.fileno()
        asyncio.get_running_loop().add_reader(self._listening, self._ring)

    def _ring(self) -> None:
        self._stop_listening()
        self._bell.set()

    def _stop_listening(self) -> None:
        if self._listening >= 0:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening = -1

    async def _use(self, work: Callable[[socket.socket], Found]) -> Found:
        """Have something done with the socket, by a thread, one at a time."""
        async with self._turn:
            listened = self._listening >= 0
            # Or the answers would ring.
            self._stop_listening()
            try:
                return await in_thread(self._guarded, work)
            finally:
                if listened:
                    self._listen()

    # ---- in a thread, but for `_begin`, which does not block

    def _open(self, inside: Fd) -> None:
        with inside:
            if not self._goes_on():
                raise dump.GivenUpError
            opened = namespace.netlink(inside.fileno())
        self._begin(opened)

    def _begin(self, opened: socket.socket) -> None:
        try:
            # First: it would take the socket out of the groups below 32 (netlink_bind).
            opened.bind((0, 0))
            for option in (_NO_ENOBUFS, _GET_STRICT_CHK):
                opened.setsockopt(_SOL_NETLINK, option, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            for group in GROUPS.values():
                opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            opened.setblocking(False)
        except OSError:
            opened.close()
            raise
        with self._guard:
            self._socket = opened
            if self._closed:
                opened.close()

    def _guarded(self, work: Callable[[socket.socket], Found]) -> Found:
        with self._guard:
            if self._socket is None or not self._goes_on():
                raise dump.GivenUpError
            self._busy = True
        try:
            return work(self._socket)
        finally:
            with self._guard:
                self._busy = False
                if self._closed:
                    self._socket.close()

    def _everything(self, opened: socket.socket) -> tuple[Picture, bool, float]:
        """A picture, whether the bell has rung meanwhile, and what it took."""
        begun = time.thread_time()
        dump.drain(opened)
        mask = dump.attribute(_IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))
        links = self._ask(opened, _GETLINK, bytes(16) + mask, INTERFACES)
        addresses = self._ask(opened, _GETADDR, bytes(8), ADDRESSES)
        routes4, routes6 = (
            self._ask(opened, _GETROUTE, picture.routes_of(family), ROUTES)
            for family in (socket.AF_INET, socket.AF_INET6)
        )
        answers = (links, addresses, routes4, routes6)
        told = picture.told(
            links.messages,
            addresses.messages,
            [*routes4.messages, *routes6.messages],
            cut=any(answer.cut for answer in answers),
        )
        host = -1
        if any(one.peer_namespace >= 0 for one in told.links):
            host = self._number_of_host(opened)
        disturbed = any(answer.disturbed or answer.interrupted for answer in answers)
        found = picture.compose(told, host, _name_here)
        return found, disturbed, time.thread_time() - begun

    def _count(self, opened: socket.socket) -> tuple[dict[int, Counters], bool]:
        answer = self._ask(opened, _GETLINK, bytes(16), INTERFACES)
        found = (picture.counters(message) for message in answer.messages)
        return {index: value for index, value in found if value is not None}, answer.disturbed

    def _ask(self, opened: socket.socket, kind: int, body: bytes, limit: int) -> dump.Answer:
        """Again, where a change came under it: as often as is worth it."""
        answer = dump.Answer([])
        disturbed = False
        for _ in range(_ATTEMPTS):
            try:
                answer = dump.ask(opened, kind, body, limit=limit, going_on=self._goes_on)
            except FileNotFoundError:
                # A family that this kernel has not got, or whose main table is not there yet.
                return dump.Answer([], disturbed=disturbed)
            disturbed |= answer.disturbed
            if not answer.interrupted:
                break
        answer.disturbed = disturbed
        return answer

    def _goes_on(self) -> bool:
        return not self._closed

    def _number_of_host(self, opened: socket.socket) -> int:
        """Which number the host's namespace has within this one; -1 if none: ip-netns(8)."""
        body = bytes(4) + dump.attribute(_NETNSA_FD, struct.pack("=I", self._host))
        answer = dump.ask(opened, _GETNSID, body, limit=1, dump=False, going_on=self._goes_on)
        for message in answer.messages:
            return dump.signed(dump.attributes(message, 4).get(_NETNSA_NSID), -1)
        return -1


def _name_here(index: int) -> str:
    """Of a device of the host."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""
