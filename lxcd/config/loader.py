"""Text to ContainerConfig. What is wrong becomes a Problem; what can be understood is."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast

from lxcd.config import entries, keys, legacy_keys, nic_keys, nics, rootfs
from lxcd.config.characters import forbidden, printable, quoted, words
from lxcd.config.model import (
    ContainerConfig,
    Entry,
    IdMapping,
    Line,
    MountAuto,
    MountEntry,
    Problem,
    Rootfs,
    Variable,
)
from lxcd.config.reader import (
    DEFINE,
    MAXIMUM_TOTAL_BYTES,
    FileAccess,
    HostFiles,
    RawLine,
    Reading,
    RegularFile,
    Stamp,
    Unreadable,
    in_same_text,
)
from lxcd.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HOST_FILES = HostFiles()
# A text made to be hostile has a mistake in each of 100 000 lines; nobody reads more than this.
_MAXIMUM_PROBLEMS = 1000
_SCOPES = ("all", "runtime", "hooks")
# By field of ContainerConfig: what the keys that fill it are called.
_FAMILIES = {
    field: frozenset(row.family for row in keys.KEYS if row.field == field)
    for field in {row.field for row in keys.KEYS if row.shape != "value"}
}
_CONTAINER = cast("Callable[..., ContainerConfig]", ContainerConfig)


def load(
    data: bytes,
    origin: str,
    *,
    defines: Iterable[tuple[str, str]] = (),
    files: FileAccess = HOST_FILES,
) -> tuple[ContainerConfig, tuple[Stamp, ...]]:
    """Read a configuration.

    Args:
        data: the text.
        origin: its path, for messages and for includes and fstab files that are written relative
            to it.
        defines: keys and values that come behind those of the text (`lxc-start -s KEY=VALUE`).
        files: how to get at other files.

    Returns:
        The configuration, and every file that was read or looked for besides the text itself: as
        long as `reader.unchanged` says so of them and the text is the same, the result would be
        the same.
    """
    reading = Reading(files)
    reading.text(data, origin)
    return _finish(reading, origin, defines)


def load_file(
    path: str,
    *,
    defines: Iterable[tuple[str, str]] = (),
    files: FileAccess = HOST_FILES,
) -> tuple[ContainerConfig, tuple[Stamp, ...]]:
    """Read a configuration from a file, which is the first of the files that are returned.

    Raises:
        OSError: if it cannot be read.
        InvalidArgument: if it is not a regular file.
    """
    found = files.read(path, MAXIMUM_TOTAL_BYTES)
    if not isinstance(found, RegularFile):
        what = found.what if isinstance(found, Unreadable) else "a directory"
        raise InvalidArgument(f"{printable(path)} is {what}, not a configuration", path=path)
    reading = Reading(files)
    reading.stamps.append(found.stamp)
    reading.text(found.data, path)
    return _finish(reading, path, defines)


def check_value(key: str, value: str) -> None:
    """Check one value of a known key, by itself.

    Raises:
        InvalidArgument: if there is no such key (UNKNOWN_KEY), or it cannot have this value
            (INVALID_VALUE).
    """
    loader = _Loader(Reading(HOST_FILES))
    shown = quoted(key)
    why = forbidden(key) or forbidden(value)
    if why:
        raise InvalidArgument(
            f"{shown}: the key or the value holds {why}", "INVALID_VALUE", key=key
        )
    if not loader.take(RawLine(key, value, DEFINE)):
        raise InvalidArgument(f"{shown} is not a key of a container", "UNKNOWN_KEY", key=key)
    loader.root()
    errors = [
        one.message for one in loader.problems + loader.network.problems if one.severity == "error"
    ]
    if errors:
        raise InvalidArgument(f"{shown}: {errors[0]}", "INVALID_VALUE", key=key)


def _finish(
    reading: Reading, origin: str, defines: Iterable[tuple[str, str]]
) -> tuple[ContainerConfig, tuple[Stamp, ...]]:
    for key, value in defines:
        reading.define(key, value)
    loader = _Loader(reading)
    for raw in reading.lines:
        loader.take(raw)
    return loader.config(origin), tuple(reading.stamps)


class _Loader:
    """What the lines so far have said. One per configuration."""

    def __init__(self, reading: Reading) -> None:
        self.problems: list[Problem] = []
        self.network = nics.Network()
        self._reading = reading
        self._lines: list[Line] = []
        self._legacy = False
        self._scalars: dict[str, object] = {}  # by field
        # By family and modern name: place in the text, item. So arranged that no text of 100 000
        # lines, however made, needs more than a glance per line.
        self._items: dict[str, dict[str, list[tuple[int, object]]]] = {}
        self._origins: dict[str, str] = {}
        self._backend = ("", "")  # value and origin of lxc.rootfs.backend

    def take(self, raw: RawLine) -> bool:
        """Take in one line; tell whether it has a known key."""
        network = nic_keys.split_name(raw.key)
        if network is not None:
            self._take_network(network, raw)
            return True
        former = legacy_keys.find(raw.key)
        if former is not None:
            self._legacy |= former.era
            if not former.modern:
                self._take_dropped(former, raw)
                return True
        name = legacy_keys.modern_name(raw.key)
        if name in keys.FAMILIES:
            self._take_family(name, raw)
            return True
        found = keys.find(name)
        if found is None:
            self._line(raw, raw.key, in_force=False)
            self._problem("warning", raw.origin, raw.key, "not a key of LXC: ignored")
            return False
        if raw.value:
            good = raw.usable and self._set(found, raw)
            self._line(raw, name, in_force=good and found.row.acts_on(raw.value))
        else:
            self._clear(found)
            self._line(raw, name, in_force=found.row.in_force)
        return True

    def _set(self, found: keys.Found, raw: RawLine) -> bool:
        row = found.row
        good = True
        for part in words(raw.value) if row.words else [raw.value]:
            try:
                parsed = row.parse(keys.Given(part, raw.origin, found.rest))
            except ValueError as error:
                self._problem("error", raw.origin, raw.key, str(error))
                good = False
                continue
            if row.shape != "list":
                self._note_again(found.name, raw)
                self._origins[found.name] = raw.origin
            if row.shape == "value":
                self._scalars[row.field] = parsed
                continue
            held = self._items.setdefault(row.family, {}).setdefault(found.name, [])
            if row.shape == "map" and held:
                # In the place of the former one, as LXC does it.
                held[0] = (held[0][0], parsed)
            else:
                held.append((len(self._lines), parsed))
        return good

    def _clear(self, found: keys.Found) -> None:
        self._origins.pop(found.name, None)
        if found.row.shape == "value":
            self._scalars.pop(found.row.field, None)
        else:
            self._items.get(found.row.family, {}).pop(found.name, None)

    def _take_family(self, name: str, raw: RawLine) -> None:
        self._line(raw, name, in_force=not raw.value)
        if raw.value:
            text = "takes only an empty value, which clears all keys that begin so"
            self._problem("error", raw.origin, raw.key, text)
            return
        for one in self._items.pop(name, {}):
            self._origins.pop(one, None)

    def _take_network(self, what: nic_keys.NicName, raw: RawLine) -> None:
        self._legacy |= raw.key.startswith("lxc.network")
        if not raw.usable and what.option != nic_keys.TYPE:
            self._line(raw, self.network.name(what), in_force=False)
            return
        # A type is taken in any case: what follows must not go to the device before it.
        name = self.network.take(what, raw.key, raw.value, raw.origin)
        self._line(raw, name, in_force=not raw.value or nic_keys.in_force(what.option))

    def _take_dropped(self, former: legacy_keys.Legacy, raw: RawLine) -> None:
        backend = former.name == legacy_keys.BACKEND
        self._line(raw, raw.key, in_force=backend and raw.usable)
        if not raw.usable:
            return
        if backend:
            self._backend = (raw.value, raw.origin)
        if backend or not raw.value:
            return
        try:
            legacy_keys.check_dropped(former.name, keys.Given(raw.value, raw.origin))
        except ValueError as error:
            self._problem("error", raw.origin, raw.key, str(error))
            return
        self._problem("warning", raw.origin, raw.key, f"has no effect: {former.help}")

    def config(self, origin: str) -> ContainerConfig:
        """Put together what all lines said."""
        given: dict[str, object] = {
            field: value for field, value in self._scalars.items() if "." not in field
        }
        for field in _FAMILIES:
            items = self._of(field)
            if items:
                given[field] = _FOLDS.get(field, tuple)(items)
        given["rootfs"] = self.root()
        from_file = self._fstab(origin)
        given["mount_entries"] = (*from_file, *self._of("mount_entries"))
        self._check_idmap()
        given["nics"] = self.network.nics()
        given.pop("", None)
        origins = {**self._origins, **self.network.origins()}
        problems = [*self._reading.problems, *self.problems, *self.network.problems]
        return _CONTAINER(
            lines=tuple(self._lines),
            problems=_bounded(_in_order(problems)),
            origins=MappingProxyType(origins),
            legacy=self._legacy,
            **given,
        )

    def root(self) -> Rootfs | None:
        """Put together the root file system out of its keys."""
        if "rootfs.path" not in self._scalars:
            return None
        origin = self._origins["lxc.rootfs.path"]
        try:
            if self._backend[0]:
                rootfs.kind_of(self._backend[0])
        except ValueError as error:
            self._problem("error", self._backend[1], legacy_keys.BACKEND, str(error))
            return None
        text = cast("str", self._scalars["rootfs.path"])
        try:
            kind, path = rootfs.split_path(text, self._backend[0])
        except ValueError as error:
            self._problem("error", origin, "lxc.rootfs.path", str(error))
            return None
        options = cast("tuple[str, ...]", self._scalars.get("rootfs.options", ()))
        partition = None
        try:
            partition, options = rootfs.split_partition(options)
        except ValueError as error:
            key = "lxc.rootfs.options"
            self._problem("error", self._origins[key], key, str(error))
        return Rootfs(
            kind,
            path,
            options,
            partition,
            rootfs.is_plain(text, self._backend[0]),
            cast("bool", self._scalars.get("rootfs.managed", True)),
            cast("str", self._scalars.get("rootfs.mount", keys.ROOTFS_MOUNT)),
            origin,
        )

    def _fstab(self, main: str) -> list[MountEntry]:
        name = cast("str", self._scalars.get("mount_fstab", ""))
        if not name:
            return []
        key = "lxc.mount.fstab"
        origin = self._origins[key]
        base = origin.rpartition(":")[0] or main
        found = self._reading.side_file(name, base, origin, key)
        if found is None:
            return []
        path, data = found
        mounts: list[MountEntry] = []
        for number, raw in enumerate(data.split(b"\n"), start=1):
            text = raw.decode("utf-8", "surrogateescape").strip(" \t\r")
            if not text or text.startswith("#"):
                continue
            where = f"{printable(path)}:{number}"
            try:
                why = forbidden(text)
                if why:
                    raise ValueError(f"the line holds {why}")  # noqa: TRY301
                mounts.append(entries.mount_entry(text, where))
            except ValueError as error:
                self._problem("error", where, key, str(error))
        return mounts

    def _check_idmap(self) -> None:
        mappings = cast("list[IdMapping]", self._of("idmap"))
        for later, earlier, what in entries.overlaps(mappings):
            text = f"{what} are mapped already by {earlier.origin}"
            self._problem("error", later.origin, "lxc.idmap", text)

    def _of(self, field: str) -> list[object]:
        found: list[tuple[int, object]] = []
        for family in _FAMILIES[field]:
            for held in self._items.get(family, {}).values():
                found += held
        return [item for _, item in sorted(found, key=lambda pair: pair[0])]

    def _note_again(self, name: str, raw: RawLine) -> None:
        before = self._origins.get(name, "")
        # To say otherwise than an included file, or with a define, is what those are for.
        if in_same_text(raw.origin, before):
            text = f"given again: this counts, not {before}"
            self._problem("warning", raw.origin, raw.key, text)

    def _line(self, raw: RawLine, name: str, *, in_force: bool) -> None:
        self._lines.append(Line(raw.key, name, raw.value, raw.origin, in_force))

    def _problem(
        self, severity: Literal["warning", "error"], origin: str, key: str, message: str
    ) -> None:
        self.problems.append(Problem(severity, origin, key, message))


def _fold_keep(items: list[object]) -> tuple[Entry, ...]:
    # `none` drops what was there before it, and what follows adds to nothing
    # (lxc.container.conf(5)).
    kept = cast("list[Entry]", items)
    start = max((place for place, one in enumerate(kept) if one.value == "none"), default=-1)
    return tuple(kept[start + 1 :])


def _fold_auto(items: list[object]) -> tuple[MountAuto, ...]:
    # Of proc:mixed and proc:rw the later counts, wherever it stands; all cgroup words are about
    # one mount.
    last: dict[str, MountAuto] = {}
    for one in cast("list[MountAuto]", items):
        last[one.what.partition("-")[0].rstrip("2")] = one
    return tuple(last.values())


def _fold_environment(items: list[object]) -> tuple[Variable, ...]:
    # The narrower keys come behind the wide one, so that whoever sets them in order gets LXC 7.0's
    # result.
    return tuple(sorted(cast("list[Variable]", items), key=lambda one: _SCOPES.index(one.scope)))


def _fold_set(items: list[object]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cast("list[str]", items)))


_FOLDS: dict[str, Callable[[list[object]], tuple[object, ...]]] = {
    "cap_keep": _fold_keep,
    "mount_auto": _fold_auto,
    "environment": _fold_environment,
    "namespace_clone": _fold_set,
    "namespace_keep": _fold_set,
    "groups": _fold_set,
}


def _in_order(problems: list[Problem]) -> list[Problem]:
    files: dict[str, int] = {}

    def place(problem: Problem) -> tuple[int, int]:
        file, _, line = problem.origin.rpartition(":")
        return (files.setdefault(file, len(files)), int(line) if line.isdecimal() else 0)

    return sorted(problems, key=place)


def _bounded(problems: list[Problem]) -> tuple[Problem, ...]:
    if len(problems) <= _MAXIMUM_PROBLEMS:
        return tuple(problems)
    errors = [one for one in problems if one.severity == "error"]
    warnings = [one for one in problems if one.severity != "error"]
    shown = [*errors, *warnings][:_MAXIMUM_PROBLEMS]
    rest = Problem(
        "error" if len(errors) > _MAXIMUM_PROBLEMS else "warning",
        shown[-1].origin,
        "",
        f"{len(problems) - len(shown)} more problems are not shown",
    )
    return (*shown, rest)
