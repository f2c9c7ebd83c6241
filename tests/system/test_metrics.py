"""What containers use, as people and Prometheus get it, of containers that run."""

from __future__ import annotations

import csv
import io
import json
import socket
from pathlib import Path

import pytest

from lxcd.v1 import stats_pb2
from tests.system.calls import idle
from tests.system.host import Host
from tests.system.machine import DEADLINE, until
from tests.system.seat import Seat
from tests.unit.rpc.sampled import read

pytestmark = pytest.mark.root


def scraped(path: Path) -> dict[tuple[str, str], float]:
    """Values by metric and container; of several devices the last."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while part := client.recv(1 << 16):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return {
        (sample.name, sample.labels.get("name", sample.labels.get("state", ""))): sample.value
        for family in read(body.decode())
        for sample in family.samples
    }


def looked(host: Host) -> list[stats_pb2.ContainerStats]:
    """The same through the API."""
    with host.channel() as api:
        return list(api.stats.GetStats(stats_pb2.GetStatsRequest(), timeout=DEADLINE).stats)


def test_prometheus(cold_host: Host, busybox_root: Path) -> None:
    path = cold_host.run_dir / "metrics.sock"
    cold_host.config.write_text(f'metrics_listen = "unix:{path}"\n')
    cold_host.start_daemon()
    with idle(cold_host, busybox_root, "one"), idle(cold_host, busybox_root, "two") as two:
        before = looked(cold_host)
        found = scraped(path)
        after = looked(cold_host)
        for first, last in zip(before, after, strict=True):
            used = found["lxcd_container_cpu_usage_seconds_total", first.name]
            assert first.cpu.usage_usec <= round(used * 1e6) <= last.cpu.usage_usec
            tasks = found["lxcd_container_tasks", first.name]
            assert tasks == first.pids.current == last.pids.current
        assert found["lxcd_containers", "running"] == 2
        sequence = found["lxcd_events_total", ""]
        two.stop(kill=True)
        # What has ended is told no more.
        until(lambda: ("lxcd_container_tasks", "two") not in scraped(path), "two is gone")
        found = scraped(path)
        assert found["lxcd_containers", "running"] == 1
        assert found["lxcd_events_total", ""] > sequence
    cold_host.stop_daemon()
    assert not path.exists()


def test_a_place_where_nobody_can_listen(cold_host: Host) -> None:
    address = "unix:/nonexistent/metrics.sock"
    cold_host.config.write_text(f'metrics_listen = "{address}"\n')
    with pytest.raises(AssertionError, match=f"listening for metrics at {address}: No such file"):
        cold_host.start_daemon()
    cold_host.config.write_text("")


def known(line: str) -> bool:
    """`one 0.0 ...`: the second word is no dash."""
    words = line.split()
    return words[:1] == ["one"] and words[1].replace(".", "").isdigit()


def test_stats_and_top(host: Host, busybox_root: Path) -> None:
    with idle(host, busybox_root, "one") as one:
        one.run("/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        (told,) = json.loads(host.ctl("stats", "--format", "json").stdout)
        assert told["cpu"]["usage_usec"] > 0
        table = host.ctl("stats", "one", "--interval", "100ms").stdout.splitlines()
        assert table[1].split()[:2] == ["one", "RUNNING"]
        rows = csv.DictReader(io.StringIO(host.ctl("stats", "--format", "csv").stdout))
        assert [row["name"] for row in rows] == ["one"]
        seat = Seat(host)
        try:
            seat.run("top", "--interval", "100ms")
            seat.shows("containers: 1").shows("one").shows("every 0.1s")
            # CPU% is known with the second sample.
            seat.until(lambda: known(seat.screen.display[3]), "a rate")
            seat.type("\r")
            seat.shows("generation 1").shows("Memory:")
            seat.type("q")
            seat.prompts()
            assert not seat.is_raw
        finally:
            seat.close()
