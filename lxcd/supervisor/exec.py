"""One exec: a command that has joined a container, with its streams, from its exec to the moment it
is forgotten. It outlives whoever asked for it, and lxcd.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.console.session import Reason
from lxcd.supervisor import entering
from lxcd.supervisor.ports import pipe_port, terminal_port
from lxcd.supervisor.state import Cause, Exit
from lxcd.supervisor.stop import signal_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.console.session import Session
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

TERMINAL = "terminal"
# How long a command whose last session was cut off waits for it to come back.
PATIENCE_SECONDS = 10.0
# How long one that has ended, and was to be forgotten then, can still be asked about.
_LAST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ExecRecord:
    """What must survive lxcd: see `records`. `id` is the keeper's of its child."""

    id: str
    container: str
    lxcpath: str
    generation: int
    command: tuple[str, ...]
    user: str
    tty: bool
    created_ns: int  # CLOCK_REALTIME
    kill_on_disconnect: bool = False
    delete_on_exit: bool = False
    lossless: bool = False
    exit: Exit | None = None


def exit_of(child: Held, generation: int, sent: set[int]) -> Exit:
    """How a child that has ended did so; by one of the signals that we have `sent`, if so."""
    exited = child.exited
    if exited is None:
        raise errors.Internal("an exec without an exit")
    number = exited.status & 0x7F
    cause = Cause.REQUESTED if number in sent else Cause.SELF
    return Exit(
        code=0 if number or not exited.known else exited.status >> 8 & 0xFF,
        signal=number if exited.known else 0,
        core_dumped=bool(exited.status & 0x80),
        oom_killed=False,
        time_ns=exited.time_ns or time.time_ns(),
        generation=generation,
        cause=cause if exited.known else Cause.KEEPER_LOST,
    )


class Exec:
    """An actor. `changed` has its record written, and says whether that went well; `forgotten` is
    called when it is no more.
    """

    def __init__(
        self,
        house: House,
        record: ExecRecord,
        child: Held,
        changed: Callable[[Exec], bool],
        forgotten: Callable[[Exec], None],
    ) -> None:
        self._house = house
        self._changed = changed
        self._forgotten = forgotten
        self._sent: set[int] = set()  # signals, by us
        self._deleted = False
        self._timer: asyncio.TimerHandle | None = None
        self.record = record
        self.child = child
        # What sessions attach to; it stays when the child's streams go. By its record: of one that
        # is told of by its exit alone, nothing else is left.
        keeper = house.keeper
        tty = record.tty
        self.port = terminal_port(keeper, child, TERMINAL) if tty else pipe_port(keeper, child)
        self.port.on_left = self._left
        child.on_exit = self._ended
        if child.exited is not None and record.exit is None:
            self._ended(child)

    @property
    def id(self) -> str:
        """Its name in the API."""
        return self.record.id

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self.record.exit is None

    def begin(self) -> None:
        """Nobody is there yet, or, after a restart of lxcd, nobody has come back."""
        if not self.record.lossless:
            self.port.release()
        self._wait_for_somebody()

    # ---- who is there

    def _left(self, session: Session) -> None:
        if self.port.sessions or self._deleted:
            return
        if session.detached and self.running:
            # On purpose: it goes on, and waits for nobody.
            self.record = replace(
                self.record, lossless=False, kill_on_disconnect=False, delete_on_exit=False
            )
            self._changed(self)
            self.port.release()
        self._wait_for_somebody(kill=not session.detached)

    def _wait_for_somebody(self, *, kill: bool = True) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        if not self.running:
            if self.record.delete_on_exit:
                # Whoever has its exit asks for nothing more; who was cut off may come back.
                self._timer = loop.call_later(_LAST_SECONDS if kill else 0.0, self._forget_unseen)
        elif kill and self.record.kill_on_disconnect:
            self._timer = loop.call_later(PATIENCE_SECONDS, self._lose_patience)

    def _lose_patience(self) -> None:
        if not self.port.sessions and self.running:
            self._kill()

    def _kill(self) -> None:
        self._sent.add(signal.SIGKILL)
        self.child.kill()

    def _forget_unseen(self) -> None:
        if not self.port.sessions:
            self.forget()

    # ---- its end

    def _ended(self, child: Held) -> None:
        how = exit_of(child, self.record.generation, self._sent)
        self.record = replace(self.record, exit=how)
        if self._changed(self):
            self._house.keeper.acknowledge(child)
        child.wake()
        if not self.port.sessions:
            self._wait_for_somebody()

    async def ended(self) -> Exit:
        """Wait for it, and say how it ended. Raises NotFound if it is forgotten first."""
        await self.child.until(lambda: self.record.exit is not None or self._deleted)
        if self.record.exit is None:
            raise errors.NotFound(f"exec {self.id} was deleted", "EXEC_NOT_FOUND", exec=self.id)
        return self.record.exit

    def forget(self) -> None:
        """It is no more, and its output neither. It has ended."""
        self._deleted = True
        if self._timer is not None:
            self._timer.cancel()
        self.port.end(Reason.KICKED)
        self.child.wake()
        with contextlib.suppress(errors.Unavailable):
            self._house.keeper.forget(self.child)
        self._forgotten(self)

    async def delete(self, *, force: bool, trial: bool = False) -> None:
        """Forget it. Raises FailedPrecondition if it runs, unless it is to be killed."""
        if self.running:
            if not force:
                raise errors.FailedPrecondition(
                    f"exec {self.id} runs: kill it first, or use force",
                    "EXEC_RUNNING",
                    exec=self.id,
                )
            if trial:
                return
            self._sent.add(signal.SIGKILL)
            await entering.end(self._house, self.child)
        if not trial:
            self.forget()

    # ---- asking things of it

    def signal(self, number: int, *, trial: bool = False) -> None:
        """Send its process a signal. Raises FailedPrecondition."""
        if not 0 < number <= signal.SIGRTMAX:
            raise errors.InvalidArgument(f"no signal {number}", "INVALID_SIGNAL")
        if not self.running or self.child.is_gone():
            raise errors.FailedPrecondition(
                f"exec {self.id} has ended", "EXEC_NOT_RUNNING", exec=self.id
            )
        if trial:
            return
        self._sent.add(number)
        try:
            signal.pidfd_send_signal(self.child.pidfd.fileno(), number)
        except ProcessLookupError:
            return
        except OSError as error:
            what = f"sending {signal_name(number)} to exec {self.id}"
            raise errors.from_oserror(error, what) from None

    def close(self) -> None:
        """Lxcd leaves; it goes on."""
        if self._timer is not None:
            self._timer.cancel()
        self.child.on_exit = None
