from __future__ import annotations

from typing import Any

import pytest

from lxcd.rpc.events import _filter
from lxcd.supervisor.events import Event
from lxcd.v1 import event_pb2 as pb

EVENTS = [
    Event(1, 0, "container.started", "a", "/one"),
    Event(2, 0, "container.oom_killed", "a", "/two"),
    Event(3, 0, "daemon.started"),
    Event(4, 0, "container.exited", "b", "/one"),
]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"types": ["container.*"]}, [1, 2, 4]),
        ({"types": ["container.started", "daemon.started"]}, [1, 3]),
        ({"exclude_types": ["container.*"]}, [3]),
        ({"types": ["container.*"], "exclude_types": ["container.oom_killed"]}, [1, 4]),
        ({"types": ["container.started"], "exclude_types": ["*", "container"]}, [1]),
        ({"lxcpaths": ["/one/"]}, [1, 4]),
        ({"lxcpaths": ["/one", "/two"], "containers": ["a"]}, [1, 2]),
        ({"types": ["nothing"]}, []),
    ],
)
def test_filter(wanted: dict[str, Any], expected: list[int]) -> None:
    for request in (pb.StreamEventsRequest(**wanted), pb.ListEventsRequest(**wanted)):
        matches = _filter(request)
        assert [event.sequence for event in EVENTS if matches(event)] == expected
