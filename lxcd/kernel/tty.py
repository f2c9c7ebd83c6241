"""Pseudo-terminals: ioctl_tty(2)."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from lxcd.kernel import libc

# linux/magic.h
DEVPTS_SUPER_MAGIC = 0x1CD1
TIOCGPTPEER = 0x5441
TIOCSPTLCK = 0x40045431


def open_peer(master: int) -> int:
    """TIOCGPTPEER: the slave of this very master, whatever has been mounted over its path since
    (CVE-2025-52565).

    Never becomes the controlling terminal. The caller owns the descriptor.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    return libc.check(libc.ioctl(master, TIOCGPTPEER, flags), "ioctl TIOCGPTPEER")


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ; the foreground process group gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def window_size(fd: int) -> tuple[int, int]:
    """TIOCGWINSZ: rows and columns."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
    return rows, columns
