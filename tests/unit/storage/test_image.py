"""Whatever is in an image: which part is chosen, or why none can be."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.kernel import fd as kernel_fd
from lxcd.kernel import libc
from lxcd.kernel.fd import Fd
from lxcd.storage import claim, image
from lxcd.storage.choice import ImageBusyError, ImageError, Part
from lxcd.storage.filesystems import Content
from tests.unit.storage.disks import Extent, gpt, mbr

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=200)
SIZE = 200  # sectors
HEADER, ARRAY = 512, 1024
WHOLE = Part(0, 0, 0, Content("ext4"))
number = st.integers(0, (1 << 64) - 1) | st.sampled_from([1 << 53, 1 << 54, 1 << 60, 1 << 63])


@contextmanager
def in_memory(data: bytes) -> Iterator[image._Image]:
    with Fd(os.memfd_create("image", os.MFD_CLOEXEC)) as file:
        os.write(file.fileno(), data)
        yield image._Image(file.fileno(), "/vm.img", len(data), 512, "")


def chosen(data: bytes, wanted: int | None) -> Part | None:
    """None: an ImageError."""
    with in_memory(data) as made:
        try:
            return image._chosen(made, wanted)
        except ImageError:
            return None


def sealed(disk: bytearray) -> bytes:
    """With right CRCs, as the author of a bad table would have it."""
    disk[HEADER + 88 : HEADER + 92] = struct.pack("<I", zlib.crc32(disk[ARRAY : ARRAY + 128 * 128]))
    disk[HEADER + 16 : HEADER + 20] = bytes(4)
    crc = zlib.crc32(disk[HEADER : HEADER + 92])
    disk[HEADER + 16 : HEADER + 20] = struct.pack("<I", crc)
    return bytes(disk)


@STEADY
@given(
    st.lists(st.tuples(number, number), max_size=4),
    st.just(2) | number,
    st.booleans(),
    st.none() | st.integers(0, 5),
)
def test_numbers_beyond_every_disk_are_an_image_error(
    extents: list[tuple[int, int]],
    array: int,
    broken: bool,  # noqa: FBT001
    wanted: int | None,
) -> None:
    disk = gpt(SIZE, [(50, 10)])
    for index, (first, last) in enumerate(extents):
        struct.pack_into("<2Q", disk, ARRAY + 128 * index + 32, first, last)
        disk[ARRAY + 128 * index] = 1
    struct.pack_into("<Q", disk, HEADER + 72, array)
    sealed(disk)
    if broken:
        # What only a backup says is told, and its contents with it.
        disk[-512:] = disk[HEADER:ARRAY]
        struct.pack_into("<Q", disk, len(disk) - 512 + 24, SIZE - 1)
        struct.pack_into("<I", disk, len(disk) - 512 + 16, 0)
        crc = zlib.crc32(disk[-512 : -512 + 92])
        struct.pack_into("<I", disk, len(disk) - 512 + 16, crc)
        disk[HEADER + 40] ^= 1
    assert chosen(bytes(disk), wanted) is None


@STEADY
@given(st.binary(max_size=4096), st.booleans(), st.none() | st.integers(0, 5))
def test_any_bytes_are_chosen_from_or_an_image_error(
    data: bytes,
    marked: bool,  # noqa: FBT001
    wanted: int | None,
) -> None:
    disk = bytearray(data)
    if marked and len(disk) >= 512:
        disk[510:512] = b"\x55\xaa"
        for place in range(446, 510, 16):
            disk[place] &= 0x80
    part = chosen(bytes(disk), wanted)
    assert part is None or part.content.root


def written_over(disk: bytearray, *sectors: int) -> bytes:
    """With the superblock of an ext2 over the whole, and of one at each of these sectors."""
    written = bytearray(disk)
    for place in (0, *sectors):
        written[place * 512 + 1080 : place * 512 + 1082] = b"\x53\xef"
    return bytes(written)


@pytest.mark.parametrize(
    ("primary", "logical", "told"),
    [
        # Behind the end; overlapping; in a chain that breaks.
        ([(20, 900, 0x83)], [], r"1 \(450 KiB, ext2\)"),
        ([(20, 20, 0x83), (30, 20, 0x83)], [], r"1 \(10 KiB, ext2\), 2 \(10 KiB, unknown"),
        ([(20, 20, 0x83)], [(61, 20, 0x83)], r"1 \(10 KiB, ext2\)"),
    ],
)
def test_a_superblock_over_a_table_that_is_broken_is_not_believed(
    primary: list[Extent], logical: list[Extent], told: str
) -> None:
    disk = mbr(SIZE, primary, logical, 60)
    disk[61 * 512 - 2 : 61 * 512] = bytes(2)
    with in_memory(written_over(disk, 20)) as made:
        with pytest.raises(ImageError, match=f"broken partition table: .*; there are: {told}.*"):
            image._chosen(made, None)
        with pytest.raises(ImageError, match=r"; say partition=0 for the ext2 over the whole$"):
            image._chosen(made, 1)
        assert image._chosen(made, 0) == Part(0, 0, 0, Content("ext2"))
    # Nothing is where it points to: it is left of what was there before.
    with in_memory(written_over(disk)) as made:
        assert image._chosen(made, None) == Part(0, 0, 0, Content("ext2"))


def test_behind_the_end_there_is_nothing() -> None:
    with in_memory(b"x" * 100) as made:
        assert made.read(90, 100) == b"x" * 10
        for offset in (100, 1 << 62, 1 << 63, 1 << 70):
            assert made.read(offset, 10) == b""


@pytest.fixture
def file() -> Iterator[int]:
    with Fd(os.memfd_create("image", os.MFD_CLOEXEC)) as opened:
        yield opened.fileno()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_system_without_locks_is_none_that_somebody_has(
    file: int,
    number: int,
    read_only: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "fcntl", without)
    claim.claim(file, "/vm.img", WHOLE, "c", read_only=read_only)


def test_a_question_for_locks_that_fails_is_named(file: int) -> None:
    gone = os.dup(file)
    os.close(gone)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        kernel_fd.is_locked(gone, 0, 1)
    assert libc.syscall_of(caught.value) == "fcntl F_OFD_GETLK"


def test_what_another_has_locked_may_be_let_go_of(file: int) -> None:
    with Fd(os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC)) as other:
        claim.claim(other.fileno(), "/vm.img", WHOLE, "c", read_only=False)
        # At once, for the caller to look again.
        with pytest.raises(ImageBusyError, match="another program has locked it"):
            claim.claim(file, "/vm.img", WHOLE, "c", read_only=False)
    claim.claim(file, "/vm.img", WHOLE, "c", read_only=False)
