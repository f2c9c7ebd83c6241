"""A start fails at every place where it can, in every way: the table of places and faults has no gap.

`LXCD_FAULTS` names a file from which lxcd takes one fault: see `lxcd.supervisor.faults`. After each fault nothing is left,
the error names the step and its line of the configuration, and the next start works. The tests print what became of each.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lxcd.container import credentials, devices, join, mounts, namespaces, nodes, rootfs
from lxcd.container.spec import Step as KindOfStep
from lxcd.supervisor.faults import PHASES
from lxcd.v1 import container_pb2, exec_pb2, types_pb2
from tests.system import images, ledger, wires
from tests.system.boxes import Box, Refused, defined
from tests.system.calls import events, idle, state
from tests.system.consistency import FEW_PREPARED, VERSION_1, Watch, told
from tests.system.fault_cases import CASES, FAULTS, NAME, OF_NODES, TRIALS, Case
from tests.system.host import Host
from tests.system.machine import DEADLINE, unchanging, until
from tests.system.tracer import at_call, strike

# What lines of a configuration ask for which step. Those of other steps come from no line.
_KEYS = {
    "attach_rootfs": "lxc.rootfs.path",
    "barrier": "lxc.",
    "become_root": "lxc.idmap",
    "limit_capabilities": "lxc.cap.",
    "make_dev": "lxc.autodev",
    "mount_beneath": "lxc.mount.entry",
    "mount_cgroups": "lxc.mount.auto",
    "mount_devpts": "lxc.pty.max",
    "mount_filesystem": "lxc.mount.entry",
    "mount_proc": "lxc.mount.auto",
    "mount_sys": "lxc.mount.auto",
    "new_core_cookie": "lxc.sched.core",
    "no_new_privs": "lxc.no_new_privs",
    "no_terminal": "lxc.console.path",
    "offset_clocks": "lxc.time.offset.",
    "open_terminals": "lxc.tty.max",
    "set_hostname": "lxc.uts.name",
    "set_personality": "lxc.arch",
    "write_sysctl": "lxc.sysctl.",
}
# Execs alone join; they take no fault from the file, and have a test of their own.
_OF_EXECS = {"join": "setns", "open_terminal": "open"}  # and a call that each makes
_ROOMS = (credentials, devices, join, mounts, namespaces, nodes, rootfs)


def _every_step() -> set[str]:
    """Names of all kinds that there are."""
    kinds = (kind for room in _ROOMS for kind in vars(room).values() if isinstance(kind, type))
    return {kind.name for kind in kinds if issubclass(kind, KindOfStep) and kind is not KindOfStep}


@dataclass(frozen=True)
class Step:
    """One of the child's steps, as the plan shows it."""

    index: int
    name: str
    origin: str


def _steps(made: Box, case: Case) -> list[Step]:
    request = container_pb2.PlanContainerRequest(name=made.name, command=case.command)
    reply = made.api.container.PlanContainer(request)
    found = [(step.name, step.origin) for step in reply.steps if step.side == "child"]
    if case.pipes:
        # The request of a plan has no word for them.
        found.insert(found.index(_named(found, "no_terminal")) + 1, ("open_pipes", "default"))
    return [Step(index, name, origin) for index, (name, origin) in enumerate(found)]


def _named(found: list[tuple[str, str]], name: str) -> tuple[str, str]:
    return next(pair for pair in found if pair[0] == name)


@dataclass
class Trial:
    """One container of a case, and what faults have become of in it."""

    host: Host
    made: Box
    case: Case
    steps: list[Step]
    file: Path
    keeper: int
    watch: Watch
    links: set[str]
    table: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def suffer(self, label: str, place: str, act: str, step: Step | None) -> None:
        """One fault: what it does, what is left, and whether the next start works."""
        try:
            self.table[label] = self._strike(place, act, step)
            self._is_clean()
            self._starts_and_stops()
        except (AssertionError, Refused) as error:
            self.table[label] = "WRONG"
            self.problems.append(f"{label}, {act}: {error}")
            self._recover()

    def _strike(self, place: str, act: str, step: Step | None) -> str:
        before = self._last()
        self.file.write_text(f"{place} {act}")
        error = self._start()
        assert not self.file.exists(), f"never came to {place}"
        match act:
            case "kill-daemon":
                return self._daemon_has_died(before, error)
            case "kill-keeper":
                self._new_keeper()
                return self._keeper_has_died(before, error, step)
            case "kill-child":
                return self._child_has_died(before, error, step, place)
            case _:
                assert error is not None, "it started"
                self._tells(before, error)
                self._names(error, step, errno=act, syscall="fault")
                return "error"

    def _start(self) -> Refused | None:
        try:
            self.made.start(*self.case.command, **self.case.options())
        except Refused as error:
            return error
        return None

    def _recover(self) -> None:
        """Go on with the next place, whatever this one has left."""
        self.file.unlink(missing_ok=True)
        if self.host.daemon is not None:
            self.host.kill_daemon()
        self.host.start_daemon()
        self.keeper = self.host.keeper_pid
        if state(self.made.info()) != "STOPPED":
            self.made.stop(kill=True)
        self.watch.sweep()

    # What became of it

    def _names(self, error: Refused, step: Step | None, **more: str) -> None:
        """The error says where it came from."""
        wanted = dict(more)
        if step is not None:
            wanted |= {"step": step.name, "index": str(step.index), "origin": step.origin}
        assert error.reason == "START_FAILED", error
        assert {key: error.metadata.get(key) for key in wanted} == wanted, error
        assert error.metadata.get("step"), error
        has_errno = error.metadata.get("errno", "").startswith("E")
        assert bool(error.metadata.get("syscall")) == has_errno, error
        if step is None:
            return
        if step.origin != "default":
            assert step.origin in error.text, error
        # The plan shows it, too.
        request = container_pb2.PlanContainerRequest(name=self.made.name, command=self.case.command)
        reply = self.made.api.container.PlanContainer(request)
        failed = [found for found in reply.steps if found.failed]
        if not self.case.pipes:
            assert [(s.name, s.origin) for s in failed] == [(step.name, step.origin)], failed

    def _tells(self, before: int, error: Refused) -> None:
        """An event says that, and why, it did not start."""
        found = events(
            self.made.api, "container.start_failed", after=before, names=(self.made.name,)
        )
        assert len(found) == 1, found
        assert dict(found[0].details) == error.metadata, found
        assert found[0].message == error.text, found

    def _child_has_died(
        self, before: int, error: Refused | None, step: Step | None, place: str
    ) -> str:
        if place == "phase:take":
            assert error is None, error
            return self._runs()  # there is nobody to kill yet
        if place == "phase:record":
            # The program was exec'ed: it is the container that has ended.
            assert error is None, error
            how = self.made.wait(generation=self.made.info().generation).exit
            assert (how.signal, how.cause) == (signal.SIGKILL, types_pb2.CAUSE_SELF), how
            self.made.wait(types_pb2.STATE_STOPPED)
            return "ran, ended"
        assert error is not None, "it started"
        self._tells(before, error)
        self._names(error, step)
        assert "SIGKILL" in error.text, error
        return "error"

    def _keeper_has_died(self, before: int, error: Refused | None, step: Step | None) -> str:
        """What the child has from the keeper by then may be all that it needs. If not, it ends at a later step."""
        if error is None:
            return self._runs()
        self._tells(before, error)
        if step is None and error.reason == "KEEPER_LOST":
            return "no keeper"
        self._names(error, None)
        at = int(error.metadata["index"])
        # Or, on a kernel without what the case is about, of that.
        assert "keeper" in error.text or self.case.without, error
        if step is None:
            assert at < len(self.steps), error
            return "error"
        assert step.index <= at < len(self.steps), error
        self._names(error, self.steps[at])
        return "error" if at == step.index else f"error at {self.steps[at].name}"

    def _daemon_has_died(self, before: int, error: Refused | None) -> str:
        assert error is not None, "it started"
        assert error.code in ("UNAVAILABLE", "CANCELLED"), error
        assert self.host.daemon is not None
        until(lambda: self.host.machine.poll(self.host.daemon or 0) is not None, "lxcd has died")
        self.host.kill_daemon()
        self.host.start_daemon()
        found = self.made.info()
        assert state(found) == "STOPPED", found
        assert found.pid == 0, found
        assert self.host.keeper_pid == self.keeper
        failed = events(
            self.made.api, "container.start_failed", after=before, names=(self.made.name,)
        )
        assert len(failed) == 1, "no event says that the start failed"
        return "undone"

    def _runs(self) -> str:
        assert state(self.made.info()) == "RUNNING", self.made.info()
        assert self.made.sh("echo in") == "in"
        self.made.stop(kill=True)
        return "runs"

    # Afterwards

    def _new_keeper(self) -> None:
        until(lambda: self.host.keeper_pid not in (0, self.keeper), "there is another keeper")
        self.keeper = self.host.keeper_pid

    def _is_clean(self) -> None:
        assert state(self.made.info()) == "STOPPED", self.made.info()
        assert told(events(self.made.api, names=(self.made.name,)))[self.made.name] == "STOPPED"
        self.watch.is_clean()
        images.none_attached(self.host)
        wires.settled(self.host, self.links)
        assert not wires.kept(self.host)

    def _starts_and_stops(self) -> None:
        options = self.case.options()
        if self.case.without:
            options["define"] = [types_pb2.ConfigItem(key=self.case.without, value="0")]
        assert self.made.start(*self.case.command, **options).pid > 0
        assert self.made.sh("echo in") == "in"
        self.made.stop(kill=True)
        assert state(self.made.info()) == "STOPPED"

    def _last(self) -> int:
        return int(events(self.made.api)[-1].sequence)

    def open_descriptors(self) -> dict[str, int]:
        """How many lxcd and its keeper hold once all is quiet: nothing has changed for a while."""
        if self.case.stocked and VERSION_1:
            until(lambda: self.watch.stock() == 1, "a child is prepared")
        self.watch.is_clean()
        return unchanging(self._counts, "descriptors come and go no more")

    def _counts(self) -> dict[str, int]:
        pids = {"lxcd": self.host.daemon, "keeper": self.keeper}
        return {who: sum(ledger.descriptors(pid).values()) for who, pid in pids.items() if pid}


@pytest.fixture
def trial(cold_host: Host, busybox_root: Path, request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A container that is defined, on a host that obeys a file of faults."""
    host, case = cold_host, CASES[request.param]
    file = host.root / "fault"
    host.environment["LXCD_FAULTS"] = str(file)
    host.config.write_text(FEW_PREPARED)
    watch = Watch(host, NAME)
    host.start_daemon()
    with (
        case.around(host) if case.around is not None else nullcontext(),
        defined(host, case.config(host, busybox_root), NAME) as made,
    ):
        here = set(wires.links(host))
        yield Trial(host, made, case, _steps(made, case), file, host.keeper_pid, watch, here)


def _places(trial: Trial) -> Iterator[tuple[str, str, Step | None]]:
    """Where a start of this case can fail, in order: label, place, the step that an error must name."""
    for step in trial.steps:
        if not trial.case.only or step.name in trial.case.only:
            yield f"{step.index:2} {step.name}", f"step:{step.index}", step
    waits = [step for step in trial.steps if step.name == "barrier" and trial.case.barriers]
    for name, step in zip(trial.case.barriers, waits, strict=True):
        # The child waits at the barrier: that is the step where it is.
        yield f"barrier {name}", f"barrier:{name}", step
    for name in (phase for phase in PHASES if phase in trial.case.phases):
        yield f"phase {name}", f"phase:{name}", None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("trial", TRIALS, indirect=True)
def test_a_start_fails_cleanly_at_every_place(
    trial: Trial, fault: str, request: pytest.FixtureRequest, record_property: Callable[..., None]
) -> None:
    trial._starts_and_stops()
    before = trial.open_descriptors()
    for label, place, step in _places(trial):
        trial.suffer(label, place, fault, step)
    record_property(
        "faults", json.dumps([request.node.callspec.params["trial"], fault, trial.table])
    )
    assert not trial.problems, "\n".join([f"{len(trial.problems)} problems:", *trial.problems])
    assert len(trial.table) == len(list(_places(trial)))
    # Nothing stays open, of those who were there all the time.
    after = trial.open_descriptors()
    same = {"EIO": ["lxcd", "keeper"], "kill-child": ["lxcd", "keeper"], "kill-keeper": ["lxcd"]}
    for who in same.get(fault, ["keeper"]):
        # A connection may come or go; what every fault left open would be dozens.
        more = after[who] - before[who]
        assert more < max(5, len(trial.table) // 4), f"{who} has {more} more descriptors"


@pytest.mark.parametrize("trial", TRIALS, indirect=True)
def test_steps_name_the_lines_that_ask_for_them(trial: Trial) -> None:
    for step in trial.steps:
        file, _, number = step.origin.rpartition(":")
        if not file:
            assert step.origin in ("default", "command"), step
            continue
        line = Path(file).read_text().splitlines()[int(number) - 1]
        assert line.startswith(_KEYS.get(step.name, "")), (step, line)


def test_there_is_a_case_for_every_kind_of_step(cold_host: Host, busybox_root: Path) -> None:
    cold_host.start_daemon()
    seen: set[str] = set()
    for name, case in CASES.items():
        with defined(cold_host, case.config(cold_host, busybox_root), NAME) as made:
            steps = [step.name for step in _steps(made, case)]
        seen |= case.only or set(steps)
        assert case.only <= set(steps), name
    assert seen == _every_step() - set(_OF_EXECS) - set(OF_NODES)


# Steps that only execs have


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", _OF_EXECS)
def test_an_exec_fails_cleanly_at_every_step(
    cold_host: Host,
    busybox_root: Path,
    tmp_path: Path,
    step: str,
    fault: str,
    record_property: Callable[..., None],
) -> None:
    host, syscall = cold_host, _OF_EXECS[step]
    host.config.write_text(FEW_PREPARED)
    host.start_daemon()
    watch = Watch(host, NAME)
    with idle(host, busybox_root, NAME) as made:
        keeper, before = host.keeper_pid, made.known()
        request = exec_pb2.CreateExecRequest(
            container=NAME, command=["/bin/echo", "in"], tty=step == "open_terminal"
        )
        what = {"EIO": "error=EIO", "kill-child": "signal=SIGKILL"}.get(fault, "signal=SIGSTOP")
        trace = tmp_path / "trace"
        with at_call(keeper, {"open": "openat2"}.get(syscall, syscall), what, trace):
            call = made.api.exec.CreateExec.future(request, timeout=DEADLINE)
            if fault.endswith(("keeper", "daemon")):
                strike(host, keeper, fault, trace)
            error = call.exception()
        if host.daemon is None:
            host.start_daemon()
        assert error is not None, call.result()
        refused = Refused(error)
        if fault == "kill-daemon":
            assert refused.code in ("UNAVAILABLE", "CANCELLED"), refused
        elif fault == "kill-keeper":
            assert "keeper" in refused.text, refused
        else:
            told_of = {key: refused.metadata.get(key) for key in ("step", "syscall", "errno")}
            # One that is killed does not say how far it came.
            how = (step, syscall, "EIO") if fault == "EIO" else ("join", "", "")
            assert told_of == dict(zip(told_of, how, strict=True)), refused
        assert made.known() == before
        watch.is_clean({before.pid}, set(before.cgroups.values()))
        assert made.sh("echo in") == "in"
    record_property("faults", json.dumps(["exec", fault, {step: "error"}]))
