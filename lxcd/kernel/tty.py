"""Pseudo-terminals: ioctl_tty(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios

from lxcd.kernel import libc, mount

# linux/magic.h
DEVPTS_SUPER_MAGIC = 0x1CD1
TIOCGPTPEER = 0x5441
TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430


def open_master(devpts_fd: int) -> int:
    """A new pty in the devpts that `devpts_fd` is the root of: its master, unlocked, owned by the
    caller.

    The directory need not be trusted: if it is no devpts, where nobody can put anything, that is
    ENODEV; and nothing that is mounted over its ptmx is opened. Raises OSError: ENOSPC when the
    instance's `max=` or kernel.pty.max is reached.
    """
    resolve = mount.RESOLVE_BENEATH | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_XDEV
    try:
        if mount.filesystem_type(devpts_fd) != DEVPTS_SUPER_MAGIC:
            raise libc.oserror(errno.ENODEV, "open", "ptmx")
        master = mount.openat2(devpts_fd, "ptmx", os.O_RDWR | os.O_NOCTTY, resolve)
    except OSError as error:
        raise libc.oserror(error.errno or errno.EIO, "open", "ptmx") from None
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    return master


def open_peer(master: int) -> int:
    """TIOCGPTPEER: the slave of this very master, whatever has been mounted over its path since
    (CVE-2025-52565).

    Never becomes the controlling terminal. The caller owns the descriptor.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    return libc.check(libc.ioctl(master, TIOCGPTPEER, flags), "ioctl TIOCGPTPEER")


def pty_number(master: int) -> int:
    """TIOCGPTN: N of /dev/pts/N."""
    return int(struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))[0])


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ; the foreground process group gets SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def window_size(fd: int) -> tuple[int, int]:
    """TIOCGWINSZ: rows and columns."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
    return rows, columns


def set_controlling(fd: int) -> None:
    """TIOCSCTTY: the calling session leader's controlling terminal from now on."""
    try:
        fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
    except OSError as error:
        raise libc.oserror(error.errno or 0, "ioctl TIOCSCTTY") from None
