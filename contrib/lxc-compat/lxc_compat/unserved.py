"""Commands of LXC that lxcd does not serve yet. Each is here, as that of a stock LXC, which may be
the next in PATH, would act on containers without lxcd's knowledge.
"""

from __future__ import annotations

from lxc_compat.command import Call, Command
from lxcctl.errors import ClientError

# command -> what does the same, or what comes closest
_INSTEAD = {
    "autostart": "lxcctl start NAME... starts several at once",
    "cgroup": "lxcctl config set NAME KEY VALUE --live-only changes a limit",
    "checkpoint": "",
    "clone": "",
    "config": "lxcctl host shows where the daemon has what",
    "copy": "",
    "device": "lxcctl device add gives a node, lxcctl network attach an interface",
    "monitor": "lxcctl events --follow shows what happens",
    "restart": "lxcctl restart does",
    "shutdown": "lxcctl stop does",
    "snapshot": "",
    "start-ephemeral": "lxcctl run IMAGE --rm leaves nothing behind",
    "top": "lxcctl top does",
    "unshare": "unshare of util-linux needs no container",
    "usernsexec": "unshare --user of util-linux needs no container",
}


def _command(name: str, instead: str) -> Command:
    text = f"lxcd does not serve lxc-{name} yet{f': {instead}' if instead else ''}"

    def refuse(_: Call) -> int:
        raise ClientError(text)

    return Command("", f"is refused: {text}", (), refuse, named=False, words=True, foreign=True)


COMMANDS = {name: _command(name, instead) for name, instead in _INSTEAD.items()}
