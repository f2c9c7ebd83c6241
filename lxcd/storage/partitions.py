"""Partition tables, from bytes to a list. Pure: what to read is asked of the caller.

    MBR   four entries at byte 446 of the first sector, 0x55AA at byte 510. One may be an extended
          partition: a chain of sectors of the same form, each with a logical partition, numbered
          from 5, and a link to the next. It counts in the sectors of the disk that it was made
          for, and does not say how large they are
    GPT   a header in the second sector and one in the last, each with a CRC of itself and of the
          array of entries (UEFI Specification, chapter 5)

A table that is broken anywhere is refused as a whole: where one number is wrong, a mount of what
the others say may destroy something.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

# (offset, length) to as many of the bytes there as the image has.
Read = Callable[[int, int], bytes]

MBR = "MBR"
GPT = "GPT"
_SECTOR = 512
_ENTRIES = 446
_SIGNATURE = b"\x55\xaa"
_STATUS = (0x00, 0x80)
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_FIRST_LOGICAL = 5
_MOST_LOGICAL = 256  # as many as Linux gives minors to
_EFI = b"EFI PART"
_HEADER = "<8s4I4Q16sQ3I"
_HEADER_BYTES = struct.calcsize(_HEADER)
_ENTRY = "<16s16s3Q72s"
_ENTRY_BYTES = struct.calcsize(_ENTRY)
_MOST_ENTRIES_BYTES = 1 << 20
_SECTORS = (512, 4096)


class TableError(ValueError):
    """There is a partition table, and it is broken. `found` are the partitions that it shows all
    the same.
    """

    def __init__(self, text: str, found: tuple[Partition, ...] = ()) -> None:
        super().__init__(text)
        self.found = found


@dataclass(frozen=True, slots=True)
class Partition:
    """`kind` is a type: two hexadecimal digits, or GPT's GUID in lower case."""

    number: int
    offset_bytes: int
    size_bytes: int
    kind: str

    @property
    def end_bytes(self) -> int:
        """The first byte behind it."""
        return self.offset_bytes + self.size_bytes


@dataclass(frozen=True, slots=True)
class Table:
    """`kind` is MBR or GPT."""

    kind: str
    partitions: tuple[Partition, ...]


def table_of(read: Read, size_bytes: int, sector_bytes: int) -> Table | None:
    """The table of an image of this size; None where there is none. `sector_bytes` is what its MBR
    counts in: a device's own, 512 in a file.

    Raises:
        TableError: if it is broken.
    """
    first = read(0, _SECTOR)
    efi = next((size for size in _SECTORS if read(size, len(_EFI)) == _EFI), 0)
    entries = list(_entries(first))
    marked = first[-2:] == _SIGNATURE and len(first) == _SECTOR
    # A boot sector of a file system ends the same way, and has code where the entries would be.
    if not marked or any(status not in _STATUS for status, _, _, _ in entries):
        if efi or _backup_sector(read, size_bytes):
            what = "signature 55AA" if not marked else "form"
            text = f"there is a GPT, but the first sector lacks the {what} of the MBR before it"
            raise TableError(text)
        return None
    if any(kind == _PROTECTIVE for _, kind, _, _ in entries):
        found, name = _gpt(read, size_bytes, efi), GPT
    else:
        found, name = _mbr(read, entries, sector_bytes), MBR
    _check(found, size_bytes)
    return Table(name, found)


def _check(found: tuple[Partition, ...], size_bytes: int) -> None:
    for one in found:
        if one.end_bytes > size_bytes:
            text = (
                f"partition {one.number} ends at byte {one.end_bytes}, behind the end of the image"
            )
            raise TableError(f"{text} at {size_bytes}", found)
        if one.offset_bytes < _SECTOR:
            raise TableError(f"partition {one.number} begins at the partition table", found)
    ordered = sorted(found, key=lambda one: one.offset_bytes)
    for one, other in pairwise(ordered):
        if other.offset_bytes < one.end_bytes:
            numbers = sorted((one.number, other.number))
            raise TableError(f"partitions {numbers[0]} and {numbers[1]} overlap", found)


def _entries(sector: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Status, type, first sector and number of sectors of the four."""
    for place in range(_ENTRIES, min(_SECTOR - 2, len(sector) - 15), 16):
        status, kind, start, count = struct.unpack_from("<B3xB3xII", sector, place)
        yield status, kind, start, count


def _mbr(read: Read, entries: list[tuple[int, int, int, int]], unit: int) -> tuple[Partition, ...]:
    found = [
        _of_mbr(number, start, count, kind, unit)
        for number, (_, kind, start, count) in enumerate(entries, 1)
        if kind and count and kind not in _EXTENDED
    ]
    logical = _FIRST_LOGICAL
    for _, kind, start, count in entries:
        if kind in _EXTENDED and count:
            try:
                for one in _logical(read, start, count, logical, unit):
                    found.append(one)
                    logical = one.number + 1
            except TableError as error:
                raise TableError(str(error), tuple(found)) from None
    return tuple(found)


def _of_mbr(number: int, start: int, count: int, kind: int, unit: int) -> Partition:
    return Partition(number, start * unit, count * unit, f"{kind:02x}")


def _logical(read: Read, begin: int, count: int, number: int, unit: int) -> Iterator[Partition]:
    """Follow the chain of an extended partition. Links count from its begin, partitions from their
    own link.
    """
    here, seen = begin, set[int]()
    while True:
        if here in seen or len(seen) == _MOST_LOGICAL:
            raise TableError(f"the chain of logical partitions comes back to sector {here}")
        seen.add(here)
        if not begin <= here < begin + count:
            text = f"the chain of logical partitions leaves the extended one: sector {here}"
            raise TableError(text)
        sector = read(here * unit, _SECTOR)
        if sector[-2:] != _SIGNATURE or len(sector) < _SECTOR:
            text = f"sector {here} of the logical partitions lacks the signature 55AA"
            raise TableError(text)
        further = 0
        for _, kind, start, length in list(_entries(sector))[:2]:
            if kind in _EXTENDED and length:
                further = begin + start
            elif kind and length:
                yield _of_mbr(number, here + start, length, kind, unit)
                number += 1
        if not further:
            return
        here = further


def _gpt(read: Read, size_bytes: int, sector: int) -> tuple[Partition, ...]:
    text = "no GPT where the MBR says that one is"
    if sector:
        try:
            return _header(read, sector, sector)
        except TableError as error:
            text = f"the GPT is broken: {error}"
    found: tuple[Partition, ...] = ()
    backup = _backup_sector(read, size_bytes)
    if backup:
        place = (size_bytes // backup - 1) * backup
        try:
            found = _header(read, place, backup)
        except TableError as error:
            raise TableError(f"{text}; its backup too: {error}") from None
        text += "; its backup at the end is good, and sgdisk(8) or fdisk(8) can restore it"
    else:
        text += "; and there is no backup at the end"
    raise TableError(text, found)


def _backup_sector(read: Read, size_bytes: int) -> int:
    """Size of a sector for which there is a header in the last one; or 0."""
    for size in _SECTORS:
        place = (size_bytes // size - 1) * size
        if place > size and read(place, len(_EFI)) == _EFI:
            return size
    return 0


def _header(read: Read, place: int, sector: int) -> tuple[Partition, ...]:
    """Entries of the header at byte `place`, if its CRCs are right."""
    data = read(place, sector)
    if len(data) < _HEADER_BYTES:
        raise TableError("the header is cut off")
    _, _, size, crc, _, mine, _, _, _, _, first, count, each, array_crc = struct.unpack_from(
        _HEADER, data
    )
    if not _HEADER_BYTES <= size <= sector:
        raise TableError(f"a header of {size} bytes")
    if zlib.crc32(data[:16] + bytes(4) + data[20:size]) != crc:
        raise TableError("wrong CRC of the header")
    if mine != place // sector:
        raise TableError(f"the header says that it is in sector {mine}, not {place // sector}")
    if each < _ENTRY_BYTES or count * each > _MOST_ENTRIES_BYTES:
        raise TableError(f"{count} entries of {each} bytes")
    array = read(first * sector, count * each)
    if len(array) < count * each or zlib.crc32(array) != array_crc:
        raise TableError("wrong CRC of the entries")
    return tuple(_of_gpt(array, each, count, sector))


def _of_gpt(array: bytes, each: int, count: int, sector: int) -> Iterator[Partition]:
    for index in range(count):
        kind, _, first, last, _, _ = struct.unpack_from(_ENTRY, array, index * each)
        if not any(kind):
            continue
        if last < first:
            raise TableError(f"partition {index + 1} ends before it begins")
        name = str(uuid.UUID(bytes_le=kind))
        yield Partition(index + 1, first * sector, (last - first + 1) * sector, name)
