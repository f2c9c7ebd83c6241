"""The table of verbs: in which module a verb lives, how it is written, what it does in one line."""

from __future__ import annotations

# verb -> (module in lxcctl.commands, what follows the verb, one line of help)
VERBS: dict[str, tuple[str, str, str]] = {
    "create": (
        "create",
        "NAME [--image I] [--config FILE] [-s KEY=VALUE]...",
        "define a container",
    ),
    "start": (
        "start",
        "NAME... [--console | --wait W] [-s KEY=VALUE]... [--share-net N] [--ephemeral] [-- CMD]",
        "start containers",
    ),
    "stop": (
        "lifecycle",
        "NAME... [--timeout S] [--kill | --no-kill]",
        "shut containers down",
    ),
    "restart": ("lifecycle", "NAME... [--timeout S] [--kill | --no-kill]", "stop and start again"),
    "freeze": ("lifecycle", "NAME...", "suspend every process of containers"),
    "thaw": ("lifecycle", "NAME...", "let frozen containers go on"),
    "signal": ("lifecycle", "NAME SIGNAL", "send a signal to the container's init"),
    "wait": (
        "wait",
        "NAME --for STATE[,STATE]...|exit|network [--timeout S]",
        "wait for a state, an end, or an address and a route",
    ),
    "delete": ("lifecycle", "NAME... [--force]", "remove containers and their root file systems"),
    "rename": ("lifecycle", "NAME NEW", "give a stopped container another name"),
    "run": (
        "run",
        "IMAGE [--name N] [--rm] [-t|-T] [-s KEY=VALUE]... [--config FILE] -- CMD...",
        "create, start CMD as an application, exit with its status",
    ),
    "exec": (
        "exec",
        "NAME [--user U] [--cwd D] [--env K=V]... [-t|-T] [--detach] [[--] CMD...]",
        "run a command in a running container, or the user's shell",
    ),
    "attach": (
        "exec",
        "ID [--read-only] [--steal] [--no-replay] [--detach-keys K]",
        "join a command that was left running",
    ),
    "execs": (
        "exec",
        "[NAME] [--delete ID]... [--kill ID]...",
        "list commands that were left running",
    ),
    "console": (
        "console",
        "NAME [--tty N] [--read-only] [--steal] [--no-replay] [--detach-keys K]",
        "look at a container's terminal, and type into it",
    ),
    "list": ("look", "[--state S]... [-1]", "list containers"),
    "info": ("look", "NAME...", "show all about containers"),
    "stats": (
        "stats",
        "[NAME...] [--watch] [--interval S]",
        "show what containers use",
    ),
    "top": (
        "top",
        "[--interval S] [--sort COLUMN] [--reverse] [--batch]",
        "watch what containers use, full screen",
    ),
    "ps": (
        "processes",
        "[NAME...] [--all] [-- PS-OPTIONS...]",
        "list processes, with the container of each",
    ),
    "netstat": (
        "netstat",
        "NAME [-- NETSTAT-OPTIONS...]",
        "list a container's sockets, routes and devices",
    ),
    "logs": (
        "logs",
        "NAME [--follow] [--since T | --tail N | --bytes N] [--stream S]",
        "show what a container wrote",
    ),
    "events": (
        "events",
        "[NAME...] [--since S] [--after N] [--follow] [--type T | --exclude T]...",
        "show what happened",
    ),
    "plan": ("plan", "NAME [-- CMD...]", "show what a start would do, step by step"),
    "config": (
        "config",
        "get|set|unset|show|edit|check ...",
        "show and change a container's configuration",
    ),
    "network": (
        "network",
        "create|list|show|set|delete|leases|forward|attach|detach ...",
        "managed networks, their addresses, ports that lead into them",
    ),
    "device": ("nodes", "add|remove ...", "device nodes of a running container"),
    "checkconfig": ("host", "", "show what this kernel offers to containers"),
    "host": ("host", "", "show the daemon and its host"),
    "version": ("", "", "print the version of lxcctl"),
    "help": ("", "[VERB]", "print this, or the help of a verb"),
}

# The verbs below `config`; the same triples.
CONFIG_VERBS: dict[str, tuple[str, str, str]] = {
    "get": ("config", "NAME KEY", "print the values of a key"),
    "set": (
        "config",
        "NAME KEY VALUE... [--live | --live-only]",
        "set a key; several values make a list",
    ),
    "unset": ("config", "NAME KEY [--live | --live-only]", "remove a key"),
    "show": ("config", "NAME [--resolved]", "print the configuration"),
    "edit": ("config_edit", "NAME", "edit the configuration with $VISUAL or $EDITOR"),
    "check": (
        "config_check",
        "[NAME...] [--file FILE...] [--strict]",
        "print every problem of a configuration",
    ),
}

# The same below `network`.
NETWORK_VERBS: dict[str, tuple[str, str, str]] = {
    "create": ("network", "NETWORK [KEY=VALUE]...", "define a network, and have it up"),
    "list": ("network", "", "list networks"),
    "show": ("network", "NETWORK", "show all about a network"),
    "set": ("network", "NETWORK KEY=VALUE...", "change a network"),
    "delete": ("network", "NETWORK... [--force]", "remove networks"),
    "leases": ("network", "NETWORK", "list who has which address"),
    "forward": (
        "network",
        "[NAME [tcp|udp [ADDRESS:]PORT[:PORT] [--remove]]]",
        "have a port of the host lead to a container; without a port, list them",
    ),
    "attach": (
        "devices",
        "NAME type=TYPE [KEY=VALUE]...",
        "give a running container one more device",
    ),
    "detach": ("devices", "NAME DEVICE", "take a device away from a running container"),
}

# The same below `device`.
DEVICE_VERBS: dict[str, tuple[str, str, str]] = {
    "add": (
        "nodes",
        "NAME DEVICE [PATH] [--access A]",
        "give a running container a device node of the host, and the right to use it",
    ),
    "remove": ("nodes", "NAME PATH", "take both away again"),
}

# Verbs that have verbs below them.
FAMILIES = {"config": CONFIG_VERBS, "network": NETWORK_VERBS, "device": DEVICE_VERBS}

USAGE = """\
usage: lxcctl [--address A] [--lxcpath P] [--format table|json|yaml|csv] VERB ...
"""

_GLOBALS = """\
options, before the verb or after it:
  --address A    socket of the daemon: unix:PATH or a path
                 (default: $LXCD_ADDRESS, else unix:/run/lxcd/lxcd.sock)
  --lxcpath P    where the containers are (default: the daemon's)
  --format F     table, json, yaml or csv
  -h, --help     this; after a verb, its help
  --version      print the version

exit status: 0 done, 1 failed, 2 usage, 3 no such thing, 4 wrong state, 5 refused, 69 no daemon
"""


def _listing(verbs: dict[str, tuple[str, str, str]]) -> str:
    return "".join(f"  {verb:<12} {line}\n" for verb, (_, _, line) in verbs.items())


def overview() -> str:
    """The text of `lxcctl help`."""
    return f"{USAGE}\nverbs:\n{_listing(VERBS)}\n{_GLOBALS}"


def family_overview(verb: str) -> str:
    """The text of `lxcctl config --help`, `lxcctl network --help`."""
    return f"usage: lxcctl {verb} VERB ...\n\nverbs:\n{_listing(FAMILIES[verb])}"
