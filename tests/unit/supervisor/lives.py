"""Containers whose starts and ends a test makes happen: actors of the supervisor without a kernel below them."""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from lxcd.keeper import protocol
from lxcd.kernel.fd import Fd
from lxcd.paths import Paths
from lxcd.supervisor import container as container_module
from lxcd.supervisor import ending, nics
from lxcd.supervisor import start as starts
from lxcd.supervisor.definition import Definition
from lxcd.supervisor.events import Events
from lxcd.supervisor.held import Held
from lxcd.supervisor.house import House
from lxcd.supervisor.records import RUNNING, Record, Records, Request
from lxcd.supervisor.registry import Registry
from lxcd.supervisor.start import Started
from lxcd.supervisor.state import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from lxcd.supervisor.container import Container

EXITED, REBOOT = 0, 1  # wait statuses of an init in a pid namespace of its own
_SECONDS = 10.0  # for what comes at once, or never
CONFIG = "lxc.rootfs.path = /srv/root\n"


class Work:
    """What a thread does: it begins, and is not done before the test says so."""

    def __init__(self, answer: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._go = threading.Event()
        self.begun = asyncio.Event()

    def __call__(self, *_: object, **__: object) -> Any:
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self._go.wait(_SECONDS)
        return self._answer

    def done(self) -> None:
        """Let it be."""
        self._go.set()


async def _nothing() -> None:
    pass


async def _no_conclusion(_: Container) -> bool:
    return False


class Lives:
    """A house in which a start succeeds when the test lets it, and a reboot waits for the test."""

    def __init__(self, top: Path, patch: pytest.MonkeyPatch) -> None:
        self.paths = Paths(str(top / "lxc"), str(top / "run"), str(top / "state"))
        for path in (self.paths.lxcpath, self.paths.records, self.paths.namespaces):
            os.makedirs(path)
        self.may_start, self.starting = asyncio.Event(), asyncio.Event()
        self.may_start.set()
        self.pause = asyncio.Event()  # set: it is over
        self.failure: BaseException | None = None  # of the next start
        self.forgotten: list[Held] = []
        self.records = Records(self.paths.records)
        self.events = Events(self.paths.events)
        self.tasks: set[asyncio.Task[Any]] = set()
        nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
        self.house = House(
            paths=self.paths,
            keeper=cast(
                "Any",
                SimpleNamespace(forget=self.forgotten.append, acknowledge=nothing, leave=nothing),
            ),
            pool=cast("Any", SimpleNamespace(close=_nothing)),
            faults=cast("Any", None),
            records=self.records,
            events=self.events,
            trees=cast("Any", None),
            host=cast("Any", None),
            tasks=cast("Any", self),
            errands=cast("Any", None),
        )
        self.house.addresses = cast(
            "Any", SimpleNamespace(begin=nothing, end=nothing, twice=lambda _: ())
        )
        self.house.alarms = cast(
            "Any", SimpleNamespace(begin=nothing, conclude=_no_conclusion, sequence=0)
        )
        self.house.networks = cast("Any", SimpleNamespace(shut_down=_nothing))
        self.registry = Registry(self.house)
        patch.setattr(container_module.Container, "compile", nothing)
        patch.setattr(nics, "wanted", lambda *_: ())
        patch.setattr(starts, "start", self._start)
        sleep = asyncio.sleep

        async def sleeping(seconds: float) -> None:
            await (self.pause.wait() if seconds == ending._REBOOT_PAUSE_SECONDS else sleep(seconds))

        patch.setattr(asyncio, "sleep", sleeping)

    def create_task(self, work: Any) -> asyncio.Task[Any]:
        """As a TaskGroup."""
        self.tasks.add(task := asyncio.get_running_loop().create_task(work))
        return task

    async def close(self) -> None:
        """Whatever still waits does not any more; what went wrong is told."""
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        self.registry.close()
        self.events.close()

    # ---- what a test does

    def define(self, name: str, text: str = CONFIG) -> Container:
        """A container on disk."""
        directory = os.path.join(self.paths.lxcpath, name)
        os.mkdir(directory)
        with open(os.path.join(directory, "config"), "w", encoding="utf-8") as file:
            file.write(text)
        return self.registry.get("", name)

    async def undefined(self, name: str) -> tuple[Container, str]:
        """One that runs and has no directory but for what goes with it, which comes back."""
        actor, definition, _ = await self.registry.undefined(
            "", name, CONFIG.encode(), "request", (), "", validate_only=False
        )
        transient = os.path.join(self.paths.transient, name)
        os.makedirs(transient)
        async with actor.lock:
            await actor.start(definition, Request(), transient_dir=transient)
        return actor, transient

    async def start(self, actor: Container, request: Request | None = None) -> Held:
        """As StartContainer does."""
        async with actor.lock:
            started = await actor.start(actor.definition(), request or Request())
        return started.child

    def end(self, actor: Container, status: int = EXITED) -> None:
        """As the keeper tells it."""
        child = actor.child
        assert child is not None
        child.end(protocol.Exited(child.id, child.pid, status, 1, known=True))
        if child.on_exit is not None:
            child.on_exit(child)

    async def reboot(self, actor: Container) -> None:
        """Up to the pause before the next life."""
        self.pause.clear()
        self.end(actor, REBOOT)
        async with asyncio.timeout(_SECONDS):
            await actor.until(lambda: actor.rebooting)

    @staticmethod
    async def reaches(actor: Container, state: State) -> None:
        """Wait for a state."""
        async with asyncio.timeout(_SECONDS):
            await actor.until(lambda: actor.state is state)

    async def settle(self) -> None:
        """Let the work of the house come to its end, or to where it waits for the test."""
        while pending := [task for task in self.tasks if not task.done()]:
            await asyncio.wait(pending, timeout=1)
            if not self.may_start.is_set() or not self.pause.is_set():
                break

    def told(self, type_: str) -> int:
        """How many events there are of a type."""
        return sum(event.type == type_ for event in self.events.since(0))

    def on_disk(self) -> list[Record]:
        """What the next lxcd would find."""
        return self.records.read_all()

    async def _start(
        self, house: House, definition: Definition, made: Any, devices: Any, record: Record, *_: Any
    ) -> Started:
        del definition, made, devices
        self.starting.set()
        await self.may_start.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        child = Held(house.next_id("init"), "init", 4_000_000, Fd(-1))
        record = record.but(
            phase=RUNNING, pid=child.pid, child=child.id, namespaces=("mnt", "net", "pid")
        )
        house.records.write(record)
        return Started(child, record, {}, ())
