"""`device add`, `device remove`: device nodes of a running container."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session


def _add_options(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the container")
    parser.add_argument("path", metavar="DEVICE", help="device node of the host: /dev/loop3")
    parser.add_argument(
        "container_path",
        metavar="PATH",
        nargs="?",
        default="",
        help="where inside (default: there)",
    )
    parser.add_argument(
        "--access", metavar="A", default="", help="of r (read), w (write), m (mknod); default: rwm"
    )


def _add(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import AddDeviceNodeRequest, AddDeviceNodeResponse

    request = AddDeviceNodeRequest(
        name=args.name,
        lxcpath=session.lxcpath,
        path=args.path,
        container_path=args.container_path,
        access=args.access,
    )
    session.channel.call("ContainerService/AddDeviceNode", request, AddDeviceNodeResponse)
    return 0


def _remove_options(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the container")
    parser.add_argument("path", metavar="PATH", help="where it is inside")


def _remove(session: Session, args: Namespace) -> int:
    from lxcd.v1.container_pb2 import RemoveDeviceNodeRequest, RemoveDeviceNodeResponse

    request = RemoveDeviceNodeRequest(
        name=args.name, lxcpath=session.lxcpath, container_path=args.path
    )
    session.channel.call("ContainerService/RemoveDeviceNode", request, RemoveDeviceNodeResponse)
    return 0


VERBS = {
    "device add": (_add_options, _add),
    "device remove": (_remove_options, _remove),
}
