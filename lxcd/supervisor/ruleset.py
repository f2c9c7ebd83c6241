"""The nftables tables of managed networks: which are ours, and what is in them. nft(8) is run for
each change; what is asked for while it runs goes along with the next.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from lxcd import errors
from lxcd.network import firewall
from lxcd.supervisor import programs
from lxcd.supervisor.stop import exit_words
from lxcd.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcd.network.definition import ManagedNetwork
    from lxcd.network.firewall import Published, Rules
    from lxcd.network.port import Port
    from lxcd.supervisor.house import House

_log = logging.getLogger(__name__)
_NAME = "lxcd"
_MOST_TABLES = 64  # of as many lxcd on one host
_SECONDS = 30.0
_TOGETHER = 50  # changes in one transaction


@dataclass(slots=True, eq=False)
class _Change:
    """Something that somebody waits for. Its text is made when it is its turn."""

    text: Callable[[], str]
    done: asyncio.Future[None]


class Ruleset:
    """Owns both tables. `rules` tells all that they are to say."""

    def __init__(self, house: House, rules: Callable[[], Rules]) -> None:
        self._house = house
        self._rules = rules
        self._owner = firewall.owner_comment(house.paths.runtime_dir)
        self._table = ""  # the name of ours; empty: we have none
        self._waiting: list[_Change] = []
        self._busy = False

    # ---- changes

    async def rebuild(self) -> None:
        """Have all of it there, and nothing else. Raises FailedPrecondition."""
        if not self._table:
            self._table = await self._claim()
        await self._change(lambda: firewall.whole(self._table, self._owner, self._rules()))

    async def release(self) -> None:
        """Remove both tables, if there are any of ours. Raises FailedPrecondition."""
        table = self._table or await self._find()
        # Whose turn comes behind it finds none.
        self._table = ""
        if table:
            try:
                await self._change(lambda: firewall.release(table))
            except errors.FailedPrecondition:
                self._table = table
                raise

    async def add_port(self, port: Port, network: ManagedNetwork) -> None:
        """Filter what comes in by a port; it is in `rules` already. Raises FailedPrecondition."""
        await self._change_or_rebuild(lambda: firewall.add_port(self._table, port, network))

    async def remove_port(self, port: Port) -> None:
        """The reverse; it is no longer in `rules`. Raises FailedPrecondition."""
        if port.filter and self._table:
            await self._change_or_rebuild(lambda: firewall.remove_port(self._table, port))

    async def publish(self, published: Callable[[], tuple[Published, ...]]) -> None:
        """Have these forwards and no others. Raises FailedPrecondition."""
        await self._change_or_rebuild(lambda: firewall.publish(self._table, published()))

    async def _change_or_rebuild(self, text: Callable[[], str]) -> None:
        """Somebody may have flushed all tables of the host, ours too: then all is made again. Where
        the last network has gone meanwhile, and the tables with it, there is nothing to change.
        """
        if self._table:
            try:
                await self._change(lambda: text() if self._table else "")
            except errors.FailedPrecondition as error:
                _log.warning("the tables of %s are made again: %s", self._table, error)
            else:
                if self._table:
                    return
        if self._rules().networks:
            await self.rebuild()

    async def _change(self, text: Callable[[], str]) -> None:
        change = _Change(text, asyncio.get_running_loop().create_future())
        self._waiting.append(change)
        if not self._busy:
            self._busy = True
            self._house.finish(self._work())
        # What was begun is finished, whoever waits for it.
        await asyncio.shield(change.done)

    async def _work(self) -> None:
        try:
            while self._waiting:
                changes, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
                await self._apply(changes)
        finally:
            self._busy = False
            for change in self._waiting:
                change.done.cancel()

    async def _apply(self, changes: list[_Change]) -> None:
        try:
            await self._nft_file("".join(change.text() for change in changes))
        except errors.LxcdError as error:
            if len(changes) > 1:
                # One of them is wrong; the others need not suffer.
                for change in changes:
                    await self._apply([change])
                return
            _settle(changes[0].done, error)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            for change in changes:
                _settle(change.done, errors.Internal(f"nft: {error!r}"))
        except BaseException:
            for change in changes:
                change.done.cancel()
            raise
        else:
            for change in changes:
                _settle(change.done, None)

    # ---- whose tables

    async def _claim(self) -> str:
        """A name that nobody else has, and both tables by it."""
        for number in range(_MOST_TABLES):
            name = f"{_NAME}-{number}" if number else _NAME
            owners = await self._owners(name)
            if self._owner in owners:
                return name
            if owners:
                continue
            try:
                await self._nft_file(firewall.claim(name, self._owner))
            except errors.FailedPrecondition:
                if not await self._owners(name):
                    raise
                continue  # another lxcd was faster
            return name
        raise errors.FailedPrecondition(
            "nftables tables lxcd, lxcd-1 … are all somebody else's", "FIREWALL_UNAVAILABLE"
        )

    async def _find(self) -> str:
        """The name of those that an earlier lxcd of ours has left."""
        for number in range(_MOST_TABLES):
            name = f"{_NAME}-{number}" if number else _NAME
            owners = await self._owners(name)
            if self._owner in owners:
                return name
            if not owners:
                break
        return ""

    async def _owners(self, name: str) -> set[str]:
        """Who has tables of that name; a table that says nothing is somebody's, too."""
        listed = cast(
            "dict[str, list[dict[str, Any]]]", json.loads(await self._nft("-j", "list", "tables"))
        )
        families = [
            one["table"]["family"]
            for one in listed.get("nftables", [])
            if one.get("table", {}).get("name") == name
        ]
        found: set[str] = set()
        for family in families:
            if family in ("inet", "bridge"):
                text = await self._nft("-t", "list", "table", family, name)
                found.add(firewall.owner_of(text) or "somebody")
        return found

    async def dropping(self) -> list[str]:
        """Chains of others that drop what is routed, unless they know it."""
        return firewall.dropping(await self._nft("-j", "list", "chains"))

    # ---- running nft

    async def _nft_file(self, text: str) -> None:
        """In a file, not a pipe: a pipe that lxcd has no time to fill holds half a transaction."""
        if not text:
            return
        path = os.path.join(self._house.paths.private, "ruleset.nft")
        try:
            await in_thread(_write, path, text)
        except OSError as error:
            raise errors.from_oserror(error, f"writing {path}") from None
        await self._nft("-f", path)

    async def _nft(self, *words: str) -> str:
        program = programs.Program(("nft", *words), {"LC_ALL": "C"})
        try:
            result = await programs.run(self._house, program, timeout_seconds=_SECONDS)
        except errors.FailedPrecondition as error:
            raise errors.FailedPrecondition(
                f"nft could not be run (Debian: nftables): {error.text}", "FIREWALL_UNAVAILABLE"
            ) from None
        if result.timed_out or not result.exit.success:
            lines = result.stderr.decode(errors="replace").strip().splitlines()
            why = "; ".join(lines[:3]) or exit_words(result.exit)
            raise errors.FailedPrecondition(f"nft: {why}", "FIREWALL_UNAVAILABLE")
        return result.stdout.decode(errors="replace")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _settle(future: asyncio.Future[None], error: errors.LxcdError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        # Whoever asked may have gone: no mistake.
        future.exception()
