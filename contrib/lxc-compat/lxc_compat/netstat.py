"""lxc-netstat, of 0.7: netstat in the network of a container."""

from __future__ import annotations

from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl.arguments import Parser
from lxcctl.commands import exec as execs
from lxcctl.commands import netstat
from lxcctl.errors import UsageError

_HOST_NETSTAT = "netstat"


def _netstat(call: Call) -> int:
    if not call.given.has("name"):
        raise UsageError("No container name specified")
    name = call.given.last("name")
    if _is_served(call.words):
        verb, argv = netstat.VERBS["netstat"], [name, "--", *call.words]
        argv = argv if call.words else [name]
    else:
        # The host's own, there: it knows more options than lxcd.
        verb = execs.VERBS["exec"]
        argv = [name, "--no-tty", "--namespace", "net", "--", _HOST_NETSTAT, *call.words]
    options, run = verb
    parser = Parser("", "", "")
    options(parser)
    return run(call.session, parser.read(argv))


def _is_served(words: tuple[str, ...]) -> bool:
    parser = Parser("", "", "")
    netstat.add_flags(parser)
    try:
        parser.parse_args(words)
    except UsageError:
        return False
    return True


COMMANDS = {
    "netstat": Command(
        "--name=NAME [netstat options]",
        "shows the sockets of the container NAME, or what else netstat shows",
        (Option("name", "n", "NAME", "NAME of the container"),),
        _netstat,
        named=False,
        words=True,
        foreign=True,
    )
}
