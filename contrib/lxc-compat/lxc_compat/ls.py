"""lxc-ls: containers; in 0.7 two lines, of those that are defined and of those that run."""

from __future__ import annotations

import os
import sys

from lxc_compat import regex, words
from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import output
from lxcctl.commands import look
from lxcctl.commands.addresses import IFF_LOOPBACK, INET, INET6
from lxcctl.errors import UsageError
from lxcctl.usage import number
from lxcctl.wire import state_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping

    from lxcd.v1.container_pb2 import Container
    from lxcd.v1.stats_pb2 import ContainerStats

    Stats = Mapping[str, ContainerStats]

_SHOWN = ("NAME", "STATE", "AUTOSTART", "GROUPS", "IPV4", "IPV6", "UNPRIVILEGED")
# Columns that need a look at what each uses.
_COUNTED = {"RAM", "SWAP"}
_COLUMNS: dict[str, Callable[[Container, Stats], str]] = {
    "NAME": lambda one, _: one.name,
    "STATE": lambda one, _: state_name(one.state),
    "PID": lambda one, _: str(one.pid) if one.pid else "",
    "RAM": lambda one, stats: _memory(stats.get(one.name), "usage_bytes"),
    "SWAP": lambda one, stats: _memory(stats.get(one.name), "swap_usage_bytes"),
    "AUTOSTART": lambda one, _: str(int(one.autostart)),
    "GROUPS": lambda one, _: ", ".join(one.groups),
    "INTERFACE": lambda one, _: ", ".join(device.name for device in one.network_interfaces),
    "IPV4": lambda one, _: ", ".join(addresses(one, INET)),
    "IPV6": lambda one, _: ", ".join(addresses(one, INET6)),
    "UNPRIVILEGED": lambda one, _: "true" if one.unprivileged else "false",
}


def _memory(stats: ContainerStats | None, field: str) -> str:
    return "" if stats is None else words.megabytes(number(stats.memory, field))


def addresses(container: Container, family: int) -> list[str]:
    """All that others may reach it by."""
    return [
        address.address
        for device in container.network_interfaces
        if not device.flags & IFF_LOOPBACK
        for address in device.addresses
        if address.family == family and address.scope != "link"
    ]


def _ls(call: Call) -> int:
    pattern, titles = _pattern(call), _titles(call)
    found = [one for one in look.containers(call.session, []) if _is_wanted(call, one, pattern)]
    # What somebody runs without having defined it is seen, but is not there to be started.
    running, defined = [one for one in found if one.pid], [one for one in found if one.defined]
    if call.given.has("fancy"):
        for text in _table(call, titles, found):
            output.line(text)
    elif not call.old:
        _print_names([one.name for one in found], line=call.given.has("line"))
    else:
        # As ls(1) has it: one below the other where nobody sits.
        line = call.given.has("line") or not sys.stdout.isatty()
        for names in ([one.name for one in defined], [one.name for one in running]):
            if names and line:
                _print_names(names, line=True)
            elif names:
                output.line("  ".join(map(output.harmless, names)))
    return 0


def _pattern(call: Call) -> re.Pattern[str]:
    if len(call.words) > 1:
        raise UsageError(f"too many arguments: {' '.join(call.words)}")
    text = call.given.last("filter") or "".join(call.words)
    try:
        return regex.compiled(text)
    except ValueError as error:
        raise UsageError(f"--filter: {text!r}: {error}") from error


def _is_wanted(call: Call, one: Container, pattern: re.Pattern[str]) -> bool:
    given = call.given
    groups = {group for text in given.all("groups") for group in text.split(",") if group}
    state = state_name(one.state)
    asked = [
        holds
        for option, holds in (
            ("active", bool(one.pid)),
            ("running", state == "RUNNING"),
            ("frozen", state == "FROZEN"),
            ("stopped", state == "STOPPED"),
        )
        if given.has(option)
    ]
    return (
        pattern.search(one.name) is not None
        and groups <= set(one.groups)
        and (not asked or any(asked))
        and (one.defined or not given.has("defined"))
    )


def _print_names(names: list[str], *, line: bool) -> None:
    width = 0
    if sys.stdout.isatty() and not line:
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    for text in words.in_columns(names, width):
        output.line(text.rstrip() if line else text)


def _titles(call: Call) -> list[str]:
    if not call.given.has("fancy-format"):
        return list(_SHOWN)
    titles = [title.strip().upper() for title in call.given.last("fancy-format").split(",")]
    for title in titles:
        if title not in _COLUMNS:
            raise UsageError(f"--fancy-format: no column {title!r} (of {', '.join(_COLUMNS)})")
    return titles


def _table(call: Call, titles: list[str], found: list[Container]) -> list[str]:
    stats: Stats = _stats(call) if _COUNTED & set(titles) else {}
    rows = [[_COLUMNS[title](one, stats) for title in titles] for one in found]
    return list(words.fancy(titles, rows))


def _stats(call: Call) -> Stats:
    from lxcctl.commands import stats

    return {one.name: one for one in stats.look(call.session, [])}


COMMANDS = {
    "ls": Command(
        "[REGEX]",
        "lists containers; in 0.7 those that are defined, and then those that run",
        (
            Option("line", "1", "", "One in a line"),
            Option("fancy", "f", "", "A table"),
            Option("fancy-format", "F", "COLUMNS", f"Of it: {','.join(_COLUMNS)}"),
            Option("active", "", "", "Only those that run or are frozen"),
            Option("running", "", "", "Only those that run"),
            Option("frozen", "", "", "Only those that are frozen"),
            Option("stopped", "", "", "Only those that are stopped"),
            Option("defined", "", "", "Only those that are defined"),
            Option("groups", "g", "GROUPS", "Only those in all of these groups"),
            Option("filter", "", "REGEX", "Only those whose names match"),
        ),
        _ls,
        named=False,
        words=True,
        passed_on="of ls(1) there is -1 alone, as lxcd lists no directory",
        refused=(
            (Option("nesting", "", "NUM", "", optional=True), "lxcd looks into no container"),
        ),
    )
}
