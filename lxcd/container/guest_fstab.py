"""The /etc/fstab of a guest that was a machine: which lines of it no container can follow. Pure.

A virtual machine's file names its root, its other partitions and its swap, by UUID or by path. In a
container none of these devices is there, and the root is mounted before init runs. An init that is
told otherwise does not boot: systemd waits 90 seconds for each device and ends in emergency mode
where /sys is writable, sysvinit stops at a maintenance prompt. LXC leaves it to the user to write
that file anew, in each guest.

lxcd hangs a file over it that says the same but for those lines, read-only, in the container's
mount namespace: the root file system stays as it is, byte for byte. Nothing is hung where no line
is in the way, where the configuration mounts something there itself, where the container may use
block devices by its own device rules (then some of them may well be there), over the fstab of an
application container (nobody reads it), and with `whole_fstab = true` in the container's
`lxcd.toml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxcd.config.entries import unescape

if TYPE_CHECKING:
    from collections.abc import Collection

# More than that was not written by hand, and is not read.
MAXIMUM_BYTES = 1 << 20
# fstab(5): where a device is not named by its path.
_TAGS = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID=")
_BINDS = frozenset({"bind", "rbind", "move"})
_LEAST_FIELDS = 3
_HEAD = """\
# lxcd hung this over the container's own /etc/fstab, without lines that no container can follow:
# they stand here as comments. `whole_fstab = true` in its lxcd.toml leaves the file alone.
"""


def fitted(text: bytes, devices: Collection[str]) -> bytes | None:
    """The same without lines that cannot be followed; None if there is none. `devices` are those
    that the configuration mounts, as `dev/sdb1`.
    """
    found: list[str] = []
    left_out = False
    for line in text.decode("utf-8", "surrogateescape").split("\n"):
        why = _obstacle(line, devices)
        left_out = left_out or bool(why)
        found.append(f"# {why}: {line}" if why else line)
    if not left_out:
        return None
    return (_HEAD + "\n".join(found)).encode("utf-8", "surrogateescape")


def _obstacle(line: str, devices: Collection[str]) -> str:
    """Why a line cannot be followed; empty if it can, or is none."""
    fields = line.split()
    if len(fields) < _LEAST_FIELDS or fields[0].startswith("#"):
        return ""
    try:
        source, target = unescape(fields[0]), unescape(fields[1])
    except ValueError:
        return ""
    options = set(fields[3].split(",")) if len(fields) > _LEAST_FIELDS else set[str]()
    if fields[2] == "swap":
        return "swap is the host's"
    if target == "/":
        return "mounted already"
    if source.startswith("/dev/"):
        there = bool(options & _BINDS) or source[1:] in devices
    else:
        there = not source.startswith(_TAGS)
    if not there:
        return "no such device here"
    looped = any(option.partition("=")[0] == "loop" for option in options)
    return "no loop devices here" if looped else ""
