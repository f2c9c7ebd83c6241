"""lxcd is killed at every point of what it does, and on return everything is done or undone, and told.

A point is just before a system call that changes something outside of lxcd: see `cutter`. The default check takes a few of
the points of some verbs, `long` takes all of all.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from lxcd.supervisor import removal
from tests.system.boxes import Refused
from tests.system.calls import events, state
from tests.system.consistency import FEW_PREPARED
from tests.system.host import Host
from tests.system.machine import until
from tests.system.scenes import TAG, Scene, every, is_consistent, is_of_use, reached, sample, traced

_SAMPLE = 4
# Of a second run not every call comes again, and some come in another order: threads are at work.
_FIRED, _FIRED_OF_SAMPLE = 0.8, 0.5
_CUT_SHORT = ("UNAVAILABLE", "CANCELLED")


@dataclass(frozen=True)
class Verb:
    """What is cut short, what comes before it, the states that it leads through, to the last; and how many points there are
    at the very least: without any this would test nothing.
    """

    before: Callable[[Scene], None]
    act: Callable[[Scene], None]
    states: tuple[str, ...]
    least: int


VERBS = {
    "create": Verb(Scene.alone, Scene.create, ("GONE", "STOPPED"), 300),
    "start": Verb(Scene.defined, Scene.start, ("STOPPED", "RUNNING"), 30),
    "start-mapped": Verb(Scene.mapped, Scene.start, ("STOPPED", "RUNNING"), 30),
    "start-prepared": Verb(Scene.prepared, Scene.start, ("STOPPED", "RUNNING"), 15),
    "start-devices": Verb(Scene.wired, Scene.start, ("STOPPED", "RUNNING"), 40),
    "kill-devices": Verb(Scene.wired_up, Scene.kill, ("RUNNING", "STOPPED"), 10),
    "run": Verb(Scene.alone, Scene.run, ("GONE", "RUNNING"), 40),
    "stop": Verb(Scene.running, Scene.stop, ("RUNNING", "STOPPED"), 10),
    "kill": Verb(Scene.running, Scene.kill, ("RUNNING", "STOPPED"), 8),
    "vanish": Verb(Scene.transient, Scene.kill, ("RUNNING", "GONE"), 10),
    "delete": Verb(Scene.defined, Scene.delete, ("STOPPED", "GONE"), 150),
    "delete-running": Verb(Scene.running, Scene.delete, ("RUNNING", "STOPPED", "GONE"), 150),
    "rename": Verb(Scene.defined, Scene.rename, ("STOPPED", "GONE"), 10),
    "freeze": Verb(Scene.running, Scene.freeze, ("RUNNING", "FROZEN"), 4),
    "thaw": Verb(Scene.frozen, Scene.thaw, ("FROZEN", "RUNNING"), 4),
}
every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
# For the default check: those that touch the disk, and one of each half of a life.
some_verbs = pytest.mark.parametrize(
    "verb",
    [
        "create",
        "start",
        "start-mapped",
        "start-devices",
        "stop",
        "kill-devices",
        "vanish",
        "delete",
        "rename",
    ],
)


def _cut_verb(scene: Scene, verb: Verb, number: int) -> None:
    """Do it once, and look at what there is after lxcd was killed at the n-th point and came back."""
    host = scene.host
    scene.calls, scene.fired = [], False
    scene.problems.clear()
    verb.before(scene)
    keeper = host.keeper_pid
    scene.answered = False
    with traced(scene, number):
        try:
            verb.act(scene)
        except grpc.RpcError as error:
            refused = Refused(error)
            assert refused.code in _CUT_SHORT, refused
    host.start_daemon()
    assert host.keeper_pid == keeper, "there is another keeper"
    is_consistent(scene)
    now = reached(scene)
    if scene.answered:
        assert now == verb.states[-1], f"it was done, and is {now}"
    assert now in verb.states, f"it is {now}"
    if now != verb.states[-1]:
        # Whoever asks again gets it.
        verb.act(scene)
        until(lambda: reached(scene) == verb.states[-1], f"it is {verb.states[-1]}")
        is_consistent(scene)
    for name in scene.found():
        is_of_use(scene, name)


def _cut_everywhere(
    host: Host, cut: Callable[[Scene, int], None], least: int, most: int = 0
) -> None:
    """At `most` points, or all; `least` are there."""
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    scene = Scene(host)
    # The first time some things are done that are not done again.
    cut(scene, 0)
    cut(scene, 0)
    points = scene.calls
    assert len(points) >= least, f"{len(points)} points: {points}"
    problems: list[str] = []
    chosen = sample(points, most) if most else every(points)
    fired = 0
    for number in chosen:
        try:
            cut(scene, number)
        except (AssertionError, grpc.RpcError) as error:
            scene.problems.append(
                str(Refused(error) if isinstance(error, grpc.RpcError) else error)
            )
            if host.daemon is None:
                host.start_daemon()
            scene.clear()
            scene.watch.sweep()
        fired += scene.fired
        # Not always what it was the first time: threads are at work.
        call = " ".join(scene.calls[number - 1]) if number <= len(scene.calls) else "the end"
        where = f"before {number} of {len(points)}, {call}"
        problems += [f"{where}: {problem}" for problem in scene.problems]
    scene.clear()
    scene.unwire()
    assert not os.listdir(host.lxcpath)
    assert not os.listdir(host.run_dir / "private/containers")
    enough = (_FIRED_OF_SAMPLE if most else _FIRED) * len(chosen)
    assert fired >= enough, f"of {len(chosen)} cuts {fired} were made"
    assert not problems, "\n".join([f"{len(problems)} problems:", *problems])


@some_verbs
def test_what_is_cut_short_is_done_or_undone(cold_host: Host, verb: str) -> None:
    _cut_everywhere(
        cold_host,
        lambda scene, number: _cut_verb(scene, VERBS[verb], number),
        VERBS[verb].least,
        _SAMPLE,
    )


@pytest.mark.long
@pytest.mark.timeout(7200)
@every_verb
def test_what_is_cut_short_anywhere_is_done_or_undone(cold_host: Host, verb: Verb) -> None:
    _cut_everywhere(cold_host, lambda scene, number: _cut_verb(scene, verb, number), verb.least)


# The way back itself


def _cut_return(scene: Scene, number: int) -> None:
    """lxcd dies in the middle of a start, and comes back to that, to a life that has ended, one that goes on, half a delete."""
    host = scene.host
    scene.calls, scene.fired = [], False
    scene.problems.clear()
    scene.clear()
    for name in ("runs", "ends"):
        scene.name = f"{TAG}.{name}"
        scene.create()
        scene.start()
    runs, ends = (scene.found()[f"{TAG}.{name}"].pid for name in ("runs", "ends"))
    scene.name = f"{TAG}.starts"
    scene.create()
    with host.channel() as api:
        last = events(api)[-1].sequence
    Path(host.environment["LXCD_FAULTS"]).write_text("phase:walk kill-daemon")
    with pytest.raises(grpc.RpcError):
        scene.start()
    host.kill_daemon()
    os.kill(ends, signal.SIGKILL)
    deleted = str(host.lxcpath / f"{TAG}.deleted")
    aside = Path(removal.hidden(deleted, removal.DELETING, str(host.run_dir)))
    (aside / "rootfs/etc").mkdir(parents=True)
    (aside / "config").touch()
    argv = [sys.executable, "-m", "lxcd", *host.roots]
    host.daemon = host.machine.spawn(argv, host.environment, host.log)
    with traced(scene, number):
        until(lambda: scene.daemon_has_ended() or host._accepts(), "lxcd is back, or dead")
    host.start_daemon()
    is_consistent(scene)
    found = {name.removeprefix(f"{TAG}."): one for name, one in scene.found().items()}
    states = {name: state(one) for name, one in found.items()}
    assert states == {"runs": "RUNNING", "ends": "STOPPED", "starts": "STOPPED"}
    assert found["runs"].pid == runs
    # Twice, if lxcd died before it wrote down that it had told.
    with host.channel() as api:
        for name, what in (("starts", "start_failed"), ("ends", "exited")):
            assert events(api, f"container.{what}", names=(f"{TAG}.{name}",), after=last), what
    for name in found:
        is_of_use(scene, f"{TAG}.{name}")


@pytest.fixture
def faulty_host(cold_host: Host) -> Host:
    """A host whose lxcd takes a fault from a file: see `test_faults`."""
    cold_host.environment["LXCD_FAULTS"] = str(cold_host.root / "fault")
    return cold_host


def test_a_return_that_is_cut_short_is_made_up_for(faulty_host: Host) -> None:
    _cut_everywhere(faulty_host, _cut_return, 40, _SAMPLE)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_return_that_is_cut_short_anywhere_is_made_up_for(faulty_host: Host) -> None:
    _cut_everywhere(faulty_host, _cut_return, 40)
