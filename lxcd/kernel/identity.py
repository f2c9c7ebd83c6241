"""Who a process is: id maps, user and groups, capability sets, no_new_privs."""

from __future__ import annotations

import ctypes
import os
import struct

from lxcd.kernel import libc
from lxcd.kernel.process import prctl

# linux/capability.h, in the order of their numbers; complete up to Linux 6.18.
CAPABILITIES = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
]

PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_MAXIMUM = 64  # bits in the kernel's sets


def capability_number(name: str) -> int:
    """The number of a capability by its name (any case, with or without `cap_`) or decimal number.
    ValueError.
    """
    name = name.lower().removeprefix("cap_")
    if name.isascii() and name.isdigit() and int(name) < _MAXIMUM:
        return int(name)
    return CAPABILITIES.index(name)


def last_capability() -> int:
    """The highest capability that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def effective_capabilities() -> frozenset[int]:
    """The calling process's effective set."""
    return frozenset(_sets()[0])


def _sets() -> tuple[list[int], list[int], list[int]]:
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(24)
    libc.check(libc.capget(ctypes.addressof(header), ctypes.addressof(data)), "capget")
    low_e, low_p, low_i, high_e, high_p, high_i = struct.unpack("6I", data.raw[:24])
    return tuple(  # type: ignore[return-value]
        [bit for bit in range(64) if (low | high << 32) >> bit & 1]
        for low, high in ((low_e, high_e), (low_p, high_p), (low_i, high_i))
    )


def drop_bounding(keep: frozenset[int], last: int) -> None:
    """Drop all but `keep` from the bounding set, for ever; empty the inheritable and ambient sets
    (CVE-2022-29162).

    `last` is `last_capability()`, read while there was a /proc. What is permitted stays so until an
    exec(2), or until `limit_permitted`.
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(last + 1):
        if number not in keep and libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            prctl(PR_CAPBSET_DROP, number)
    _set(frozenset(_sets()[1]))


def limit_permitted(keep: frozenset[int]) -> None:
    """Give up every capability but `keep` at once, for a process that does not exec(2)."""
    _set(frozenset(_sets()[1]) & keep)


def _set(capabilities: frozenset[int]) -> None:
    mask = sum(1 << number for number in capabilities)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("6I", low, low, 0, high, high, 0))
    libc.check(libc.capset(ctypes.addressof(header), ctypes.addressof(data)), "capset")


def write_id_maps(
    pid: int, uids: tuple[tuple[int, int, int], ...], gids: tuple[tuple[int, int, int], ...]
) -> None:
    """Write /proc/PID/uid_map and gid_map: (first inside, first on the host, count) each.
    user_namespaces(7).

    Each file takes one write(2) of at most 340 lines; more is EINVAL.
    """
    for name, ranges in (("uid_map", uids), ("gid_map", gids)):
        path = f"/proc/{pid}/{name}"
        text = "".join(f"{inside} {host} {count}\n" for inside, host, count in ranges)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise libc.oserror(error.errno or 0, "open", path) from None
        try:
            os.write(fd, text.encode("ascii"))
        except OSError as error:
            raise libc.oserror(error.errno or 0, "write", path) from None
        finally:
            os.close(fd)
