from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.cgroup.devices import Node
from lxcd.supervisor.records import Record, Records, Request
from lxcd.supervisor.state import Cause, Exit

STEADY = settings(deadline=None, derandomize=True, database=None)

# Any text that a file's name or content can become.
TEXT = st.binary(max_size=12).map(lambda data: data.decode(errors="surrogateescape"))
WORDS = st.lists(TEXT, max_size=3).map(tuple)
EXITS = st.builds(
    Exit,
    code=st.integers(0, 255),
    signal=st.integers(0, 64),
    core_dumped=st.booleans(),
    oom_killed=st.booleans(),
    time_ns=st.integers(0, 2**63),
    generation=st.integers(0, 100),
    cause=st.sampled_from(Cause),
)
RECORDS = st.builds(
    Record,
    lxcpath=TEXT,
    name=TEXT,
    phase=TEXT,
    generation=st.integers(0),
    child=TEXT,
    pid=st.integers(0),
    start_time_ticks=st.integers(0),
    started_ns=st.integers(0),
    request=st.builds(
        Request,
        command=WORDS,
        application=st.booleans(),
        pipes=st.booleans(),
        ephemeral=st.booleans(),
        defines=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
    ),
    namespaces=WORDS,
    capabilities=st.none() | st.lists(st.integers(0, 63), max_size=3).map(tuple),
    no_new_privs=st.booleans(),
    command=WORDS,
    cgroups=st.dictionaries(TEXT, TEXT, max_size=3),
    cgroups_made=WORDS,
    stop_requested=st.booleans(),
    config_text=st.none() | TEXT,
    config_origin=TEXT,
    transient_dir=TEXT,
    exit=st.none() | EXITS,
)


@STEADY
@given(RECORDS)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, record: Record) -> None:
    records = Records(str(tmp_path_factory.mktemp("records")))
    records.write(record)
    assert records.read_all() == [record]
    newer = record.but(generation=record.generation + 1)
    records.write(newer)
    assert records.read_all() == [newer]
    records.delete(record.lxcpath, record.name)
    records.delete(record.lxcpath, record.name)
    assert records.read_all() == []


def test_the_same_name_in_two_places(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    both = [Record("/a", "c", "running"), Record("/b", "c", "running")]
    for record in both:
        records.write(record)
    assert sorted(records.read_all(), key=lambda r: r.lxcpath) == both
    records.delete("/a", "c")
    assert records.read_all() == both[1:]


def test_every_torn_file_is_passed_over(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    records.write(Record("/a", "c", "running"))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert records.read_all() == []
    path.write_bytes(whole)
    assert len(records.read_all()) == 1


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 50, b"5", b'"text"', b"null", b"[]", b"{}", b"\xff", b"[" * 100_000]
)
def test_a_file_that_is_no_record_is_passed_over(tmp_path: Path, data: bytes) -> None:
    records = Records(str(tmp_path))
    (tmp_path / "file").write_bytes(data)
    records.write(Record("/a", "c", "running"))
    assert len(records.read_all()) == 1


def test_devices_are_read_as_they_were_written(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    node = Node("/dev/disk", "b", 7, 5, 6, there=True)
    record = Record("/a", "c", "running", device_rules=("deny a *:* rwm",), device_nodes=(node,))
    records.write(record)
    assert records.read_all() == [record]
    # An older lxcd knew neither.
    (name,) = os.listdir(tmp_path)
    data = json.loads((tmp_path / name).read_bytes())
    del data["device_rules"], data["device_nodes"]
    (tmp_path / name).write_text(json.dumps(data))
    assert records.read_all() == [Record("/a", "c", "running")]


def test_a_full_disk_leaves_the_old_record_whole(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    old = Record("/a", "c", "running")
    records.write(old)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            records.write(old.but(generation=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert records.read_all() == [old]
    assert len(os.listdir(tmp_path)) == 1
