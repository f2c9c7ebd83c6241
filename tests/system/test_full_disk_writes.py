"""One write of lxcd below its runtime directory finds no room, whichever: it is done or refused, and nothing is left over.

A full disk (`test_full_disk`) refuses the first write of a verb; here it is each of them, and all others find room. The
default check takes a few of each verb, `long` all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from lxcd.v1 import container_pb2, exec_pb2
from tests.system import cutter
from tests.system.boxes import Refused
from tests.system.consistency import FEW_PREPARED
from tests.system.host import Host
from tests.system.machine import DEADLINE, until
from tests.system.scenes import Scene, every, is_consistent, is_of_use, reached, sample, traced

pytestmark = pytest.mark.skipif(not cutter.REFUSES, reason="the cutter knows no such registers")

_SAMPLE = 3
# Not every call comes again in the same number: what is prepared beside is done in its own time.
_FIRED, _FIRED_OF_SAMPLE = 0.7, 0.5


def _exec(scene: Scene) -> None:
    """One that the next lxcd would find again, from its begin until it is forgotten."""
    with scene.host.channel() as api:
        request = exec_pb2.CreateExecRequest(container=scene.name, command=["/bin/true"])
        made = api.exec.CreateExec(request, timeout=DEADLINE)
        api.exec.WaitExec(exec_pb2.WaitExecRequest(id=made.id), timeout=DEADLINE)
        api.exec.DeleteExec(exec_pb2.DeleteExecRequest(id=made.id), timeout=DEADLINE)
    scene.answered = True


def _update(scene: Scene) -> None:
    """A limit that is another one than now."""
    limit = 301 if _limit(scene) == 300 else 300
    request = container_pb2.UpdateContainerRequest(
        container=container_pb2.Container(name=scene.name), scope=container_pb2.SCOPE_LIVE
    )
    request.changes.add(key="limits.pids", values=[str(limit)])
    scene.call("UpdateContainer", request)
    assert _limit(scene) == limit


def _limit(scene: Scene) -> int:
    cgroups = scene.found()[scene.name].cgroups
    text = Path(cgroups.get("pids") or cgroups["unified"], "pids.max").read_text().strip()
    return int(text) if text.isdigit() else 0


@dataclass(frozen=True)
class Verb:
    """What finds no room, what comes before it, the states it leads through, and how often it needs room at the least."""

    before: Callable[[Scene], None]
    act: Callable[[Scene], None]
    states: tuple[str, ...]
    least: int


VERBS = {
    "create": Verb(Scene.alone, Scene.create, ("GONE", "STOPPED"), 3),
    "start": Verb(Scene.defined, Scene.start, ("STOPPED", "RUNNING"), 5),
    "run": Verb(Scene.alone, Scene.run, ("GONE", "RUNNING"), 5),
    "exec": Verb(Scene.running, _exec, ("RUNNING",), 2),
    "stop": Verb(Scene.running, Scene.stop, ("RUNNING", "STOPPED"), 2),
    "rename": Verb(Scene.defined, Scene.rename, ("STOPPED", "GONE"), 1),
    "freeze": Verb(Scene.running, Scene.freeze, ("RUNNING", "FROZEN"), 1),
    "update": Verb(Scene.running, _update, ("RUNNING",), 1),
}
every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())


def _refuse(scene: Scene, verb: Verb, number: int) -> None:
    """Do it once with no room for the n-th write, look at what there is, and do it again."""
    host = scene.host
    scene.calls, scene.fired = [], False
    scene.problems.clear()
    verb.before(scene)
    scene.answered = False
    complaints = host.log_text().count("Traceback")
    with traced(scene, number, str(host.run_dir / "private")):
        try:
            verb.act(scene)
        except grpc.RpcError as error:
            refused = Refused(error)
            assert scene.answered or refused.code == "RESOURCE_EXHAUSTED", refused
            assert refused.metadata.get("errno") == "ENOSPC", refused
    assert host.log_text().count("Traceback") == complaints, "there is a traceback in the log"
    is_consistent(scene)
    now = reached(scene)
    assert now in verb.states, f"it is {now}"
    if scene.answered:
        assert now == verb.states[-1], f"it was done, and is {now}"
    else:
        # There is room again.
        verb.act(scene)
        until(lambda: reached(scene) == verb.states[-1], f"it is {verb.states[-1]}")
        is_consistent(scene)
    _is_known_to_the_next(scene, verb.states[-1])
    for name in scene.found():
        is_of_use(scene, name)


def _is_known_to_the_next(scene: Scene, state: str) -> None:
    """What could not be written down has not confused it. Events may be lost: those that found no room."""
    problems = list(scene.problems)
    before = {name: one.pid for name, one in scene.found().items()}
    scene.host.kill_daemon()
    scene.host.start_daemon()
    is_consistent(scene)
    scene.problems[:] = problems
    assert {name: one.pid for name, one in scene.found().items()} == before
    assert reached(scene) == state


def _refuse_everywhere(host: Host, verb: Verb, most: int = 0) -> None:
    """At `most` writes, or all."""
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    scene = Scene(host)
    # The first time some things are done that are not done again.
    _refuse(scene, verb, 0)
    _refuse(scene, verb, 0)
    assert not scene.fired
    points = scene.calls
    assert len(points) >= verb.least, f"{len(points)} points: {points}"
    problems: list[str] = []
    chosen = sample(points, most) if most else every(points)
    fired = 0
    for number in chosen:
        try:
            _refuse(scene, verb, number)
        except (AssertionError, grpc.RpcError) as error:
            scene.problems.append(
                str(Refused(error) if isinstance(error, grpc.RpcError) else error)
            )
            if host.daemon is None:
                host.start_daemon()
            scene.clear()
            scene.watch.sweep()
        fired += scene.fired
        call = " ".join(scene.calls[number - 1]) if number <= len(scene.calls) else "none"
        where = f"no room for {number} of {len(points)}, {call}"
        problems += [f"{where}: {problem}" for problem in scene.problems]
    scene.clear()
    assert not os.listdir(host.lxcpath)
    assert not os.listdir(host.run_dir / "private/containers")
    execs = host.run_dir / "private/execs"
    assert not execs.exists() or not os.listdir(execs)
    enough = (_FIRED_OF_SAMPLE if most else _FIRED) * len(chosen)
    assert fired >= enough, f"of {len(chosen)} writes {fired} found no room"
    assert not problems, "\n".join([f"{len(problems)} problems:", *problems])


@every_verb
def test_a_write_that_finds_no_room_is_a_refusal_and_no_more(cold_host: Host, verb: Verb) -> None:
    _refuse_everywhere(cold_host, verb, _SAMPLE)


@pytest.mark.long
@pytest.mark.timeout(7200)
@every_verb
def test_any_write_that_finds_no_room_is_a_refusal_and_no_more(cold_host: Host, verb: Verb) -> None:
    _refuse_everywhere(cold_host, verb)
