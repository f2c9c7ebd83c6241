"""Bringing together what the kernel counts and what it says: how many of a container the OOM killer
has killed, and who they were. Pure.

The count is the truth about how many. A name comes from the kernel's log, which may not be ours to
read, or have lost it; then the kill is told all the same. Nobody is named who was not counted,
except where the count is not for him: in a cgroup of version 1 below the container's own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxcd.cgroup.kmsg import Victim

# How long after the count the name may come: the kernel writes it next, but as a process of the
# container, which may get as little time of a cpu as its limits say.
NAME_SECONDS = 2.0
_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Kill:
    """One that is to be told. `victim` is None if nobody knows who it was."""

    victim: Victim | None
    count: int = 1
    missed: bool = False  # it happened while lxcd was away
    counted: bool = True  # the container's own count has it
    up_to: int = 0  # the last line of the kernel's log about it, where nobody is named

    @property
    def sequence(self) -> int:
        """The last line of the kernel's log that is told with it; 0 if there is none."""
        return self.up_to if self.victim is None else self.victim.sequence


@dataclass(slots=True)
class Untold:
    """Kills that wait until they may be told: the first by name, of more only how many, as they may
    wait for minutes, and a container can have thousands killed in a second.
    """

    _kills: deque[Kill] = field(default_factory=deque[Kill])
    _more: dict[tuple[bool, bool], Kill] = field(default_factory=dict[tuple[bool, bool], Kill])

    def add(self, kill: Kill) -> None:
        """One more. Behind a number of them comes nobody by name: lines of the log are told in
        their order, or the next lxcd would take for told what is not.
        """
        if not self._more and len(self._kills) < _WAITING:
            self._kills.append(kill)
            return
        kind = kill.counted, kill.missed
        sum_ = self._more.get(kind) or replace(kill, victim=None, count=0)
        up_to = max(sum_.up_to, kill.sequence)
        self._more[kind] = replace(sum_, count=sum_.count + kill.count, up_to=up_to)

    def take(self) -> Kill:
        """The first of them. The caller knows that there is one."""
        if self._kills:
            return self._kills.popleft()
        return self._more.pop(next(iter(self._more)))

    def take_all(self) -> list[Kill]:
        """All of them."""
        return [self.take() for _ in range(len(self))]

    def __len__(self) -> int:
        """How many are to be told, a number of them being one."""
        return len(self._kills) + len(self._more)


@dataclass(slots=True)
class Kills:
    """Of one life. `counted` kills were told of by an earlier lxcd; names up to `sequence` too."""

    counted: int = 0
    sequence: int = 0
    names_known: bool = True  # there is a log to wait for
    away: bool = False  # until the first look: what is new happened before
    _named: deque[Victim] = field(default_factory=deque["Victim"])
    _uncounted: deque[Victim] = field(default_factory=deque["Victim"])
    _since: float | None = None

    def name(self, victim: Victim, *, counted: bool) -> None:
        """The log names one; `counted`: the container's count has him, or will."""
        if victim.sequence <= self.sequence:
            return
        self.sequence = victim.sequence
        waiting = self._named if counted else self._uncounted
        waiting.append(victim)
        if len(waiting) > _WAITING:
            waiting.popleft()

    def settle(
        self, count: int | None, now: float, *, read: int | None = None, last: bool = False
    ) -> list[Kill]:
        """What is to be told. The log had been read up to line `read` when `count` was taken, or
        all that was named since: the kernel counts before it names, so whoever was named by then
        is in that count, and who was named later may be in the next. `last`: there will be no more.
        """
        missed, self.away = self.away, False
        told = [Kill(victim, missed=missed, counted=False) for victim in self._uncounted]
        self._uncounted.clear()
        if count is None:
            # A kernel that does not count: the log is all there is.
            told += [Kill(victim, missed=missed) for victim in self._named]
            self._named.clear()
            return told
        fresh = max(0, count - self.counted)
        # Of more names than kills the oldest were told already.
        surely = sum(read is None or victim.sequence <= read for victim in self._named)
        for _ in range(surely - fresh):
            self._named.popleft()
        named = [self._named.popleft() for _ in range(min(fresh, len(self._named)))]
        told += [Kill(victim, missed=missed) for victim in named]
        self.counted += len(named)
        unnamed = fresh - len(named)
        if not unnamed:
            self._since = None
            return told
        if self._since is None:
            self._since = now
        if last or missed or not self.names_known or now >= self._since + NAME_SECONDS:
            told.append(Kill(None, unnamed, missed))
            self.counted += unnamed
            self._since = None
        return told

    @property
    def waiting(self) -> bool:
        """Kills are counted whose names may still come: ask again in NAME_SECONDS."""
        return self._since is not None
