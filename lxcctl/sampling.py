"""Samples of what containers use, one after the other, also when the daemon is restarted."""

from __future__ import annotations

from lxcctl.errors import CallError
from lxcctl.wire import set_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lxcctl.channel import Channel, Patience
    from lxcd.v1.stats_pb2 import ContainerStats

    Sample = Sequence[ContainerStats]


def samples(
    channel: Channel,
    lxcpath: str,
    names: Sequence[str],
    interval: float,
    patience: Patience,
    *,
    found: bool = False,
) -> Iterator[Sample]:
    """A sample at once and one after each interval, until the daemon ends it.

    A daemon that is not there at all is an error; one that goes away later is waited for. `found`:
    it was there already.
    """
    from lxcd.v1.stats_pb2 import StreamStatsRequest, StreamStatsResponse

    request = StreamStatsRequest(lxcpath=lxcpath, names=names)
    set_duration(request.interval, interval)
    while True:
        try:
            for message in channel.stream("StatsService/StreamStats", request, StreamStatsResponse):
                found = True
                patience.reset()
                yield message.stats
        except CallError as error:
            if not (found and error.is_lost_connection):
                raise
        else:
            return
        patience.wait()
        channel.close()
