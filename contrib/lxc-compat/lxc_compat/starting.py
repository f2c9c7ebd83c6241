"""What lxc-start and lxc-execute have in common."""

from __future__ import annotations

from lxc_compat import command
from lxc_compat.options import Option
from lxcctl import arguments
from lxcctl.errors import CallError, UsageError
from lxcctl.wire import state_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lxc_compat.command import Call
    from lxcctl.channel import Session
    from lxcd.v1.container_pb2 import StartContainerRequest

_SHARED = ("net", "ipc", "uts", "pid")
OPTIONS = (
    Option("rcfile", "f", "FILE", "Load configuration file FILE"),
    Option("define", "s", "KEY=VAL", "Assign VAL to configuration variable KEY"),
    *(
        Option(f"share-{kind}", "", "NAME", "Share this namespace with another container or pid")
        for kind in _SHARED
    ),
)


def request(call: Call, words: Sequence[str]) -> StartContainerRequest:
    """What these options ask for. Raises ClientError."""
    from lxcd.v1.container_pb2 import StartContainerRequest

    text, origin = arguments.read_text(call.given.last("rcfile"))
    if call.given.has("rcfile"):
        # An empty one is one, too.
        text = text or "\n"
    made = StartContainerRequest(
        name=call.name,
        lxcpath=call.session.lxcpath,
        command=words,
        config_text=text,
        config_origin=origin,
    )
    for key, value in _defines(call):
        made.define.add(key=key, value=value)
    return made


def _defines(call: Call) -> Iterator[tuple[str, str]]:
    for text in call.given.all("define"):
        key, equals, value = text.partition("=")
        if not (equals and key.strip()):
            raise UsageError(f"--define: not KEY=VALUE: {text!r}")
        yield key.strip(), value.strip()
    for kind in _SHARED:
        if call.given.has(f"share-{kind}"):
            yield f"lxc.namespace.share.{kind}", call.given.last(f"share-{kind}")


def start(session: Session, request: StartContainerRequest) -> int:
    """Start it; its generation."""
    from lxcd.v1.container_pb2 import StartContainerResponse

    reply = session.channel.call("ContainerService/StartContainer", request, StartContainerResponse)
    command.warn(reply.problems)
    return reply.generation


def is_defined(call: Call) -> bool:
    """Whether it has a configuration of its own; another one is for this start. Raises CallError if
    it has none and runs.
    """
    found = command.find(call)
    if found is not None and found.pid and not found.defined:
        # As the daemon says it of one that is defined.
        text = f"container {call.name} is {state_name(found.state)}"
        raise CallError("FAILED_PRECONDITION", text, "CONTAINER_RUNNING")
    return found is not None and found.defined
