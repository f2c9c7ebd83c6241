"""lxc-destroy: a container and what is its own of files."""

from __future__ import annotations

from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import output
from lxcctl.errors import CallError, ClientError


def _destroy(call: Call) -> int:
    from lxcd.v1.container_pb2 import DeleteContainerRequest, DeleteContainerResponse

    request = DeleteContainerRequest(
        name=call.name, lxcpath=call.session.lxcpath, force=call.given.has("force")
    )
    try:
        reply = call.session.channel.call(
            "ContainerService/DeleteContainer", request, DeleteContainerResponse
        )
    except CallError as error:
        if error.reason == "CONTAINER_NOT_FOUND":
            raise ClientError(f"{call.name}: Container is not defined") from error
        if error.reason == "CONTAINER_RUNNING":
            raise ClientError(f"{call.name} is running") from error
        raise
    if reply.kept_rootfs and not call.old:
        # LXC removes it.
        output.note(f"{call.name}: left the root file system at {reply.kept_rootfs} alone")
    return 0


COMMANDS = {
    "destroy": Command(
        "--name=NAME",
        "removes the container NAME",
        (Option("force", "f", "", "Kill it first, if it runs"),),
        _destroy,
        refused=(
            (Option("snapshots", "s"), "lxcd has no snapshots yet"),
            (Option("rcfile", "", "FILE"), "lxcd removes what the container's own names"),
        ),
    )
}
