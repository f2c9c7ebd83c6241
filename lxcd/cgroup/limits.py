"""Limits: from the lines of a configuration, in either version's language, to what is written
where on this host. Pure.

Not in it: `devices.*`, which are rules and no limits. The table of equivalents, with formulas and
sources, is in `equivalents`; `readback` compares what the kernel made of it; `facts` looks at the
host.

Decisions:
* Of several lines about one thing in one language the last counts, as it would in the kernel.
* If both languages speak of one thing, the host's own counts; a config may carry both, for hosts
  of either kind. The other is mentioned only if it says something else.
* `limits.*` of lxcd.toml count only where no line of the configuration speaks of the same thing.
* An error is what cannot be right on any host (syntax, range, less memory and swap than memory),
  what names cpus or devices that are not there, what looks like a misspelt bound (LXC would not
  start it either; without it the container would run unbounded), and a bound on memory, pids or
  cpus for which the host has no controller. Everything else that has no effect is a warning: the
  container runs with less fairness, or without a hint, and its other limits.
* `freezer.state` and `cgroup.freeze`: LXC writes them like all else before init runs, so that the
  start waits forever. Frozen is a state and not a limit: ignored with a warning.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lxcd.cgroup import equivalents
from lxcd.cgroup.formulas import Around, Parts, Written
from lxcd.config.characters import quoted
from lxcd.config.model import CgroupSetting, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from lxcd.cgroup.amounts import Host
    from lxcd.cgroup.equivalents import Group

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+\Z")
_SUGAR = re.compile(r"limits(\.[a-z_]+)+\Z")
_FROZEN = {"freezer.state": ("THAWED",), "cgroup.freeze": ("0",)}
_NOT_LIMITS = ("cgroup.", "freezer.")
_ALIKE = 0.85  # difflib's measure: a letter or two of a name
_CONTROLLERS = frozenset(
    (
        *("blkio", "cgroup", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "io"),
        *("memory", "misc", "net_cls", "net_prio", "perf_event", "pids", "rdma", "dmem"),
    )
)
# In this order values can be written one after another into a new cgroup; all else comes between.
_FIRST = (
    *("cpuset.cpus", "cpuset.mems", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.max"),
    *("memory.limit_in_bytes", "memory.max", "memory.memsw.limit_in_bytes"),
)
_WHOLE = ("cpu.max",)  # two words, and no device
_LAST = ("cpu.cfs_burst_us", "cpu.max.burst", "cpu.idle", "cpuset.cpus.partition")


@dataclass(frozen=True, slots=True)
class Controllers:
    """Which controller is where."""

    versions: Mapping[str, int]  # name -> 1 or 2; `cgroup`: 2 if there is a tree of version 2
    # The files that a cgroup has of a controller. One that is not in it: not known.
    files: Mapping[str, frozenset[str]]

    def version(self, group: Group) -> int:
        """Tell which version this host has it in; 0: none."""
        return next(
            (one for one in (1, 2) if self.versions.get(group.controller_of(one)) == one), 0
        )


@dataclass(frozen=True, slots=True)
class Write:
    """One value for one file."""

    controller: str
    version: int
    file: str  # `memory.limit_in_bytes`
    value: str
    key: str  # as the user wrote it: `lxc.cgroup2.memory.max`, `limits.memory`
    origin: str
    # To be without it is not safe. If the kernel has no such file after all, that is an error; of
    # others a warning. What a kernel that has the file refuses is always an error.
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Translation:
    """What to write, in this order; and what was wrong or cannot be had here."""

    writes: tuple[Write, ...]
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class _Said:
    """What one language says about one thing."""

    parts: Parts
    setting: CgroupSetting  # the last


_Thing = tuple[str, str]  # group, key


def translate(
    settings: Iterable[CgroupSetting],
    controllers: Controllers,
    host: Host,
    *,
    sugar: Iterable[CgroupSetting] = (),
) -> Translation:
    """Translate; `sugar` are those that lxcd.toml asks for. Never raises."""
    work = _Work(controllers, host)
    said = work.read(settings)
    asked = work.read(sugar)
    return work.translation(said, asked)


def key_of(setting: CgroupSetting) -> str:
    """Name the key as its user wrote it."""
    last = setting.origin.rpartition(" ")[2]
    if _SUGAR.match(last):
        return last
    return f"lxc.cgroup{'2' if setting.version == 2 else ''}.{setting.name}"  # noqa: PLR2004


class _Work:
    """One translation."""

    def __init__(self, controllers: Controllers, host: Host) -> None:
        self._controllers = controllers
        self._host = host
        self._problems: list[Problem] = []
        self._writes: list[Write] = []
        self._faulty: set[str] = set()

    def read(self, settings: Iterable[CgroupSetting]) -> dict[tuple[_Thing, int], _Said]:
        """Read all lines, by what they are about and their language."""
        said: dict[tuple[_Thing, int], _Said] = {}
        for one in settings:
            if one.name.startswith("devices.") or not self._is_limit(one):
                continue
            found = equivalents.find(one.version, one.name)
            if found is None:
                self._take_unlisted(one)
                continue
            row, match = found
            try:
                values = list(row.read(one.value, match, self._host))
            except ValueError as error:
                self._error(one, str(error))
                self._faulty.add(row.group)
                continue
            for key, part, value in values:
                held = said.setdefault(((row.group, key), one.version), _Said({}, one))
                held.parts[part] = value
                held.setting = one
        return said

    def translation(
        self,
        said: dict[tuple[_Thing, int], _Said],
        asked: dict[tuple[_Thing, int], _Said],
    ) -> Translation:
        """Put together what was read."""
        limit: int | None = None
        things = {thing for thing, _ in (*said, *asked)}
        places = {name: place for place, name in enumerate(equivalents.GROUPS)}
        for thing in sorted(things, key=lambda thing: (places[thing[0]], thing[1])):
            group = equivalents.GROUPS[thing[0]]
            version = self._controllers.version(group)
            languages = (version, 3 - version) if version else (1, 2)
            chosen, *others = [
                held[thing, one]
                for held in (said, asked)
                for one in languages
                if (thing, one) in held
            ]
            around = Around(self._host, self._files(group, version), limit)
            if thing[0] == "memory.limit":
                value = chosen.parts[""]
                limit = value if isinstance(value, int) else None
            if thing[0] == "memory.swap" and "memory.limit" in self._faulty:
                continue
            written = self._write(thing, group, version, chosen, around)
            for other in others:
                self._weigh(thing, group, version, other, chosen, around, written)
        self._writes.sort(key=lambda write: _rank(write.file))
        return Translation(tuple(self._writes), tuple(self._problems))

    def _write(
        self, thing: _Thing, group: Group, version: int, chosen: _Said, around: Around
    ) -> Written | None:
        one = chosen.setting
        idle = all(value in group.idle for part, value in chosen.parts.items() if part != "period")
        if not version:
            if not idle:
                self._absent(one, group)
            return None
        write = group.write[version]
        if isinstance(write, str):
            if not idle:
                self._warning(one, f"has no effect: {write}")
            return None
        try:
            written = write(thing[1], chosen.parts, around)
        except ValueError as error:
            self._error(one, str(error))
            return None
        for lost in written.lost:
            self._warning(one, lost if written.files else f"has no effect: {lost}")
        for name, value in written.files:
            self._put(one, group, version, name, value, idle=idle)
        return written

    def _put(
        self,
        one: CgroupSetting,
        group: Group,
        version: int,
        name: str,
        value: str,
        *,
        idle: bool,
    ) -> None:
        controller = group.controller_of(version)
        known = self._controllers.files.get(controller)
        if known is not None and name not in known:
            if not idle:
                text = f"has no effect: this kernel has no {name}"
                if group.bound:
                    self._error(one, f"this kernel has no {name}")
                else:
                    self._warning(one, text)
            return
        made = Write(controller, version, name, value, key_of(one), one.origin, group.bound)
        self._writes.append(made)

    def _weigh(
        self,
        thing: _Thing,
        group: Group,
        version: int,
        other: _Said,
        chosen: _Said,
        around: Around,
        written: Written | None,
    ) -> None:
        """Mention what does not count, if it says something else."""
        first = f"{key_of(chosen.setting)} ({chosen.setting.origin})"
        if _SUGAR.match(key_of(other.setting)):
            self._warning(other.setting, f"has no effect: {first} counts")
            return
        write = group.write.get(version, "")
        alike = False
        if written is not None and not isinstance(write, str):
            try:
                alike = write(thing[1], other.parts, around).files == written.files
            except ValueError:
                alike = False
        if not alike and written is not None:
            text = f"has no effect: {first} says otherwise, in the language of this host"
            self._warning(other.setting, text)

    def _absent(self, one: CgroupSetting, group: Group) -> None:
        controller = one.name.partition(".")[0]
        if one.version == 2 and controller == "cgroup":  # noqa: PLR2004
            self._warning(one, "has no effect: this host has no cgroups of version 2")
        elif group.bound:
            self._error(
                one, f"this host has no {controller} controller, and it must not be unbounded"
            )
        else:
            self._warning(one, f"has no effect: this host has no {controller} controller")

    def _is_limit(self, one: CgroupSetting) -> bool:
        """Tell whether it is one at all, and can be a file's name."""
        if not _NAME.match(one.name) or ".." in one.name:
            self._error(one, f"{quoted(one.name)} is not the name of a file in a cgroup")
            return False
        if one.name in _FROZEN:
            if one.value not in _FROZEN[one.name]:
                self._warning(one, "has no effect: a container is frozen while it runs, not before")
            return False
        if "\n" in one.value or "\0" in one.value:
            self._error(one, "the value holds more than a line")
            return False
        listed = equivalents.find(one.version, one.name) is not None
        if one.name.startswith(_NOT_LIMITS) and not listed:
            self._warning(one, "has no effect: it is not a limit")
            return False
        return True

    def _take_unlisted(self, one: CgroupSetting) -> None:
        """Take a file that is not in the table: a newer kernel's, another one's, or a mistake."""
        controller = one.name.partition(".")[0]
        there = self._controllers.versions.get(controller) == one.version
        known = self._controllers.files.get(controller)
        meant = difflib.get_close_matches(one.name, equivalents.known_names(), 1, _ALIKE)
        # Where nobody knows the kernel's files yet, what is nearly a name of the table is meant so.
        if there and (one.name in known if known is not None else not meant):
            made = Write(controller, one.version, one.name, one.value, key_of(one), one.origin)
            # As with those of the table the last counts, of each device or so.
            self._writes = [write for write in self._writes if place(write) != place(made)]
            self._writes.append(made)
            return
        hint = f"; is it {meant[0]}?" if meant else ""
        if not there and controller not in _CONTROLLERS:
            text = f"{controller} is not a controller of cgroups{hint}"
        elif there:
            text = f"this kernel has no {one.name}{hint}"
        elif controller in self._controllers.versions:
            text = f"is not known to have a counterpart in version {3 - one.version}{hint}"
        else:
            text = f"this host has no {controller} controller{hint}"
        if meant and _is_bound(meant[0]):
            self._error(one, text)
        else:
            self._warning(one, f"has no effect: {text}")

    def _files(self, group: Group, version: int) -> frozenset[str] | None:
        return self._controllers.files.get(group.controller_of(version)) if version else None

    def _error(self, one: CgroupSetting, text: str) -> None:
        self._problem("error", one, text)

    def _warning(self, one: CgroupSetting, text: str) -> None:
        self._problem("warning", one, text)

    def _problem(
        self, severity: Literal["error", "warning"], one: CgroupSetting, text: str
    ) -> None:
        self._problems.append(Problem(severity, one.origin, key_of(one), text))


def _is_bound(name: str) -> bool:
    rows: Iterator[str] = (
        found[0].group for version in (1, 2) if (found := equivalents.find(version, name))
    )
    return any(equivalents.GROUPS[group].bound for group in rows)


def place(write: Write) -> tuple[str, str]:
    """What it is about: a file, and of one with a line for each device the device."""
    first, blank, _ = write.value.partition(" ")
    return write.file, first if blank and write.file not in _WHOLE else ""


def _rank(file: str) -> int:
    if file in _FIRST:
        return _FIRST.index(file)
    return len(_FIRST) + 1 + (_LAST.index(file) + 1 if file in _LAST else 0)
