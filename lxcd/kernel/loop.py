"""Loop devices: loop(4), and the ioctls of linux/loop.h.

A device is asked for by number, so whoever has found a free one may come too late: `configure` then
fails with EBUSY, and another is asked for.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass

from lxcd.kernel import libc
from lxcd.kernel.device import open_node

_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_CTL_GET_FREE = 0x4C82
_READ_ONLY = 1
_AUTOCLEAR = 4
# struct loop_info64; loop_config has a descriptor and a block size before it, and 8 words behind.
_INFO = "5Q4I64s64s32s2Q"
_CONFIG = f"2I{_INFO}64x"
REFERENCE_BYTES = 63  # lo_file_name ends with a zero
MAJOR = 7
_CONTROL = os.makedev(10, 237)  # LOOP_CTRL_MINOR of linux/miscdevice.h


@dataclass(frozen=True, slots=True)
class Status:
    """What an attached device shows. `reference` is a word of the one who attached it: losetup(8),
    --loop-ref.
    """

    device: int  # of the file behind it: st_dev
    inode: int
    behind: int  # the device behind it, if that is one: st_rdev
    offset_bytes: int
    size_bytes: int  # 0: all there is
    read_only: bool
    autoclear: bool
    reference: str


def open_control() -> int:
    """/dev/loop-control; the caller owns the descriptor."""
    return open_node("loop-control", stat.S_IFCHR, _CONTROL, os.O_RDWR)


def free_number(control: int) -> int:
    """LOOP_CTL_GET_FREE: of a device that is free at this moment, made if there is none."""
    try:
        return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    except OSError as error:
        raise libc.oserror(error.errno or 0, "ioctl LOOP_CTL_GET_FREE") from None


def open_device(number: int, *, writable: bool) -> int:
    """/dev/loopN; the caller owns the descriptor. ENXIO: it is on its way out."""
    flags = os.O_RDWR if writable else os.O_RDONLY
    return open_node(f"loop{number}", stat.S_IFBLK, os.makedev(MAJOR, number), flags)


def configure(
    device: int, file: int, offset_bytes: int, size_bytes: int, reference: str, *, read_only: bool
) -> None:
    """LOOP_CONFIGURE (Linux 5.8): put a part of `file` behind the device, which lets go of it when
    its last user closes it (LO_FLAGS_AUTOCLEAR). EBUSY: another was quicker.
    """
    flags = _AUTOCLEAR | (_READ_ONLY if read_only else 0)
    name = os.fsencode(reference)[:REFERENCE_BYTES]
    info = (0, 0, 0, offset_bytes, size_bytes, 0, 0, 0, flags, name, b"", b"", 0, 0)
    try:
        fcntl.ioctl(device, _LOOP_CONFIGURE, struct.pack(_CONFIG, file, 0, *info))
    except OSError as error:
        raise libc.oserror(error.errno or 0, "ioctl LOOP_CONFIGURE") from None


def status(device: int) -> Status:
    """LOOP_GET_STATUS64. ENXIO: nothing is attached."""
    try:
        data = fcntl.ioctl(device, _LOOP_GET_STATUS64, b"\0" * struct.calcsize(_INFO))
    except OSError as error:
        raise libc.oserror(error.errno or 0, "ioctl LOOP_GET_STATUS64") from None
    of, inode, behind, offset, size, _, _, _, flags, name, *_ = struct.unpack(_INFO, data)
    return Status(
        device=of,
        inode=inode,
        behind=behind,
        offset_bytes=offset,
        size_bytes=size,
        read_only=bool(flags & _READ_ONLY),
        autoclear=bool(flags & _AUTOCLEAR),
        reference=os.fsdecode(name.partition(b"\0")[0]),
    )
