"""Tables that are right are read as they were written; those that are not are never half believed."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.storage.partitions import GPT, MBR, Partition, Table, TableError, table_of
from tests.unit.storage.disks import LINUX, gpt, mbr, reader, table_sector

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=200)
SIZE = 512  # sectors of a disk
ROOM = 40  # at both ends, more than any table needs


def read(disk: bytes | bytearray, sector: int = 512) -> Table | None:
    return table_of(reader(bytes(disk)), len(disk), sector)


@st.composite
def extents(draw: st.DrawFn, most: int, room: int = ROOM) -> list[tuple[int, int]]:
    """Places and lengths in sectors, in any order, that do not overlap; a sector is left before each."""
    cuts = draw(
        st.lists(st.integers(room, SIZE - room), min_size=2, max_size=2 * most, unique=True).map(
            sorted
        )
    )
    found = [(a + 1, b - a - 1) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if b - a > 1]
    return draw(st.permutations(found))


@STEADY
@given(
    extents(4),
    st.integers(1, 255).filter(lambda kind: kind not in (0x05, 0x0F, 0x85, 0xEE)),
    st.sampled_from([512, 4096]),
)
def test_an_mbr_is_read_as_it_was_written(
    wanted: list[tuple[int, int]], kind: int, sector: int
) -> None:
    table = read(
        mbr(SIZE, [(first, count, kind) for first, count in wanted], sector=sector), sector
    )
    assert table == Table(
        MBR,
        tuple(
            Partition(number, first * sector, count * sector, f"{kind:02x}")
            for number, (first, count) in enumerate(wanted, 1)
        ),
    )


@STEADY
@given(extents(8).map(sorted).filter(bool), st.integers(0, 3), st.sampled_from([512, 4096]))
def test_logical_partitions_are_numbered_from_5(
    wanted: list[tuple[int, int]], apart: int, sector: int
) -> None:
    primary, logical = wanted[: min(apart, len(wanted) - 1)], wanted[min(apart, len(wanted) - 1) :]
    begin = logical[0][0] - 1
    disk = mbr(
        SIZE,
        [(first, count, 0x83) for first, count in primary],
        [(first, count, 0x83) for first, count in logical],
        begin,
        sector,
    )
    table = read(disk, sector)
    assert table is not None
    places = {
        one.number: (one.offset_bytes // sector, one.size_bytes // sector)
        for one in table.partitions
    }
    assert places == {
        **dict(enumerate(primary, 1)),
        **dict(enumerate(logical, 5)),
    }


@STEADY
@given(extents(12), st.sampled_from([512, 4096]))
def test_a_gpt_is_read_as_it_was_written(wanted: list[tuple[int, int]], sector: int) -> None:
    table = read(gpt(SIZE, wanted, sector))
    assert table == Table(
        GPT,
        tuple(
            Partition(number, first * sector, count * sector, str(LINUX))
            for number, (first, count) in enumerate(wanted, 1)
        ),
    )


@STEADY
@given(extents(4), st.data())
def test_no_byte_of_a_gpt_can_be_wrong(wanted: list[tuple[int, int]], data: st.DataObject) -> None:
    disk = gpt(SIZE, wanted)
    header = st.integers(512, 512 + 91)
    entries = st.integers(1024, 1024 + 128 * 128 - 1)
    place = data.draw(header | entries)
    disk[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TableError) as caught:
        read(disk)
    # The backup is good, and tells what there was; but nothing is mounted by it.
    assert [one.offset_bytes for one in caught.value.found] == [first * 512 for first, _ in wanted]


@STEADY
@given(st.binary(max_size=2048), st.booleans(), st.booleans())
def test_any_bytes_are_a_table_none_or_an_error(data: bytes, marked: bool, efi: bool) -> None:  # noqa: FBT001
    disk = bytearray(data.ljust(2048, b"\0"))
    if marked:
        disk[510:512] = b"\x55\xaa"
        for place in range(446, 510, 16):
            disk[place] &= 0x80
    if efi:
        disk[450] = 0xEE
        disk[512:520] = b"EFI PART"
    _is_sound(disk)


@STEADY
@given(extents(4), st.data())
def test_a_table_with_something_wrong_is_sound_or_refused(
    wanted: list[tuple[int, int]], data: st.DataObject
) -> None:
    begin = min((first for first, _ in wanted), default=ROOM) - 1
    disk = mbr(SIZE, [], [(first, count, 0x83) for first, count in sorted(wanted)], begin)
    for _ in range(data.draw(st.integers(1, 4))):
        sector = data.draw(st.sampled_from([0, begin, *(first - 1 for first, _ in wanted)]))
        disk[sector * 512 + data.draw(st.integers(446, 511))] = data.draw(st.integers(0, 255))
    _is_sound(disk)


def _is_sound(disk: bytearray) -> None:
    try:
        table = read(disk)
    except TableError:
        return
    if table is None:
        return
    here = 512
    for one in sorted(table.partitions, key=lambda one: one.offset_bytes):
        assert here <= one.offset_bytes < one.end_bytes <= len(disk)
        here = one.end_bytes


@pytest.mark.parametrize(
    ("disk", "text"),
    [
        (mbr(100, [(10, 91, 0x83)]), "partition 1 ends at byte 51712, behind the end of the image"),
        (mbr(100, [(10, 20, 0x83), (29, 5, 0x82)]), "partitions 1 and 2 overlap"),
        (mbr(100, [(0, 20, 0x83)]), "partition 1 begins at the partition table"),
        (mbr(100, [(10, 5, 0xEE)]), "no GPT where the MBR says that one is"),
        (mbr(100, [(10, 50, 0x05)]), "sector 10 of the logical partitions lacks the signature"),
    ],
)
def test_what_is_wrong_is_said(disk: bytearray, text: str) -> None:
    with pytest.raises(TableError, match=text):
        read(disk)


def test_a_chain_in_a_circle_ends() -> None:
    disk = mbr(100, [], [(11, 5, 0x83), (21, 5, 0x83)], 10)
    disk[20 * 512 : 21 * 512] = table_sector([(1, 5, 0x83), (10, 5, 0x05)])
    with pytest.raises(TableError, match="comes back to sector 20"):
        read(disk)
    disk[20 * 512 : 21 * 512] = table_sector([(1, 5, 0x83), (95, 5, 0x05)])
    with pytest.raises(TableError, match="leaves the extended one: sector 105"):
        read(disk)


def test_a_chain_that_breaks_does_not_hide_what_comes_before() -> None:
    disk = mbr(100, [(50, 5, 0x83)], [(11, 5, 0x83), (21, 5, 0x83)], 10)
    disk[21 * 512 - 2 : 21 * 512] = bytes(2)
    with pytest.raises(TableError, match="sector 20 of the logical partitions lacks") as caught:
        read(disk)
    places = [(one.number, one.offset_bytes // 512) for one in caught.value.found]
    assert places == [(1, 50), (5, 11)]


def test_a_backup_is_told_of_and_not_used() -> None:
    disk = gpt(200, [(50, 10)])
    disk[512:1024] = bytes(512)
    with pytest.raises(TableError, match="backup at the end is good") as caught:
        read(disk)
    assert len(caught.value.found) == 1
    disk[-512 + 16] ^= 1
    with pytest.raises(TableError, match="its backup too: wrong CRC of the header"):
        read(disk)


def test_a_gpt_behind_a_sector_that_is_no_mbr_is_not_believed() -> None:
    disk = gpt(200, [(50, 10)])
    disk[510] = 0
    with pytest.raises(TableError, match="lacks the signature 55AA"):
        read(disk)
    disk[512:1024] = bytes(512)
    with pytest.raises(TableError, match="lacks the signature 55AA"):
        read(disk)


def test_an_old_gpt_before_which_there_are_mbr_partitions_does_not_count() -> None:
    disk = gpt(200, [(50, 10)])
    disk[:512] = table_sector([(60, 5, 0x83)])
    table = read(disk)
    assert table is not None
    assert (table.kind, table.partitions[0].offset_bytes) == (MBR, 60 * 512)


@pytest.mark.parametrize("disk", [b"", bytes(511), bytes(4096), b"\xff" * 510 + b"\x55\xaa"])
def test_there_is_none(disk: bytes) -> None:
    assert read(disk) is None


def test_a_table_of_nothing() -> None:
    assert read(bytes(510) + b"\x55\xaa" + bytes(512)) == Table(MBR, ())
    assert read(gpt(200, [])) == Table(GPT, ())


def test_a_gpt_with_impossible_numbers() -> None:
    disk = gpt(200, [(50, 10)], kinds=[uuid.UUID(int=5)])
    assert read(disk) is not None
    for place, value in ((512 + 12, 20), (512 + 84, 64), (512 + 80, 1 << 30)):
        broken = bytearray(disk)
        struct.pack_into("<I", broken, place, value)
        with pytest.raises(TableError):
            read(broken)
