"""What containers use, as metrics for Prometheus: names by its conventions, in base units, absent
where the kernel does not count.

Not in it, of what StatsService tells: averages of pressure, which follow from totals; texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from lxcd.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from google.protobuf.message import Message
    from prometheus_client import Metric

    from lxcd.v1.stats_pb2 import ContainerStats

_MILLION = 1_000_000
_LABELS = ("name", "lxcpath")


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to tell of lxcd itself."""

    version: str
    events: int  # number of the last one
    containers: Mapping[str, int] = field(default_factory=dict[str, int])  # how many, by state


@dataclass(frozen=True, slots=True)
class _Number:
    """A field of a message and its metric; `scale` makes base units of it."""

    field: str
    metric: str
    help: str
    kind: Literal["counter", "gauge"] = "gauge"
    scale: float = 1

    @property
    def name(self) -> str:
        return f"lxcd_container_{self.metric}"


def _seconds(field_: str, metric: str, help_: str) -> _Number:
    return _Number(field_, metric, help_, "counter", 1 / _MILLION)


def _count(field_: str, metric: str, help_: str) -> _Number:
    return _Number(field_, metric, help_, "counter")


_OWN = (
    _Number("uptime_usec", "uptime_seconds", "Time since init was started.", scale=1 / _MILLION),
    _Number("generation", "generation", "Number of its life: grows by one with each start."),
)
_CPU = (
    _seconds("usage_usec", "cpu_usage_seconds", "CPU time used."),
    _seconds("user_usec", "cpu_user_seconds", "CPU time used in user mode."),
    _seconds("system_usec", "cpu_system_seconds", "CPU time used in the kernel."),
    _count("periods", "cpu_periods", "Periods of its CPU limit that have gone by."),
    _count("throttled_periods", "cpu_throttled_periods", "Periods in which it had to wait."),
    _seconds("throttled_usec", "cpu_throttled_seconds", "Time that it had to wait."),
    _Number("quota_usec", "cpu_quota_seconds", "CPU time allowed in a period.", scale=1 / _MILLION),
    _Number("period_usec", "cpu_period_seconds", "Length of a period.", scale=1 / _MILLION),
    _Number("weight", "cpu_weight", "Weight among its siblings, 100 by default."),
)
_MEMORY = (
    _Number("usage_bytes", "memory_usage_bytes", "All that counts towards the limit."),
    _Number(
        "working_set_bytes",
        "memory_working_set_bytes",
        "Memory without page cache that can be dropped at once.",
    ),
    _Number("peak_bytes", "memory_peak_bytes", "The most that was ever used."),
    _Number("limit_bytes", "memory_limit_bytes", "Limit; absent without one."),
    _Number("anon_bytes", "memory_anon_bytes", "Memory of processes."),
    _Number("file_bytes", "memory_file_bytes", "Page cache."),
    _Number("kernel_bytes", "memory_kernel_bytes", "Memory of the kernel."),
    _Number("shmem_bytes", "memory_shmem_bytes", "Shared memory and tmpfs."),
    _Number("swap_usage_bytes", "memory_swap_usage_bytes", "Swap in use."),
    _Number("swap_limit_bytes", "memory_swap_limit_bytes", "Limit of swap; absent without one."),
    _count("page_faults", "memory_page_faults", "Page faults."),
    _count("major_page_faults", "memory_major_page_faults", "Page faults that needed a disk."),
    _count("limit_hits", "memory_limit_hits", "How often the limit was hit."),
    _count("oom_events", "memory_oom_events", "How often memory was out."),
    _count("oom_kills", "memory_oom_kills", "Processes that were killed for want of memory."),
)
_PIDS = (
    _Number("current", "tasks", "Tasks; each thread is one."),
    _Number("peak", "tasks_peak", "The most tasks that there ever were."),
    _Number("limit", "tasks_limit", "Limit of tasks; absent without one."),
    _count("limit_hits", "tasks_limit_hits", "Forks that were refused for the limit."),
    _Number("processes", "processes", "Processes."),
)
_IO = (
    _count("read_bytes", "io_read_bytes", "Read from a block device."),
    _count("write_bytes", "io_write_bytes", "Written to a block device."),
    _count("read_operations", "io_read_operations", "Reads from a block device."),
    _count("write_operations", "io_write_operations", "Writes to a block device."),
)
_NETWORK = (
    _count("rx_bytes", "network_receive_bytes", "Received by a device."),
    _count("rx_packets", "network_receive_packets", "Packets received by a device."),
    _count("rx_errors", "network_receive_errors", "Errors in receiving."),
    _count("rx_dropped", "network_receive_dropped", "Received packets that were dropped."),
    _count("rx_overruns", "network_receive_overruns", "Receiving that was too slow."),
    _count("tx_bytes", "network_transmit_bytes", "Sent by a device."),
    _count("tx_packets", "network_transmit_packets", "Packets sent by a device."),
    _count("tx_errors", "network_transmit_errors", "Errors in sending."),
    _count("tx_dropped", "network_transmit_dropped", "Packets to send that were dropped."),
    _count("tx_overruns", "network_transmit_overruns", "Sending that was too slow."),
)
_PRESSURE = _seconds(
    "total_usec", "pressure_seconds", "Time in which some or all tasks waited for a resource."
)


class Snapshot(Collector):
    """One sample of all containers, for prometheus_client's `generate_latest`."""

    def __init__(self, stats: Sequence[ContainerStats], facts: Facts) -> None:
        self._stats = stats
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """Every metric that has a value."""
        yield from _of_daemon(self._facts)
        families = _Families()
        for stats in self._stats:
            _container(families, stats)
        yield from families.found.values()


def _of_daemon(facts: Facts) -> Iterator[Metric]:
    build = GaugeMetricFamily("lxcd_build_info", "Always 1.", labels=["version"])
    build.add_metric([facts.version], 1)
    yield build
    yield CounterMetricFamily(
        "lxcd_events", "Number of the last event; goes on after a restart.", value=facts.events
    )
    containers = GaugeMetricFamily("lxcd_containers", "Containers.", labels=["state"])
    for state, count in facts.containers.items():
        containers.add_metric([state], count)
    yield containers


class _Families:
    """Metrics by name, made with their first value."""

    def __init__(self) -> None:
        self.found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def add(
        self,
        number: _Number,
        value: float,
        labels: Sequence[str],
        names: Sequence[str] = _LABELS,
    ) -> None:
        """One value."""
        family = self.found.get(number.name)
        if family is None:
            kind = CounterMetricFamily if number.kind == "counter" else GaugeMetricFamily
            family = self.found[number.name] = kind(number.name, number.help, labels=names)
        family.add_metric(labels, value * number.scale)

    def add_present(self, numbers: Iterable[_Number], message: Message, whose: list[str]) -> None:
        """What a message has of these: all its fields are optional."""
        for number in numbers:
            if message.HasField(number.field):
                self.add(number, getattr(message, number.field), whose)


_STATE = _Number("state", "state", "1 for the state that it is in.")
_PER_CPU = _seconds("per_cpu_usage_usec", "cpu_core_usage_seconds", "CPU time used of each CPU.")


def _container(families: _Families, stats: ContainerStats) -> None:
    whose = [stats.name, stats.lxcpath]
    families.add(_STATE, 1, [*whose, _state_word(stats.state)], (*_LABELS, "state"))
    for number in _OWN:
        families.add(number, getattr(stats, number.field), whose)
    families.add_present(_CPU, stats.cpu, whose)
    for index, usec in enumerate(stats.cpu.per_cpu_usage_usec):
        families.add(_PER_CPU, usec, [*whose, str(index)], (*_LABELS, "cpu"))
    families.add_present(_MEMORY, stats.memory, whose)
    families.add_present(_PIDS, stats.pids, whose)
    for device in stats.io:
        # Its number tells it from another of the same name.
        place = f"{device.major}:{device.minor}"
        labels = [*whose, device.device, place]
        for number in _IO:
            value = getattr(device, number.field)
            families.add(number, value, labels, (*_LABELS, "device", "number"))
    for interface in stats.network:
        labels = [*whose, interface.interface]
        for number in _NETWORK:
            value = getattr(interface.counters, number.field)
            families.add(number, value, labels, (*_LABELS, "interface"))
    _pressure(families, stats, whose)


def _pressure(families: _Families, stats: ContainerStats, whose: list[str]) -> None:
    for resource, pressure in (
        ("cpu", stats.cpu_pressure if stats.HasField("cpu_pressure") else None),
        ("memory", stats.memory_pressure if stats.HasField("memory_pressure") else None),
        ("io", stats.io_pressure if stats.HasField("io_pressure") else None),
    ):
        if pressure is None:
            continue
        names = (*_LABELS, "resource", "share")
        families.add(_PRESSURE, pressure.some.total_usec, [*whose, resource, "some"], names)
        if pressure.HasField("full"):
            families.add(_PRESSURE, pressure.full.total_usec, [*whose, resource, "full"], names)


def _state_word(number: types_pb2.State.ValueType) -> str:
    return types_pb2.State.Name(number).removeprefix("STATE_").lower()
