"""Numbers of system calls, by their names, on this machine: asm/unistd.h.

For calls that are made by others than the C library: see `container/calls.py`. Numbers from 424 on
are the same everywhere; machines since aarch64 share one table.
"""

from __future__ import annotations

import os

# Name: number on x86-64, number in the common table.
_NUMBERS = {
    "capset": (126, 91),
    "chdir": (80, 49),
    "chroot": (161, 51),
    "clone3": (435, 435),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "dup3": (292, 24),
    "execve": (59, 221),
    "execveat": (322, 281),
    "exit_group": (231, 94),
    "fchdir": (81, 50),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fcntl": (72, 25),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fstatfs": (138, 44),
    "getcwd": (79, 17),
    "getpid": (39, 172),
    "ioctl": (16, 29),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "mkdirat": (258, 34),
    "mknodat": (259, 33),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "openat": (257, 56),
    "openat2": (437, 437),
    "personality": (135, 92),
    "pipe2": (293, 59),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "seccomp": (317, 277),
    "sendfile": (40, 71),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpgid": (109, 154),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "setsid": (112, 157),
    "socket": (41, 198),
    "statx": (332, 291),
    "symlinkat": (266, 36),
    "umask": (95, 166),
    "umount2": (166, 39),
    "unlinkat": (263, 35),
    "unshare": (272, 97),
    "write": (1, 64),
}
NUMBERS = {name: numbers[os.uname().machine != "x86_64"] for name, numbers in _NUMBERS.items()}
