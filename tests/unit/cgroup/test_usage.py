"""Texts of the kernel's cgroup files, recorded ones and any others, as numbers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.cgroup import usage_v1, usage_v2
from lxcd.cgroup.usage import Cpu, Io, Memory, Pids, Pressure, Share, less, valued

STEADY = settings(deadline=None, derandomize=True, database=None)
NUMBERS = st.integers(0, (1 << 64) - 1)

STAT_V1 = b"""\
cache 3301376
rss 1216512
rss_huge 0
shmem 135168
mapped_file 811008
dirty 0
writeback 0
workingset_refault_anon 0
workingset_refault_file 5
swap 0
swapcached 0
pgpgin 2838
pgpgout 1735
pgfault 3762
pgmajfault 33
inactive_anon 1216512
active_anon 0
inactive_file 2297856
active_file 1003520
unevictable 0
hierarchical_memory_limit 268435456
hierarchical_memsw_limit 536870912
total_cache 3301377
total_rss 1216513
total_rss_huge 0
total_shmem 135169
total_mapped_file 811008
total_dirty 0
total_writeback 0
total_workingset_refault_anon 0
total_workingset_refault_file 5
total_swap 4096
total_swapcached 0
total_pgpgin 2838
total_pgpgout 1735
total_pgfault 3763
total_pgmajfault 34
total_inactive_anon 1216512
total_active_anon 0
total_inactive_file 2297857
total_active_file 1003520
total_unevictable 0
"""

STAT_V2 = b"""\
anon 1216512
file 3301376
kernel 1130496
kernel_stack 49152
pagetables 131072
sec_pagetables 0
percpu 18432
sock 0
vmalloc 0
shmem 135168
file_mapped 811008
file_dirty 0
file_writeback 0
swapcached 0
anon_thp 0
file_thp 0
shmem_thp 0
inactive_anon 1351680
active_anon 4096
inactive_file 2297856
active_file 868352
unevictable 0
slab_reclaimable 553456
slab_unreclaimable 318304
slab 871760
workingset_refault_anon 0
pgscan 0
pgsteal 0
pgfault 3762
pgmajfault 33
pgrefill 0
"""


def test_time_of_version_1() -> None:
    found = usage_v1.cpu(
        b"1500999 2000 \n",
        b"user 12\nsystem 3\n",
        b"nr_periods 10\nnr_throttled 4\nthrottled_time 1999999\nnr_bursts 0\nburst_time 0\n",
        b"512\n",
        b"50000\n",
        b"100000\n",
        b"0-1\n",
    )
    assert found == Cpu(
        usage_usec=1502,
        user_usec=120_000,
        system_usec=30_000,
        periods=10,
        throttled_periods=4,
        throttled_usec=1999,
        per_cpu_usage_usec=(1500, 2),
        quota_usec=50_000,
        period_usec=100_000,
        weight=50,
        effective_cpus="0-1",
    )


def test_without_a_quota_there_is_no_period() -> None:
    first = usage_v1.cpu(None, None, None, None, b"-1\n", b"100000\n", None)
    second = usage_v2.cpu(None, b"max 100000\n", None, None)
    assert first == second == Cpu()


def test_shares_in_version_2s_scale() -> None:
    shares = (2, 10, 512, 1024, 2048, 262_144, None)
    assert [usage_v1.weight(value) for value in shares] == [1, 1, 50, 100, 200, 10_000, None]


def test_memory_of_version_1_is_with_cgroups_below() -> None:
    found = usage_v1.memory(
        b"5648384\n",
        b"6000000\n",
        STAT_V1,
        b"1130496\n",
        b"7\n",
        b"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    )
    assert found == Memory(
        usage_bytes=5_648_384,
        working_set_bytes=5_648_384 - 2_297_857,
        peak_bytes=6_000_000,
        limit_bytes=268_435_456,
        anon_bytes=1_216_513,
        file_bytes=3_301_377,
        kernel_bytes=1_130_496,
        shmem_bytes=135_169,
        swap_usage_bytes=4096,
        swap_limit_bytes=268_435_456,
        page_faults=3763,
        major_page_faults=34,
        limit_hits=7,
        oom_events=None,
        oom_kills=2,
    )


def test_the_largest_number_of_pages_is_no_limit() -> None:
    largest = b"9223372036854771712"
    text = b"hierarchical_memory_limit %s\nhierarchical_memsw_limit %s\n" % (largest, largest)
    found = usage_v1.memory(None, None, text, None, None, None)
    assert (found.limit_bytes, found.swap_limit_bytes) == (None, None)
    # 64 KiB pages.
    text = b"hierarchical_memory_limit 9223372036854710272\n"
    assert usage_v1.memory(None, None, text, None, None, None).limit_bytes is None


def test_devices_of_version_1() -> None:
    size = (
        b"8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Total 12288\n253:1 Read 5\nTotal 12293\n"
    )
    operations = b"8:0 Read 1\n8:0 Write 2\n253:1 Read 3\nTotal 6\n"
    assert usage_v1.io(size, operations) == (
        Io(8, 0, read_bytes=4096, write_bytes=8192, read_operations=1, write_operations=2),
        Io(253, 1, read_bytes=5, read_operations=3),
    )
    assert usage_v1.io(b"Total 0\n", None) == ()


def test_time_of_version_2() -> None:
    stat = b"""\
usage_usec 1502
user_usec 1400
system_usec 102
nice_usec 0
core_sched.force_idle_usec 0
nr_periods 10
nr_throttled 4
throttled_usec 1999
nr_bursts 0
burst_usec 0
"""
    assert usage_v2.cpu(stat, b"50000 100000\n", b"50\n", b"0-1\n") == Cpu(
        usage_usec=1502,
        user_usec=1400,
        system_usec=102,
        periods=10,
        throttled_periods=4,
        throttled_usec=1999,
        quota_usec=50_000,
        period_usec=100_000,
        weight=50,
        effective_cpus="0-1",
    )


def test_memory_of_version_2() -> None:
    found = usage_v2.memory(
        b"5648384\n",
        b"6000000\n",
        b"268435456\n",
        STAT_V2,
        b"4096\n",
        b"max\n",
        b"low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\nsock_throttled 0\n",
    )
    assert found == Memory(
        usage_bytes=5_648_384,
        working_set_bytes=5_648_384 - 2_297_856,
        peak_bytes=6_000_000,
        limit_bytes=268_435_456,
        anon_bytes=1_216_512,
        file_bytes=3_301_376,
        kernel_bytes=1_130_496,
        shmem_bytes=135_168,
        swap_usage_bytes=4096,
        swap_limit_bytes=None,
        page_faults=3762,
        major_page_faults=33,
        limit_hits=7,
        oom_events=3,
        oom_kills=2,
    )


def test_pids() -> None:
    assert usage_v2.pids(b"3\n", b"9\n", b"max\n", b"max 0\n", 2) == Pids(3, 9, None, 0, 2)
    assert usage_v2.pids(b"3\n", None, b"100\n", None, None) == Pids(3, None, 100)


def test_devices_of_version_2() -> None:
    text = (
        b"8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0 cost.usage=17\n"
        b"7:0 \n"
        b"253:1 rbytes=5 wbytes=0 rios=3 wios=0 dbytes=0 dios=0\n"
    )
    assert usage_v2.io(text) == (
        Io(8, 0, read_bytes=4096, write_bytes=8192, read_operations=1, write_operations=2),
        Io(253, 1, read_bytes=5, read_operations=3),
    )


def test_pressure() -> None:
    some = b"some avg10=1.50 avg60=0.25 avg300=0.00 total=123456\n"
    full = b"full avg10=0.00 avg60=0.00 avg300=0.01 total=99\n"
    shares = Share(1.5, 0.25, 0.0, 123_456), Share(0.0, 0.0, 0.01, 99)
    assert usage_v2.pressure(some + full) == Pressure(*shares)
    assert usage_v2.pressure(some) == Pressure(shares[0])
    assert usage_v2.pressure(b"") is None
    assert usage_v2.pressure(None) is None


def test_what_is_not_there_is_none_and_never_zero() -> None:
    nothing: list[None] = [None] * 7
    assert usage_v1.cpu(*nothing) == usage_v2.cpu(*nothing[:4]) == Cpu()
    assert usage_v1.memory(*nothing[:6]) == usage_v2.memory(*nothing) == Memory()
    assert usage_v2.pids(None, None, None, None, None) == Pids()
    assert usage_v1.io(None, None) == usage_v2.io(None) == ()


def test_a_part_that_was_read_later_is_not_more_than_the_whole() -> None:
    assert [less(5, 3), less(3, 5), less(None, 1), less(1, None)] == [2, 0, None, None]


@STEADY
@given(st.dictionaries(st.from_regex(rb"[a-z_]{1,8}", fullmatch=True), NUMBERS, max_size=12))
def test_numbers_are_found_by_their_whole_key(values: dict[bytes, int]) -> None:
    text = b"".join(b"%s %d\n" % item for item in values.items())
    keys = [*values, b"no-such-key"]
    assert valued(text, *(b"\n%s " % key for key in keys)) == [*values.values(), None]


@STEADY
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 4095), st.integers(0, 1 << 20)),
        st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
        max_size=5,
    )
)
def test_both_versions_tell_the_same_of_devices(
    devices: dict[tuple[int, int], tuple[int, int, int, int]],
) -> None:
    size, operations, stat = b"", b"", b""
    for (major, minor), (rbytes, wbytes, rios, wios) in devices.items():
        name = b"%d:%d" % (major, minor)
        size += b"%s Read %d\n%s Write %d\n%s Total 0\n" % (name, rbytes, name, wbytes, name)
        operations += b"%s Read %d\n%s Write %d\n" % (name, rios, name, wios)
        stat += b"%s rbytes=%d wbytes=%d rios=%d wios=%d\n" % (name, rbytes, wbytes, rios, wios)
    expected = tuple(Io(*name, *values) for name, values in devices.items())
    assert usage_v1.io(size, operations) == usage_v2.io(stat) == expected


@STEADY
@given(st.lists(st.one_of(st.none(), st.binary(max_size=80)), min_size=7, max_size=7))
def test_any_bytes_are_read_without_an_error(texts: list[bytes | None]) -> None:
    usage_v1.cpu(*texts)
    usage_v1.memory(*texts[:6])
    usage_v1.io(*texts[:2])
    usage_v2.cpu(*texts[:4])
    usage_v2.memory(*texts)
    usage_v2.pids(texts[0], texts[1], texts[2], texts[3], None)
    usage_v2.io(texts[0])
    usage_v2.pressure(texts[0])
