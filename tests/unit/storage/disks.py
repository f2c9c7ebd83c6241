"""Partition tables as bytes, written by the specifications and not by what reads them."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Sequence

# (first sector, number of sectors, type)
Extent = tuple[int, int, int]
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


def reader(data: bytes) -> Callable[[int, int], bytes]:
    """What a file with these bytes answers to pread(2)."""
    return lambda offset, length: data[offset : offset + length]


def table_sector(extents: Sequence[Extent | None]) -> bytes:
    """A first sector of an MBR, or one of the chain of logical partitions."""
    entries = b""
    for extent in extents:
        first, count, kind = extent or (0, 0, 0)
        entries += struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", first, count)
    return bytes(446) + entries.ljust(64, b"\0") + b"\x55\xaa"


def mbr(
    size: int,
    primary: Sequence[Extent],
    logical: Sequence[Extent] = (),
    begin: int = 0,
    sector: int = 512,
) -> bytearray:
    """A disk of so many sectors. Logical partitions each have their own sector right before them; the chain begins at
    `begin`.
    """
    disk = bytearray(size * sector)
    extents: list[Extent | None] = list(primary)
    if logical:
        extents = [*extents, *[None] * (3 - len(extents)), (begin, size - begin, 0x05)]
    disk[:512] = table_sector(extents)
    places = [begin, *(first - 1 for first, _, _ in logical[1:])]
    for index, (first, count, kind) in enumerate(logical):
        place = places[index]
        link: list[Extent | None] = [(first - place, count, kind)]
        if index + 1 < len(logical):
            link.append((places[index + 1] - begin, logical[index + 1][1] + 1, 0x05))
        disk[place * sector : place * sector + 512] = table_sector(link)
    return disk


def gpt(
    size: int,
    extents: Sequence[tuple[int, int]],
    sector: int = 512,
    kinds: Sequence[uuid.UUID] = (),
    count: int = 128,
) -> bytearray:
    """A disk of so many sectors with both tables."""
    disk = bytearray(size * sector)
    disk[:512] = table_sector([(1, 0xFFFFFFFF, 0xEE)])
    entries = b""
    for index, (first, length) in enumerate(extents):
        kind = kinds[index] if kinds else LINUX
        name = f"part {index}".encode("utf-16-le").ljust(72, b"\0")
        own = uuid.UUID(int=index + 1)
        entries += (
            kind.bytes_le + own.bytes_le + struct.pack("<3Q", first, first + length - 1, 0) + name
        )
    entries = entries.ljust(count * 128, b"\0")
    room = -(-len(entries) // sector)
    for mine, other, array in ((1, size - 1, 2), (size - 1, 1, size - 1 - room)):

        def header(crc: int, mine: int = mine, other: int = other, array: int = array) -> bytes:
            return struct.pack(
                "<8s4I4Q16sQ3I", b"EFI PART", 0x10000, 92, crc, 0, mine, other, 2 + room,
                size - 2 - room, uuid.UUID(int=7).bytes_le, array, count, 128, zlib.crc32(entries),
            )  # fmt: skip

        data = header(zlib.crc32(header(0)))
        disk[mine * sector : mine * sector + len(data)] = data
        disk[array * sector : array * sector + len(entries)] = entries
    return disk
