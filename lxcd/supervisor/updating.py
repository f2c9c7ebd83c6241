"""A change of a container's configuration: of its file, of what runs, or of both.

What runs can be given other limits and device rules. If that fails, nothing of it is changed, and
the file is not either.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from lxcd import errors
from lxcd.cgroup import devices
from lxcd.config import limits as sugar
from lxcd.config import loader, reader, writer
from lxcd.config.daemon import load_container_settings
from lxcd.supervisor import limiting
from lxcd.supervisor.definition import (
    SETTINGS_NAME,
    ConfigFile,
    Definition,
    read_text,
    texts_of,
)
from lxcd.threads import in_thread, to_its_end

if TYPE_CHECKING:
    from collections.abc import Collection

    from lxcd.config.model import Problem
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.house import House
    from lxcd.supervisor.limiting import Limits
    from lxcd.supervisor.records import Record, Texts

_SUGAR = "limits."
_LIVE = (_SUGAR, "lxc.cgroup.", "lxc.cgroup2.")
_NOT_LIVE = ("lxc.cgroup.dir", "lxc.cgroup.relative")  # begin like limits, and are places
_SETTINGS_LIMIT_BYTES = 1 << 20

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked for."""

    text: bytes | None  # the whole new text
    changes: tuple[tuple[str, tuple[str, ...]], ...]  # key, its lines afterwards
    etag: str = ""
    saved: bool = True
    live: bool = False

    @property
    def scope(self) -> str:
        """In a word, for an event."""
        return "both" if self.saved and self.live else "live" if self.live else "saved"


@dataclass(frozen=True, slots=True)
class _Texts:
    """Of the file, and of the `lxcd.toml` beside it."""

    config: bytes
    settings: str


@dataclass(frozen=True, slots=True)
class _Live:
    """What runs is to be, and its texts for the record."""

    definition: Definition
    texts: Texts | None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a change comes to."""

    old: _Texts
    texts: _Texts
    after: Definition
    live: _Live | None


async def update(
    house: House, container: Container, change: Change, *, validate_only: bool
) -> tuple[Definition, tuple[Problem, ...]]:
    """Carry it out: the configuration as it is then, and limits of which the kernel has made
    something else. The caller holds the lock. Raises an LxcdError; nothing is changed then.
    """
    container.require_existing()
    if change.saved and not container.defined:
        raise errors.FailedPrecondition(
            f"container {container.name} has no configuration file", "CONTAINER_NOT_DEFINED"
        )
    before = await in_thread(container.definition)
    if change.etag and change.etag != before.etag:
        raise errors.Aborted(
            f"the configuration of {container.name} was changed meanwhile", "ETAG_MISMATCH"
        )
    running = None
    if change.live:
        _require_live(container, change)
        running = container.running
    wanted = await in_thread(_work_out, container, change, before, running)
    problems: tuple[Problem, ...] = ()
    if not validate_only:

        async def do() -> tuple[Problem, ...]:
            problems = await _carry_out(house, container, change, wanted)
            container.tell_update(before, wanted.after, change.scope)
            return problems

        # What was done to it has to be known before the end of lxcd is heeded.
        problems = await to_its_end(do())
    return wanted.after, problems


def _require_live(container: Container, change: Change) -> None:
    """Raise unless it can be done to what runs."""
    if change.text is not None:
        raise errors.InvalidArgument(
            "of what runs single keys can be changed, not the whole text", "NOT_LIVE"
        )
    for key, _ in change.changes:
        if not key.startswith(_LIVE) or key.startswith(_NOT_LIVE):
            text = f"{key} cannot be changed while the container runs: limits and devices can"
            raise errors.InvalidArgument(text, "NOT_LIVE", key=key)
    container.require_running()


def _work_out(
    container: Container, change: Change, before: Definition, running: Definition | None
) -> _Wanted:
    """Raises an LxcdError."""
    old = _Texts(before.text, _settings_text(_beside(container).path))
    texts = _edited(old, change)
    after = _read(texts, before.origin)
    _require_no_worse(before, after)
    live = None
    if running is not None:
        live = _live_of(container.record, running, change)
        _require_no_worse(running, live.definition)
    return _Wanted(old, texts, after, live)


async def _carry_out(
    house: House, container: Container, change: Change, wanted: _Wanted
) -> tuple[Problem, ...]:
    """Raises an LxcdError; nothing is changed then."""
    keys = {key for key, _ in change.changes}
    problems: tuple[Problem, ...] = ()
    running, begun = container.running, container.record.running
    if wanted.live is not None:
        problems = await _change_running(house, container, wanted.live, keys)
    if change.saved:
        try:
            await in_thread(_save, container, wanted)
        except errors.LxcdError:
            if wanted.live is not None and running is not None:
                # If it has ended meanwhile, there is nothing to be given back.
                with contextlib.suppress(errors.LxcdError):
                    await _change_running(house, container, _Live(running, begun), keys)
            raise
    return problems


def _save(container: Container, wanted: _Wanted) -> None:
    """Raises an LxcdError."""
    old, texts = wanted.old, wanted.texts
    if texts.settings != old.settings:
        _beside(container).write(texts.settings.encode(), like=container.file.path)
    if texts.config != old.config:
        container.file.write(texts.config)


def _beside(container: Container) -> ConfigFile:
    return ConfigFile(container.directory, SETTINGS_NAME)


def _settings_text(path: str) -> str:
    try:
        found = loader.HOST_FILES.read(path, _SETTINGS_LIMIT_BYTES)
    except OSError:
        return ""
    return found.data.decode(errors="replace") if isinstance(found, reader.RegularFile) else ""


def _edited(texts: _Texts, change: Change) -> _Texts:
    """Raises InvalidArgument."""
    config = texts.config if change.text is None else change.text
    settings = texts.settings
    for key, values in change.changes:
        if key.startswith(_SUGAR):
            name = key.removeprefix(_SUGAR)
            try:
                settings = (
                    sugar.with_limit(settings, name, values[-1])
                    if values
                    else sugar.without_limit(settings, name)
                )
            except ValueError as error:
                raise errors.InvalidArgument(str(error), "INVALID_CONFIG", key=key) from None
        elif values:
            config = writer.set_key(config, key, list(values))
        else:
            config = writer.unset_key(config, key)
    return _Texts(config, settings)


def _read(texts: _Texts, origin: str, defines: tuple[tuple[str, str], ...] = ()) -> Definition:
    settings, problems = load_container_settings(texts.settings.encode(), SETTINGS_NAME)
    found = read_text(texts.config, origin, defines, settings)
    return replace(found, problems=(*found.problems, *problems))


def _require_no_worse(before: Definition, after: Definition) -> None:
    """What was wrong before may stay so; a change must not make it worse."""
    known = {(problem.key, problem.message) for problem in before.problems}
    fresh = [
        problem
        for problem in after.problems
        if problem.severity == "error" and (problem.key, problem.message) not in known
    ]
    if fresh:
        raise errors.InvalidArgument(
            "; ".join(f"{problem.origin}: {problem.message}" for problem in fresh[:20]),
            "INVALID_CONFIG",
            origin=fresh[0].origin,
            key=fresh[0].key,
        )


def _live_of(record: Record, running: Definition, change: Change) -> _Live:
    """What runs, changed. What its start was told beside the file counts on, but for these keys."""
    keys = {key for key, _ in change.changes}
    told = record.running.defines if record.running is not None else record.request.defines
    defines = tuple(one for one in told if one[0] not in keys)
    settings = running.settings.text.decode(errors="replace")
    texts = _edited(_Texts(running.text, settings), change)
    definition = _read(texts, running.origin, defines)
    return _Live(definition, texts_of(definition, defines))


async def _change_running(
    house: House, container: Container, becomes: _Live, keys: Collection[str]
) -> tuple[Problem, ...]:
    """Raises an LxcdError."""
    child, generation = container.require_running(), container.record.generation
    was = container.running
    if was is None:
        raise errors.Internal("a change of what does not run")
    found = await in_thread(
        limiting.change,
        house.trees,
        container.payload,
        was.limits,
        becomes.definition.limits,
        asked=keys,
        added=[node.rule for node in container.record.device_nodes],
    )
    # Its end, which is handled beside this, has forgotten what it ran with; and others have
    # changed the record meanwhile.
    same = container.child is child and container.record.generation == generation
    if same and child.exited is None:
        container.running = becomes.definition
        container.record = container.record.but(
            device_rules=_rules_kept(container.record, was.limits, becomes.definition.limits),
            running=becomes.texts,
        )
        container.write_record()
    return tuple(found)


def _rules_kept(record: Record, was: Limits, becomes: Limits) -> tuple[str, ...] | None:
    """Its rules about devices, for the record. Beside nodes that it was given they are written out:
    what is in force says no more which rights are of those, and they could not be taken back.
    """
    if was.policy == becomes.policy:
        return record.device_rules
    if record.device_nodes:
        return devices.lines(becomes.policy)
    return limiting.rules_kept(becomes)
