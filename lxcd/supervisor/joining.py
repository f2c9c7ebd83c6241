"""The way to the keeper's socket: it is there, or a keeper has to be started, or a service manager
starts it. And a candidate for the place of the one that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.keeper import protocol
from lxcd.kernel import fd as kernel_fd
from lxcd.kernel.fd import Fd
from lxcd.supervisor import launch

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.paths import Paths

_log = logging.getLogger(__name__)
_SECONDS = 30.0
_CANDIDATE_SECONDS = 30.0
_PAUSE_SECONDS = 0.01
_SAID_BYTES = 1 << 20


class Joining:
    """With `managed` a keeper is never started here, only waited for."""

    def __init__(self, paths: Paths, build: str, *, managed: bool) -> None:
        self._paths = paths
        self._build = build
        self._managed = managed
        self._said = Fd(-1)  # what whoever was to become the keeper has to say
        self._logged = 0  # bytes of its log that are of others
        self._started = False  # one here

    def forget(self) -> None:
        """There is a keeper, or the search for one begins anew: what the last one said is of no
        interest.
        """
        self._started = False
        self._said.close()

    async def reach(self) -> socket.socket:
        """A connection to the keeper; the caller owns it. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _SECONDS
        launched = 0
        while True:
            # Looked at first: who starts the keeper ends when it listens.
            is_over = launched > 0 and launch.ended(launched)
            if (connection := self._try()) is not None:
                break
            if is_over:
                raise self._not_started()
            if loop.time() > end:
                if launched:
                    # It hangs, and the next try starts another. It has nothing to lose yet.
                    self.end(launched)
                raise errors.Unavailable("no keeper has come up in time", "KEEPER_LOST")
            if not self._managed and launched == 0:
                try:
                    launched = self._launch()
                    self._started = True
                except OSError as error:
                    raise errors.Unavailable(
                        f"no keeper can be started: {error.strerror}", "KEEPER_LOST"
                    ) from None
            await asyncio.sleep(_PAUSE_SECONDS)
        if launched:
            self.reap_later(launched)
        return connection

    def _launch(self) -> int:
        self._said.close()
        self._said = Fd(os.memfd_create("lxcd-launcher", os.MFD_CLOEXEC))
        self._logged = len(self._log())
        return launch.spawn_keeper(self._paths.runtime_dir, self._build, self._said.fileno())

    def _log(self) -> bytes:
        with contextlib.suppress(OSError), open(self._paths.keeper_log, "rb") as file:
            return file.read()
        return b""

    def hung_up(self, why: object) -> errors.Unavailable:
        """The error of connections that did not last, each for such a reason."""
        if self._started:
            # Its socket is there before it is.
            return self._not_started()
        return errors.Unavailable(
            f"what listens at the keeper's socket is no keeper: {why}", "KEEPER_LOST"
        )

    def _not_started(self) -> errors.Unavailable:
        """Why, by the last line that whoever was to become the keeper has said."""
        with self._said as said:
            said_first = b"" if said.closed else kernel_fd.read_all(said.fileno(), _SAID_BYTES)
        logged = self._log()[self._logged :]
        lines = (said_first + logged).decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it has not said why")
        where = f": see {self._paths.keeper_log}" if logged.strip() else ""
        return errors.Unavailable(f"no keeper can be started: {last}{where}", "KEEPER_LOST")

    def _try(self) -> socket.socket | None:
        try:
            return try_connect(self._paths)
        except OSError as error:
            raise errors.Unavailable(
                f"the keeper's socket takes no connection: {error.strerror}", "KEEPER_LOST"
            ) from None

    async def have_candidate(
        self, hand_over: Callable[[int], None], upgraded: asyncio.Future[str]
    ) -> None:
        """Start one and have one end of its socket handed over; return when `upgraded` tells what
        came of it, or it is known to hang. It is killed then: the keeper takes no other as long as
        this one lives. Raises OSError.
        """
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        with contextlib.ExitStack() as spawned:
            with ours, theirs:
                candidate = launch.spawn_candidate(self._paths.runtime_dir, self._build, theirs)
                spawned.callback(self.end, candidate)
                hand_over(ours.fileno())
            done, _ = await asyncio.wait((upgraded,), timeout=_CANDIDATE_SECONDS)
            if not done:
                _log.error("the candidate for the keeper's place hangs: it is killed")

    @classmethod
    def end(cls, pid: int) -> None:
        """Kill a process that was spawned here and is not reaped yet: its pid is still its own."""
        os.kill(pid, signal.SIGKILL)
        cls.reap_later(pid)

    @staticmethod
    def reap_later(pid: int) -> None:
        """Have a process that was spawned here reaped when it ends."""
        loop = asyncio.get_running_loop()
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return

        def reap() -> None:
            if launch.ended(pid):
                loop.remove_reader(pidfd)
                os.close(pidfd)

        loop.add_reader(pidfd, reap)


def try_connect(paths: Paths) -> socket.socket | None:
    """A connection to the keeper if one listens; the caller owns it. Raises OSError, EAGAIN when
    it takes none: whoever connects to a full backlog would wait, and the loop with him.
    """
    return _connect(paths, socket.SOCK_SEQPACKET, protocol.SOCKET_NAME)


def is_inhabited(paths: Paths) -> bool:
    """There is a keeper, or a trustee that has something for the next one. Raises OSError."""
    found = [try_connect(paths), _connect(paths, socket.SOCK_DGRAM, protocol.TRUSTEE_NAME)]
    connections = [connection for connection in found if connection is not None]
    for connection in connections:
        connection.close()
    return bool(connections)


def _connect(paths: Paths, kind: socket.SocketKind, name: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    connection.setblocking(False)
    try:
        # By descriptor: sockaddr_un has room for 108 bytes only.
        private = os.open(paths.private, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with Fd(private):
            connection.connect(f"/proc/self/fd/{private}/{name}")
    except OSError as error:
        connection.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise
    return connection
