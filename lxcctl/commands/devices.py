"""`network attach`, `network detach`: devices of a running container."""

from __future__ import annotations

from lxcctl import arguments, output
from lxcctl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from lxcctl.arguments import Parser
    from lxcctl.channel import Session


def _add_name(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the container")


def _attach_options(parser: Parser) -> None:
    _add_name(parser)
    parser.add_argument(
        "settings",
        metavar="KEY=VALUE",
        type=arguments.key_value,
        nargs="+",
        help="as behind lxc.net.N.: type=veth link=br0 ipv4.address=10.0.0.2/24 ...",
    )


def _attach(session: Session, args: Namespace) -> int:
    from lxcd.v1.network_pb2 import AttachDeviceRequest, AttachedDevice

    request = AttachDeviceRequest(container=args.name, lxcpath=session.lxcpath)
    for key, value in args.settings:
        before = request.settings.get(key, "")
        request.settings[key] = f"{before}\n{value}" if before else value
    if "type" not in request.settings:
        raise UsageError("network attach: type=veth, type=macvlan ...?")
    made = session.channel.call("NetworkService/AttachDevice", request, AttachedDevice)
    if session.form == "table":
        output.line(output.harmless(made.name))
    else:
        header = output.csv_header(AttachedDevice.DESCRIPTOR)
        output.records(session.form, header, [output.plain(made)], single=True)
    return 0


def _detach_options(parser: Parser) -> None:
    _add_name(parser)
    parser.add_argument("device", metavar="DEVICE", help="its name inside")


def _detach(session: Session, args: Namespace) -> int:
    from lxcd.v1.network_pb2 import DetachDeviceRequest, DetachDeviceResponse

    request = DetachDeviceRequest(container=args.name, lxcpath=session.lxcpath, name=args.device)
    session.channel.call("NetworkService/DetachDevice", request, DetachDeviceResponse)
    return 0


VERBS = {
    "network attach": (_attach_options, _attach),
    "network detach": (_detach_options, _detach),
}
