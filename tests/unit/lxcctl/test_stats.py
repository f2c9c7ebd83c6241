"""`stats` and `top --batch`: tables, lines and documents."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lxcctl.commands.stats import painted
from lxcd.v1 import stats_pb2
from tests.unit.lxcctl.measuring import Measured, bare, stats
from tests.unit.lxcctl.playing import client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.lxcctl.conftest import FakeDaemon, Lxcctl, Refusal


def answers(daemon: FakeDaemon, *samples: list[stats_pb2.ContainerStats]) -> None:
    """GetStats gives one after the other, StreamStats all of them."""
    rest = iter(samples)
    daemon.on["GetStats"] = lambda _: stats_pb2.GetStatsResponse(stats=next(rest))
    daemon.on["StreamStats"] = lambda _: iter(
        [stats_pb2.StreamStatsResponse(stats=sample) for sample in samples]
    )


def test_a_table_is_of_two_samples(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    answers(
        daemon,
        [stats("b", cpu=2.0), stats("a", limit=None)],
        [stats("b", 1, cpu=2.0), stats("a", 1, limit=None)],
    )
    result = lxcctl("stats", "--interval", "100ms")
    assert (result.status, result.err) == (0, "")
    heading, one, two = result.out.splitlines()
    assert heading.split() == [
        "NAME",
        "STATE",
        "CPU%",
        "TIME",
        "MEMORY",
        "LIMIT",
        "MEM%",
        "SWAP",
        "KERNEL",
        "PIDS",
        "NET-IN",
        "NET-OUT",
        "READ",
        "WRITE",
        "UPTIME",
    ]
    assert one.split() == [
        "a",
        "RUNNING",
        "50.0",
        "50s",
        "64M",
        "-",
        "-",
        "-",
        "-",
        "5",
        "1.0K",
        "10K",
        "2.0K",
        "3.0M",
        "1m41s",
    ]
    assert two.split() == [
        "b",
        "RUNNING",
        "200",
        "3m22s",
        "64M",
        "256M",
        "25.0",
        "-",
        "-",
        "5",
        "1.0K",
        "10K",
        "2.0K",
        "3.0M",
        "1m41s",
    ]


def test_a_table_of_nobody(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    answers(daemon, [])
    result = lxcctl("stats")
    assert (result.status, result.out.count("\n")) == (0, 1)
    # There is nothing to take a second sample of.
    assert len(daemon.asked("GetStats")) == 1


def test_what_is_asked(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    answers(daemon, [stats()], [stats()])
    assert lxcctl("stats", "001", "002", "--lxcpath", "/srv", "--format", "json").status == 0
    (request,) = daemon.asked("GetStats")
    assert request == stats_pb2.GetStatsRequest(lxcpath="/srv", names=["001", "002"])
    assert lxcctl("stats", "001", "--watch", "--interval", "1.5").status == 0
    (watched,) = daemon.asked("StreamStats")
    assert watched.interval.ToMilliseconds() == 1500
    assert list(watched.names) == ["001"]


@pytest.mark.parametrize("text", ["0", "0.05", "2d", "-1", "x"])
@pytest.mark.parametrize("verb", ["stats", "top"])
def test_no_such_interval(lxcctl: Lxcctl, verb: str, text: str) -> None:
    assert lxcctl(verb, f"--interval={text}").status == 2


@pytest.mark.parametrize("more", [(), ("--watch",)])
def test_who_does_not_run(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal], more: tuple[str, ...]
) -> None:
    def refuse(_request: Any) -> None:
        raise refusal("FAILED_PRECONDITION", "001 is STOPPED", "WRONG_STATE")

    daemon.on["GetStats"] = refuse
    result = lxcctl("stats", "001", *more)
    assert (result.status, result.out, result.err) == (4, "", "lxcctl: 001 is STOPPED\n")


@pytest.mark.parametrize("argv", [("stats",), ("stats", "--watch"), ("top", "--batch")])
def test_no_daemon(lxcctl: Lxcctl, argv: tuple[str, ...]) -> None:
    result = lxcctl(*argv)
    assert (result.status, result.out.count("\n") <= 1) == (69, True)


def test_documents(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    answers(daemon, *[[stats("b"), bare("a")]] * 3)
    (a, b) = json.loads(lxcctl("stats", "--format", "json").out)
    assert (a["name"], b["name"]) == ("a", "b")
    assert b["cpu"]["usage_usec"] == 50_000_000
    assert b["network"][1]["counters"]["tx_bytes"] == 0
    # What is not counted is not zero.
    assert a["cpu"] is None
    assert b["memory"]["swap_usage_bytes"] is None
    assert yaml.safe_load(lxcctl("stats", "--format", "yaml").out)[1]["memory"]["limit_bytes"]
    rows = list(csv.DictReader(io.StringIO(lxcctl("stats", "--format", "csv").out)))
    assert [row["cpu.usage_usec"] for row in rows] == ["", "50000000"]
    assert rows[1]["memory.swap_usage_bytes"] == ""


def test_one_document_for_each_sample(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    answers(daemon, [stats()], [stats(second=1), stats("002")], [])
    lines = lxcctl("stats", "--watch", "--format", "json").out.splitlines()
    assert [[one["name"] for one in json.loads(line)] for line in lines] == [
        ["001"],
        ["001", "002"],
        [],
    ]
    found = list(yaml.safe_load_all(lxcctl("stats", "--watch", "--format", "yaml").out))
    assert [len(sample) for sample in found] == [1, 2, 0]
    rows = list(csv.DictReader(io.StringIO(lxcctl("stats", "--watch", "--format", "csv").out)))
    assert [row["name"] for row in rows] == ["001", "001", "002"]


def test_lines_for_a_pipe(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    evil = stats("x\x1b[2J")
    answers(daemon, [stats(), evil], [stats(second=1)])
    result = lxcctl("stats", "--watch")
    assert "\x1b" not in result.out
    heading, *lines = result.out.splitlines()
    assert heading.split()[:2] == ["TIME", "NAME"]
    assert [line.split()[2] for line in lines] == ["001", "x\\x1b[2J", "001"]
    assert [line.split()[4] for line in lines] == ["-", "-", "50.0"]


def test_it_goes_on_after_a_restart(
    daemon: FakeDaemon, lxcctl: Lxcctl, refusal: type[Refusal]
) -> None:
    streams = iter([[stats(), stats(second=1)], [stats(second=3)]])

    def stream(_request: Any) -> Iterator[Any]:
        mine = next(streams)
        for one in mine:
            yield stats_pb2.StreamStatsResponse(stats=[one])
        if len(mine) == 2:
            raise refusal("UNAVAILABLE", "Socket closed")

    daemon.on["StreamStats"] = stream
    result = lxcctl("stats", "--watch")
    assert (result.status, result.err) == (0, "")
    # The rate spans the absence.
    assert [line.split()[4] for line in result.out.splitlines()[1:]] == ["-", "50.0", "50.0"]


def test_batch(daemon: FakeDaemon, lxcctl: Lxcctl) -> None:
    answers(
        daemon,
        [stats("a"), stats("b", cpu=1.0)],
        [stats("a", 1), stats("b", 1, cpu=1.0), bare("c")],
    )
    rows = list(csv.DictReader(io.StringIO(lxcctl("top", "--batch").out)))
    # By name as long as nothing else is known, the busiest first then.
    assert [row["name"] for row in rows] == ["a", "b", "b", "a", "c"]
    assert [row["cpu_percent"] for row in rows] == ["", "", "100.0", "50.0", ""]
    assert rows[3]["write_bytes_per_second"] == str(3.0 * (1 << 20))
    assert rows[4]["memory_bytes"] == ""
    reverse = lxcctl("top", "--batch", "--sort", "name", "--reverse", "--format", "json").out
    assert [json.loads(line)["name"] for line in reverse.splitlines()] == ["b", "a", "c", "b", "a"]
    found = yaml.safe_load(lxcctl("top", "--format", "yaml").out)
    assert [one["tasks"] for one in found] == [5, 5, 5, 5, None]


def test_what_is_painted() -> None:
    assert painted(["head", "abcdef"], 5, 4, clear=True) == (
        "\x1b[2J\x1b[Hhead\x1b[K\nabcd\x1b[K\n\x1b[J"
    )
    lines = [str(number) for number in range(10)]
    assert painted(lines, 4, 80, clear=False) == (
        "\x1b[H0\x1b[K\n1\x1b[K\n... and 8 more\x1b[K\n\x1b[J"
    )
    assert painted(lines, 1, 80, clear=False) == "\x1b[H... and 10 more\x1b[K\n\x1b[J"


@pytest.mark.slow
def test_watching_on_a_terminal(daemon: FakeDaemon, refusal: type[Refusal]) -> None:
    measured = Measured(daemon, refusal("UNAVAILABLE", "Socket closed"))
    master, slave = os.openpty()
    argv = ["stats", "--watch"]
    seen = b""
    with client(
        daemon, *argv, stdin=slave, stdout=slave, stderr=slave, env={"TERM": "xterm"}
    ) as process:
        while b"RUNNING" not in seen:
            seen += os.read(master, 1 << 16)
        assert seen.startswith(b"\x1b[2J\x1b[H")
        measured.tick()
        while b"50.0" not in seen:
            seen += os.read(master, 1 << 16)
        assert seen.count(b"\x1b[2J") == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    measured.end()
    os.close(master)
    os.close(slave)
