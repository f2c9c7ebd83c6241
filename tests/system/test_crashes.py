"""lxcd is killed at every point of what it does, and on return everything is done or undone, and told.

A point is just before a system call that changes something outside of lxcd: see `cutter`. The default check takes a few of
the points of some verbs, `long` takes all of all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from lxcd.supervisor import removal
from lxcd.v1 import container_pb2, exec_pb2
from tests.system import cutter, ledger, wires
from tests.system.boxes import Refused
from tests.system.calls import IDLE, define, events, everything, state, tree
from tests.system.consistency import FEW_PREPARED, VERSION_1, Watch, told
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

_SAMPLE = 4
# Part of the names of all containers here: nobody else's cgroup has it.
_TAG = f"c{os.environ[ledger.MARK][:10]}"
_CUT_SHORT = ("UNAVAILABLE", "CANCELLED")
_DEVICES = wires.nic("link = br0", "flags = up", "veth.pair = web0") + wires.nic(
    "link = card0", "flags = up", "name = lan", number=1, kind="phys"
)


class Scene:
    """A host whose lxcd dies in the middle of verbs; `name` is the container that the present one is about."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = ""
        self.answered = False
        self.calls: list[list[str]] = []  # that lxcd made in the present cut
        self.problems: list[str] = []  # of the present cut; these do not end the search
        self._number = 0
        self._cables = ExitStack()
        self.links: set[str] = set()  # what the host has for devices
        self.watch = Watch(host, _TAG)
        self.nothing()
        self.create()
        self.whole = tree(host.lxcpath / self.name)  # what each of them has on disk
        self.delete()

    # Verbs, as any client calls them

    def create(self) -> None:
        with self.host.channel() as api:
            define(api, self.name, "")
        self.answered = True

    def start(self, image: str = "") -> None:
        request = container_pb2.StartContainerRequest(name=self.name, command=IDLE, image=image)
        self.call("StartContainer", request)
        self.until_prepared()

    def run(self) -> None:
        self.start(image="host")

    def stop(self) -> None:
        self.call("StopContainer", container_pb2.StopContainerRequest(name=self.name))

    def kill(self) -> None:
        self.call("StopContainer", container_pb2.StopContainerRequest(name=self.name, kill=True))

    def delete(self) -> None:
        request = container_pb2.DeleteContainerRequest(name=self.name, force=True)
        self.call("DeleteContainer", request)

    def rename(self) -> None:
        request = container_pb2.RenameContainerRequest(name=self.name, new_name=self.new_name)
        self.call("RenameContainer", request)

    def freeze(self) -> None:
        self.call("FreezeContainer", container_pb2.FreezeContainerRequest(name=self.name))

    def thaw(self) -> None:
        self.call("ThawContainer", container_pb2.ThawContainerRequest(name=self.name))

    @property
    def new_name(self) -> str:
        """What a rename makes of it."""
        return f"{self.name}.new"

    def call(self, method: str, request: Any) -> None:
        """A call of the API."""
        with self.host.channel() as api:
            getattr(api.container, method)(request, timeout=DEADLINE)
        self.answered = True

    def daemon_has_ended(self) -> bool:
        """It was killed."""
        return self.host.machine.poll(self.host.daemon or 0) is not None

    def until_prepared(self) -> None:
        """What lxcd does beside a start is done: a child is prepared for the next one."""

        if VERSION_1:
            until(lambda: self.daemon_has_ended() or self.watch.stock() > 0, "a child is prepared")

    # What comes before them

    def found(self) -> dict[str, container_pb2.Container]:
        """All containers."""
        with self.host.channel() as api:
            return everything(api)

    def settled(self) -> dict[str, container_pb2.Container]:
        """The same, once nothing is under way: an end that came meanwhile may still be."""
        found: dict[str, container_pb2.Container] = {}

        def settle() -> bool:
            found.clear()
            found.update(self.found())
            return all(
                state(one) in ("RUNNING", "FROZEN") or (state(one) == "STOPPED" and one.defined)
                for one in found.values()
            )

        until(settle, "all is settled")
        return found

    def nothing(self) -> None:
        """A name that nobody has."""
        self._number += 1
        self.name = f"{_TAG}.{self._number}"

    def alone(self) -> None:
        """The same, and there are no others."""
        self.clear()
        self.nothing()

    def defined(self) -> None:
        """A container that does not run; that of the last time, if it is still there."""
        found = self.found()
        if self.name not in found:
            self.alone()
            self.create()
        elif found[self.name].pid:
            self.kill()

    def wired(self) -> None:
        """The same with devices: a pair on a bridge, and a card."""
        if not self.links:
            self._cables.enter_context(wires.device(self.host, "br0", "type", "bridge"))
            self._cables.enter_context(wires.pair(self.host, "card0"))
            self.links = set(wires.links(self.host))
        found = self.found()
        if self.name not in found:
            self.alone()
            with self.host.channel() as api:
                define(api, self.name, _DEVICES)
        elif found[self.name].pid:
            self.kill()

    def wired_up(self) -> None:
        """One that runs with them."""
        self.wired()
        self.start()

    def transient(self) -> None:
        """One that runs and is not defined: it goes with its end."""
        found = self.found().get(self.name)
        if found is None or not found.pid:
            self.alone()
            self.run()

    def running(self) -> None:
        """One that does; in the background nothing goes on."""
        found = self.found().get(self.name)
        if found is None or not found.pid:
            self.defined()
            self.start()
        elif state(found) == "FROZEN":
            self.thaw()

    def frozen(self) -> None:
        """One that is frozen."""
        self.running()
        if state(self.found()[self.name]) != "FROZEN":
            self.freeze()

    def prepared(self) -> None:
        """One that does not run, and a child that waits for it."""
        self.defined()
        self.start()
        self.kill()
        self.until_prepared()

    def clear(self) -> None:
        """Away with all of them."""
        for name in self.settled():
            self.name = name
            self.delete()

    def unwire(self) -> None:
        """Away with what the host had for devices."""
        self._cables.close()


@dataclass(frozen=True)
class Verb:
    """What is cut short, what comes before it, and the states that it leads through, to the last."""

    before: Callable[[Scene], None]
    act: Callable[[Scene], None]
    states: tuple[str, ...]


VERBS = {
    "create": Verb(Scene.alone, Scene.create, ("GONE", "STOPPED")),
    "start": Verb(Scene.defined, Scene.start, ("STOPPED", "RUNNING")),
    "start-prepared": Verb(Scene.prepared, Scene.start, ("STOPPED", "RUNNING")),
    "start-devices": Verb(Scene.wired, Scene.start, ("STOPPED", "RUNNING")),
    "kill-devices": Verb(Scene.wired_up, Scene.kill, ("RUNNING", "STOPPED")),
    "run": Verb(Scene.alone, Scene.run, ("GONE", "RUNNING")),
    "stop": Verb(Scene.running, Scene.stop, ("RUNNING", "STOPPED")),
    "kill": Verb(Scene.running, Scene.kill, ("RUNNING", "STOPPED")),
    "vanish": Verb(Scene.transient, Scene.kill, ("RUNNING", "GONE")),
    "delete": Verb(Scene.defined, Scene.delete, ("STOPPED", "GONE")),
    "delete-running": Verb(Scene.running, Scene.delete, ("RUNNING", "STOPPED", "GONE")),
    "rename": Verb(Scene.defined, Scene.rename, ("STOPPED", "GONE")),
    "freeze": Verb(Scene.running, Scene.freeze, ("RUNNING", "FROZEN")),
    "thaw": Verb(Scene.frozen, Scene.thaw, ("FROZEN", "RUNNING")),
}
every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
# For the default check: those that touch the disk, and one of each half of a life.
some_verbs = pytest.mark.parametrize(
    "verb",
    ["create", "start", "start-devices", "stop", "kill-devices", "vanish", "delete", "rename"],
)


@contextmanager
def _cutter(scene: Scene, number: int) -> Iterator[None]:
    """Have lxcd killed before its n-th call from here on, and in any case at the end."""
    host = scene.host
    assert host.daemon is not None
    argv = [
        sys.executable,
        "-I",
        "-S",
        cutter.__file__,
        str(host.daemon),
        str(number),
        str(host.log),
    ]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "attached\n"
        try:
            yield
        finally:
            host.kill_daemon()
        scene.calls = json.loads(tracer.stdout.read())


def _cut_verb(scene: Scene, verb: Verb, number: int) -> None:
    """Do it once, and look at what there is after lxcd was killed at the n-th point and came back."""
    host = scene.host
    scene.calls = []
    scene.problems.clear()
    verb.before(scene)
    keeper = host.keeper_pid
    scene.answered = False
    with _cutter(scene, number):
        try:
            verb.act(scene)
        except grpc.RpcError as error:
            refused = Refused(error)
            assert refused.code in _CUT_SHORT, refused
    host.start_daemon()
    assert host.keeper_pid == keeper, "there is another keeper"
    _is_consistent(scene)
    reached = _state(scene)
    if scene.answered:
        assert reached == verb.states[-1], f"it was done, and is {reached}"
    assert reached in verb.states, f"it is {reached}"
    if reached != verb.states[-1]:
        # Whoever asks again gets it.
        verb.act(scene)
        until(lambda: _state(scene) == verb.states[-1], f"it is {verb.states[-1]}")
        _is_consistent(scene)
    for name in scene.found():
        _is_of_use(scene, name)


def _is_of_use(scene: Scene, name: str) -> None:
    """Whoever has it can use it."""
    found = scene.found()[name]
    if state(found) == "STOPPED":
        request = container_pb2.StartContainerRequest(name=name, command=IDLE)
        scene.call("StartContainer", request)
    elif state(found) == "FROZEN":
        scene.call("ThawContainer", container_pb2.ThawContainerRequest(name=name))
    echo = exec_pb2.RunExecRequest(container=name, command=["/bin/echo", "in"])
    with scene.host.channel() as api:
        assert api.exec.RunExec(echo, timeout=DEADLINE).stdout == b"in\n"


def _state(scene: Scene) -> str:
    found = scene.found()
    return state(found[scene.name]) if scene.name in found else "GONE"


def _is_consistent(scene: Scene) -> None:
    """Containers are wholly there or not at all, nothing is left of what was begun, and events tell what there is."""
    host = scene.host
    found = scene.settled()
    on_disk = set(os.listdir(host.lxcpath))
    assert {name for name, one in found.items() if one.defined} == on_disk
    for name in on_disk:
        missing = scene.whole - tree(host.lxcpath / name)
        assert not missing, f"{name} is without {sorted(missing)[:10]}"
    running = {name for name, one in found.items() if one.pid}
    assert running == {name for name, one in found.items() if state(one) != "STOPPED"}
    transient = host.state_dir / "transient"
    left = os.listdir(transient) if transient.exists() else []
    assert len(left) == sum(not found[name].defined for name in running), left
    for name in left:
        missing = {path for path in scene.whole if path.startswith("rootfs")} - tree(
            transient / name
        )
        assert not missing, f"{name} is without {sorted(missing)[:10]}"
    if scene.links:
        # In a container there are both, or all is at home.
        away = (scene.links - {"card0"}) | {"web0"}
        wires.settled(host, away if running else scene.links)
        assert len(wires.kept(host)) == len(running)
    inits = {found[name].pid for name in running}
    own = {path for name in running for path in found[name].cgroups.values()}
    assert all(os.path.isdir(path) for path in own)
    scene.watch.is_clean(inits, own)
    with host.channel() as api:
        said = told(events(api))
    for name in {scene.name, scene.new_name} | found.keys():
        is_now = state(found[name]) if name in found else "GONE"
        if said.get(name, "GONE") != is_now:
            scene.problems.append(f"{name} is {is_now}, and events say {said.get(name, 'GONE')}")


def _kinds(calls: list[list[str]]) -> list[list[int]]:
    """Numbers of the calls, those of equal calls in one directory together."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, (call, what) in enumerate(calls, 1):
        kinds.setdefault((call, os.path.dirname(what)), []).append(number)
    return list(kinds.values())


def _sample(calls: list[list[str]]) -> list[int]:
    """Points as different as may be, the first and the last among them."""
    firsts = sorted({number for kind in _kinds(calls) for number in (kind[0], kind[-1])})
    wanted = min(_SAMPLE, len(firsts))
    return [firsts[index * (len(firsts) - 1) // max(1, wanted - 1)] for index in range(wanted)]


def _all(calls: list[list[str]]) -> list[int]:
    """Every point, but of many that are equal (a tree is made or deleted) the ends and every eighth between."""
    chosen = (
        kind if len(kind) < 16 else [*kind[:4], *kind[4:-4:8], *kind[-4:]] for kind in _kinds(calls)
    )
    return sorted(number for kind in chosen for number in kind)


def _cut_everywhere(
    host: Host, cut: Callable[[Scene, int], None], choose: Callable[[list[list[str]]], list[int]]
) -> None:
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    scene = Scene(host)
    # The first time some things are done that are not done again.
    cut(scene, 0)
    cut(scene, 0)
    points = scene.calls
    problems: list[str] = []
    for number in choose(points):
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
        # Not always what it was the first time: threads are at work.
        call = " ".join(scene.calls[number - 1]) if number <= len(scene.calls) else "the end"
        where = f"before {number} of {len(points)}, {call}"
        problems += [f"{where}: {problem}" for problem in scene.problems]
    scene.clear()
    scene.unwire()
    assert not os.listdir(host.lxcpath)
    assert not os.listdir(host.run_dir / "private/containers")
    assert not problems, "\n".join([f"{len(problems)} problems:", *problems])


@some_verbs
def test_what_is_cut_short_is_done_or_undone(cold_host: Host, verb: str) -> None:
    _cut_everywhere(cold_host, lambda scene, number: _cut_verb(scene, VERBS[verb], number), _sample)


@pytest.mark.long
@pytest.mark.timeout(7200)
@every_verb
def test_what_is_cut_short_anywhere_is_done_or_undone(cold_host: Host, verb: Verb) -> None:
    _cut_everywhere(cold_host, lambda scene, number: _cut_verb(scene, verb, number), _all)


# The way back itself


def _cut_return(scene: Scene, number: int) -> None:
    """lxcd dies in the middle of a start, and comes back to that, to a life that has ended, one that goes on, half a delete."""
    host = scene.host
    scene.calls = []
    scene.problems.clear()
    scene.clear()
    for name in ("runs", "ends"):
        scene.name = f"{_TAG}.{name}"
        scene.create()
        scene.start()
    runs, ends = (scene.found()[f"{_TAG}.{name}"].pid for name in ("runs", "ends"))
    scene.name = f"{_TAG}.starts"
    scene.create()
    with host.channel() as api:
        last = events(api)[-1].sequence
    Path(host.environment["LXCD_FAULTS"]).write_text("phase:walk kill-daemon")
    with pytest.raises(grpc.RpcError):
        scene.start()
    host.kill_daemon()
    os.kill(ends, signal.SIGKILL)
    deleted = str(host.lxcpath / f"{_TAG}.deleted")
    aside = Path(removal.hidden(deleted, removal.DELETING, str(host.run_dir)))
    (aside / "rootfs/etc").mkdir(parents=True)
    (aside / "config").touch()
    argv = [sys.executable, "-m", "lxcd", *host.roots]
    host.daemon = host.machine.spawn(argv, host.environment, host.log)
    with _cutter(scene, number):
        until(lambda: scene.daemon_has_ended() or host._accepts(), "lxcd is back, or dead")
    host.start_daemon()
    _is_consistent(scene)
    found = {name.removeprefix(f"{_TAG}."): one for name, one in scene.found().items()}
    states = {name: state(one) for name, one in found.items()}
    assert states == {"runs": "RUNNING", "ends": "STOPPED", "starts": "STOPPED"}
    assert found["runs"].pid == runs
    # Twice, if lxcd died before it wrote down that it had told.
    with host.channel() as api:
        for name, what in (("starts", "start_failed"), ("ends", "exited")):
            assert events(api, f"container.{what}", names=(f"{_TAG}.{name}",), after=last), what
    for name in found:
        _is_of_use(scene, f"{_TAG}.{name}")


@pytest.fixture
def faulty_host(cold_host: Host) -> Host:
    """A host whose lxcd takes a fault from a file: see `test_faults`."""
    cold_host.environment["LXCD_FAULTS"] = str(cold_host.root / "fault")
    return cold_host


def test_a_return_that_is_cut_short_is_made_up_for(faulty_host: Host) -> None:
    _cut_everywhere(faulty_host, _cut_return, _sample)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_return_that_is_cut_short_anywhere_is_made_up_for(faulty_host: Host) -> None:
    _cut_everywhere(faulty_host, _cut_return, _all)
