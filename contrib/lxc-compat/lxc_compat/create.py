"""lxc-create: a configuration, and from a template a root file system."""

from __future__ import annotations

import os

from lxc_compat import command
from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import arguments
from lxcctl.channel import LOOK_SECONDS
from lxcctl.commands import create
from lxcctl.errors import CallError, ClientError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxcd.v1.container_pb2 import Container

_NO_TEMPLATE = "none"
_STORES = ("dir", "best", "none")
_UNSERVED = (
    *("lvname", "vgname", "thinpool", "fstype", "fssize", "zfsroot", "dir"),
    *("rbdname", "rbdpool", "rbduser"),
)


def _create(call: Call) -> int:
    from lxcd.v1.container_pb2 import CreateContainerRequest

    template = call.given.last("template")
    if not template and not call.old:
        raise UsageError('A template must be specified ("none" for a container without one)')
    if call.given.last("bdev", "dir") not in _STORES:
        raise UsageError(f"--bdev: lxcd has no storage {call.given.last('bdev')!r} yet, only dir")
    if call.words:
        raise UsageError(f"template {template or 'none'} takes no arguments")
    text, origin = _text(call)
    request = CreateContainerRequest(
        name=call.name,
        lxcpath=call.session.lxcpath,
        config_text=text,
        config_origin=origin,
        image=template or _NO_TEMPLATE,
    )
    try:
        made = create.define(call.session, request)
    except CallError as error:
        if error.reason == "CONTAINER_EXISTS":
            raise ClientError(f"{call.name}: Container already exists") from error
        if error.reason == "IMAGE_NOT_FOUND":
            raise ClientError(
                f"no template {template}: lxcd has host, the userland of this machine, and none"
            ) from error
        raise
    command.warn(made.problems)
    _keep(call, made, text)
    return 0


def _text(call: Call) -> tuple[str, str]:
    if call.given.has("config") or call.old:
        return arguments.read_text(call.given.last("config"))
    from lxcd.v1.host_pb2 import GetHostRequest, GetHostResponse

    # The daemon knows lxc.default_config, and what its own settings say.
    host = call.session.channel.call(
        "HostService/GetHost", GetHostRequest(), GetHostResponse, LOOK_SECONDS
    )
    return arguments.read_text(host.default_config if os.path.exists(host.default_config) else "")


def _keep(call: Call, made: Container, text: str) -> None:
    """Have the file be what was given, to the byte: where lxcd has added no more than the host
    name that it gives by default.
    """
    added = made.config_text.removeprefix(text).strip()
    if not text or not made.config_text.startswith(text) or "\n" in added or not added:
        return
    from lxcd.v1 import container_pb2

    request = container_pb2.UpdateContainerRequest()
    request.container.name, request.container.lxcpath = call.name, call.session.lxcpath
    request.container.config_text, request.container.etag = text, made.etag
    request.update_mask.paths.append("config_text")
    call.session.channel.call("ContainerService/UpdateContainer", request, container_pb2.Container)


COMMANDS = {
    "create": Command(
        "--name=NAME [--template=TEMPLATE] [-- template-options]",
        "defines the container NAME; in 0.7 without a template, by its configuration alone",
        (
            Option("config", "f", "FILE", "Text of its configuration"),
            Option(
                "template",
                "t",
                "TEMPLATE",
                "host: the userland of this machine; none: what the configuration names",
            ),
            Option("bdev", "B", "BDEV", "dir, best or none"),
        ),
        _create,
        words=True,
        refused=(
            *(
                (Option(name, "", "VALUE"), "lxcd keeps a root file system in a directory alone")
                for name in _UNSERVED
            ),
            (Option("rcfile", "", "FILE"), "-f FILE is the text of its configuration"),
        ),
    )
}
