"""What Prometheus is told: every number, by its conventions, and only those that there are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.rpc.metrics import Facts, Snapshot
from lxcd.v1 import stats_pb2, types_pb2
from tests.unit.rpc.sampled import full, read, read_openmetrics, text_of

# The same examples every time, no file kept, and no clock to fail by on a busy machine.
STEADY = settings(deadline=None, derandomize=True, database=None)
FACTS = Facts("1.2.3", 41, {"running": 2, "stopped": 1})
# What is told in another form, or follows from what is told.
UNTOLD = {"name", "lxcpath", "time", "state", "effective_cpus"}


def told(*stats: stats_pb2.ContainerStats) -> dict[str, dict[tuple[str, ...], float]]:
    """Values by the name of the sample, then by the labels but those of the container."""
    text = text_of(Snapshot(stats, FACTS))
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in read(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in {"name", "lxcpath"}}
            values = found.setdefault(sample.name, {})
            key = (*(labels[name] for name in sorted(labels)), sample.labels.get("name", ""))
            assert key not in values, "the same twice"
            values[key] = sample.value
    return found


def test_units_and_labels() -> None:
    found = told(full())
    assert found["lxcd_container_cpu_usage_seconds_total"] == {("001",): 1.0}
    assert found["lxcd_container_cpu_core_usage_seconds_total"] == {
        ("0", "001"): 1.5,
        ("1", "001"): 0.0,
    }
    assert found["lxcd_container_uptime_seconds"] == {("001",): 12.5}
    assert found["lxcd_container_state"] == {("frozen", "001"): 1.0}
    assert found["lxcd_container_io_read_bytes_total"] == {
        ("sda", "8:0", "001"): 1.0,
        ("", "8:16", "001"): 5.0,
    }
    assert found["lxcd_container_network_transmit_bytes_total"] == {("eth0", "001"): 5.0}
    assert found["lxcd_container_pressure_seconds_total"][("io", "full", "001")] == 0.5
    assert found["lxcd_containers"] == {("running", ""): 2.0, ("stopped", ""): 1.0}
    assert found["lxcd_events_total"] == {("",): 41.0}
    assert found["lxcd_build_info"] == {("1.2.3", ""): 1.0}


def test_every_number_of_the_api_is_told() -> None:
    whole = len([name for name in told(full()) if name.startswith("lxcd_container_")])
    for kind, count in (
        (stats_pb2.CpuStats, 10),
        (stats_pb2.MemoryStats, 15),
        (stats_pb2.PidsStats, 5),
    ):
        numbers = [f for f in kind.DESCRIPTOR.fields if f.name not in UNTOLD]
        assert len(numbers) == count, "a new one: tell it"
    # Besides: state, uptime, generation, four of io, ten of the network, pressure.
    assert whole == 10 + 15 + 5 + 3 + 4 + 10 + 1


def test_what_is_absent_is_absent() -> None:
    bare = stats_pb2.ContainerStats(name="001", state=types_pb2.STATE_RUNNING)
    assert {name for name in told(bare) if name.startswith("lxcd_container_")} == {
        "lxcd_container_state",
        "lxcd_container_uptime_seconds",
        "lxcd_container_generation",
    }
    zero = stats_pb2.ContainerStats(name="001", cpu=stats_pb2.CpuStats(usage_usec=0))
    assert told(zero)["lxcd_container_cpu_usage_seconds_total"] == {("001",): 0.0}
    assert told()["lxcd_containers"]


def test_openmetrics() -> None:
    snapshot = Snapshot([full(), full("002")], FACTS)
    text = text_of(snapshot, "application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in read_openmetrics(text)}
    assert families["lxcd_container_cpu_usage_seconds"].type == "counter"
    assert families["lxcd_container_memory_limit_bytes"].type == "gauge"


@STEADY
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_whatever_a_container_calls_things(text: str) -> None:
    message = full()
    message.network[0].interface = text
    message.io[0].device = text
    found = told(message)
    # The parser strips none of it.
    assert found["lxcd_container_network_receive_bytes_total"] == {(text, "001"): 1.0}


def test_names_by_the_conventions() -> None:
    """Those that Prometheus' own `promtool check metrics` asks for."""
    text = text_of(Snapshot([full()], FACTS))
    for family in read(text):
        assert family.documentation, family.name
        assert re.fullmatch(r"lxcd_[a-z_]+", family.name)
        assert not re.search(
            r"(_total|_count|_sum|_bucket|gauge|counter|usec|kilo|milli)", family.name
        )
        samples = {sample.name for sample in family.samples}
        assert samples == {family.name + "_total" if family.type == "counter" else family.name}


@pytest.mark.parametrize("state", list(types_pb2.State.values())[1:])
def test_states_in_words(state: types_pb2.State.ValueType) -> None:
    word = types_pb2.State.Name(state).removeprefix("STATE_").lower()
    message = stats_pb2.ContainerStats(name="001", state=state)
    assert told(message)["lxcd_container_state"] == {(word, "001"): 1.0}
