"""kill -9 of lxcd, of the keeper, of both, of the trustee, at random moments under a load of starts, execs and stops."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from lxcd.v1 import container_pb2, exec_pb2, types_pb2
from tests.system import ledger
from tests.system.boxes import Refused, over
from tests.system.calls import application, define, events, everything, get, state
from tests.system.consistency import FEW_PREPARED
from tests.system.host import Host
from tests.system.losing import (
    TAG,
    ends_with,
    go,
    gone,
    in_order,
    kernel_tells,
    kill_both,
    kill_keeper,
    kill_trustee,
    next_keeper,
    settled,
    share,
    trustees,
)
from tests.system.machine import DEADLINE, unchanging, until

# What a call may say whose lxcd or keeper was killed. Nothing else went wrong.
_CUT = {"UNAVAILABLE", "CANCELLED"}
_WORKERS = 6
_TARGETS = ("lxcd", "keeper", "both")
_Act = Callable[[], None]
_OUTPUT = b"".join(b"%d\n" % number for number in range(1, 3001))


@dataclass
class Life:
    """One worker, from its start to the end that it was told to come to."""

    name: str
    generation: int
    code: int
    begun: int = 0  # the generation that the call which began it has named
    asked: bool = (
        False  # a stop of it was cut off; lxcd may have written down that it was asked for
    )
    ending: str = ""  # what it was told: `exit` or `kill`


@dataclass
class Soak:
    """A machine on which things are killed, and what must hold there."""

    host: Host
    seed: int
    chance: random.Random = field(init=False)
    steady: dict[str, int] = field(default_factory=dict)
    lives: dict[str, Life] = field(default_factory=dict)
    ended: list[Life] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    target: str = ""  # what is killed in this round
    call_seconds: float = 0.0  # from one call's end to the next one's, where nothing is killed
    under_way: set[object] = field(default_factory=set)
    struck: set[object] = field(default_factory=set)  # that were under way at the last kill
    counts: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)  # kills that found calls under way
    cuts: Counter[str] = field(default_factory=Counter)  # those of them that cut some off
    cut_off: bool = False
    held: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    # ---- what there is

    def set_up(self, root: Path) -> None:
        """Some that go on throughout, and some that come and go."""
        names = [f"{TAG}w{number}" for number in range(_WORKERS)]
        line = share(self.host, "never", *names)
        with self.host.channel() as api:
            for name in names:
                define(api, name, application(self.host, root, name, line))
            for kind in ("terminal", "pipes", "none"):
                name = f"{TAG}s-{kind}"
                lines = (line, "lxc.console.path = none") if kind == "none" else (line,)
                define(api, name, application(self.host, root, name, *lines))
                request = container_pb2.StartContainerRequest(
                    name=name, command=ends_with(99, "never")
                )
                if kind == "pipes":
                    request.stdio = container_pb2.STDIO_PIPES
                self.steady[name] = api.container.StartContainer(request, timeout=DEADLINE).pid
            name = f"{TAG}s-system"
            define(api, name, over(self.host, root, name))
            request = container_pb2.StartContainerRequest(name=name)
            self.steady[name] = api.container.StartContainer(request, timeout=DEADLINE).pid

    # ---- what is done

    def _call(self, what: str, call: Callable[[], Any]) -> Any:
        """What it answers, or None; a failure must be the killing's."""
        token = object()
        self.under_way.add(token)
        try:
            return call()
        except grpc.RpcError as error:
            refused = Refused(error)
            if not self._is_cut(refused):
                self.problems.append(f"{what}: {refused}")
            elif token in self.struck:
                self.cut_off = True
            return None
        finally:
            self.under_way.discard(token)

    def _is_cut(self, refused: Refused) -> bool:
        if self.target not in _TARGETS:
            # No call needs the trustee.
            return False
        if refused.code in _CUT:
            return True
        return refused.reason in ("START_FAILED", "EXEC_FAILED") and self._by_the_keeper(refused)

    @staticmethod
    def _by_the_keeper(refused: Refused) -> bool:
        codes = ("EPIPE", "ECONNRESET", "32", "104")
        return "keeper" in refused.text or refused.metadata.get("errno") in codes

    def start(self, life: Life) -> None:
        """Begin a life of a worker."""
        name = life.name
        with self.host.channel() as api:
            request = container_pb2.StartContainerRequest(
                name=name, command=ends_with(life.code, name)
            )
            reply = self._call(
                f"start {name}", lambda: api.container.StartContainer(request, timeout=DEADLINE)
            )
        if reply is not None:
            life.begun = reply.generation

    def run(self, name: str, code: int) -> None:
        """A command in one of the steady ones: all of its output, and its exit status."""
        script = f"seq 1 1000; cat; seq 1001 3000; exit {code}"
        request = exec_pb2.RunExecRequest(
            container=name, command=["/bin/sh", "-c", script], stdin=b"in\n" * 1000
        )

        def run() -> None:
            with self.host.channel() as api:
                done = api.exec.RunExec(request, timeout=DEADLINE)
            if done.stdout.replace(b"in\n", b"") != _OUTPUT or done.stdout.count(b"in\n") != 1000:
                self.problems.append(f"exec in {name}: {len(done.stdout)} bytes of output")
            if done.exit.code != code:
                self.problems.append(f"exec in {name}: {done.exit} instead of {code}")

        self._call(f"exec in {name}", run)

    def tell(self, life: Life) -> None:
        """Have a worker end by itself: it reads from its pipe once it has got so far."""
        go(self.host, life.name)

    def kill(self, life: Life) -> None:
        """Have lxcd end a worker."""
        with self.host.channel() as api:
            request = container_pb2.StopContainerRequest(name=life.name, kill=True)
            done = self._call(
                f"stop {life.name}", lambda: api.container.StopContainer(request, timeout=DEADLINE)
            )
        if done is None:
            # It was told, or it was not: then it goes on, and is told again.
            life.ending, life.asked = "killed?", True

    # ---- one round

    def round(self, target: str) -> None:
        """Some of everything, a kill in the middle of it, and then all must be right."""
        self.target, self.cut_off, self.struck = target, False, set()
        calls, others = self._acts()
        acts = [*calls, *others]
        self.chance.shuffle(acts)
        keeper = self.host.keeper_pid
        with ThreadPoolExecutor(len(acts)) as pool:
            begun = time.monotonic()
            futures = {act: pool.submit(act) for act in acts}
            if target:
                self._wait([futures[call] for call in calls])
                self._strike(target, keeper)
            for future in futures.values():
                future.result()
            if not target:
                self.call_seconds = (time.monotonic() - begun) / len(calls)
        if target in ("keeper", "both"):
            keeper = next_keeper(self.host, keeper)
        assert self.host.keeper_pid == keeper
        if target:
            self.hits[target] += bool(self.struck)
            self.cuts[target] += self.cut_off
        self._look(target)
        in_order(self.host, keeper)

    def _acts(self) -> tuple[list[_Act], list[_Act]]:
        """What is to be done next: calls, and what lxcd is not asked for."""
        calls: list[_Act] = []
        others: list[_Act] = []
        for number in range(_WORKERS):
            name = f"{TAG}w{number}"
            life = self.lives.get(name)
            if life is None:
                life = self.lives[name] = Life(name, 0, self.chance.randrange(100))
                calls.append(partial(self.start, life))
            elif self.chance.random() < 0.7:
                life.ending = self.chance.choice(["exit", "kill"])
                if life.ending == "exit":
                    others.append(partial(self.tell, life))
                else:
                    calls.append(partial(self.kill, life))
        calls += [
            partial(self.run, name, self.chance.randrange(100))
            for name in self.chance.sample(sorted(self.steady), 2)
        ]
        return calls, others

    def _wait(self, calls: list[Future[None]]) -> None:
        """Until one is under way and some are over, and into the next one: however fast they are, others are under way
        then.
        """

        def begun() -> bool:
            return bool(self.under_way) or any(call.done() for call in calls)

        until(begun, "a call is under way")
        for _ in islice(as_completed(calls), self.chance.randrange(len(calls) // 2)):
            pass
        # Not past the last of them: the first ones, by which the time was taken, may have been slow.
        end = time.monotonic() + self.chance.uniform(0, self.call_seconds)
        left = {call for call in calls if not call.done()}
        while len(left) > 1 and (span := end - time.monotonic()) > 0:
            left = wait(left, span, FIRST_COMPLETED).not_done

    def _strike(self, target: str, keeper: int) -> None:
        self.counts[target] += 1
        self.struck = set(self.under_way)
        match target:
            case "keeper":
                kill_keeper(self.host, keeper)
            case "trustee":
                kill_trustee(self.host)
            case "lxcd":
                self.host.kill_daemon()
                self.host.start_daemon()
            case _:
                kill_both(self.host, keeper)
                self.host.start_daemon()

    def _look(self, target: str) -> None:
        """What has become of everybody."""
        # Who was told to exit does so; it may take it a moment.
        exiting = [life.name for life in self.lives.values() if life.ending == "exit"]

        def over() -> bool:
            found = settled(self.host)
            return all(found[name] == "STOPPED" for name in exiting)

        until(over, f"those that were told to have ended: {exiting}")
        with self.host.channel() as api:
            found = everything(api)
        for name, pid in self.steady.items():
            one = found[name]
            if (state(one), one.pid, one.generation) != ("RUNNING", pid, 1) or gone(pid):
                self.problems.append(f"{name} has not gone on: {one}")
        for name, life in list(self.lives.items()):
            runs = state(found[name]) == "RUNNING"
            if not life.generation:
                # Its start was cut off or was not: it is wholly there, or, in the first case, not at all.
                life.generation = found[name].generation
                if life.begun and not (runs and life.generation == life.begun):
                    self._not_there(life, found[name])
                if not runs:
                    del self.lives[name]
            elif life.ending == "killed?" and runs:
                life.ending = ""
            elif runs == bool(life.ending):
                self.problems.append(f"{name}: {state(found[name])}, told to {life.ending!r}")
                del self.lives[name]
            elif not runs:
                del self.lives[name]
                self.ended.append(life)
        assert not self.problems, f"after a kill of {target}:\n" + "\n".join(self.problems)

    def _not_there(self, life: Life, one: container_pb2.Container) -> None:
        """Its start was answered."""
        lost = one.exit.cause == types_pb2.CAUSE_KEEPER_LOST
        if state(one) == "STOPPED" and one.generation == life.begun and lost and not kernel_tells():
            self.ended.append(life)
        else:
            self.problems.append(f"{life} was begun, and is {one}")

    # ---- at the end

    def end_workers(self) -> None:
        """Those that run; by themselves."""
        for life in self.lives.values():
            life.ending = "exit"
            self.tell(life)
        with self.host.channel() as api:
            for name, life in self.lives.items():
                request = container_pb2.WaitContainerRequest(name=name, generation=life.generation)
                api.container.WaitContainer(request, timeout=DEADLINE)
        self.ended += self.lives.values()
        self.lives.clear()

    def take_stock(self, keeper: int) -> dict[str, dict[str, int]]:
        """What lxcd, its keeper and its trustee have open while nobody is connected."""
        until(lambda: not self.host.connections(), "nobody is connected to lxcd")
        (trustee,) = trustees(self.host)
        assert self.host.daemon is not None
        found = {"lxcd": self.host.daemon, "keeper": keeper, "trustee": trustee}
        return {name: ledger.descriptors(pid) for name, pid in found.items()}

    def _has_hit(self) -> None:
        """The kills came in the middle of something. What lxcd's end finds under way it cuts off; through a keeper's most
        of it goes on.
        """
        for target in _TARGETS:
            least = self.counts[target] // 2
            cut = least if target != "keeper" else self.counts[target] // 10
            assert self.hits[target] >= least, (target, self.hits, self.counts)
            assert self.cuts[target] >= cut, (target, self.cuts, self.counts)

    def finish(self) -> None:
        """End all, and look at how every life is told to have ended."""
        self.end_workers()
        keeper = self.host.keeper_pid
        in_order(self.host, keeper)
        # Whether they are new or have come through many kills: what they hold is the steady ones.
        found: dict[str, dict[str, int]] = {}

        def none_left() -> bool:
            found.update(self.take_stock(keeper))
            return found == self.held

        try:
            until(none_left, "what is open is what was at the beginning", 30)
        except AssertionError:
            message = f"open: {found}\nat the beginning: {self.held}"
            raise AssertionError(message) from None
        self._has_hit()
        with self.host.channel() as api:
            told = {
                (event.container, event.generation): event.exit
                for event in events(api, "container.exited")
            }
            for life in self.ended:
                self._is_told(life, told.pop((life.name, life.generation), None))
            # Only those that were told to have ended.
            self.problems += [f"{name} {number}: {how}" for (name, number), how in told.items()]
            numbers = [event.sequence for event in events(api)]
            assert numbers == sorted(set(numbers))
            for name, pid in self.steady.items():
                assert get(api, name).pid == pid
                stop = container_pb2.StopContainerRequest(name=name, kill=True)
                api.container.StopContainer(stop, timeout=DEADLINE)
                how = get(api, name).exit
                assert (how.signal, how.cause) == (9, types_pb2.CAUSE_REQUESTED), how
        assert not self.problems, "\n".join(self.problems)
        in_order(self.host, self.host.keeper_pid)

    def _is_told(self, life: Life, how: types_pb2.Exit | None) -> None:
        if how is None:
            self.problems.append(f"the end of {life} is lost")
            return
        if how.cause == types_pb2.CAUSE_KEEPER_LOST and not kernel_tells():
            # Its keeper had lost the trustee before, so a stranger has inherited it.
            assert "trustee" in self.counts, how
            self.counts["unknown"] += 1
            return
        self.counts[life.ending] += 1
        if life.ending == "exit":
            causes = {types_pb2.CAUSE_SELF}
            if life.asked:
                causes.add(types_pb2.CAUSE_REQUESTED)
            right = (how.WhichOneof("how"), how.code) == ("code", life.code) and how.cause in causes
        else:
            right = (how.signal, how.cause) == (9, types_pb2.CAUSE_REQUESTED)
        if not right:
            self.problems.append(f"{life} is told as {how}")


def soak(host: Host, root: Path, seed: int, kills: int) -> None:
    print(f"seed {seed}")
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    made = Soak(host, seed)
    made.set_up(root)
    # As long as nothing is killed: how long it takes, and what is open afterwards.
    made.round("")
    made.end_workers()
    kill_both(host, host.keeper_pid)
    host.start_daemon()
    keeper = host.keeper_pid
    in_order(host, keeper)
    # Sockets of what this lxcd has found are opened by and by.
    made.held = unchanging(lambda: made.take_stock(keeper), "descriptors come and go no more")
    targets = [_TARGETS[number % len(_TARGETS)] for number in range(kills)]
    targets += ["trustee"] * (kills // 4)
    made.chance.shuffle(targets)
    for target in targets:
        made.round(target)
    made.finish()
    print(f"{dict(made.counts)}, hit {dict(made.hits)}, cut {dict(made.cuts)}")


@pytest.mark.timeout(300)
def test_nobody_stops_and_no_end_is_lost(cold_host: Host, busybox_root: Path) -> None:
    soak(cold_host, busybox_root, 20_261_123, 12)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_nobody_stops_and_no_end_is_lost_in_two_hundred_kills(
    cold_host: Host, busybox_root: Path
) -> None:
    soak(
        cold_host,
        busybox_root,
        int(os.environ.get("LXCD_TEST_SEED", random.randrange(1 << 30))),
        200,
    )
