"""What every actor of the supervisor works with. Built once, by `daemon.py`."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lxcd.supervisor.lull import Lull
from lxcd.supervisor.plans import Plans

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from lxcd.cgroup.tree import Trees
    from lxcd.container import plan
    from lxcd.paths import Paths
    from lxcd.supervisor.addresses import Addresses
    from lxcd.supervisor.alarms import Alarms
    from lxcd.supervisor.errands import Errands
    from lxcd.supervisor.events import Events
    from lxcd.supervisor.faults import Faults
    from lxcd.supervisor.keeper import Keeper
    from lxcd.supervisor.networks import Networks
    from lxcd.supervisor.pool import Pool
    from lxcd.supervisor.records import Records


@dataclass(slots=True)
class House:
    """The parts. `tasks` owns every task; one that fails is a mistake of ours and ends the
    daemon.
    """

    paths: Paths
    keeper: Keeper
    pool: Pool
    faults: Faults
    records: Records
    events: Events
    trees: Trees
    host: plan.Host
    tasks: asyncio.TaskGroup
    errands: Errands
    lull: Lull = field(default_factory=Lull)
    ended: bool = False  # lxcd leaves: what happens from now on is the next one's
    drains: int = 0  # under way, or with which lxcd leaves: nothing is started
    # Pid of a container's init by lxcpath and name; 0 if it does not run.
    init_of: Callable[[str, str], int] = lambda _lxcpath, _name: 0
    plans: Plans = field(init=False)
    networks: Networks = field(init=False)  # set at once: they work with the house
    addresses: Addresses = field(init=False)
    alarms: Alarms = field(init=False)
    _under_way: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def __post_init__(self) -> None:
        self.plans = Plans(self.host)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done beside what is being done."""
        self._under_way.add(task := self.tasks.create_task(work))
        task.add_done_callback(self._under_way.discard)

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """The same for what `end` does not stop."""
        self.tasks.create_task(work)

    def end(self) -> None:
        """Have what is under way stop where it is: a start undoes itself, all else is gone on with
        by the next lxcd, as after a crash.
        """
        self.ended = True
        for task in list(self._under_way):
            task.cancel()

    def let_go(self) -> None:
        """Do not watch containers any more: they go on."""
        self.addresses.close()
        self.alarms.close()

    @staticmethod
    def next_id(kind: str) -> str:
        """An id for a child of the keeper that no other child has, of this lxcd or an earlier
        one.
        """
        return f"{kind}-{secrets.token_hex(8)}"
