"""What a container may use: from its configuration to its cgroups, at a start and while it runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from lxcd.cgroup import device_control, devices, facts, limits, tree, writing
from lxcd.cgroup.device_control import RuleRefusedError
from lxcd.cgroup.limits import Controllers, Write
from lxcd.cgroup.writing import LimitRefusedError
from lxcd.config.model import DEFAULT, Problem
from lxcd.supervisor.walking import failed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxcd.cgroup.devices import Policy
    from lxcd.cgroup.tree import Payload, Trees
    from lxcd.config.daemon import ContainerSettings
    from lxcd.config.model import CgroupSetting, ContainerConfig

# As much as systemd gives a whole machine that it boots (TasksMax of systemd-nspawn@.service): no
# container needs so many, and a fork bomb stops there while the host still has pids.
PIDS_MAX = "16384"
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
def _controllers() -> Controllers:
    """They stay where they are as long as the host runs."""
    return facts.controllers(tree.find_trees())


@cache
def _default_writes() -> tuple[Write, ...]:
    version = _controllers().versions.get(_PIDS.controller)
    return (replace(_PIDS, version=version),) if version else ()


@cache
def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def prepare(trees: Trees, slot: Payload) -> None:
    """Have the directories of a prepared child as most containers want them: that takes it out of
    the time of their start. What cannot be is told of there.
    """
    if not any("devices" in key.split(",") for key in slot.directories):
        return  # nothing of version 1
    try:
        device_control.enforce(slot, devices.DEFAULT)
        for _ in writing.carry_out(trees, slot, _default_writes()):
            pass
    except OSError:
        return


def apply(trees: Trees, payload: Payload, wanted: Limits, *, prepared: bool) -> list[Problem]:
    """Before anything of it runs; `prepared`: its directories were a slot's. What the kernel has
    made something else of. Raises StartFailed.
    """
    writes = wanted.writes
    if prepared and _on_first(trees, _PIDS.controller):
        writes = tuple(write for write in writes if write.origin != DEFAULT)
    try:
        done = tuple(writing.carry_out(trees, payload, writes))
        device_control.enforce(payload, wanted.policy)
    except LimitRefusedError as error:
        write = error.write
        what = f"{write.key or write.file} = {write.value}"
        raise failed("limit", error, -1, write.origin, what=what) from None
    except RuleRefusedError as error:
        rule = error.rule
        raise failed("limit", error, -1, rule.origin, what=rule.line) from None
    except OSError as error:
        raise failed("limit", error, -1, DEFAULT, what="devices") from None
    asked = [write for write in done if write.origin != DEFAULT]
    return problems_of(trees, payload, asked)


def problems_of(trees: Trees, payload: Payload, done: Iterable[Write]) -> list[Problem]:
    """What the kernel has made something else of, read back."""
    return [
        Problem("warning", write.origin, write.key, f"{write.file} says {said!r} now")
        for write, said in writing.differing(trees, payload, done)
    ]


def _on_first(trees: Trees, controller: str) -> bool:
    found = trees.having(controller)
    return found is not None and found.version == 1


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
