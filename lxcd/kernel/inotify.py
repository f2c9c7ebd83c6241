"""inotify(7): word from the kernel that a file was written, one descriptor for any number of files.

A user may have 128 of them; one is enough.
"""

from __future__ import annotations

import os
import struct

from lxcd.kernel import libc

IN_MODIFY = 0x2
_IN_CLOEXEC = os.O_CLOEXEC
_IN_NONBLOCK = os.O_NONBLOCK
# struct inotify_event: watch, mask, cookie, length of the name that follows.
_HEAD = struct.Struct("=iIII")
_BUFFER_BYTES = 1 << 16


def create() -> int:
    """inotify_init1(2): never blocks. The caller owns the descriptor."""
    return libc.check(libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC), "inotify_init1")


def add(number: int, path: str, mask: int) -> int:
    """inotify_add_watch(2): the watch's number. Adding a file again gives the same one."""
    name = os.fsencode(path)
    return libc.check(libc.inotify_add_watch(number, name, mask), "inotify_add_watch", path)


def remove(number: int, watch: int) -> None:
    """inotify_rm_watch(2). EINVAL if the file has gone, and the watch with it."""
    libc.check(libc.inotify_rm_watch(number, watch), "inotify_rm_watch")


def read(number: int) -> list[int]:
    """The watches that something was reported for, in order; empty if nothing is there."""
    try:
        data = os.read(number, _BUFFER_BYTES)
    except BlockingIOError:
        return []
    return parse(data)


def parse(data: bytes) -> list[int]:
    """Of what was read. -1 stands for events that were lost."""
    watches: list[int] = []
    offset = 0
    while offset + _HEAD.size <= len(data):
        watch, _, _, length = _HEAD.unpack_from(data, offset)
        watches.append(watch)
        offset += _HEAD.size + length
    return watches
