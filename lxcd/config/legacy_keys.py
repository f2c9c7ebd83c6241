"""Names that keys had before LXC 2.1 gave them the present ones, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lxcd.config import values

if TYPE_CHECKING:
    from lxcd.config.keys import Given


@dataclass(frozen=True, slots=True)
class Legacy:
    """One former name. A name that ends with a dot is a prefix."""

    name: str
    modern: str  # empty: nothing took its place
    help: str = ""  # of a key without a modern one
    era: bool = True  # LXC 2.1 and later never had this spelling


# fmt: off
LEGACY: tuple[Legacy, ...] = (
    Legacy("lxc.utsname", "lxc.uts.name"),
    Legacy("lxc.pts", "lxc.pty.max"),
    Legacy("lxc.tty", "lxc.tty.max"),
    Legacy("lxc.devttydir", "lxc.tty.dir"),
    Legacy("lxc.console", "lxc.console.path"),
    Legacy("lxc.mount", "lxc.mount.fstab"),
    Legacy("lxc.rootfs", "lxc.rootfs.path"),
    Legacy("lxc.aa_profile", "lxc.apparmor.profile"),
    Legacy("lxc.aa_allow_incomplete", "lxc.apparmor.allow_incomplete"),
    Legacy("lxc.se_context", "lxc.selinux.context"),
    Legacy("lxc.seccomp", "lxc.seccomp.profile"),
    Legacy("lxc.id_map", "lxc.idmap"),
    Legacy("lxc.init_cmd", "lxc.init.cmd"),
    Legacy("lxc.init_uid", "lxc.init.uid"),
    Legacy("lxc.init_gid", "lxc.init.gid"),
    Legacy("lxc.logfile", "lxc.log.file"),
    Legacy("lxc.loglevel", "lxc.log.level"),
    Legacy("lxc.syslog", "lxc.log.syslog"),
    Legacy("lxc.haltsignal", "lxc.signal.halt"),
    Legacy("lxc.rebootsignal", "lxc.signal.reboot"),
    Legacy("lxc.stopsignal", "lxc.signal.stop"),
    Legacy("lxc.limit.", "lxc.prlimit.", era=False),  # development versions of 2.1
    Legacy("lxc.limit", "lxc.prlimit", era=False),
    Legacy("lxc.rootfs.backend", "", "kind of storage; now the TYPE: before lxc.rootfs.path"),
    Legacy("lxc.kmsg", "", "made /dev/kmsg a link to the console; dropped in LXC 2.1"),
    Legacy("lxc.pivotdir", "", "where the old root went during pivot_root(2); dropped in LXC 2.1"),
)
# fmt: on
BACKEND = "lxc.rootfs.backend"

_EXACT = {row.name: row for row in LEGACY if not row.name.endswith(".")}
_PREFIX = tuple(row for row in LEGACY if row.name.endswith("."))


def find(key: str) -> Legacy | None:
    """Find the row of a former name; None if the key never had another name."""
    row = _EXACT.get(key)
    if row is not None:
        return row
    return next((row for row in _PREFIX if key.startswith(row.name) and key != row.name), None)


def modern_name(key: str) -> str:
    """Return the present name of a key, which is the key itself for one that never had another."""
    row = find(key)
    if row is None or not row.modern:
        return key
    return row.modern + key.removeprefix(row.name) if row.name.endswith(".") else row.modern


def check_dropped(name: str, given: Given) -> None:
    """Look at the value of a key that has no modern one. Raises ValueError."""
    if name == "lxc.kmsg":
        values.boolean(given.value)
