"""Keeping a container's console on disk: the session that fills its log file."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.console import session as console
from lxcd.console.logfile import LogFile, Settings
from lxcd.console.port import Start
from lxcd.supervisor.ports import terminal_port
from lxcd.supervisor.records import write_whole

if TYPE_CHECKING:
    from lxcd.config.model import ContainerConfig
    from lxcd.console.session import Session
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.errands import Errands
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)
CONSOLE = "console"
LABEL = "log file"


def settings_of(config: ContainerConfig, directory: str) -> Settings | None:
    """What its configuration wants; None without a log file."""
    if not config.console_logfile:
        return None
    path = os.path.join(directory, config.console_logfile)
    return Settings(path, config.console_size_bytes, config.console_rotate)


def keep(house: House, container: Container, child: Held, config: ContainerConfig) -> None:
    """Have its console written to its log file, from where that is, if it has one."""
    settings = settings_of(config, container.directory)
    if settings is not None and CONSOLE in child.streams:
        file = LogFile(settings, os.path.join(house.paths.logs, child.id), write_whole)
        house.begin(_fill(house, container, child, file, settings.path))


def finish(house: House, container: Container, child: Held) -> None:
    """The same for a life that is over, if lxcd did not come to write its end."""
    if os.path.exists(os.path.join(house.paths.logs, child.id)):
        with contextlib.suppress(errors.LxcdError):
            keep(house, container, child, container.definition().config)


async def _fill(house: House, container: Container, child: Held, file: LogFile, path: str) -> None:
    port = terminal_port(house.keeper, child, CONSOLE)
    writer = _Writer(house.errands, file, path, container.name)
    session: Session | None = None
    try:
        offset = await house.errands.run(path, file.open)
        head = child.stream(CONSOLE).head
        offsets = {CONSOLE: min(offset or 0, head)}
        session = port.attach(
            console.Role.VIEWER, Start(offsets), window=console.WINDOW_BYTES, label=LABEL
        )
        await house.errands.run(path, lambda: file.begin(offsets[CONSOLE]))
        async for frame in session.frames():
            if isinstance(frame, console.Output):
                done = frame.offset + len(frame.data)
                await writer.write(frame.offset, frame.data)
            elif isinstance(frame, console.Gap):
                done = frame.end
                writer.lose(frame.begin)
            else:
                continue
            session.credit(CONSOLE, done)
        if session.ending is None:
            await house.errands.run(path, file.forget)
    except (OSError, errors.DeadlineExceeded) as error:
        text = f"{path}: {error}"
        _log.error("the console's log of %s: %s", container.name, text)
        container.tell("container.console_log_failed", message=text)
    finally:
        file.close()
        if session is not None:
            port.leave(session)


class _Writer:
    """Writes what it can. What there was no room for is said in the file once there is some."""

    def __init__(self, errands: Errands, file: LogFile, path: str, name: str) -> None:
        self._errands = errands
        self._path = path
        self._file = file
        self._name = name
        self._lost_from: int | None = None

    def lose(self, begin: int) -> None:
        """What comes from here on to the next write is lost."""
        if self._lost_from is None:
            self._lost_from = begin

    async def write(self, offset: int, data: bytes) -> None:
        """Bytes that come next. On disk, or lost."""
        lost_from = self._lost_from

        def add() -> None:
            if lost_from is not None:
                self._file.note_gap(lost_from, offset)
            self._file.write(offset, data)

        try:
            await self._errands.run(self._path, add)
            self._lost_from = None
        except (OSError, errors.DeadlineExceeded) as error:
            if self._lost_from is None:
                _log.error("the console's log of %s: %s", self._name, error)
            self.lose(offset)
