"""lxc-freeze and lxc-unfreeze."""

from __future__ import annotations

from lxc_compat.command import Call, Command
from lxcctl.errors import CallError


def _freeze(call: Call) -> int:
    from lxcd.v1.container_pb2 import FreezeContainerRequest, FreezeContainerResponse

    request = FreezeContainerRequest(name=call.name, lxcpath=call.session.lxcpath)
    call.session.channel.call("ContainerService/FreezeContainer", request, FreezeContainerResponse)
    return 0


def _unfreeze(call: Call) -> int:
    from lxcd.v1.container_pb2 import ThawContainerRequest, ThawContainerResponse

    request = ThawContainerRequest(name=call.name, lxcpath=call.session.lxcpath)
    try:
        call.session.channel.call("ContainerService/ThawContainer", request, ThawContainerResponse)
    except CallError as error:
        # It does go on, or has ended: LXC has no complaint.
        if error.reason not in ("CONTAINER_NOT_FROZEN", "CONTAINER_NOT_RUNNING"):
            raise
    return 0


COMMANDS = {
    "freeze": Command("--name=NAME", "suspends every process of NAME", (), _freeze),
    "unfreeze": Command("--name=NAME", "has a frozen container go on", (), _unfreeze),
}
