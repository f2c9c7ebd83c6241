"""Block devices, as /sys shows them."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxcd.storage.choice import Part

# Of `start` and `size`, whatever the device's own sectors are.
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Node:
    """`name` is the one below /dev."""

    name: str
    number: int


def name_of(number: int) -> str:
    """Its name below /dev."""
    return _name(_directory(number).resolve())


def is_read_only(number: int) -> bool:
    """The device lets nobody write."""
    return (_directory(number) / "ro").read_text().strip() == "1"


def partition(disk: int, part: Part) -> Node | None:
    """The device that the kernel has for this part of the disk, if it has one."""
    extent = (part.offset_bytes // _SECTOR, part.size_bytes // _SECTOR)
    for path in _directory(disk).glob("*/partition"):
        # It may be taken away at any moment.
        with contextlib.suppress(FileNotFoundError):
            start, size, number = (
                (path.parent / name).read_text().strip() for name in ("start", "size", "dev")
            )
            if (int(start), int(size)) == extent:
                major, minor = map(int, number.split(":"))
                return Node(_name(path.parent), os.makedev(major, minor))
    return None


def _name(directory: Path) -> str:
    # sysfs has no slash in a name: cciss!c0d0p1.
    return directory.name.replace("!", "/")


def _directory(number: int) -> Path:
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
