"""What the first bytes of a device say that it holds. Pure.

Only what is likely at the place where somebody expects a root file system; libblkid knows more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# btrfs keeps its superblock the furthest in (BTRFS_SUPER_INFO_OFFSET).
HEAD_BYTES = 68 * 1024

# Kernel's names of those that can be the root of a Linux system, and of which a root can be read
# only.
ROOTS = ("ext4", "ext3", "ext2", "xfs", "btrfs", "squashfs", "erofs")
READ_ONLY = ("squashfs", "erofs")

_BTRFS = 64 * 1024
# Offset, bytes, what they are of. The first that fits counts.
_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"XFSB", "xfs"),
    (_BTRFS + 64, b"_BHRfS_M", "btrfs"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0, b"LUKS\xba\xbe", "LUKS encryption"),
    *((sector * 512, b"LABELONE", "an LVM volume") for sector in range(4)),
    *((page - 10, b"SWAPSPACE2", "swap") for page in (4096, 16384, 65536)),
    *((page - 10, b"SWAP-SPACE", "swap") for page in (4096, 16384, 65536)),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (0, b"\xfc\x4e\x2b\xa9", "a part of an MD RAID"),
    (4096, b"\xfc\x4e\x2b\xa9", "a part of an MD RAID"),
    (32769, b"CD001", "iso9660"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (54, b"FAT12   ", "vfat"),
    (54, b"FAT16   ", "vfat"),
    (82, b"FAT32   ", "vfat"),
    # Files around a disk, which a loop device does not unpack.
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"vhdxfile", "a VHDX image"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"\x1f\x8b\x08", "a gzip file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"BZh", "a bzip2 file"),
)
SWAP = "swap"
FAT = "vfat"

# Of struct btrfs_super_block: root of the tree of what was written since the last commit; 0: none.
_BTRFS_LOG_ROOT = _BTRFS + 0x60

_EXT = 1024
# Of ext2 and ext3 (fs/ext2/ext2.h, fs/ext3): whatever is beyond is ext4.
_EXT_JOURNAL = 0x4
_EXT_RECOVER = 0x4
_EXT_JOURNAL_DEVICE = 0x8
_EXT3_INCOMPATIBLE = 0x2 | 0x4 | 0x10
_EXT3_READ_ONLY = 0x1 | 0x2 | 0x4


@dataclass(frozen=True, slots=True)
class Content:
    """`name` is the kernel's for a file system, or words for something else; empty: unknown.
    `unclean`: a mount would write back a journal. Of xfs only a mount can tell.
    """

    name: str
    unclean: bool = False

    @property
    def root(self) -> bool:
        """A Linux system may be in it."""
        return self.name in ROOTS

    def __str__(self) -> str:
        return self.name or "unknown content"


def probe(head: bytes) -> Content:
    """Of a device that begins with `head`: as much of HEAD_BYTES as there is."""
    ext = _ext(head)
    if ext is not None:
        return ext
    for offset, magic, name in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return Content(name, unclean=name == "btrfs" and _btrfs_log(head))
    return Content("")


def _ext(head: bytes) -> Content | None:
    block = head[_EXT : _EXT + 0x100]
    if block[0x38:0x3A] != b"\x53\xef" or len(block) < 0x100:  # noqa: PLR2004
        return None
    compatible, incompatible, read_only = struct.unpack_from("<3I", block, 0x5C)
    if incompatible & _EXT_JOURNAL_DEVICE:
        return Content("the journal of an ext4")
    unclean = bool(incompatible & _EXT_RECOVER)
    if incompatible & ~_EXT3_INCOMPATIBLE or read_only & ~_EXT3_READ_ONLY:
        return Content("ext4", unclean)
    return Content("ext3", unclean) if compatible & _EXT_JOURNAL else Content("ext2")


def _btrfs_log(head: bytes) -> bool:
    return any(head[_BTRFS_LOG_ROOT : _BTRFS_LOG_ROOT + 8])
