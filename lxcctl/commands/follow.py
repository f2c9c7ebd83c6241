"""Reading a container's output to its end, also when the daemon is restarted meanwhile."""

from __future__ import annotations

from lxcctl.channel import Patience
from lxcctl.errors import CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lxcctl.channel import Session
    from lxcd.v1.console_pb2 import ReadConsoleLogRequest, ReadConsoleLogResponse
    from lxcd.v1.types_pb2 import Exit


def read_log(
    session: Session,
    request: ReadConsoleLogRequest,
    take: Callable[[ReadConsoleLogResponse], None],
) -> Exit | None:
    """Hand every message of the stream to `take`.

    A connection that is lost while following is made again, and the reading goes on behind the last
    byte. Without `follow` it is an error: whoever wants all there is now would otherwise wait for
    what may never come back.

    Returns:
        How the generation ended; None if the stream ended first.
    """
    from lxcd.v1.console_pb2 import ReadConsoleLogResponse

    patience = Patience()
    while True:
        try:
            for message in session.channel.stream(
                "ConsoleService/ReadConsoleLog", request, ReadConsoleLogResponse
            ):
                patience.reset()
                take(message)
                if message.HasField("exit"):
                    return message.exit
                if message.data or message.gap_bytes:
                    begin = request.WhichOneof("from")
                    if begin is not None:
                        request.ClearField(begin)
                    request.offsets[message.stream] = message.offset + len(message.data)
                if message.generation:
                    request.generation = message.generation
        except CallError as error:
            if not (request.follow and error.is_lost_connection):
                raise
        else:
            return None
        patience.wait()
        session.channel.close()
