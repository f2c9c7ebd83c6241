"""What befalls running containers: kills for want of memory, and limits that they meet.

Each is watched from its start, or from when this lxcd has found it, to its end, through one
descriptor for all (`cgroup/watch.py`) and the kernel's log (`cgroup/kmsg.py`). A look costs a
thread and a few small files, and comes at most once in a second for a container that has something
reported of it all the time. What goes on for long is told less and less often (`pace.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lxcd.cgroup import counters, kmsg
from lxcd.cgroup.watch import Watch
from lxcd.kernel import procfs
from lxcd.supervisor import alarm_events
from lxcd.supervisor.kills import NAME_SECONDS, Kills, Untold
from lxcd.supervisor.pace import FIRST_SECONDS, LONGEST_SECONDS, Pace
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from lxcd.cgroup.counters import Counts
    from lxcd.cgroup.kmsg import Found, Victim
    from lxcd.cgroup.tree import Payload, Trees
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.kills import Kill
    from lxcd.supervisor.lull import Lull

_log = logging.getLogger(__name__)
_PAUSE_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_NAME_PAUSE_SECONDS = 0.05
# The bell of version 1 rings before the kill; where the log does not tell, it is looked for then.
_AFTER_SECONDS = (0.3, 2.0)
# A kill so long before its end may be why a container ended.
_RECENT_SECONDS = 5.0
_BURST = 10  # kills that are told one by one
_NEVER = float("-inf")
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO: the kernel's log has its numbers


@dataclass(slots=True)
class _Life:
    """A container that is watched."""

    container: Container
    number: int
    payload: Payload
    kills: Kills
    found: bool  # its counts are from before this lxcd, until the first look
    hits: dict[str, int] = field(default_factory=dict[str, int])  # that were told
    hits_told: dict[str, float] = field(default_factory=dict[str, float])
    paces: defaultdict[str, Pace] = field(default_factory=lambda: defaultdict(Pace))
    untold: Untold = field(default_factory=Untold)
    kill_pace: Pace = field(default_factory=lambda: Pace(_BURST))
    init_killed: bool = False
    last_kill: float = _NEVER
    last_look: float = _NEVER
    again: list[float] = field(default_factory=list[float])
    quiet_seconds: float = FIRST_SECONDS
    timer: asyncio.TimerHandle | None = None


class Alarms:
    """Of all containers of this lxcd."""

    def __init__(
        self, trees: Trees, begin: Callable[[Coroutine[Any, Any, None]], None], lull: Lull
    ) -> None:
        """`begin` has something done beside what is being done."""
        self._begin = begin
        self._lull = lull
        self._mountpoints = [tree.mountpoint for tree in trees.hierarchies]
        self._watch = Watch()
        self._numbers = itertools.count(1)
        self._lives: dict[Container, _Life] = {}
        self._by_number: dict[int, _Life] = {}
        self._by_path: dict[str, _Life] = {}
        self._by_init: dict[int, _Life] = {}
        self._new: set[int] = set()
        self._dirty: set[int] = set()
        self._rung = asyncio.Event()
        # What the log says of the time before `listen`, for containers that are yet to be found.
        self._past: list[Victim] | None = []
        self._complained = False
        self._kernel_log = _kernel_log()
        own_pids = procfs.namespace_id("self", "pid") == _FIRST_PID_NAMESPACE
        self._sees_inits = self._kernel_log is not None and own_pids

    @property
    def sequence(self) -> int:
        """The last line of the kernel's log that was read; 0 if it is not read."""
        return self._kernel_log.sequence if self._kernel_log is not None else 0

    def listen(self) -> None:
        """From now on: all containers that an earlier lxcd has left were found."""
        if self._kernel_log is not None:
            if self._lives:
                self._hear()
            else:
                self._kernel_log.skip()
            self._watch.include(self._kernel_log.fileno())
        self._past = None
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._ring)
        self._begin(self._run())

    def begin(self, container: Container, *, found: bool = False) -> None:
        """Its life has begun, or was `found` by this lxcd."""
        self.end(container)
        record, payload = container.record, container.payload
        kills = Kills(
            record.oom_kills,
            record.oom_sequence,
            names_known=self._kernel_log is not None,
            away=found,
        )
        life = _Life(container, next(self._numbers), payload, kills, found)
        self._lives[container] = self._by_number[life.number] = life
        self._by_init[record.pid] = life
        for path in self._paths(payload):
            self._by_path[path] = life
        for victim in self._past or ():
            if self._victims(victim) is life:
                self._name(life, victim)
        self._begin(self._include(life))

    async def _include(self, life: _Life) -> None:
        """No start need wait for it: the first look finds what was before."""
        await self._lull.wait()
        if life.number in self._by_number:
            self._new.add(life.number)
            self._rung.set()

    def end(self, container: Container) -> None:
        """Do not watch it any more."""
        life = self._lives.pop(container, None)
        if life is None:
            return
        del self._by_number[life.number]
        if self._by_init.get(container.record.pid) is life:
            del self._by_init[container.record.pid]
        for path in self._paths(life.payload):
            if self._by_path.get(path) is life:
                del self._by_path[path]
        if life.timer is not None:
            life.timer.cancel()
        self._new.discard(life.number)
        self._watch.remove(life.number)

    async def conclude(self, container: Container) -> bool:
        """Its init has ended: tell what was not told yet, while its cgroups are there. True: the
        OOM killer may have ended it.
        """
        life = self._lives.get(container)
        if life is None:
            return False
        now = asyncio.get_running_loop().time
        while True:
            self._hear()
            read = self.sequence
            counts = await in_thread(counters.read, life.payload)
            self._hear()
            self._settle(life, counts, read)
            if not life.kills.waiting:
                break
            # The kernel writes the name next.
            await asyncio.sleep(_NAME_PAUSE_SECONDS)
        self._tell_kills(life, last=True)
        self._tell_hits(life, counts, last=True)
        self.end(container)
        if self._sees_inits and not container.record.request.application:
            # Its line is never held back.
            return life.init_killed
        # PID 1 of an application ends as its command did, and that one's pid nobody knows here.
        return life.init_killed or now() - life.last_kill < _RECENT_SECONDS

    def close(self) -> None:
        """Let go of all: containers go on."""
        asyncio.get_running_loop().remove_reader(self._watch.fileno())
        for container in list(self._lives):
            self.end(container)
        self._watch.close()
        if self._kernel_log is not None:
            self._kernel_log.close()

    # ---- looking

    def _ring(self) -> None:
        # Not again before all of it was looked at, and a pause.
        asyncio.get_running_loop().remove_reader(self._watch.fileno())
        self._rung.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._rung.wait()
            self._rung.clear()
            self._include_new()
            self._answer_bells(loop.time())
            self._hear()
            looked = [self._by_number[one] for one in self._dirty if one in self._by_number]
            self._dirty.clear()
            if looked:
                payloads, read = [life.payload for life in looked], self.sequence
                found = await in_thread(_read_all, payloads)
                # After the counts: who was counted is in the log by now, or in a moment.
                self._hear()
                for life, counts in zip(looked, found, strict=True):
                    if self._lives.get(life.container) is life:
                        self._look(life, counts, read)
            await asyncio.sleep(_PAUSE_SECONDS)
            loop.add_reader(self._watch.fileno(), self._ring)

    def _include_new(self) -> None:
        new, self._new = self._new, set()
        for number in new:
            problem = self._watch.add(number, self._by_number[number].payload)
            if problem and not self._complained:
                self._complained = True
                _log.warning("kills and limits are not told of at once: %s", problem)
            self._dirty.add(number)

    def _answer_bells(self, now: float) -> None:
        for number in self._watch.take():
            life = self._by_number.get(number)
            if life is None:
                continue
            life.again = [now + seconds for seconds in _AFTER_SECONDS]
            if now >= life.last_look + _LOOK_SECONDS:
                self._dirty.add(number)
            else:
                life.again.append(life.last_look + _LOOK_SECONDS)
                self._schedule(life, min(life.again))

    def _look(self, life: _Life, counts: Counts, read: int) -> None:
        now = asyncio.get_running_loop().time()
        life.last_look = now
        self._settle(life, counts, read)
        self._tell_kills(life)
        grown = self._tell_hits(life, counts)
        life.again = [at for at in life.again if at > now]
        times = list(life.again)
        if life.kills.waiting:
            times.append(now + NAME_SECONDS)
        if life.untold:
            times.append(now + life.kill_pace.wait(now))
        times += [
            now + life.paces[name].wait(now)
            for name, count in counts.hits.items()
            if count > life.hits.get(name, 0)
        ]
        if counts.hits.get("pids") and counts.pids_silent:
            # The kernel has said all that it ever says of it.
            seconds = FIRST_SECONDS if grown else min(2 * life.quiet_seconds, LONGEST_SECONDS)
            life.quiet_seconds = seconds
            times.append(now + seconds)
        if times:
            self._schedule(life, min(times))

    def _schedule(self, life: _Life, at: float) -> None:
        """Look again then, if not before."""
        if life.timer is not None:
            if life.timer.when() <= at:
                return
            life.timer.cancel()

        def look() -> None:
            life.timer = None
            self._dirty.add(life.number)
            self._rung.set()

        life.timer = asyncio.get_running_loop().call_at(at, look)

    # ---- the kernel's log

    def _hear(self) -> None:
        for found in self._kernel_log.read() if self._kernel_log is not None else ():
            self._heard(found)

    def _heard(self, found: Found) -> None:
        if isinstance(found, kmsg.ForkRejected):
            life = self._life_of(found.cgroup)
            if life is not None:
                self._attend(life)
            return
        if self._past is None:
            found = _looked_at(found)
        life = self._victims(found)
        if life is not None:
            self._name(life, found)
        elif self._past is not None:
            self._past.append(found)

    def _name(self, life: _Life, victim: Victim) -> None:
        if victim.sequence <= life.kills.sequence:
            return
        memory = counters.place(life.payload, "memory")
        own = not victim.cgroup or self._by_path.get(victim.cgroup) is life
        life.kills.name(victim, counted=own or memory.version != 1)
        if victim.pid == life.container.record.pid:
            life.init_killed = True
        self._attend(life)

    def _attend(self, life: _Life) -> None:
        self._dirty.add(life.number)
        self._rung.set()

    def _victims(self, victim: Victim) -> _Life | None:
        """Whose a victim is. The log may not tell its cgroup, but always its number."""
        if cgroup := victim.cgroup or victim.seen_in:
            return self._life_of(cgroup)
        return self._by_init.get(victim.pid)

    def _life_of(self, cgroup: str) -> _Life | None:
        """Whose a cgroup is: its own, or one below."""
        while cgroup:
            life = self._by_path.get(cgroup)
            if life is not None:
                return life
            cgroup = cgroup.rpartition("/")[0]
        return None

    def _paths(self, payload: Payload) -> set[str]:
        """Its directories as the kernel names them: from the top of their trees."""
        found: set[str] = set()
        for path in payload.directories.values():
            for mountpoint in self._mountpoints:
                if path.startswith(f"{mountpoint}/"):
                    found.add(path.removeprefix(mountpoint))
        return found

    # ---- telling

    def _settle(self, life: _Life, counts: Counts, read: int) -> None:
        if life.found:
            # Limits that were met while lxcd was away are no news.
            life.found, life.hits = False, dict(counts.hits)
        now = asyncio.get_running_loop().time()
        child = life.container.child
        over = child is not None and child.exited is not None
        for kill in life.kills.settle(counts.killed, now, read=read):
            life.untold.add(kill)
            if over or not kill.missed:
                life.last_kill = now

    def _tell_kills(self, life: _Life, *, last: bool = False) -> None:
        now = asyncio.get_running_loop().time()
        told: list[Kill] = []
        while life.untold and life.kill_pace.fresh(now) and life.kill_pace.may(now):
            kill = life.untold.take()
            told.append(kill)
            self._tell_kill(life, kill)
        if life.untold and (last or life.kill_pace.may(now)):
            many = life.untold.take_all()
            told += many
            message, details = alarm_events.kills(many)
            life.container.tell("container.oom_killed", message=message, details=details)
        if told:
            self._remember(life, told)

    def _tell_kill(self, life: _Life, kill: Kill) -> None:
        victim = kill.victim
        limit = None
        if victim is None or self._by_path.get(victim.limit_cgroup) is life:
            limit = counters.limit(life.payload, "memory")
        init = victim is not None and victim.pid == life.container.record.pid
        message, details = alarm_events.kill(kill, limit, init=init)
        life.container.tell("container.oom_killed", message=message, details=details)

    def _remember(self, life: _Life, told: list[Kill]) -> None:
        """For the next lxcd: what was told."""
        container = life.container
        sequences = [kill.sequence for kill in told]
        container.record = container.record.but(
            oom_kills=container.record.oom_kills + sum(one.count for one in told if one.counted),
            oom_sequence=max([container.record.oom_sequence, *sequences]),
        )
        container.write_record()

    def _tell_hits(self, life: _Life, counts: Counts, *, last: bool = False) -> bool:
        """Whether there were any."""
        now = asyncio.get_running_loop().time()
        grown = False
        for name, count in counts.hits.items():
            before = life.hits.get(name, 0)
            if count < before:
                # A cgroup inside has gone, and its count with it (`counters`).
                life.hits[name] = count
            if count <= before:
                continue
            grown = True
            if not (life.paces[name].may(now) or last):
                continue
            since = now - life.hits_told[name] if name in life.hits_told else 0.0
            life.hits[name], life.hits_told[name] = count, now
            limit = counters.limit(life.payload, name)
            message, details = alarm_events.hit(name, count - before, limit, since)
            life.container.tell("container.limit_hit", message=message, details=details)
        return grown


def _read_all(payloads: list[Payload]) -> list[Counts]:
    return [counters.read(one) for one in payloads]


def _kernel_log() -> kmsg.Log | None:
    try:
        return kmsg.Log()
    except OSError as error:
        _log.warning(
            "%s: %s (it wants CAP_SYSLOG): victims of the OOM killer are told without their names",
            kmsg.PATH,
            error.strerror,
        )
        return None


def _looked_at(victim: Victim) -> Victim:
    """With what its process still tells, if it has not been reaped yet: its pid inside, and its
    cgroup where the log had none. Version 1 has forgotten that by then, version 2 has not:
    cgroups(7).
    """
    try:
        status = procfs.status(victim.pid)
        cgroup = "" if victim.cgroup else procfs.cgroups(victim.pid).get("", "")
    except (OSError, ValueError):
        return victim
    if status.comm != kmsg.unescape(victim.name) or status.uid != victim.uid:
        return victim  # its number is another's by now
    return replace(victim, seen_in=cgroup, container_pid=status.pids[-1])
