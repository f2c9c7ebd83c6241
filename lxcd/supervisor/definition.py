"""A container's configuration on disk: LXCPATH/NAME/config, read again only when it has changed.

The file is its owner's: it is rewritten only on request, and keeps its comments then. A hand edit
counts at the next command.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.config import check, loader, reader
from lxcd.config.daemon import ContainerSettings, load_container_settings
from lxcd.supervisor import limiting
from lxcd.supervisor.records import Texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.config.model import ContainerConfig, Problem
    from lxcd.supervisor.limiting import Limits

CONFIG_NAME = "config"
SETTINGS_NAME = "lxcd.toml"
_SETTINGS_LIMIT_BYTES = 1 << 20
CONFIG_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Definition:
    """One reading of a configuration."""

    text: bytes
    origin: str
    config: ContainerConfig
    problems: tuple[Problem, ...]  # all: of the text, of keys together, of limits on this host
    settings: ContainerSettings
    limits: Limits

    @property
    def etag(self) -> str:
        """Changes whenever the text does."""
        return blake2b(self.text, digest_size=8).hexdigest()

    def require_sound(self) -> None:
        """Raise InvalidArgument if something in it is an error; a warning is none."""
        wrong = [problem for problem in self.problems if problem.severity == "error"]
        if wrong:
            lines = [f"{problem.origin}: {problem.message}" for problem in wrong]
            raise errors.InvalidArgument(
                "; ".join(lines[:20]), "INVALID_CONFIG", origin=wrong[0].origin, key=wrong[0].key
            )


def read_text(
    text: bytes,
    origin: str,
    defines: tuple[tuple[str, str], ...] = (),
    settings: ContainerSettings | None = None,
) -> Definition:
    """Read a configuration that is not in a file, or not as it stands there; `settings` are those
    that go with it.
    """
    config, _ = loader.load(text, origin, defines=defines)
    return _definition(text, origin, config, settings or ContainerSettings())


def _definition(
    text: bytes,
    origin: str,
    config: ContainerConfig,
    settings: ContainerSettings,
    problems: tuple[Problem, ...] = (),
) -> Definition:
    limits = limiting.of(config, settings)
    found = (*check.check(config), *problems, *limits.problems)
    return Definition(text, origin, config, found, settings, limits)


def texts_of(definition: Definition, defines: tuple[tuple[str, str], ...]) -> Texts:
    """For the record."""
    config = definition.text.decode(errors="surrogateescape")
    return Texts(config, definition.settings.text.decode(errors="surrogateescape"), defines)


def from_texts(texts: Texts, origin: str) -> Definition:
    """What `texts_of` made."""
    beside = texts.settings.encode(errors="surrogateescape")
    settings, problems = load_container_settings(beside, SETTINGS_NAME)
    config = texts.config.encode(errors="surrogateescape")
    found = read_text(config, origin, texts.defines, settings)
    return replace(found, problems=(*found.problems, *problems))


class ConfigFile:
    """The file and the last reading of it."""

    def __init__(
        self,
        directory: str,
        name: str = CONFIG_NAME,
        edited: Callable[[Definition, Definition], None] | None = None,
    ) -> None:
        """`edited` is told of what others have changed, when it is read again: on any thread."""
        self._edited = edited
        self.directory = directory
        self.path = os.path.join(directory, name)
        # What was read and from which files; replaced whole, as threads read it too.
        self._last: tuple[Definition, tuple[reader.Stamp, ...]] | None = None

    def exists(self) -> bool:
        """There is a config file."""
        return os.path.isfile(self.path)

    def settings(self) -> ContainerSettings:
        """What the `lxcd.toml` beside it says; nothing if there is none."""
        return self._settings()[0]

    def _settings(self) -> tuple[ContainerSettings, tuple[Problem, ...]]:
        try:
            found = loader.HOST_FILES.read(self._settings_path, _SETTINGS_LIMIT_BYTES)
        except OSError:
            return ContainerSettings(), ()
        if not isinstance(found, reader.RegularFile):
            return ContainerSettings(), ()
        return load_container_settings(found.data, SETTINGS_NAME)

    @property
    def _settings_path(self) -> str:
        return os.path.join(self.directory, SETTINGS_NAME)

    def read(self) -> Definition:
        """The configuration as it is now. Raises NotFound, or FailedPrecondition if it is
        unreadable.
        """
        files = loader.HOST_FILES
        last = self._last
        if last is not None and reader.unchanged(last[1], files):
            return last[0]
        try:
            # Never blocks, whatever the path is: a FIFO is no configuration.
            found = files.read(self.path, CONFIG_LIMIT_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            raise errors.NotFound(f"no configuration: {self.path}", "CONTAINER_NOT_FOUND") from None
        except OSError as error:
            raise errors.from_oserror(error, f"reading {self.path}") from None
        if not isinstance(found, reader.RegularFile):
            raise errors.FailedPrecondition(f"{self.path} is not a regular file", "INVALID_CONFIG")
        text, stamp = found.data, found.stamp
        if len(text) > CONFIG_LIMIT_BYTES:
            raise errors.FailedPrecondition(
                f"{self.path} is larger than {CONFIG_LIMIT_BYTES} bytes", "INVALID_CONFIG"
            )
        config, stamps = loader.load(text, self.path)
        beside = files.stamp(self._settings_path)
        settings, wrong = self._settings()
        definition = _definition(text, self.path, config, settings, wrong)
        self._last = (definition, (stamp, *stamps, beside))
        if self._edited is not None and last is not None:
            self._edited(last[0], definition)
        return definition

    def write(self, text: bytes, like: str = "") -> None:
        """Replace the text, whole or not at all; mode and owner stay, or are those of the file
        `like`. Raises an LxcdError.
        """
        new = f"{self.path}.lxcd-new"
        try:
            try:
                found = os.stat(like or self.path)
                mode, uid, gid = found.st_mode & 0o7777, found.st_uid, found.st_gid
            except FileNotFoundError:
                mode, uid, gid = 0o640, -1, -1
            fd = os.open(
                new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode
            )
            try:
                view = memoryview(text)
                while view:
                    view = view[os.write(fd, view) :]
                os.fchmod(fd, mode)
                os.fchown(fd, uid, gid)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(new, self.path)
        except OSError as error:
            if os.path.exists(new):
                os.unlink(new)
            raise errors.from_oserror(error, f"writing {self.path}") from None
        self._last = None
