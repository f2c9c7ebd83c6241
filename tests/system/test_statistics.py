"""What containers use, beside what the kernel's own files say at the same moment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lxcd.cgroup import tree
from lxcd.v1 import container_pb2, stats_pb2, types_pb2
from tests.system.boxes import Box, box
from tests.system.calls import application, define, idle, refused, seconds
from tests.system.host import Api, Host
from tests.system.machine import DEADLINE, until

pytestmark = pytest.mark.vm

pb = stats_pb2
CROWD = 50
# A bit of everything, and pauses, so that fifty of them leave something of two processors.
LOAD = """\
while :; do
  dd if=/dev/zero of=/root/file bs=64k count=8 conv=fsync 2>/dev/null
  ping -c 1 -q 127.0.0.1 >/dev/null
  (usleep 300000 &)
  usleep 200000
done
"""
# From outside, in the cgroup $0, to the device $1 and from it.
# Opened before: in version 2 who sits there may not open it.
DIRECT = """\
exec 3<>"$1"
echo $$ >"$0/cgroup.procs"
dd if=/dev/zero bs=64k count=16 oflag=direct >&3
dd of=/dev/null bs=4k count=3 iflag=direct <&3
"""
# What never becomes less in one life, by the ends of their names.
GROWING = (
    *("usage_usec", "user_usec", "system_usec", "periods", "throttled_usec"),
    *("peak_bytes", "pids.peak", "page_faults", "limit_hits", "oom_events", "oom_kills"),
    *("total_usec", "read_bytes", "write_bytes", "operations", "rx_bytes", "tx_bytes", "packets"),
)

Values = dict[str, Any]


class Kernel:
    """The files of one container, found by its init."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        mounts = {
            hierarchy.key: hierarchy.mountpoint for hierarchy in tree.find_trees().hierarchies
        }
        self._first: dict[str, str] = {}
        self._unified = ""
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, key, path = line.split(":", 2)
            if key:
                self._first.update(dict.fromkeys(key.split(","), mounts[key] + path))
            elif "" in mounts:
                # Where it is counted: one level above what it sees.
                self._unified = mounts[""] + path.removesuffix("/inner")

    def directory(self, controller: str) -> Path:
        """Of version 1's tree with this controller, or else of version 2's."""
        return Path(self._first.get(controller, self._unified))

    def _text(self, controller: str, name: str) -> str | None:
        """Of version 1's tree with this controller, or of version 2's for none."""
        path = f"{self._first[controller] if controller else self._unified}/{name}"
        return Path(path).read_text() if os.path.exists(path) else None

    def _number(self, controller: str, name: str, scale: float = 1) -> int | None:
        text = self._text(controller, name)
        return None if text is None or text in ("max\n", "-1\n") else int(int(text) * scale)

    def _pairs(self, controller: str, name: str) -> dict[str, int]:
        words = (self._text(controller, name) or "").split()
        return {key: int(value) for key, value in zip(words[::2], words[1::2], strict=True)}

    def values(self) -> Values:
        """All that there is, by the names of the API."""
        found: Values = self._cpu() | self._memory() | self._pids() | self._io()
        for kind in ("cpu", "memory", "io") if self._unified else ():
            for line in (self._text("", f"{kind}.pressure") or "").splitlines():
                which, *pairs = line.split()
                for pair in pairs:
                    key, _, value = pair.partition("=")
                    unit = "total_usec" if key == "total" else f"{key}_percent"
                    found[f"{kind}_pressure.{which}.{unit}"] = float(value)
        for line in Path(f"/proc/{self._pid}/net/dev").read_text().splitlines()[2:]:
            name, _, rest = line.partition(":")
            numbers = [int(word) for word in rest.split()]
            for way, values in (("rx", numbers[:5]), ("tx", numbers[8:13])):
                for what, count in zip(
                    ("bytes", "packets", "errors", "dropped", "overruns"), values, strict=True
                ):
                    found[f"network.{name.strip()}.counters.{way}_{what}"] = count
        return {name: value for name, value in found.items() if value is not None}

    def _cpu(self) -> Values:
        if "cpu" not in self._first:
            stat = self._pairs("", "cpu.stat")
            quota, period = (self._text("", "cpu.max") or "max 0").split()
            limited = quota != "max"
            return {
                "cpu.usage_usec": stat["usage_usec"],
                "cpu.user_usec": stat["user_usec"],
                "cpu.system_usec": stat["system_usec"],
                "cpu.periods": stat.get("nr_periods"),
                "cpu.throttled_periods": stat.get("nr_throttled"),
                "cpu.throttled_usec": stat.get("throttled_usec"),
                "cpu.quota_usec": int(quota) if limited else None,
                "cpu.period_usec": int(period) if limited else None,
                "cpu.weight": self._number("", "cpu.weight"),
                "cpu.effective_cpus": (self._text("", "cpuset.cpus.effective") or "").strip(),
            }
        ticks, stat = self._pairs("cpuacct", "cpuacct.stat"), self._pairs("cpu", "cpu.stat")
        quota_usec = self._number("cpu", "cpu.cfs_quota_us")
        found: Values = {
            "cpu.usage_usec": self._number("cpuacct", "cpuacct.usage", 1e-3),
            "cpu.user_usec": ticks["user"] * 10_000,
            "cpu.system_usec": ticks["system"] * 10_000,
            "cpu.periods": stat["nr_periods"],
            "cpu.throttled_periods": stat["nr_throttled"],
            "cpu.throttled_usec": stat["throttled_time"] // 1000,
            "cpu.quota_usec": quota_usec,
            "cpu.period_usec": quota_usec and self._number("cpu", "cpu.cfs_period_us"),
            "cpu.weight": round((self._number("cpu", "cpu.shares") or 0) * 100 / 1024),
            "cpu.effective_cpus": (self._text("cpuset", "cpuset.effective_cpus") or "").strip(),
        }
        for number, nsec in enumerate(
            (self._text("cpuacct", "cpuacct.usage_percpu") or "").split()
        ):
            found[f"cpu.{number}.per_cpu_usage_usec"] = int(nsec) // 1000
        return found

    def _memory(self) -> Values:
        if "memory" not in self._first:
            used, stat = self._number("", "memory.current"), self._pairs("", "memory.stat")
            events = self._pairs("", "memory.events")
            return {
                "memory.usage_bytes": used,
                "memory.working_set_bytes": used and max(0, used - stat["inactive_file"]),
                "memory.peak_bytes": self._number("", "memory.peak"),
                "memory.limit_bytes": self._number("", "memory.max"),
                **{
                    f"memory.{name}_bytes": stat[name]
                    for name in ("anon", "file", "kernel", "shmem")
                },
                "memory.swap_usage_bytes": self._number("", "memory.swap.current"),
                "memory.swap_limit_bytes": self._number("", "memory.swap.max"),
                "memory.page_faults": stat["pgfault"],
                "memory.major_page_faults": stat["pgmajfault"],
                "memory.limit_hits": events["max"],
                "memory.oom_events": events["oom"],
                "memory.oom_kills": events["oom_kill"],
            }
        used, stat = (
            self._number("memory", "memory.usage_in_bytes"),
            self._pairs("memory", "memory.stat"),
        )
        most, both = (
            self._number("memory", f"memory.{name}limit_in_bytes") or 0 for name in ("", "memsw.")
        )
        return {
            "memory.usage_bytes": used,
            "memory.working_set_bytes": used and max(0, used - stat["total_inactive_file"]),
            "memory.peak_bytes": self._number("memory", "memory.max_usage_in_bytes"),
            "memory.limit_bytes": most if most < 1 << 62 else None,
            "memory.anon_bytes": stat["total_rss"],
            "memory.file_bytes": stat["total_cache"],
            "memory.kernel_bytes": self._number("memory", "memory.kmem.usage_in_bytes"),
            "memory.shmem_bytes": stat["total_shmem"],
            "memory.swap_usage_bytes": stat.get("total_swap"),
            "memory.swap_limit_bytes": both - most if 0 < both < 1 << 62 else None,
            "memory.page_faults": stat["total_pgfault"],
            "memory.major_page_faults": stat["total_pgmajfault"],
            "memory.limit_hits": self._number("memory", "memory.failcnt"),
            "memory.oom_kills": self._pairs("memory", "memory.oom_control")["oom_kill"],
        }

    def _pids(self) -> Values:
        where = "pids" if "pids" in self._first else ""
        return {
            "pids.current": self._number(where, "pids.current"),
            "pids.peak": self._number(where, "pids.peak"),
            "pids.limit": self._number(where, "pids.max"),
            "pids.limit_hits": self._pairs(where, "pids.events").get("max"),
            "pids.processes": sum(
                path.read_text().count("\n")
                for path in self.directory("pids").rglob("cgroup.procs")
            ),
        }

    def _io(self) -> Values:
        found: Values = {}
        if "blkio" not in self._first:
            names = {"rbytes": "read_bytes", "wbytes": "write_bytes"}
            names |= {"rios": "read_operations", "wios": "write_operations"}
            for line in (self._text("", "io.stat") or "").splitlines():
                device, *pairs = line.split()
                for key, _, value in (pair.partition("=") for pair in pairs):
                    if key in names:
                        found[f"io.{device}.{names[key]}"] = int(value)
            return found
        for name, unit in (("service_bytes", "bytes"), ("serviced", "operations")):
            text = self._text("blkio", f"blkio.throttle.io_{name}_recursive") or ""
            for device, kind, value in (
                line.split() for line in text.splitlines() if len(line.split()) == 3
            ):
                if kind in ("Read", "Write"):
                    found[f"io.{device}.{kind.lower()}_{unit}"] = int(value)
        return found


def _flat(message: Any, above: str = "") -> Values:
    """Numbers of a message by their names; of what is repeated by what it is of. Unset ones are not there."""
    found: Values = {}
    for field in message.DESCRIPTOR.fields:
        name, value = f"{above}{field.name}", getattr(message, field.name)
        if field.name == "io":
            for one in value:
                found |= {
                    f"io.{one.major}:{one.minor}.{key}": number
                    for key, number in _flat(one).items()
                    if key not in ("major", "minor", "device")
                }
        elif field.name == "network":
            for one in value:
                found |= _flat(one.counters, f"network.{one.interface}.counters.")
        elif field.name == "per_cpu_usage_usec":
            found |= {f"{above}{number}.{field.name}": usec for number, usec in enumerate(value)}
        elif field.message_type is not None:
            if message.HasField(field.name):
                found |= _flat(value, f"{name}.")
        elif not field.has_presence or message.HasField(field.name):
            found[name] = value
    return found


def _measured(message: Any) -> Values:
    about = ("name", "lxcpath", "generation", "state", "time.", "uptime_usec")
    return {key: value for key, value in _flat(message).items() if not key.startswith(about)}


def _get(api: Api, *names: str) -> dict[str, pb.ContainerStats]:
    reply = api.stats.GetStats(pb.GetStatsRequest(names=names), timeout=DEADLINE)
    return {one.name: one for one in reply.stats}


@pytest.fixture(scope="module")
def crowd(shared_host: Host, busybox_root: Path) -> Iterator[dict[str, Box]]:
    """Fifty containers under load."""
    with ExitStack() as stack:
        found: dict[str, Box] = {}
        for number in range(CROWD):
            name = f"crowd{number}"
            config = application(shared_host, busybox_root, name, "lxc.net.0.type = empty")
            command = ("/bin/sh", "-c", LOAD)
            found[name] = stack.enter_context(box(shared_host, config, name, *command))
        yield found


def test_numbers_of_fifty_containers_under_load_lie_between_the_kernels(
    shared_host: Host, crowd: dict[str, Box]
) -> None:
    api = shared_host.channel()
    files = {name: Kernel(made.info().pid) for name, made in crowd.items()}
    for _ in range(3):
        before = {name: kernel.values() for name, kernel in files.items()}
        found = _get(api)
        after = {name: kernel.values() for name, kernel in files.items()}
        assert list(found) == sorted(crowd)
        for name, message in found.items():
            for key, value in _measured(message).items():
                if key.endswith(GROWING) and key in before[name]:
                    assert before[name][key] <= value <= after[name][key], (name, key)


def test_numbers_of_fifty_frozen_containers_are_the_kernels(
    shared_host: Host, crowd: dict[str, Box]
) -> None:
    api = shared_host.channel()
    files = {name: Kernel(made.info().pid) for name, made in crowd.items()}
    request = container_pb2.FreezeContainerRequest
    for name in crowd:
        api.container.FreezeContainer(request(name=name), timeout=DEADLINE)
    left = set(crowd)
    used = 0

    def agree() -> bool:
        nonlocal used
        before = {name: files[name].values() for name in left}
        found = _get(api, *left)
        for name in list(left):
            # The kernel may still be adding up what was used before, or taking memory back.
            if files[name].values() == before[name]:
                assert found[name].state == types_pb2.STATE_FROZEN
                assert _measured(found[name]) == before[name]
                used += found[name].cpu.usage_usec
                left.remove(name)
        return not left

    try:
        until(agree, "each of them has stood still for a moment")
    finally:
        for name in crowd:
            api.container.ThawContainer(
                container_pb2.ThawContainerRequest(name=name), timeout=DEADLINE
            )
    assert used > 0


def test_counters_of_the_network_are_those_of_getcontainer(
    shared_host: Host, busybox_root: Path
) -> None:
    config = application(shared_host, busybox_root, "netted", "lxc.net.0.type = empty")
    with box(shared_host, config, "netted", "/bin/sleep", "100000") as made:
        made.sh("ping -c 3 -q 127.0.0.1")
        (loopback,) = made.known().network_interfaces
        (found,) = _get(made.api, "netted")["netted"].network
        assert (found.interface, found.counters) == ("lo", loopback.counters)
        assert found.counters.rx_packets == 6


def test_limits_that_were_written_by_hand_are_seen_at_once(
    shared_host: Host, busybox_root: Path
) -> None:
    with idle(shared_host, busybox_root, "limited") as made:
        api = made.api
        assert _get(api, "limited")["limited"].pids.limit == 16384  # by default
        paths = dict(
            line.split(":", 2)[1:]
            for line in Path(f"/proc/{made.info().pid}/cgroup").read_text().splitlines()
        )
        for hierarchy in tree.find_trees().hierarchies:
            own = paths[hierarchy.key].removesuffix("/inner")
            path = Path(f"{hierarchy.mountpoint}{own}/pids.max")
            if path.exists():
                path.write_text("123")
        assert _get(api, "limited")["limited"].pids.limit == 123


def test_what_goes_to_a_device_is_counted(
    shared_host: Host, busybox_root: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    device = _run("losetup", "--find", "--show", str(image))
    try:
        number = os.stat(device).st_rdev
        with idle(shared_host, busybox_root, "writer") as made:
            own = Kernel(made.info().pid).directory("blkio")
            rules = own / "blkio.throttle.write_bps_device"
            if rules.exists():
                # Version 1 counts nothing on a device that nobody has a limit for.
                rules.write_text(f"{os.major(number)}:{os.minor(number)} 1000000000")
            # By somebody who sits there: it has no such device of its own.
            below = own / "inner"
            _run("sh", "-ec", DIRECT, str(below if below.exists() else own), device)
            (found,) = (
                one
                for one in _get(made.api, "writer")["writer"].io
                if os.makedev(one.major, one.minor) == number
            )
            assert f"/dev/{found.device}" == device
            assert (found.write_bytes, found.read_bytes) == (1 << 20, 3 << 12)
            assert (found.write_operations, found.read_operations) == (16, 3)
    finally:
        _run("losetup", "--detach", device)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=DEADLINE)
    return done.stdout.strip()


def test_a_stream_goes_on_over_a_stop_and_a_start(shared_host: Host, busybox_root: Path) -> None:
    with (
        idle(shared_host, busybox_root, "steady"),
        idle(shared_host, busybox_root, "restless") as made,
    ):
        request = pb.StreamStatsRequest(names=["restless", "steady"], interval=seconds(0.1))
        call = made.api.stats.StreamStats(request, timeout=DEADLINE)
        assert [one.name for one in next(call).stats] == ["restless", "steady"]
        made.stop(kill=True)
        for reply in call:
            if [one.name for one in reply.stats] == ["steady"]:
                break
        generation = made.start("/bin/sleep", "100000").generation
        for reply in call:
            if len(reply.stats) == 2:
                assert reply.stats[0].generation == generation
                assert reply.stats[0].uptime_usec < reply.stats[1].uptime_usec
                break
        call.cancel()


def test_a_stream_goes_on_when_nobody_is_left(shared_host: Host, busybox_root: Path) -> None:
    with shared_host.channel() as api:
        with idle(shared_host, busybox_root, "last"):
            request = pb.StreamStatsRequest(names=["last"], interval=seconds(0.1))
            call = api.stats.StreamStats(request, timeout=DEADLINE)
            assert len(next(call).stats) == 1
        for reply in call:
            if not reply.stats:
                break
        # It has been deleted by now.
        assert not next(call).stats
        call.cancel()


def test_streams_with_one_interval_share_their_samples(
    shared_host: Host, busybox_root: Path
) -> None:
    with idle(shared_host, busybox_root, "watched"):
        seen: list[set[int]] = [set(), set()]
        calls: list[Any] = []
        for _ in seen:
            request = pb.StreamStatsRequest(names=["watched"], interval=seconds(0.2))
            calls.append(shared_host.channel().stats.StreamStats(request, timeout=DEADLINE))

        def shared() -> bool:
            for call, times in zip(calls, seen, strict=True):
                times.add(next(call).stats[0].time.ToNanoseconds())
            return bool(seen[0] & seen[1])

        until(shared, "both were given the same sample")
        for call in calls:
            call.cancel()


def test_what_cannot_be_asked_for(shared_host: Host, busybox_root: Path) -> None:
    api = shared_host.channel()
    missing = refused(lambda: _get(api, "nosuch"))
    assert (missing.code, missing.reason) == ("NOT_FOUND", "CONTAINER_NOT_FOUND")
    missing = refused(lambda: api.stats.StreamStats(pb.StreamStatsRequest(names=["nosuch"])))
    assert (missing.code, missing.reason) == ("NOT_FOUND", "CONTAINER_NOT_FOUND")
    for interval in (0.0, 0.099, -1.0, 100_000.0):
        request = pb.StreamStatsRequest(interval=seconds(interval))
        wrong = refused(lambda: api.stats.StreamStats(request))  # noqa: B023  called at once
        assert wrong.code == "INVALID_ARGUMENT"
        assert wrong.reason in ("INVALID_INTERVAL", "INVALID_TIMEOUT")
    define(api, "still", application(shared_host, busybox_root, "still"))
    try:
        down = refused(lambda: _get(api, "still"))
        assert (down.code, down.reason) == ("FAILED_PRECONDITION", "CONTAINER_NOT_RUNNING")
        assert "still" in down.text
        # It may come, and so a stream waits for it.
        call = api.stats.StreamStats(pb.StreamStatsRequest(names=["still"]), timeout=DEADLINE)
        assert not next(call).stats
        call.cancel()
    finally:
        api.container.DeleteContainer(
            container_pb2.DeleteContainerRequest(name="still"), timeout=DEADLINE
        )


@pytest.mark.timeout(300)
def test_who_stops_while_asked_for_is_no_error(shared_host: Host, busybox_root: Path) -> None:
    api = shared_host.channel()
    with idle(shared_host, busybox_root, "coming") as made:
        for _ in range(10):
            made.stop(kill=True)
            made.start("/bin/sleep", "100000")
            pending = [
                api.stats.GetStats.future(pb.GetStatsRequest(), timeout=DEADLINE) for _ in range(4)
            ]
            made.stop(kill=True)
            for call in pending:
                names = {one.name for one in call.result().stats}
                assert names <= {"coming", *(f"crowd{number}" for number in range(CROWD))}
            made.start("/bin/sleep", "100000")
        assert "coming" in _get(api)
