"""All numbers of one container, in words."""

from __future__ import annotations

from lxcctl.output import harmless
from lxcctl.usage import amount, number, percent, size, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message

    from lxcctl.usage import Usage
    from lxcd.v1.stats_pb2 import ContainerStats, PressureShare


def details(usage: Usage) -> list[str]:
    """A line for each group of numbers; what the kernel does not count is left out."""
    stats = usage.stats
    found = [
        *_block("Lxcpath:", [harmless(stats.lxcpath)]),
        *_block("Uptime:", [span(stats.uptime_usec)]),
        *_block("CPU:", _cpu(usage)),
        *_block("Memory:", _memory(usage)),
        *_block("Tasks:", _tasks(stats)),
        *_block("Network:", _network(usage)),
        *_block("Block io:", _io(usage)),
        *_block("Pressure:", _pressure(stats)),
    ]
    return [text.rstrip() for text in found]


def _block(label: str, lines: Iterable[str]) -> Iterator[str]:
    """Only the first line has the label."""
    for text in filter(None, lines):
        yield f"{label:<10} {text}"
        label = ""


def _words(*pairs: tuple[str, str]) -> str:
    return "   ".join(f"{label} {text}" for label, text in pairs if text not in {"", "-"})


def _sizes(message: Message, *fields: tuple[str, str]) -> str:
    return _words(*((label, size(number(message, name))) for label, name in fields))


def _counts(message: Message, *fields: tuple[str, str]) -> str:
    return _words(*((label, amount(number(message, name))) for label, name in fields))


def _cpu(usage: Usage) -> Iterator[str]:
    cpu = usage.stats.cpu
    rate = usage.rates.cpu_percent
    yield _words(
        ("now", "-" if rate is None else f"{percent(rate)}%"),
        ("used", span(number(cpu, "usage_usec"))),
        ("user", span(number(cpu, "user_usec"))),
        ("system", span(number(cpu, "system_usec"))),
    )
    quota, period = number(cpu, "quota_usec"), number(cpu, "period_usec")
    limit = f"{100 * quota / period:.0f}%" if quota is not None and period else "-"
    yield _words(
        ("limit", limit),
        ("weight", amount(number(cpu, "weight"))),
        ("on CPUs", harmless(cpu.effective_cpus)),
    )
    throttled, periods = number(cpu, "throttled_periods"), number(cpu, "periods")
    if throttled is not None:
        yield _words(
            ("throttled", f"{throttled} of {amount(periods)} periods"),
            ("for", span(number(cpu, "throttled_usec"))),
        )
    each = cpu.per_cpu_usage_usec
    yield _words(*((f"cpu{index}", span(usec)) for index, usec in enumerate(each) if usec))


def _memory(usage: Usage) -> Iterator[str]:
    memory = usage.stats.memory
    share = usage.memory_percent
    yield _words(
        ("used", size(usage.memory_bytes)),
        ("with cache", size(number(memory, "usage_bytes"))),
        ("peak", size(number(memory, "peak_bytes"))),
        ("limit", size(number(memory, "limit_bytes"))),
        ("share", "-" if share is None else f"{percent(share)}%"),
    )
    yield _sizes(
        memory,
        ("anonymous", "anon_bytes"),
        ("files", "file_bytes"),
        ("kernel", "kernel_bytes"),
        ("shared", "shmem_bytes"),
    )
    yield _sizes(memory, ("swap", "swap_usage_bytes"), ("swap limit", "swap_limit_bytes"))
    yield _counts(
        memory,
        ("limit hit", "limit_hits"),
        ("out of memory", "oom_events"),
        ("killed", "oom_kills"),
        ("faults", "page_faults"),
        ("major", "major_page_faults"),
    )


def _tasks(stats: ContainerStats) -> Iterator[str]:
    yield _counts(
        stats.pids,
        ("now", "current"),
        ("processes", "processes"),
        ("peak", "peak"),
        ("limit", "limit"),
        ("refused", "limit_hits"),
    )


def _network(usage: Usage) -> Iterator[str]:
    rates = usage.rates
    yield _words(
        ("in", _per_second(rates.receive_bytes)), ("out", _per_second(rates.transmit_bytes))
    )
    for device in usage.stats.network:
        seen = device.counters
        trouble = _words(
            *(
                (label, str(value) if value else "")
                for label, value in (
                    ("errors", seen.rx_errors + seen.tx_errors),
                    ("dropped", seen.rx_dropped + seen.tx_dropped),
                )
            )
        )
        yield (
            f"{harmless(device.interface)}   in {size(seen.rx_bytes)}, {seen.rx_packets} packets"
            f"   out {size(seen.tx_bytes)}, {seen.tx_packets} packets   {trouble}"
        )


def _io(usage: Usage) -> Iterator[str]:
    rates = usage.rates
    yield _words(("read", _per_second(rates.read_bytes)), ("write", _per_second(rates.write_bytes)))
    for device in usage.stats.io:
        name = harmless(device.device) or f"{device.major}:{device.minor}"
        yield (
            f"{name}   read {size(device.read_bytes)}, {device.read_operations} operations"
            f"   write {size(device.write_bytes)}, {device.write_operations} operations"
        )


def _per_second(rate: float | None) -> str:
    return "-" if rate is None else f"{size(rate)}/s"


def _pressure(stats: ContainerStats) -> Iterator[str]:
    for label in ("cpu", "memory", "io"):
        field = f"{label}_pressure"
        if not stats.HasField(field):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            continue
        pressure = getattr(stats, field)
        shares = (
            f"{name} {_share(getattr(pressure, name))}"
            for name in ("some", "full")
            if pressure.HasField(name)
        )
        yield f"{label}   {'   '.join(shares)}"


def _share(share: PressureShare) -> str:
    """As in the kernel's file: over 10, 60 and 300 seconds."""
    return " ".join(
        f"{percent(value)}%"
        for value in (share.avg10_percent, share.avg60_percent, share.avg300_percent)
    )
