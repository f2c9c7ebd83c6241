"""lxc-info: one container; in 0.7 `'003' is RUNNING`."""

from __future__ import annotations

import re

from lxc_compat import command, ls, words
from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import output
from lxcctl.commands.addresses import INET, INET6
from lxcctl.errors import CallError, ClientError, UsageError
from lxcctl.usage import number
from lxcctl.wire import state_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lxcd.v1.container_pb2 import Container
    from lxcd.v1.stats_pb2 import ContainerStats

_KEY = re.compile(r"[\w.-]+", re.ASCII)
_FILTERS = ("ips", "pid", "stats", "state")


def _info(call: Call) -> int:
    found = command.find(call, full=True)
    asked = [name for name in _FILTERS if call.given.has(name)]
    keys = call.given.all("config")
    if keys and call.given.has("rcfile"):
        raise UsageError("--rcfile: lxcd shows the values that the container itself has")
    as_old = call.old and not asked and not keys
    if found is None:
        if not as_old:
            raise ClientError(f"{call.name} doesn't exist")
        # 0.7 knew only what runs.
        output.line(f"'{output.harmless(call.name)}' is STOPPED")
        return 0
    if as_old:
        output.line(f"'{output.harmless(call.name)}' is {state_name(found.state)}")
        return 0
    raw = call.given.has("no-humanize")
    # One thing that is asked for stands alone.
    bare = raw and len(asked) + len(keys) == 1 and "stats" not in asked
    for label, value in _fields(call, found, asked, everything=not asked and not keys):
        output.line(output.harmless(value) if bare else words.field(label, value))
    for key in keys:
        values = [item.value for item in found.config if item.key == key]
        if not values and not _is_key(call, key):
            output.note(f"{key} invalid")
            continue
        shown = output.harmless("\n".join(values), keep_newlines=True)
        output.line(shown if bare else f"{key} = {shown}")
    return 0


def _is_key(call: Call, key: str) -> bool:
    """Ask the daemon whether LXC has it."""
    from lxcctl.commands.config_check import check_text

    return bool(_KEY.fullmatch(key)) and not command.unknown_keys(
        check_text(call.session, f"{key} =\n", "")
    )


def _fields(
    call: Call, found: Container, asked: list[str], *, everything: bool
) -> Iterator[tuple[str, str]]:
    if everything:
        yield "Name", found.name
    if everything or "state" in asked:
        yield "State", state_name(found.state)
    if found.pid and (everything or "pid" in asked):
        yield "PID", str(found.pid)
    if found.pid and (everything or "ips" in asked):
        for family in (INET, INET6):
            for address in ls.addresses(found, family):
                yield "IP", address
    if found.pid and (everything or "stats" in asked):
        yield from _usage(call, found)


def _usage(call: Call, found: Container) -> Iterator[tuple[str, str]]:
    from lxcctl.commands import stats

    raw = call.given.has("no-humanize")
    size = str if raw else words.size
    try:
        used = list(stats.look(call.session, [found.name]))
    except CallError as error:
        if error.reason == "CONTAINER_NOT_RUNNING":
            # It has ended in this very moment.
            return
        raise
    for one in used:
        yield from _counters(one, raw=raw)
    for device in found.network_interfaces:
        if not device.host_name:
            continue
        # As its other end sees it, which is where LXC looks.
        sent, received = device.counters.rx_bytes, device.counters.tx_bytes
        yield "Link", device.host_name
        yield " TX bytes", size(sent)
        yield " RX bytes", size(received)
        yield " Total bytes", size(sent + received)


def _counters(stats: ContainerStats, *, raw: bool) -> Iterator[tuple[str, str]]:
    size = str if raw else words.size
    used_usec = number(stats.cpu, "usage_usec")
    if used_usec is not None:
        yield "CPU use", str(used_usec * 1000) if raw else f"{used_usec / 1e6:.2f} seconds"
    if stats.io:
        yield "BlkIO use", size(sum(each.read_bytes + each.write_bytes for each in stats.io))
    for label, field in (("Memory use", "usage_bytes"), ("KMem use", "kernel_bytes")):
        value = number(stats.memory, field)
        if value is not None:
            yield label, size(value)


COMMANDS = {
    "info": Command(
        "--name=NAME",
        "shows the container NAME; in 0.7 whether it runs",
        (
            Option("config", "c", "KEY", "Values of this key of its configuration"),
            Option("ips", "i", "", "Its addresses"),
            Option("pid", "p", "", "The pid of its init"),
            Option("stats", "S", "", "What it uses"),
            Option("no-humanize", "H", "", "Numbers as they are"),
            Option("state", "s", "", "Its state"),
        ),
        _info,
    )
}
