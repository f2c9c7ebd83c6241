"""kill -9 of lxcd, of the keeper, of both, of the trustee, at random moments under a load of starts, execs and stops."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from lxcd.v1 import container_pb2, exec_pb2, types_pb2
from tests.system.boxes import Refused, over
from tests.system.calls import application, define, events, everything, get, state
from tests.system.consistency import FEW_PREPARED
from tests.system.host import Host
from tests.system.losing import (
    TAG,
    ends_with,
    gone,
    in_order,
    kernel_tells,
    kill_both,
    kill_keeper,
    kill_trustee,
    next_keeper,
    settled,
    share,
)
from tests.system.machine import DEADLINE, until

# What a call may say whose lxcd or keeper was killed. Nothing else went wrong.
_CUT = {"UNAVAILABLE", "CANCELLED"}
_WORKERS = 6
_TARGETS = ("lxcd", "keeper", "both", "trustee")
_OUTPUT = b"".join(b"%d\n" % number for number in range(1, 3001))


@dataclass
class Life:
    """One worker, from its start to the end that it was told to come to."""

    name: str
    generation: int
    code: int
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
    counts: dict[str, int] = field(default_factory=dict)

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

    def _call(self, what: str, call: Callable[[], object]) -> bool:
        """Whether it succeeded; a failure must be the killing's."""
        try:
            call()
        except grpc.RpcError as error:
            refused = Refused(error)
            if refused.code in _CUT:
                return False
            if refused.reason in ("START_FAILED", "EXEC_FAILED") and self._by_the_keeper(refused):
                return False
            self.problems.append(f"{what}: {refused}")
            return False
        return True

    @staticmethod
    def _by_the_keeper(refused: Refused) -> bool:
        codes = ("EPIPE", "ECONNRESET", "32", "104")
        return "keeper" in refused.text or refused.metadata.get("errno") in codes

    def start(self, name: str, code: int) -> None:
        """Begin a life of a worker."""
        with self.host.channel() as api:
            request = container_pb2.StartContainerRequest(name=name, command=ends_with(code, name))
            self._call(
                f"start {name}", lambda: api.container.StartContainer(request, timeout=DEADLINE)
            )

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
        path = self.host.root / "share" / life.name

        def told() -> bool:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return False
            return True

        until(told, f"{life.name} waits to be told")

    def kill(self, life: Life) -> None:
        """Have lxcd end a worker."""
        with self.host.channel() as api:
            request = container_pb2.StopContainerRequest(name=life.name, kill=True)
            done = self._call(
                f"stop {life.name}", lambda: api.container.StopContainer(request, timeout=DEADLINE)
            )
        if not done:
            # It was told, or it was not: then it goes on, and is told again.
            life.ending = "killed?"

    # ---- one round

    def round(self, target: str) -> None:
        """Some of everything, a kill in the middle of it, and then all must be right."""
        acts: list[Callable[[], None]] = []
        for number in range(_WORKERS):
            name = f"{TAG}w{number}"
            life = self.lives.get(name)
            if life is None:
                code = self.chance.randrange(100)
                acts.append(lambda name=name, code=code: self.start(name, code))  # type: ignore[misc]
                self.lives[name] = Life(name, 0, code)
            elif self.chance.random() < 0.7:
                life.ending = self.chance.choice(["exit", "kill"])
                end = self.tell if life.ending == "exit" else self.kill
                acts.append(lambda end=end, life=life: end(life))  # type: ignore[misc]
        for name in self.chance.sample(sorted(self.steady), 2):
            code = self.chance.randrange(100)
            acts.append(lambda name=name, code=code: self.run(name, code))  # type: ignore[misc]
        self.chance.shuffle(acts)
        keeper = self.host.keeper_pid
        with ThreadPoolExecutor(len(acts)) as pool:
            begun = [pool.submit(act) for act in acts]
            time.sleep(self.chance.uniform(0, 0.3))
            self._strike(target, keeper)
            for one in begun:
                one.result()
        if target in ("keeper", "both"):
            keeper = next_keeper(self.host, keeper)
        assert self.host.keeper_pid == keeper
        self._look(target)
        in_order(self.host, keeper)

    def _strike(self, target: str, keeper: int) -> None:
        self.counts[target] = self.counts.get(target, 0) + 1
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
                # Its start was cut off or was not: it is wholly there, or not at all.
                life.generation = found[name].generation
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

    # ---- at the end

    def finish(self) -> None:
        """End all, and look at how every life is told to have ended."""
        for life in self.lives.values():
            life.ending = "exit"
            self.tell(life)
        with self.host.channel() as api:
            for name, life in self.lives.items():
                request = container_pb2.WaitContainerRequest(name=name, generation=life.generation)
                api.container.WaitContainer(request, timeout=DEADLINE)
            self.ended += self.lives.values()
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
            self.counts["unknown"] = self.counts.get("unknown", 0) + 1
            return
        self.counts[life.ending] = self.counts.get(life.ending, 0) + 1
        if life.ending == "exit":
            right = (how.WhichOneof("how"), how.code, how.cause) == (
                "code",
                life.code,
                types_pb2.CAUSE_SELF,
            )
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
    targets = [_TARGETS[number % len(_TARGETS)] for number in range(kills)]
    made.chance.shuffle(targets)
    for target in targets:
        made.round(target)
    made.finish()
    print(made.counts)


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
