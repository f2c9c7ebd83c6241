"""StatsService."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxcd import errors
from lxcd.rpc import convert, requests
from lxcd.rpc.status import Context, stream, unary
from lxcd.supervisor.statistics import LEAST_INTERVAL_SECONDS
from lxcd.v1 import stats_pb2 as pb
from lxcd.v1 import stats_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lxcd.cgroup.usage import Pressure, Share, Usage
    from lxcd.supervisor.container import Container
    from lxcd.supervisor.registry import Registry
    from lxcd.supervisor.statistics import Sample, Statistics

_SECOND = 1.0
_LONGEST_SECONDS = 86_400.0


class Stats(stats_pb2_grpc.StatsServiceServicer):
    """What containers use."""

    def __init__(self, registry: Registry, statistics: Statistics) -> None:
        self._registry = registry
        self._statistics = statistics

    @unary
    async def GetStats(self, request: pb.GetStatsRequest, context: Context) -> pb.GetStatsResponse:
        """See stats.proto."""
        del context
        named = self._named(request)
        for actor in named:
            actor.require_running()
        actors = named or self._running(request)
        found = await self._statistics.sample(actors)
        return pb.GetStatsResponse(stats=[message(one) for one in found])

    @stream
    async def StreamStats(
        self, request: pb.StreamStatsRequest, context: Context
    ) -> AsyncIterator[pb.StreamStatsResponse]:
        """See stats.proto."""
        del context
        interval = requests.seconds(request, "interval", _SECOND) or 0.0
        if not LEAST_INTERVAL_SECONDS <= interval <= _LONGEST_SECONDS:
            raise errors.InvalidArgument(
                f"an interval of {interval:g} s: at least {LEAST_INTERVAL_SECONDS:g} s,"
                f" and at most a day",
                "INVALID_INTERVAL",
            )
        # One that was never there is a mistake; one that goes may come back.
        self._named(request)
        async for found in self._statistics.stream(lambda: self._running(request), interval):
            yield pb.StreamStatsResponse(stats=[message(one) for one in found])

    def _named(self, request: pb.GetStatsRequest | pb.StreamStatsRequest) -> list[Container]:
        """Those that are named, each once."""
        return [self._registry.get(request.lxcpath, name) for name in sorted(set(request.names))]

    def _running(self, request: pb.GetStatsRequest | pb.StreamStatsRequest) -> list[Container]:
        """Those that run, of those that are named, or of all."""
        lxcpath, names = self._registry.lxcpath(request.lxcpath), frozenset(request.names)
        found = [
            actor
            for actor in self._registry.running()
            if actor.lxcpath == lxcpath and (not names or actor.name in names)
        ]
        return sorted(found, key=lambda actor: actor.name)


def message(sample: Sample) -> pb.ContainerStats:
    """One sample. A field that is None stays unset."""
    usage = sample.usage
    return pb.ContainerStats(
        name=convert.text_of(sample.name),
        lxcpath=convert.text_of(sample.lxcpath),
        generation=sample.generation,
        state=convert.state(sample.state),
        time=convert.timestamp(sample.time_ns),
        uptime_usec=sample.uptime_usec,
        cpu=_cpu(usage),
        memory=_memory(usage),
        pids=_pids(usage),
        io=_io(usage),
        cpu_pressure=_pressure(usage.cpu_pressure),
        memory_pressure=_pressure(usage.memory_pressure),
        io_pressure=_pressure(usage.io_pressure),
        network=[
            pb.NetworkStats(interface=convert.text_of(name), counters=convert.counters(value))
            for name, value in sample.network
        ],
    )


def _cpu(usage: Usage) -> pb.CpuStats:
    cpu = usage.cpu
    return pb.CpuStats(
        usage_usec=cpu.usage_usec,
        user_usec=cpu.user_usec,
        system_usec=cpu.system_usec,
        periods=cpu.periods,
        throttled_periods=cpu.throttled_periods,
        throttled_usec=cpu.throttled_usec,
        per_cpu_usage_usec=cpu.per_cpu_usage_usec,
        quota_usec=cpu.quota_usec,
        period_usec=cpu.period_usec,
        weight=cpu.weight,
        effective_cpus=cpu.effective_cpus,
    )


def _memory(usage: Usage) -> pb.MemoryStats:
    memory = usage.memory
    return pb.MemoryStats(
        usage_bytes=memory.usage_bytes,
        working_set_bytes=memory.working_set_bytes,
        peak_bytes=memory.peak_bytes,
        limit_bytes=memory.limit_bytes,
        anon_bytes=memory.anon_bytes,
        file_bytes=memory.file_bytes,
        kernel_bytes=memory.kernel_bytes,
        shmem_bytes=memory.shmem_bytes,
        swap_usage_bytes=memory.swap_usage_bytes,
        swap_limit_bytes=memory.swap_limit_bytes,
        page_faults=memory.page_faults,
        major_page_faults=memory.major_page_faults,
        limit_hits=memory.limit_hits,
        oom_events=memory.oom_events,
        oom_kills=memory.oom_kills,
    )


def _pids(usage: Usage) -> pb.PidsStats:
    pids = usage.pids
    return pb.PidsStats(
        current=pids.current,
        peak=pids.peak,
        limit=pids.limit,
        limit_hits=pids.limit_hits,
        processes=pids.processes,
    )


def _io(usage: Usage) -> list[pb.IoStats]:
    return [
        pb.IoStats(
            major=one.major,
            minor=one.minor,
            device=convert.text_of(one.device),
            read_bytes=one.read_bytes,
            write_bytes=one.write_bytes,
            read_operations=one.read_operations,
            write_operations=one.write_operations,
        )
        for one in usage.io
    ]


def _pressure(value: Pressure | None) -> pb.PressureStats | None:
    if value is None:
        return None
    full = None if value.full is None else _share(value.full)
    return pb.PressureStats(some=_share(value.some), full=full)


def _share(value: Share) -> pb.PressureShare:
    return pb.PressureShare(
        avg10_percent=value.avg10_percent,
        avg60_percent=value.avg60_percent,
        avg300_percent=value.avg300_percent,
        total_usec=value.total_usec,
    )
