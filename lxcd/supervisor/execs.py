"""All execs by id, and the short way: one command, small in and small out, to its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lxcd import errors
from lxcd.kernel.fd import Fd
from lxcd.supervisor.collecting import Collecting, Result
from lxcd.supervisor.entering import Command, Entry, check, end, require_enterable
from lxcd.supervisor.exec import Exec, ExecRecord
from lxcd.supervisor.records import plain, write_whole
from lxcd.supervisor.state import Cause, Exit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxcd.supervisor.container import Container
    from lxcd.supervisor.held import Held
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)
DEFAULT_OUTPUT_BYTES = 16 << 20
# Both streams have to go into one message.
OUTPUT_LIMIT_BYTES = 28 << 20
# So many that have ended are remembered; the oldest go first.
_ENDED_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What happens to an exec besides running."""

    kill_on_disconnect: bool = False
    delete_on_exit: bool = False
    lossless: bool = False


class Execs:
    """The registry of those that are named."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._by_id: dict[str, Exec] = {}

    def get(self, id_: str) -> Exec:
        """Raises NotFound."""
        found = self._by_id.get(id_)
        if found is None:
            raise errors.NotFound(f"no exec {id_}", "EXEC_NOT_FOUND", exec=id_)
        return found

    def find(self, lxcpath: str, name: str) -> list[Exec]:
        """Those of a container, or all; by their time."""
        return [
            each
            for each in self._by_id.values()
            if not name or (each.record.lxcpath, each.record.container) == (lxcpath, name)
        ]

    async def create(
        self,
        container: Container,
        command: Command,
        wanted: Wanted,
        given: Mapping[str, int],
    ) -> Exec:
        """Start one; it is exec'ed when this returns. Raises an LxcdError; nothing is left then."""
        check(command)
        entry = Entry(self._house, container, command, given, waits=wanted.lossless)
        records: list[ExecRecord] = []

        def write_down(child: Held) -> None:
            # What has been done and is known to nobody cannot be found again.
            record = ExecRecord(
                id=child.id,
                container=container.name,
                lxcpath=container.lxcpath,
                generation=container.record.generation,
                command=entry.argv,
                user=f"{entry.user.uid}:{entry.user.gid}",
                tty=command.size is not None,
                created_ns=time.time_ns(),
                kill_on_disconnect=wanted.kill_on_disconnect,
                delete_on_exit=wanted.delete_on_exit,
                lossless=wanted.lossless,
            )
            records.append(record)
            try:
                write_whole(self._path(child.id), json.dumps(record, default=plain).encode())
            except OSError as error:
                raise errors.from_oserror(error, "writing the record of an exec") from None

        try:
            child = await entry.enter(write_down)
        except BaseException:
            for record in records:
                self._unlink(record.id)
            raise
        return self._add(records[0], child)

    def _add(self, record: ExecRecord, child: Held) -> Exec:
        made = Exec(self._house, record, child, self._write, self._forgotten)
        self._by_id[record.id] = made
        made.begin()
        return made

    def close(self) -> None:
        """Lxcd leaves; they go on."""
        for each in self._by_id.values():
            each.close()

    # ---- what survives lxcd

    def recover(self) -> set[str]:
        """Take up those of an earlier lxcd; their ids. The keeper holds them, or their exits."""
        directory = self._house.paths.execs
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            try:
                with open(path, "rb") as file:
                    record = _record(json.loads(file.read()))
            except (OSError, ValueError, TypeError, KeyError) as error:
                _log.warning("%s cannot be read: %s", path, error)
                self._unlink(name)
                continue
            child = self._house.keeper.children.get(record.id)
            if child is None:
                # The keeper was lost with us, and nobody has kept it.
                self._unlink(name)
                continue
            self._add(record, child)
        return set(self._by_id)

    def _write(self, changed: Exec) -> bool:
        text = json.dumps(changed.record, default=plain).encode()
        try:
            write_whole(self._path(changed.id), text)
        except OSError as error:
            _log.error("the record of exec %s could not be written: %s", changed.id, error)
            return False
        finally:
            self._prune()
        return True

    def _forgotten(self, forgotten: Exec) -> None:
        self._by_id.pop(forgotten.id, None)
        self._unlink(forgotten.id)

    def _prune(self) -> None:
        ended = [
            (each.record.exit.time_ns, each)
            for each in self._by_id.values()
            if each.record.exit is not None and not each.port.sessions
        ]
        for _, each in sorted(ended, key=lambda pair: pair[0])[:-_ENDED_LIMIT]:
            each.forget()

    def _path(self, id_: str) -> str:
        return os.path.join(self._house.paths.execs, id_)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path(name))


def _record(data: dict[str, Any]) -> ExecRecord:
    ended: dict[str, Any] | None = data.pop("exit")
    how = None
    if ended is not None:
        ended["cause"] = Cause(ended["cause"])
        how = Exit(**ended)
    data["command"] = tuple(data["command"])
    return ExecRecord(**data, exit=how)


# ---- small in, small out


async def run(
    house: House,
    container: Container,
    command: Command,
    stdin: bytes = b"",
    *,
    limit: int = DEFAULT_OUTPUT_BYTES,
    timeout_seconds: float | None = None,
) -> Result:
    """Run a command to its end; whoever does not wait for that any more has it killed. Raises an
    LxcdError if it could not even be begun.
    """
    check(command)
    if limit > OUTPUT_LIMIT_BYTES:
        raise errors.InvalidArgument(
            f"{limit} bytes of output; {OUTPUT_LIMIT_BYTES} is the most: attach to an exec instead",
            "INVALID_LIMIT",
        )
    require_enterable(container)
    loop = asyncio.get_running_loop()
    deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
    # Ours to write: it goes with its caller, so nobody has to keep it.
    read_end, write_end = os.pipe2(os.O_CLOEXEC) if stdin else (-1, -1)
    with Fd(read_end), Fd(write_end) as feeding:
        try:
            async with asyncio.timeout_at(deadline):
                given = {"stdin": read_end} if stdin else {}
                child = await Entry(house, container, command, given).enter()
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"{container.name} could not be entered in time", "EXEC_TIMEOUT"
            ) from None
        try:
            generation = container.record.generation
            collecting = Collecting(house, child, generation, limit)
            return await collecting.to_the_end(feeding, stdin, deadline)
        finally:
            await end(house, child)
