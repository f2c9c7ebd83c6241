"""What is in an image, and which part of it is the root: only what is beyond doubt."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcd.storage import choice, filesystems
from lxcd.storage.choice import ImageError, Part, choose, size_text
from lxcd.storage.filesystems import HEAD_BYTES, Content, probe
from lxcd.storage.partitions import GPT, Partition, Table

STEADY = settings(deadline=None, derandomize=True, database=None, max_examples=200)
NOTHING = Content("")
EXT4 = Content("ext4")
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
BIOS = "21686148-6449-6e6f-744e-656564454649"


def ext(compatible: int, incompatible: int, read_only: int) -> bytes:
    head = bytearray(HEAD_BYTES)
    head[1080:1082] = b"\x53\xef"
    struct.pack_into("<3I", head, 1024 + 0x5C, compatible, incompatible, read_only)
    return bytes(head)


def with_magic(place: int, magic: bytes) -> bytes:
    head = bytearray(HEAD_BYTES)
    head[place : place + len(magic)] = magic
    return bytes(head)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (ext(0x38, 0x2, 0x3), "ext2"),
        (ext(0x3C, 0x2, 0x3), "ext3"),
        (ext(0x3C, 0x2 | 0x4, 0x3), "ext3"),
        (ext(0x3C, 0x2C2, 0x46B), "ext4"),
        (ext(0x38, 0x2C2, 0x46B), "ext4"),
        (ext(0, 0x8, 0), "the journal of an ext4"),
        (with_magic(0, b"XFSB"), "xfs"),
        (with_magic(65536 + 64, b"_BHRfS_M"), "btrfs"),
        (with_magic(0, b"hsqs"), "squashfs"),
        (with_magic(1024, struct.pack("<I", 0xE0F5E1E2)), "erofs"),
        (with_magic(4096 - 10, b"SWAPSPACE2"), "swap"),
        (with_magic(1536, b"LABELONE"), "an LVM volume"),
        (with_magic(82, b"FAT32   "), "vfat"),
        (bytes(HEAD_BYTES), ""),
        (b"", ""),
    ],
)
def test_what_the_first_bytes_say(head: bytes, name: str) -> None:
    assert probe(head).name == name


@pytest.mark.parametrize(
    ("head", "unclean"),
    [
        (ext(0x3C, 0x2 | 0x4, 0x3), True),
        (ext(0x3C, 0x2C2 | 0x4, 0x46B), True),
        (ext(0x3C, 0x2C2, 0x46B), False),
        # No journal to write back.
        (ext(0x38, 0x2 | 0x4, 0x3), False),
        (with_magic(65536 + 64, b"_BHRfS_M" + bytes(0x60 - 0x48) + b"\0\x40"), True),
        (with_magic(65536 + 64, b"_BHRfS_M"), False),
        (with_magic(65536 + 64, b"_BHRfS_M")[: 65536 + 72], False),
        (with_magic(0, b"XFSB"), False),
    ],
)
def test_what_a_journal_has_still_to_be_written_back_from(head: bytes, unclean: bool) -> None:  # noqa: FBT001
    assert probe(head).unclean == unclean


@STEADY
@given(st.binary(max_size=2000))
def test_any_bytes_can_be_probed(head: bytes) -> None:
    assert isinstance(probe(head).name, str)


def found(*parts: tuple[str, str]) -> choice.Found:
    return tuple(
        (Partition(number, number << 20, 1 << 20, kind), Content(name))
        for number, (name, kind) in enumerate(parts, 1)
    )


def chosen(
    *parts: tuple[str, str], wanted: int | None = None, whole: Content = NOTHING, table: bool = True
) -> int:
    pairs = found(*parts)
    of = Table(GPT, tuple(one for one, _ in pairs)) if table else None
    return choose(whole, of, pairs, wanted, "x86_64").number


def test_a_file_system_over_the_whole_file_is_lxc_s_meaning() -> None:
    assert choose(EXT4, None, (), None, "x86_64") == Part(0, 0, 0, EXT4)
    assert choose(EXT4, None, (), 0, "x86_64") == Part(0, 0, 0, EXT4)
    # What looks like a table, but has nothing in it.
    assert chosen(("", "83"), whole=EXT4) == 0


@pytest.mark.parametrize(
    ("parts", "number"),
    [
        ([("ext4", "83")], 1),
        ([("swap", "82"), ("xfs", "83")], 2),
        ([("", BIOS), ("vfat", "ef"), ("btrfs", LINUX), ("swap", "x")], 3),
        ([("ext4", LINUX), ("ext4", ROOT)], 2),
        ([("ext4", LINUX), ("xfs", ROOT), ("LUKS encryption", LINUX)], 2),
    ],
)
def test_one_that_can_only_be_the_root_is_taken(parts: list[tuple[str, str]], number: int) -> None:
    assert chosen(*parts) == number


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            [("ext4", "83"), ("ext4", "83")],
            r"say which by partition=N; there are: 1 \(1 MiB, ext4\)",
        ),
        # /boot, and the root where it cannot be read.
        ([("ext4", "83"), ("an LVM volume", "8e")], "more than one partition that may be the root"),
        ([("ext4", "83"), ("", "83")], "2 .1 MiB, unknown content"),
        ([("ext4", ROOT), ("ext4", ROOT)], "more than one partition that may be the root"),
        ([("swap", "82"), ("vfat", "b")], "has no partition with a Linux file system"),
        ([], "has a partition table .GPT. without a partition"),
    ],
)
def test_doubt_is_told_of(parts: list[tuple[str, str]], text: str) -> None:
    with pytest.raises(ImageError, match=text):
        chosen(*parts)


def test_a_number_is_taken_at_its_word() -> None:
    parts = [("ext4", "83"), ("swap", "82"), ("xfs", "83")]
    assert chosen(*parts, wanted=3) == 3
    assert chosen(*parts, wanted=1, whole=EXT4) == 1
    with pytest.raises(ImageError, match="partition 2 holds swap, which is no root file system"):
        chosen(*parts, wanted=2)
    with pytest.raises(ImageError, match=r"has no partition 4; there are: 1 \(1 MiB, ext4\), 2 "):
        chosen(*parts, wanted=4)
    with pytest.raises(ImageError, match="has no partition 1: there is no partition table"):
        chosen(wanted=1, table=False)
    with pytest.raises(ImageError, match="the image holds no file system that lxcd knows"):
        chosen(*parts, wanted=0)


def test_both_a_file_system_and_partitions_are_doubt() -> None:
    with pytest.raises(ImageError, match="holds ext4, and a partition table as well"):
        chosen(("xfs", "83"), whole=EXT4)


@STEADY
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "ext4", "xfs", "swap", "vfat", "an LVM volume"]),
            st.sampled_from(["83", LINUX, ROOT, BIOS]),
        ),
        max_size=6,
    ),
    st.none() | st.integers(0, 7),
    st.sampled_from([NOTHING, EXT4, Content("swap")]),
)
def test_what_is_chosen_can_be_mounted(
    parts: list[tuple[str, str]], wanted: int | None, whole: Content
) -> None:
    try:
        number = chosen(*parts, wanted=wanted, whole=whole)
    except ImageError:
        return
    content = Content(parts[number - 1][0]) if number else whole
    assert content.name in filesystems.ROOTS
    assert wanted in (None, number)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (512, "0.5 KiB"),
        (1 << 20, "1 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 40, "5 TiB"),
        (5 << 60, "5.243e+06 TiB"),
    ],
)
def test_sizes_in_words(size: int, text: str) -> None:
    assert size_text(size) == text


def test_types_of_roots_are_guids() -> None:
    assert all(str(uuid.UUID(kind)) == kind for kind in choice._ROOTS.values())
