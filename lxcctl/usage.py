"""What containers use: the rates between two samples, and how numbers are written for people.

Works on messages without importing their modules.
"""

from __future__ import annotations

from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.message import Message

    from lxcd.v1.stats_pb2 import ContainerStats

    Key = tuple[str, str]  # lxcpath and name
    Usages = dict[Key, "Usage"]

# Between samples that are nearer to each other than this, chance decides. The daemon takes none
# that are nearer than twice as long, but another stream begins with one at once.
LEAST_USEC = 50_000
_MILLION = 1_000_000
_UNIT = 1024


@dataclass(frozen=True, slots=True)
class Rates:
    """Since the sample before. None: there is none of this life, or the kernel does not count."""

    cpu_percent: float | None = None  # of one CPU
    read_bytes: float | None = None  # these per second
    write_bytes: float | None = None
    receive_bytes: float | None = None
    transmit_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """One container: its newest sample, and the rates, which began with `base`."""

    stats: ContainerStats
    base: ContainerStats
    rates: Rates = field(default_factory=Rates)

    @property
    def memory_bytes(self) -> int | None:
        """Without page cache that can be dropped, where that is known."""
        memory = self.stats.memory
        known = number(memory, "working_set_bytes")
        return number(memory, "usage_bytes") if known is None else known

    @property
    def memory_percent(self) -> float | None:
        """Of the limit; None without one."""
        used, limit = self.memory_bytes, number(self.stats.memory, "limit_bytes")
        return 100.0 * used / limit if used is not None and limit else None

    @property
    def read_bytes(self) -> int:
        """From all devices, since it was started."""
        return sum(device.read_bytes for device in self.stats.io)

    @property
    def write_bytes(self) -> int:
        """To all devices, since it was started."""
        return sum(device.write_bytes for device in self.stats.io)

    @property
    def receive_bytes(self) -> int | None:
        """Through all its devices but the loopback; None where the network is not its own."""
        return _passed(self.stats, "rx_bytes")

    @property
    def transmit_bytes(self) -> int | None:
        """The same in the other direction."""
        return _passed(self.stats, "tx_bytes")


def number(message: Message, name: str) -> int | None:
    """A field that may be absent."""
    if not message.HasField(name):
        return None
    return int(getattr(message, name))


def _passed(stats: ContainerStats, name: str) -> int | None:
    if not stats.network:
        return None
    devices = (each for each in stats.network if each.interface != "lo")
    return sum(int(getattr(device.counters, name)) for device in devices)


def follow(before: Mapping[Key, Usage], sample: Iterable[ContainerStats]) -> Usages:
    """The next sample of all containers; what is not in it has ended."""
    found: Usages = {}
    for stats in sample:
        key = (stats.lxcpath, stats.name)
        found[key] = advance(before.get(key), stats)
    return found


def advance(before: Usage | None, stats: ContainerStats) -> Usage:
    """The next sample of one container. In another life its counters begin anew."""
    if before is None or before.stats.generation != stats.generation:
        return Usage(stats, stats)
    elapsed_usec = stats.uptime_usec - before.base.uptime_usec
    if elapsed_usec < 0:
        # Somebody has set the clock.
        return Usage(stats, stats)
    if elapsed_usec < LEAST_USEC:
        return Usage(stats, before.base, before.rates)
    return Usage(stats, stats, _rates(Usage(before.base, before.base), Usage(stats, stats)))


def _rates(old: Usage, new: Usage) -> Rates:
    seconds = (new.stats.uptime_usec - old.stats.uptime_usec) / _MILLION

    def rate(before: int | None, now: int | None) -> float | None:
        # Less than before: a device has gone, and what had passed it.
        if before is None or now is None or now < before:
            return None
        return (now - before) / seconds

    spent = rate(number(old.stats.cpu, "usage_usec"), number(new.stats.cpu, "usage_usec"))
    return Rates(
        None if spent is None else 100 * spent / _MILLION,
        rate(old.read_bytes, new.read_bytes),
        rate(old.write_bytes, new.write_bytes),
        rate(old.receive_bytes, new.receive_bytes),
        rate(old.transmit_bytes, new.transmit_bytes),
    )


def size(value: float | None) -> str:
    """Bytes in at most five characters: `17`, `1.5K`, `1023M`; a K is 1024."""
    if value is None:
        return "-"
    if value < _UNIT:
        return f"{value:.0f}"
    for unit in "KMGTP":
        value /= _UNIT
        # Rounding must not make a digit more.
        if value < 9.95:  # noqa: PLR2004
            return f"{value:.1f}{unit}"
        if value < _UNIT - 0.5:
            return f"{value:.0f}{unit}"
    return f"{value / _UNIT:.0f}E"


def percent(value: float | None) -> str:
    """`0.0` to `99.9`, from then on whole."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"  # noqa: PLR2004


def span(usec: int | None) -> str:
    """A time in at most two units: `12s`, `5m07s`, `3h04m`, `12d03h`."""
    if usec is None:
        return "-"
    seconds = usec // _MILLION
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    if minutes:
        return f"{minutes}m{seconds % 60:02}s"
    return f"{seconds}s"


def amount(value: int | None) -> str:
    """A number of things."""
    return "-" if value is None else str(value)
