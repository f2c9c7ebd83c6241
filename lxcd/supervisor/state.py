"""States of a container, LXC's own, and which may follow which. Nothing else."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from signal import SIGKILL


class State(enum.Enum):
    """As `lxc-info` prints them."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    ABORTING = "ABORTING"
    FREEZING = "FREEZING"
    FROZEN = "FROZEN"
    THAWED = "THAWED"

    @property
    def alive(self) -> bool:
        """There is an init."""
        return self not in (State.STOPPED, State.STARTING, State.ABORTING)


_S = State
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.STOPPED: frozenset({_S.STARTING}),
    _S.STARTING: frozenset({_S.RUNNING, _S.ABORTING}),
    _S.ABORTING: frozenset({_S.STOPPED}),
    _S.RUNNING: frozenset({_S.STOPPING, _S.FREEZING}),
    _S.FREEZING: frozenset({_S.FROZEN, _S.RUNNING, _S.STOPPING}),
    _S.FROZEN: frozenset({_S.THAWED, _S.STOPPING}),
    _S.THAWED: frozenset({_S.RUNNING, _S.STOPPING}),
    # Back to RUNNING: asked to shut down, init did not, and nobody wanted it killed.
    _S.STOPPING: frozenset({_S.STOPPED, _S.RUNNING}),
}


class Cause(enum.Enum):
    """Why a generation ended."""

    SELF = "SELF"
    REQUESTED = "REQUESTED"
    REBOOT = "REBOOT"
    OOM = "OOM"
    KEEPER_LOST = "KEEPER_LOST"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: `signal` is 0 unless one killed it."""

    code: int
    signal: int
    core_dumped: bool
    oom_killed: bool
    time_ns: int  # CLOCK_REALTIME
    generation: int
    cause: Cause

    @property
    def known(self) -> bool:
        """Somebody has seen its status; else `code` and `signal` mean nothing."""
        return self.cause is not Cause.KEEPER_LOST

    @property
    def success(self) -> bool:
        """It has ended with status 0, and somebody has seen that."""
        return self.known and not (self.code or self.signal)


def exit_of(
    status: int,
    *,
    time_ns: int,
    generation: int,
    requested: bool,
    oom: bool,
    pid_namespace: bool,
    application: bool = False,
) -> Exit:
    """Read a wait status.

    reboot(2) in a pid namespace ends its init as if by SIGHUP (restart) or SIGINT (halt, power
    off): pid_namespaces(7). Neither can kill an init otherwise.
    """
    signal = status & 0x7F
    cause = Cause.REQUESTED if requested else Cause.SELF
    if pid_namespace and signal in (1, 2):
        if signal == 1 and not requested:
            cause = Cause.REBOOT
        signal = 0
        status = 0
    # PID 1 of an application tells its command's SIGKILL as a shell does.
    killed = signal == SIGKILL or (application and status >> 8 == 128 + SIGKILL)
    oom_killed = oom and killed and not requested
    if oom_killed:
        cause = Cause.OOM
    return Exit(
        code=0 if signal else status >> 8 & 0xFF,
        signal=signal,
        core_dumped=bool(status & 0x80),
        oom_killed=oom_killed,
        time_ns=time_ns,
        generation=generation,
        cause=cause,
    )
