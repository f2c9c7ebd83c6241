"""A host on which something happens to lxcd in the middle of a verb, and what must hold afterwards, whatever it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lxcd.v1 import container_pb2, exec_pb2
from tests.system import cutter, ledger, wires
from tests.system.boxes import IDMAP
from tests.system.calls import IDLE, define, events, everything, state, tree
from tests.system.consistency import VERSION_1, Watch, told
from tests.system.host import Host
from tests.system.machine import DEADLINE, until

# Part of the names of all containers here: nobody else's cgroup has it.
TAG = f"c{os.environ[ledger.MARK][:10]}"
_DEVICES = wires.nic("link = br0", "flags = up", "veth.pair = web0") + wires.nic(
    "link = card0", "flags = up", "name = lan", number=1, kind="phys"
)


class Scene:
    """A host to whose lxcd something happens in the middle of verbs; `name` is the container that the present one is about."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = ""
        self.answered = False
        self.calls: list[list[str]] = []  # that lxcd made in the present cut
        self.fired = False  # something did happen in it
        self.problems: list[str] = []  # of the present cut; these do not end the search
        self._number = 0
        self._cables = ExitStack()
        self.links: set[str] = set()  # what the host has for devices
        self.watch = Watch(host, TAG)
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
        self.name = f"{TAG}.{self._number}"

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

    def mapped(self) -> None:
        """The same with ids of its own."""
        found = self.found()
        if self.name not in found:
            self.alone()
            with self.host.channel() as api:
                define(api, self.name, IDMAP)
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


@contextmanager
def traced(scene: Scene, number: int, directory: str = "") -> Iterator[None]:
    """Have lxcd killed before its n-th call from here on, and in any case at the end; or, with a directory, find no room
    there for the n-th of those that need some, and go on.
    """
    host = scene.host
    assert host.daemon is not None
    argv = [sys.executable, "-I", "-S", cutter.__file__, str(host.daemon), str(number)]
    argv += [str(host.log), *filter(None, [directory])]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "attached\n"
        try:
            yield
        finally:
            if directory:
                tracer.send_signal(signal.SIGTERM)
            else:
                host.kill_daemon()
            said = json.loads(tracer.stdout.read())
            scene.calls, scene.fired = said["calls"], said["fired"]


def is_of_use(scene: Scene, name: str) -> None:
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


def reached(scene: Scene) -> str:
    found = scene.found()
    return state(found[scene.name]) if scene.name in found else "GONE"


def is_consistent(scene: Scene) -> None:
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


def sample(calls: list[list[str]], most: int) -> list[int]:
    """Points as different as may be, the first and the last among them."""
    firsts = sorted({number for kind in _kinds(calls) for number in (kind[0], kind[-1])})
    wanted = min(most, len(firsts))
    return [firsts[index * (len(firsts) - 1) // max(1, wanted - 1)] for index in range(wanted)]


def every(calls: list[list[str]]) -> list[int]:
    """Every point, but of many that are equal (a tree is made or deleted) the ends and every eighth between."""
    chosen = (
        kind if len(kind) < 16 else [*kind[:4], *kind[4:-4:8], *kind[-4:]] for kind in _kinds(calls)
    )
    return sorted(number for kind in chosen for number in kind)
