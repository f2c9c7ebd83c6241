"""lxc-version, of 0.7: which LXC this behaves as."""

from __future__ import annotations

from lxc_compat import command
from lxc_compat.command import Call, Command
from lxcctl import output


def _version(call: Call) -> int:
    output.line(f"lxc version: {command.version(old=call.old)}")
    return 0


COMMANDS = {"version": Command("", "prints which LXC this behaves as", (), _version, named=False)}
