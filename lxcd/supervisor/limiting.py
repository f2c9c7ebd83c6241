"""What a container may use: from its configuration to its cgroups, at a start and while it runs."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from lxcd.cgroup import device_control, devices, facts, limits, readback, tree, writing
from lxcd.cgroup.device_control import RuleRefusedError
from lxcd.cgroup.limits import Controllers, Write, place
from lxcd.cgroup.writing import LimitRefusedError
from lxcd.config.model import DEFAULT, Line, Problem
from lxcd.errors import FailedPrecondition
from lxcd.kernel import libc
from lxcd.supervisor.walking import failed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lxcd.cgroup.devices import Policy, Rule
    from lxcd.cgroup.tree import Payload, Trees
    from lxcd.config.daemon import ContainerSettings
    from lxcd.config.model import CgroupSetting, ContainerConfig

# As much as systemd gives a whole machine that it boots (TasksMax of systemd-nspawn@.service): no
# container needs so many, and a fork bomb stops there while the host still has pids.
PIDS_MAX = "16384"
_WITH_FILES = frozenset(("cpu", "cpuset", "memory", "blkio", "io", "pids", "hugetlb"))
_seen: dict[Trees, Controllers] = {}
_MEMORY = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
_PIDS = Write("pids", 2, "pids.max", PIDS_MAX, "", DEFAULT)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one configuration, on this host."""

    writes: tuple[Write, ...]
    policy: Policy
    problems: tuple[Problem, ...]


def of(config: ContainerConfig, settings: ContainerSettings) -> Limits:
    """What a configuration and the `lxcd.toml` beside it ask for, and what is unset by default."""
    asked = settings.limits.settings(_memory_bytes())
    found = _translated(config.cgroups, asked)
    writes = found.writes
    if not any(write.file == _PIDS.file for write in writes) and _default_writes():
        writes = (*writes, *_default_writes())
    problems = (*devices.problems(config.cgroups), *found.problems)
    return Limits(writes, devices.policy_of(config.cgroups), problems)


def _translated(
    settings: tuple[CgroupSetting, ...], sugar: tuple[CgroupSetting, ...]
) -> limits.Translation:
    if not settings and not sugar:
        return limits.Translation((), ())
    host = facts.host((*settings, *sugar))
    return limits.translate(settings, _controllers(), host, sugar=sugar)


@cache
def _trees() -> Trees:
    """They stay where they are as long as the host runs."""
    return tree.find_trees()


def _controllers() -> Controllers:
    """What files there are of them is seen in cgroups, of which there may be none yet."""
    found = _seen.get(_trees())
    if found is None or not _WITH_FILES & found.versions.keys() <= found.files.keys():
        _seen[_trees()] = found = facts.controllers(_trees())
    return found


@cache
def _default_writes() -> tuple[Write, ...]:
    version = _controllers().versions.get(_PIDS.controller)
    return (replace(_PIDS, version=version),) if version else ()


@cache
def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def prepare(trees: Trees, slot: Payload) -> bool:
    """Have the directories of a prepared child as most containers want them: that takes it out of
    the time of their start. False if it could not be, or not all of it is there: then it is done at
    the start, and told of.
    """
    try:
        if not device_control.controls(slot):
            return False
        device_control.enforce(slot, devices.DEFAULT)
        if any(write.version != 1 for write in _default_writes()):
            return False
        return len(list(writing.carry_out(trees, slot, _default_writes()))) == len(
            _default_writes()
        )
    except OSError:
        return False


def apply(trees: Trees, payload: Payload, wanted: Limits, *, prepared: bool) -> list[Problem]:
    """Before anything of it runs; `prepared`: it has what is the default already. What the kernel
    has made something else of. Raises StartFailed.
    """
    writes = wanted.writes
    if prepared:
        writes = tuple(write for write in writes if write.origin != DEFAULT)
    try:
        done = tuple(writing.carry_out(trees, payload, writes))
    except LimitRefusedError as error:
        write = error.write
        what = f"{write.key or write.file} = {write.value}"
        raise failed("limit", error, -1, write.origin, what=what) from None
    if wanted.policy == devices.DEFAULT and not prepared:
        restrict(payload, wanted)
    asked = [write for write in done if write.origin != DEFAULT]
    missing = [write for write in writes if write not in done and write.origin != DEFAULT]
    return [
        *(_has_no(write) for write in missing),
        *problems_of(trees, payload, asked),
    ]


def _has_no(write: Write) -> Problem:
    text = f"has no effect: this kernel has no {write.file}"
    return Problem("warning", write.origin, write.key, text)


def change(
    trees: Trees,
    payload: Payload,
    was: Limits,
    becomes: Limits,
    *,
    asked: Collection[str] = (),
    added: Iterable[Rule] = (),
) -> list[Problem]:
    """Give what runs other limits and device rules (beside those of nodes that were `added` to it):
    all or none. Of the keys `asked` also what is the same: others may have written there since.
    What the kernel has made something else of. Raises FailedPrecondition.
    """
    wanted = _differences(trees, payload, was.writes, becomes.writes, asked)
    before = writing.state(trees, payload, wanted)
    for write in wanted:
        _require_room(trees, payload, write)
    done: list[Write] = []
    try:
        done.extend(writing.carry_out(trees, payload, readback.order(wanted, before)))
        if was.policy != becomes.policy:
            rules = tuple(added)
            device_control.change(payload, was.policy.but(rules), becomes.policy.but(rules))
    except OSError as error:
        writing.restore(trees, payload, done, before)
        raise _refused(error) from None
    missing = [write for write in wanted if write not in done]
    return [*(_has_no(write) for write in missing), *problems_of(trees, payload, done)]


def _differences(
    trees: Trees,
    payload: Payload,
    was: Iterable[Write],
    becomes: Iterable[Write],
    asked: Collection[str],
) -> list[Write]:
    """What has to be written. A limit that is gone becomes what a new directory has."""
    old = {place(write): write for write in was}
    new = {place(write): write for write in becomes}
    found = [
        write
        for key, write in new.items()
        if key not in old or old[key].value != write.value or write.key in asked
    ]
    for key, write in old.items():
        if key not in new:
            found.append(replace(write, value=_unlimited(trees, payload, write)))
    return found


def _unlimited(trees: Trees, payload: Payload, write: Write) -> str:
    """Raises FailedPrecondition."""
    value = readback.unlimited(write)
    if value is None and write.file in ("cpuset.cpus", "cpuset.mems"):
        # As it was made: all that the directory above has.
        above = os.path.dirname(os.path.dirname(writing.path_of(trees, payload, write)))
        with contextlib.suppress(OSError), open(f"{above}/{write.file}", encoding="ascii") as file:
            value = file.read().strip()
    if not value:
        text = f"{write.key} cannot be taken back while it runs: there is no value that says so"
        raise FailedPrecondition(text, "NOT_LIVE", key=write.key)
    return value


def _require_room(trees: Trees, payload: Payload, write: Write) -> None:
    """Version 2 takes a limit below what is used, and then kills: it is asked to give back what it
    can, and refused if that is not enough. Version 1 does the same itself (EBUSY). Raises
    FailedPrecondition.
    """
    if write.file != "memory.max" or not write.value.isdecimal():
        return
    directory = os.path.dirname(writing.path_of(trees, payload, write))
    used = _used(directory) - int(write.value)
    if used <= 0:
        return
    # It fails if less than that could be had; how much is used then tells.
    with contextlib.suppress(OSError), open(f"{directory}/memory.reclaim", "w") as file:
        file.write(str(used))
    if _used(directory) > int(write.value):
        raise _below_use(write)


def _used(directory: str) -> int:
    try:
        with open(f"{directory}/memory.current", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _below_use(write: Write) -> FailedPrecondition:
    text = f"{write.key} = {write.value}: more than that is in use [{write.origin}]"
    return FailedPrecondition(text, "LIMIT_BELOW_USE", key=write.key, origin=write.origin)


def _refused(error: OSError) -> FailedPrecondition:
    number = error.errno or errno.EIO
    known = {"errno": errno.errorcode.get(number, str(number)), "syscall": libc.syscall_of(error)}
    path = f": {error.filename}" if isinstance(error.filename, str) else ""
    what, origin, key = "devices", DEFAULT, ""
    if isinstance(error, LimitRefusedError):
        write = error.write
        if number == errno.EBUSY and write.file in _MEMORY:
            return _below_use(write)
        what, origin, key = f"{write.key} = {write.value}", write.origin, write.key
    elif isinstance(error, RuleRefusedError):
        what, origin = error.rule.line, error.rule.origin
    where = f" [{origin}]" if origin != DEFAULT else ""
    text = f"{what}: {os.strerror(number)}{path}{where}"
    return FailedPrecondition(text, "LIMIT_REFUSED", key=key, origin=origin, **known)


def restrict(payload: Payload, wanted: Limits) -> None:
    """Have its devices be those that it may use. Other rules than the default may forbid it to make
    its own /dev: they come when that is made. Raises StartFailed.
    """
    try:
        device_control.enforce(payload, wanted.policy)
    except RuleRefusedError as error:
        rule = error.rule
        raise failed("limit", error, -1, rule.origin, what=rule.line) from None
    except OSError as error:
        raise failed("limit", error, -1, DEFAULT, what="devices") from None


def problems_of(trees: Trees, payload: Payload, done: Iterable[Write]) -> list[Problem]:
    """What the kernel has made something else of, read back."""
    return [
        Problem("warning", write.origin, write.key, f"{write.file} says {said!r} now")
        for write, said in writing.differing(trees, payload, done)
    ]


def lines(settings: ContainerSettings) -> list[Line]:
    """What a `lxcd.toml` asks for, like lines of a configuration; for events."""
    return [
        Line(limits.key_of(one), limits.key_of(one), one.value, one.origin, in_force=True)
        for one in settings.limits.settings(_memory_bytes())
    ]


def rules_kept(wanted: Limits) -> tuple[str, ...] | None:
    """For the record: None where nothing is asked for."""
    return None if wanted.policy == devices.DEFAULT else devices.lines(wanted.policy)


def describe(wanted: Limits) -> list[tuple[str, str]]:
    """Each of them in words, and the line that asks for it; for `lxcctl plan`."""
    told = [
        (f"limit {write.controller}: {write.file} = {write.value}", write.origin)
        for write in wanted.writes
    ]
    rules = wanted.policy.rules()
    if wanted.policy == devices.DEFAULT:
        words = ", ".join(rule.text for rule in rules if rule.allow)
        return [*told, (f"devices: none but {words}", DEFAULT)]
    return [*told, *((f"devices: {rule.line}", rule.origin) for rule in rules)]
