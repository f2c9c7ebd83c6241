"""What has passed the devices of a namespace, by /proc/PID/net/dev of a process in it.

9 us a namespace; a dump over netlink takes three times that, and its socket must be had. The other
ends of veths would be one dump for all, but of their own errors and drops.
"""

from __future__ import annotations

import errno
import os

from lxcd.network.picture import Counters

# More devices than the first hundreds are not looked at: a container may make any number.
_MOST_BYTES = 1 << 16
_LAST_BYTES = 2048
_COLUMNS = 16
# The process has ended, or left its namespace on the way to its end.
_GONE = {errno.ENOENT, errno.ESRCH, errno.ENXIO, errno.EINVAL}


def read(pid: int) -> tuple[tuple[str, Counters], ...]:
    """Of the namespace that a process is in, by name of the device; none if it is gone. Raises
    OSError.
    """
    try:
        fd = os.open(f"/proc/{pid}/net/dev", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = last = os.read(fd, _MOST_BYTES)
            # It comes a page at a time; less than half of one was the last.
            while len(last) >= _LAST_BYTES and len(text) < _MOST_BYTES:
                last = os.read(fd, _MOST_BYTES)
                text += last
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return ()
    return parse(text)


def parse(text: bytes) -> tuple[tuple[str, Counters], ...]:
    """Each line with a colon: a name, eight numbers of what came in, eight of what went out."""
    found: list[tuple[str, Counters]] = []
    for line in text.splitlines():
        name, _, rest = line.partition(b":")
        words = rest.split()
        if len(words) != _COLUMNS:
            continue
        try:
            numbers = [int(word) for word in words]
        except ValueError:
            continue
        found.append(
            (
                name.strip().decode(errors="surrogateescape"),
                Counters(
                    rx_bytes=numbers[0],
                    rx_packets=numbers[1],
                    rx_errors=numbers[2],
                    rx_dropped=numbers[3],
                    rx_overruns=numbers[4],
                    tx_bytes=numbers[8],
                    tx_packets=numbers[9],
                    tx_errors=numbers[10],
                    tx_dropped=numbers[11],
                    tx_overruns=numbers[12],
                ),
            )
        )
    return tuple(found)
