"""lxc-checkconfig: what this kernel offers to containers."""

from __future__ import annotations

import os

from lxc_compat import command, words
from lxc_compat.command import Call, Command
from lxcctl import output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.commands import host

_RUNNING_CONFIG = "/proc/config.gz"


def _checkconfig(call: Call) -> int:
    from lxcd.v1.host_pb2 import GetHostRequest, GetHostResponse

    found = call.session.channel.call(
        "HostService/GetHost", GetHostRequest(), GetHostResponse, LOOK_SECONDS
    )
    lacking = any(item.required and not item.available for item in found.features)
    if call.old:
        available = frozenset(item.name for item in found.features if item.available)
        for text in words.old_report(available, *_kernel_config(found.kernel_release)):
            output.line(text)
    else:
        output.line(f"LXC version {command.VERSION}\n")
        host.report(found)
    return call.failed if lacking else 0


def _kernel_config(release: str) -> tuple[str, str]:
    """Where the running kernel does not have its own, and where it is instead. It is only named:
    the kernel itself was asked.
    """
    own = os.environ.get("CONFIG", _RUNNING_CONFIG)
    places = (f"/boot/config-{release}", f"/lib/modules/{release}/config")
    return "" if os.path.exists(own) else own, next(filter(os.path.exists, places), "")


COMMANDS = {
    "checkconfig": Command(
        "", "shows what this kernel offers to containers", (), _checkconfig, named=False
    )
}
