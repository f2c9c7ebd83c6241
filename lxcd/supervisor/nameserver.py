"""The dnsmasq of one managed network: begun, taken up from an earlier lxcd, begun again when it
dies, ended. It is a child of the keeper, and outlives lxcd as containers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.kernel import procfs
from lxcd.kernel.fd import Fd
from lxcd.network import dnsmasq
from lxcd.supervisor import programs
from lxcd.supervisor.entering import end

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)
_START_SECONDS = 20.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 60.0
_STEADY_SECONDS = 30.0  # who lived as long as this gets the short pause again
_RELOAD_SECONDS = 0.05


class Nameserver:
    """One. `argv` tells how it is to be run; `write_down` has its child remembered."""

    def __init__(
        self,
        house: House,
        network: str,
        argv: Callable[[], tuple[str, ...]],
        write_down: Callable[[Held], None],
    ) -> None:
        self._house = house
        self._network = network
        self._argv = argv
        self._write_down = write_down
        self._child: Held | None = None
        self._begun = 0.0
        self._pause = _FIRST_PAUSE_SECONDS
        self._wanted = False
        self._lock = asyncio.Lock()
        self._reload: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        child = self._child
        return child.pid if child is not None and child.exited is None else 0

    async def start(self) -> None:
        """Begin it; it answers when this returns. Raises an LxcdError."""
        async with self._lock:
            self._wanted = True
            try:
                await self._start()
            except BaseException:
                self._wanted = False
                raise

    async def _start(self) -> None:
        if shutil.which("dnsmasq", path=programs.PATH) is None:
            raise errors.FailedPrecondition(
                f"network {self._network} needs dnsmasq for DHCP and DNS, which is not installed "
                "(Debian: dnsmasq-base)",
                "DNSMASQ_MISSING",
                network=self._network,
            )
        program = programs.Program(self._argv())
        child = await programs.begin(self._house, program, write_down=self._write_down)
        try:
            # What it goes on as is known by now.
            self._write_down(child)
            await self._require_up(child)
        except BaseException:
            await end(self._house, child)
            raise
        self._take(child)

    async def _require_up(self, child: Held) -> None:
        said = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                stream = child.stream("stderr")
                while await stream.grown(len(said)):
                    said += stream.read(len(said)).data
                    if dnsmasq.STARTED in said:
                        return
                await child.ended()
        raise errors.FailedPrecondition(
            f"dnsmasq of network {self._network}: {dnsmasq.complaint(said) or 'it says nothing'}",
            "DNSMASQ_FAILED",
            network=self._network,
        )

    def adopt(self, child: Held) -> None:
        """Take up the one that an earlier lxcd has begun."""
        self._wanted = True
        self._take(child)

    def _take(self, child: Held) -> None:
        self._child = child
        self._begun = asyncio.get_running_loop().time()
        child.on_exit = self._exited
        if child.exited is not None:
            self._exited(child)

    def _exited(self, child: Held) -> None:
        if self._child is not child:
            return
        self._child = None
        child.on_exit = None
        stream = child.stream("stderr")
        piece = stream.read(max(stream.tail, stream.head - 1000))
        text = (
            f"dnsmasq of {self._network} ended ({_words(child)}): {dnsmasq.complaint(piece.data)}"
        )
        _log.warning("%s", text)
        self._house.events.add(
            "network.dnsmasq_exited", message=text, details={"network": self._network}
        )
        with contextlib.suppress(errors.Unavailable):
            self._house.keeper.forget(child)
        if self._wanted:
            self._house.begin(self._again())

    async def _again(self) -> None:
        """Until it stays, or is not wanted any more."""
        if asyncio.get_running_loop().time() - self._begun > _STEADY_SECONDS:
            self._pause = _FIRST_PAUSE_SECONDS
        while self._is_missed():
            await asyncio.sleep(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            async with self._lock:
                if not self._is_missed():
                    return
                try:
                    await self._start()
                except errors.LxcdError as error:
                    _log.error("%s", error)
                    continue
            self._house.events.add(
                "network.dnsmasq_started",
                message=f"pid {self.pid}",
                details={"network": self._network},
            )

    def _is_missed(self) -> bool:
        return self._wanted and self._child is None

    async def stop(self) -> None:
        """End it; it is gone when this returns."""
        self._wanted = False
        async with self._lock:
            child, self._child = self._child, None
            if self._reload is not None:
                self._reload.cancel()
                self._reload = None
            if child is not None:
                child.on_exit = None
                # It has no more to write than it has written: leases are in its file at once.
                await end(self._house, child)

    def reload(self) -> None:
        """Have it forget what is no longer said in its files; several such wishes are one."""
        if self._reload is None:
            loop = asyncio.get_running_loop()
            self._reload = loop.call_later(_RELOAD_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        self._reload = None
        child = self._child
        if child is not None and child.exited is None:
            with contextlib.suppress(OSError, ValueError):
                signal.pidfd_send_signal(child.pidfd.fileno(), signal.SIGHUP)

    def close(self) -> None:
        """Lxcd leaves; it goes on."""
        self._wanted = False
        if self._reload is not None:
            self._hang_up()


def _words(child: Held) -> str:
    if child.exited is None or not child.exited.known:
        return "status not known"
    status = child.exited.status
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {status >> 8}"


def end_orphan(pid: int, start_time_ticks: int) -> None:
    """Kill the one of a record whose keeper was lost, if it is still the same process."""
    if not pid:
        return
    with contextlib.suppress(OSError), Fd(os.pidfd_open(pid)) as pidfd:
        # After the pidfd: what has this start time now is what the pidfd holds.
        if procfs.start_time(pid) == start_time_ticks:
            signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
