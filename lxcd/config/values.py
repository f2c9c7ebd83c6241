"""One value: from what was written to what it means.

Every function raises ValueError with a text for the user.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import signal
from typing import TYPE_CHECKING

from lxcd.config.characters import quoted, words

if TYPE_CHECKING:
    from collections.abc import Callable

# (uid_t)-1 means "no id" to chown(2) and setresuid(2), so that the largest id is one less.
LARGEST_ID = 2**32 - 2
LARGEST_INT = 2**31 - 1
PATH_MAX = 4096  # with the NUL at its end (limits.h)
NAME_MAX = 255
UTS_MAX = 64  # __NEW_UTS_LEN
IFNAME_MAX = 15  # IFNAMSIZ with its NUL
_NAMED_SIGNALS = {name: number.value for name, number in signal.Signals.__members__.items()}

# capabilities(7), in the order of linux/capability.h: the place is the number.
# fmt: off
CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
    "setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
    "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
    "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod",
    "lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
    "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
)
# fmt: on
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
# fmt: off
LIMITS = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
    "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
)
# fmt: on
LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "NOTICE", "WARN", "ERROR", "CRIT", "ALERT", "FATAL")
# fmt: off
SYSLOG = (
    "auth", "authpriv", "cron", "daemon", "ftp", "kern", "local0", "local1", "local2", "local3",
    "local4", "local5", "local6", "local7", "lpr", "mail", "news", "syslog", "user", "uucp",
)
# fmt: on
# What uname(2) says with the personality that LXC sets for the name; LXC's own getter says i686
# and x86_64 too.
ARCHITECTURES = {
    **dict.fromkeys(("athlon", "i386", "i486", "i586", "i686", "linux32", "x32", "x86"), "i686"),
    **dict.fromkeys(("amd64", "linux64", "x86_64"), "x86_64"),
    **dict.fromkeys(("arm", "armel", "armhf", "armv7l"), "armv7l"),
    **dict.fromkeys(("aarch64", "arm64"), "aarch64"),
    **dict.fromkeys(("loong64", "loongarch64"), "loongarch64"),
    **dict.fromkeys(("mips", "mipsel"), "mips"),
    **dict.fromkeys(("mips64", "mips64el"), "mips64"),
    **dict.fromkeys(("powerpc", "ppc"), "ppc"),
    **dict.fromkeys(("powerpc64", "ppc64"), "ppc64"),
    **dict.fromkeys(("ppc64el", "ppc64le"), "ppc64le"),
    "riscv64": "riscv64",
    "s390x": "s390x",
}

_DIGITS = re.compile(r"[0-9]{1,20}\Z")  # str.isdigit() and int() take digits of every script
_SIZE = re.compile(r"([0-9]{1,20}) ?([kmg]b)?\Z", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_OFFSET = re.compile(r"([+-]?[0-9]{1,19}) ?(h|m|s|ms|us|ns)\Z")
_NANOSECONDS = {
    "h": 3600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}
_MAC = re.compile(r"[0-9a-fx]{2}(:[0-9a-fx]{2}){5}\Z", re.IGNORECASE | re.ASCII)
_AUTO_BYTES = 128 << 10


def integer(text: str, low: int, high: int) -> int:
    """Read a whole number: ASCII digits and nothing else, from `low` to `high`."""
    digits = text[1:] if text.startswith("-") and low < 0 else text
    if not _DIGITS.match(digits):
        raise ValueError(f"{quoted(text)} is not a number")
    if digits.startswith("0") and digits != "0":
        # LXC reads it as octal (strtoul(3) with base 0), people do not: neither is surprised.
        raise ValueError(f"{quoted(text)} begins with a zero: octal to LXC, not taken here")
    number = -int(digits) if digits != text else int(digits)
    if not low <= number <= high:
        raise ValueError(f"{quoted(text)} is not between {low} and {high}")
    return number


def number(low: int, high: int) -> Callable[[str], int]:
    """Make a reader of whole numbers between `low` and `high`."""
    return lambda text: integer(text, low, high)


def one_of(*words: str) -> Callable[[str], str]:
    """Make a reader of one word out of a choice."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{quoted(text)} is none of: {' '.join(words)}")
        return text

    return read


def boolean(text: str) -> bool:
    """Read 0 or 1."""
    if text not in ("0", "1"):
        raise ValueError(f"{quoted(text)} is neither 0 nor 1")
    return text == "1"


def autodev(text: str) -> bool:
    """Read 0 or 1; -1 was "decide yourself" in LXC 1.0, which came to mean 1."""
    return True if text == "-1" else boolean(text)


def plain(text: str) -> str:
    """Take a text as it is."""
    return text


def absolute(text: str) -> str:
    """Read a path from the root."""
    if not text.startswith("/"):
        raise ValueError(f"{quoted(text)} must begin with a slash")
    return _path(text)


def some_path(text: str) -> str:
    """Read a path, from the root or not."""
    return _path(text)


def _path(text: str) -> str:
    if len(text.encode()) >= PATH_MAX:
        raise ValueError("longer than any path can be")
    return text


def beneath(text: str) -> str:
    """Read a relative path that leads down and nowhere else: no `..`, no `.`, nothing empty.

    For paths that are joined to a cgroup's or to /dev, where a `..` leads out (security.md S-26).
    """
    if text.startswith("/"):
        raise ValueError(f"{quoted(text)} must not begin with a slash")
    for part in text.split("/"):
        if part in ("", ".", ".."):
            raise ValueError(f"{quoted(text)} has a part that is empty, . or ..")
        if len(part.encode()) > NAME_MAX:
            raise ValueError(f"a part is longer than {NAME_MAX} bytes")
    return _path(text)


def host_name(text: str) -> str:
    """Read a host name, as sethostname(2) takes it."""
    if "/" in text:
        raise ValueError(f"{quoted(text)} holds a slash")
    if len(text.encode()) > UTS_MAX:
        raise ValueError(f"{quoted(text)} is longer than {UTS_MAX} bytes")
    return text


def architecture(text: str) -> str:
    """Read an architecture by any of LXC's names; return what uname -m says."""
    try:
        return ARCHITECTURES[text]
    except KeyError:
        raise ValueError(f"{quoted(text)} is not an architecture that LXC knows") from None


def capability(text: str) -> str:
    """Read a capability by name or number; return its name, or the number of one without a name."""
    name = text.lower().removeprefix("cap_")
    if name in CAPABILITIES:
        return name
    if _DIGITS.match(text):
        place = integer(text, 0, 63)
        return CAPABILITIES[place] if place < len(CAPABILITIES) else str(place)
    raise ValueError(f"{quoted(text)} is not a capability")


def namespace(text: str) -> str:
    """Read a namespace by its name in /proc/PID/ns; lxc.container.conf(5) also writes `mount`."""
    return one_of(*NAMESPACES)("mnt" if text == "mount" else text)


def command(text: str) -> tuple[str, ...]:
    """Split a command line at blanks, minding quotes."""
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        raise ValueError("a quote is not closed") from None
    if not words or not words[0]:
        raise ValueError("no command")
    return words


def group_ids(text: str) -> tuple[int, ...]:
    """Read numbers of groups, with commas between."""
    return tuple(integer(part.strip(" \t"), 0, LARGEST_ID) for part in text.split(","))


def size(text: str) -> int:
    """Read a number of bytes, also with kB, MB, GB (multiples of 1024), or `auto`."""
    if text == "auto":
        return _AUTO_BYTES
    found = _SIZE.match(text)
    if not found:
        raise ValueError(f"{quoted(text)} is not a size: a number, maybe with kB, MB or GB")
    count = int(found.group(1)) * _UNITS[(found.group(2) or "").lower()]
    if count >= 2**63:
        raise ValueError(f"{quoted(text)} is too large")
    return count


def signal_number(text: str) -> int:
    """Read a signal by name or number: `SIGPWR`, `PWR`, `30`, `SIGRTMIN+3`, `SIGRTMAX-10`."""
    if _DIGITS.match(text):
        return integer(text, 1, signal.SIGRTMAX)
    name = "SIG" + text.upper().removeprefix("SIG")
    if name in _NAMED_SIGNALS:
        return _NAMED_SIGNALS[name]
    found = re.fullmatch(r"SIGRT(MIN\+|MAX-)([0-9]{1,2})", name, re.ASCII)
    if found:
        distance = int(found.group(2))
        up = found.group(1) == "MIN+"
        result = signal.SIGRTMIN + distance if up else signal.SIGRTMAX - distance
        if signal.SIGRTMIN <= result <= signal.SIGRTMAX:
            return result
    raise ValueError(f"{quoted(text)} is not a signal")


def time_offset(text: str) -> int:
    """Read a length of time with its unit; return nanoseconds."""
    found = _OFFSET.match(text)
    if not found:
        raise ValueError(f"{quoted(text)} is not a number with one of h m s ms us ns")
    nanoseconds = int(found.group(1)) * _NANOSECONDS[found.group(2)]
    if not -(2**63) <= nanoseconds < 2**63:
        raise ValueError(f"{quoted(text)} is too long a time")
    return nanoseconds


def log_level(text: str) -> str:
    """Read a level by name or number; return its name."""
    if _DIGITS.match(text):
        return LOG_LEVELS[integer(text, 0, len(LOG_LEVELS) - 1)]
    return one_of(*LOG_LEVELS)(text.upper())


def comma_list(text: str) -> tuple[str, ...]:
    """Split mount options at commas."""
    return tuple(part for part in (part.strip(" \t") for part in text.split(",")) if part)


def unix_socket(text: str) -> str:
    """Read `unix:PATH` or `unix:@NAME`."""
    if not text.startswith(("unix:/", "unix:@")):
        raise ValueError(f"{quoted(text)} must begin with unix:/ or unix:@")
    return _path(text)


def interface(text: str) -> str:
    """Read the name of a network device, as dev_valid_name() of the kernel has it."""
    if text in (".", "..") or any(c in "/:" or c.isspace() for c in text):
        raise ValueError(f"{quoted(text)} cannot be the name of a network device")
    if len(text.encode()) > IFNAME_MAX:
        raise ValueError(f"{quoted(text)} is longer than the {IFNAME_MAX} bytes of a device name")
    return text


def hardware_address(text: str) -> str:
    """Read six bytes in hexadecimal, where an x is a digit to be drawn."""
    if not _MAC.match(text):
        raise ValueError(f"{quoted(text)} is not a hardware address")
    return text


def network(version: int) -> Callable[[str], str]:
    """Make a reader of `ADDRESS[/PREFIX]`, for IPv4 also with a broadcast address behind it."""

    def read(text: str) -> str:
        where, *rest = words(text) or [""]
        host, slash, prefix = where.partition("/")
        bits = _address(host, version)
        if slash:
            integer(prefix, 0, bits)
        if len(rest) > (version == 4):  # noqa: PLR2004
            raise ValueError(f"{quoted(text)} has too many parts")
        for broadcast in rest:
            _address(broadcast, version)
        return text

    return read


def gateway(version: int) -> Callable[[str], str]:
    """Make a reader of a gateway: an address, `auto` or `dev`."""

    def read(text: str) -> str:
        if text not in ("auto", "dev"):
            _address(text, version)
        return text

    return read


def vlan_or_none(text: str) -> str:
    """Read the number of a VLAN, or `none`."""
    if text != "none":
        integer(text, 0, 4094)
    return text


def _address(text: str, version: int) -> int:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        found = None
    if found is None or found.version != version or "%" in text:
        raise ValueError(f"{quoted(text)} is not an IPv{version} address")
    return found.max_prefixlen
