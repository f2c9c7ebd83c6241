"""lxc-ps, of 0.7: the host's ps, with the container of each process in front."""

from __future__ import annotations

import subprocess

from lxc_compat.command import Call, Command
from lxc_compat.options import Option
from lxcctl import output
from lxcctl.channel import LOOK_SECONDS
from lxcctl.commands.processes import label
from lxcctl.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxcd.v1.container_pb2 import ListProcessesResponse


def _ps(call: Call) -> int:
    names = [name for text in call.given.all("name") for name in text.split(",") if name]
    try:
        done = subprocess.run(["ps", *call.words], stdout=subprocess.PIPE, check=False)  # noqa: S603, S607 - the user's own ps
    except FileNotFoundError as error:
        raise ClientError("there is no ps on this host") from error
    if done.returncode:
        return call.failed
    owners = {one.pid: one.container for one in _processes(call, names).processes}
    lines = done.stdout.decode(errors="replace").splitlines()
    everything = not names and not call.given.has("lxc")
    for text in label(lines, owners, everything=everything):
        output.line(text)
    return 0


def _processes(call: Call, names: list[str]) -> ListProcessesResponse:
    from lxcd.v1.container_pb2 import ListProcessesRequest, ListProcessesResponse

    request = ListProcessesRequest(lxcpath=call.session.lxcpath, names=names)
    return call.session.channel.call(
        "ContainerService/ListProcesses", request, ListProcessesResponse, LOOK_SECONDS
    )


COMMANDS = {
    "ps": Command(
        "[--name=NAME[,NAME]] [--lxc] [ps options]",
        "lists processes with their containers, by ps",
        (
            Option("name", "n", "NAME", "Only processes of these containers; may be repeated"),
            Option("lxc", "", "", "Only processes of containers"),
        ),
        _ps,
        named=False,
        words=True,
        foreign=True,
    )
}
