"""`[[forward]]` of a container's `lxcd.toml`: ports of the host that lead to it. Text in, data out,
and back: the rest of the file stays as it is.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from dataclasses import dataclass
from typing import cast

PROTOCOLS = ("tcp", "udp")
_LARGEST_PORT = 65535
_KEYS = ("protocol", "listen", "connect", "listen_address")
_HEADER = re.compile(r"\s*\[\[\s*(?:forward|\"forward\"|'forward')\s*\]\]\s*(?:#.*)?\Z")
_TABLE = re.compile(r"\s*\[")


@dataclass(frozen=True, slots=True, order=True)
class Forward:
    """A port of the host, and the container's that it leads to."""

    protocol: str
    listen: int
    connect: int
    listen_address: str = ""  # of the host; empty: all of them

    def __str__(self) -> str:
        where = self.listen_address
        where = f"[{where}]:" if ":" in where else f"{where}:" if where else ""
        return f"{self.protocol} {where}{self.listen}:{self.connect}"

    def clashes(self, other: Forward) -> bool:
        """Both want the same port of the host."""
        alike = (self.protocol, self.listen) == (other.protocol, other.listen)
        addresses = {self.listen_address, other.listen_address}
        return alike and (len(addresses) == 1 or "" in addresses)


def forward(protocol: object, listen: object, connect: object, listen_address: object) -> Forward:
    """One, of values of unknown origin. Raises ValueError."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}")
    address = ""
    if not isinstance(listen_address, str):
        raise ValueError("listen_address must be a text")  # noqa: TRY004 - told like the others
    if listen_address:
        found = ipaddress.ip_address(listen_address)
        if found.is_multicast or (found.version == 6 and "%" in listen_address):  # noqa: PLR2004
            raise ValueError(f"{found} is not an address of the host")
        if found.version == 6 and found.is_loopback:  # noqa: PLR2004
            # IPv6 has no route_localnet.
            raise ValueError(f"nothing can be led on from {found}; 127.0.0.1 can be")
        address = "" if found.is_unspecified else str(found)
    return Forward(str(protocol), _port("listen", listen), _port("connect", connect), address)


def _port(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST_PORT:
        raise ValueError(f"{name} must be a port: 1 to {_LARGEST_PORT}")
    return value


def read(value: object) -> tuple[tuple[Forward, ...], list[str]]:
    """Those that stand below the key `forward`, and what is wrong with others."""
    if not isinstance(value, list):
        return (), ["must be tables: [[forward]]"]
    found: list[Forward] = []
    problems: list[str] = []
    for one in cast("list[object]", value):
        if not isinstance(one, dict):
            problems.append("must be tables: [[forward]]")
            continue
        table = cast("dict[str, object]", one)
        unknown = [key for key in table if key not in _KEYS]
        if unknown:
            problems.append(f"not a setting of a forward: {', '.join(sorted(unknown))}")
            continue
        try:
            made = forward(
                table.get("protocol", "tcp"),
                table.get("listen"),
                table.get("connect", table.get("listen")),
                table.get("listen_address", ""),
            )
        except ValueError as error:
            problems.append(str(error))
            continue
        if any(made.clashes(other) for other in found):
            problems.append(f"{made}: that port is taken by another forward of this file")
            continue
        found.append(made)
    return tuple(found), problems


def with_forward(text: str, added: Forward) -> str:
    """The text with one more, at its end. Raises ValueError if it cannot stand there."""
    before = text if not text or text.endswith("\n") else f"{text}\n"
    blank = "\n" if before else ""
    lines = [
        f'{blank}[[forward]]\nprotocol = "{added.protocol}"',
        f"listen = {added.listen}\nconnect = {added.connect}",
    ]
    if added.listen_address:
        lines.append(f'listen_address = "{added.listen_address}"')
    made = before + "\n".join(lines) + "\n"
    return _verified(made, {*_all(text), added})


def without_forward(text: str, removed: Forward) -> str:
    """The text without it. Raises ValueError if it does not stand there as a table of its own."""
    lines = text.splitlines(keepends=True)
    starts = [place for place, line in enumerate(lines) if _HEADER.match(line.rstrip("\r\n"))]
    kept = list(lines)
    for start in reversed(starts):
        end = start + 1
        while end < len(lines) and not _TABLE.match(lines[end]):
            end += 1
        if _all("".join(lines[start:end])) == {removed}:
            while start and not kept[start - 1].strip() and end == len(kept):
                start -= 1  # noqa: PLW2901 - the blank lines before the last table go with it
            del kept[start:end]
    return _verified("".join(kept), _all(text) - {removed})


def _all(text: str) -> set[Forward]:
    try:
        table = tomllib.loads(text)
    except ValueError:
        return set()
    return set(read(table.get("forward", []))[0])


def _verified(text: str, wanted: set[Forward]) -> str:
    """What comes out must say what was meant: else it is for its owner to edit."""
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        raise ValueError(f"lxcd.toml has to be edited by hand: {error}") from None
    if set(read(table.get("forward", []))[0]) != wanted:
        raise ValueError("lxcd.toml has to be edited by hand: its forwards are written unusually")
    return text
