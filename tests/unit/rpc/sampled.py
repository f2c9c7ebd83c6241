"""A sample with everything in it, and Prometheus' own readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from lxcd.v1 import stats_pb2, types_pb2

if TYPE_CHECKING:
    from prometheus_client import Metric

    from lxcd.rpc.metrics import Snapshot


def text_of(snapshot: Snapshot, accept: str = "") -> str:
    """As Prometheus gets it."""
    encode, _ = choose_encoder(accept)
    return encode(snapshot).decode()


def read(text: str) -> list[Metric]:
    """What Prometheus makes of it."""
    return list(text_string_to_metric_families(text))


def read_openmetrics(text: str) -> list[Metric]:
    """The same of the other format."""
    return list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # has no types


def full(name: str = "001") -> stats_pb2.ContainerStats:
    """One with a value in every field."""
    message = stats_pb2.ContainerStats(
        name=name, lxcpath="/var/lib/lxc", generation=3, state=types_pb2.STATE_FROZEN
    )
    message.uptime_usec = 12_500_000
    for inner in (message.cpu, message.memory, message.pids):
        for number, field in enumerate(inner.DESCRIPTOR.fields, 1):
            if not field.is_repeated and field.name != "effective_cpus":
                setattr(inner, field.name, number * 1_000_000)
    message.cpu.per_cpu_usage_usec.extend([1_500_000, 0])
    message.io.add(
        major=8, device="sda", read_bytes=1, write_bytes=2, read_operations=3, write_operations=4
    )
    message.io.add(major=8, minor=16, read_bytes=5)
    for pressure in (message.cpu_pressure, message.memory_pressure, message.io_pressure):
        pressure.some.total_usec = 2_000_000
        pressure.full.total_usec = 500_000
    counters = {f.name: n for n, f in enumerate(types_pb2.NetworkCounters.DESCRIPTOR.fields, 1)}
    message.network.add(interface="eth0", counters=counters)
    return message
