"""Settings beside LXC's container texts: `lxcd.toml`, LXC's `lxc.conf`, a container's `lxcd.toml`.

Not in it: which of them counts more than which (the composition root), and finding the files.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from lxcd.config import forwards, limits
from lxcd.config.characters import forbidden, printable, quoted
from lxcd.config.limits import Limits
from lxcd.config.model import Problem
from lxcd.config.reader import HostFiles, RawLine, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lxcd.config.forwards import Forward

_MAXIMUM_BYTES = 1 << 20
_MOST_PREPARED = 1000
FILTERS = frozenset({"mac", "ipv4", "ipv6"})
_LONGEST_SECONDS = 7 * 24 * 3600
_LARGEST_PORT = 65535
SOCKET_PATH_BYTES = 107  # unix(7)


@dataclass(frozen=True, slots=True)
class Settings:
    """What `lxcd.toml` says; the names are the file's."""

    lxcpath: str = "/var/lib/lxc"
    runtime_dir: str = "/run/lxcd"
    state_dir: str = "/var/lib/lxcd"
    default_config: str = "/etc/lxc/default.conf"  # what lxc-create takes if it is given none
    listen: tuple[str, ...] = ()  # `unix:/PATH`; empty: the socket in runtime_dir
    shutdown_timeout_seconds: float = 60.0
    prepared_max: int = 16  # children that wait to become a container; 0: each is made when wanted
    keeper: str = "own"  # `service`: a service manager runs the keeper, lxcd only waits for it
    lxc_net: str = "/etc/default/lxc-net"  # what LXC's script says of the default network
    metrics_listen: str = ""  # where Prometheus is answered; empty: nowhere


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen: a Unix socket, or an address of this host."""

    path: str = ""
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class SystemConfig:
    """What LXC's `lxc.conf` says that matters here. Empty: nothing."""

    lxcpath: str = ""
    default_config: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """What a container's own `lxcd.toml` says: things for which LXC has no key."""

    image: str = ""  # what its root file system was made of
    forwards: tuple[Forward, ...] = ()  # ports of the host that lead to it
    # What is filtered of what a device sends into a managed network, by its number; all else.
    filters: Mapping[int, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    limits: Limits = field(default_factory=Limits)
    whole_fstab: bool = False  # its /etc/fstab stays as it is, with devices that are not there
    text: bytes = field(default=b"", compare=False)  # all of it


# lxc.system.conf(5); the storage and cgroup keys of it do not concern lxcd.
_SYSTEM_IGNORED = (
    "lxc.bdev.lvm.vg",
    "lxc.bdev.lvm.thin_pool",
    "lxc.bdev.zfs.root",
    "lxc.bdev.rbd.rbdpool",
    "lxc.bdev.rbd.rbduser",
    "lxc.cgroup.use",
    "lxc.cgroup.pattern",
)
_LATER = ("restart", "health", "labels")


def load_settings(data: bytes, origin: str) -> tuple[Settings, tuple[Problem, ...]]:
    """Read the daemon's `lxcd.toml`. What is wrong or missing has its default."""
    table, problems = _toml(data, origin)
    found = Settings()
    for key, value in table.items():
        try:
            found = _with(found, key, value)
        except KeyError:
            problems.append(
                _problem("warning", data, origin, key, "not a setting of lxcd: ignored")
            )
        except ValueError as error:
            problems.append(_problem("error", data, origin, key, str(error)))
    return found, tuple(problems)


def load_system(data: bytes, origin: str) -> tuple[SystemConfig, tuple[Problem, ...]]:
    """Read LXC's `lxc.conf` (lxc.system.conf(5))."""
    reading = Reading(HostFiles(), follow=False)
    reading.text(data, origin)
    problems = list(reading.problems)
    found = SystemConfig()
    for line in reading.lines:
        if not line.usable or line.key in _SYSTEM_IGNORED:
            continue
        if line.key not in ("lxc.lxcpath", "lxc.default_config"):
            problems.append(
                Problem("warning", line.origin, line.key, "not a key of lxc.conf: ignored")
            )
        elif line.value and not line.value.startswith("/"):
            problems.append(_not_absolute(line))
        elif line.key == "lxc.lxcpath":
            found = replace(found, lxcpath=line.value)
        else:
            found = replace(found, default_config=line.value)
    return found, tuple(problems)


def load_container_settings(
    data: bytes, origin: str
) -> tuple[ContainerSettings, tuple[Problem, ...]]:
    """Read the `lxcd.toml` beside a container's configuration."""
    table, problems = _toml(data, origin)
    image = ""
    leading: tuple[Forward, ...] = ()
    filters: dict[int, frozenset[str]] = {}
    limited = Limits()
    whole_fstab = False
    for key, value in table.items():
        if key == "image":
            if isinstance(value, str):
                image = value
            else:
                problems.append(_problem("error", data, origin, key, "must be a text"))
        elif key == "whole_fstab":
            whole_fstab, wrong = _flag(value)
            problems += [_problem("error", data, origin, key, why) for why in wrong]
        elif key == "net":
            filters, wrong = _filters(value)
            problems += [_problem("error", data, origin, key, why) for why in wrong]
        elif key == "forward":
            leading, wrong = forwards.read(value)
            problems += [_problem("error", data, origin, key, why) for why in wrong]
        elif key == "limits":
            limited, troubled = limits.read(value)
            problems += [_problem("error", data, origin, name, why) for name, why in troubled]
        elif key in _LATER:
            text = "understood, but lxcd does not act on it yet"
            problems.append(_problem("warning", data, origin, key, text))
        else:
            problems.append(_problem("warning", data, origin, key, "not a setting: ignored"))
    found = ContainerSettings(
        image,
        leading,
        MappingProxyType(filters),
        limited,
        whole_fstab,
        data,
    )
    return found, tuple(problems)


def _flag(value: object) -> tuple[bool, list[str]]:
    return value is True, [] if isinstance(value, bool) else ["must be true or false"]


def _filters(value: object) -> tuple[dict[int, frozenset[str]], list[str]]:
    """`[net.N]` with `filter = ["mac", "ipv4", "ipv6"]`, or fewer of them."""
    found: dict[int, frozenset[str]] = {}
    problems: list[str] = []
    if not isinstance(value, dict):
        return found, ["must be tables: [net.0]"]
    for number, table in cast("dict[str, object]", value).items():
        wanted = cast("dict[str, object]", table).get("filter") if isinstance(table, dict) else None
        if not number.isdecimal() or not isinstance(wanted, list):
            problems.append(f"{number}: must be the number of a device, with `filter` as a list")
            continue
        words = frozenset(str(word) for word in cast("list[object]", wanted))
        if words - FILTERS:
            problems.append(f"{number}: filter may hold {', '.join(sorted(FILTERS))}")
            continue
        found[int(number)] = words
    return found, problems


def _with(settings: Settings, key: str, value: object) -> Settings:
    """Return the settings with one more. Raises KeyError, ValueError."""
    changes: dict[str, Any] = {key: _PARSERS[key](value)}
    return replace(settings, **changes)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a number")  # noqa: TRY004
    if not 0 <= value <= _MOST_PREPARED:
        raise ValueError(f"must be between 0 and {_MOST_PREPARED}")
    return value


def _absolute(value: object) -> str:
    text = _text(value)
    if not text.startswith("/"):
        raise ValueError(f"{quoted(text)} must begin with a slash")
    return text


def _addresses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of texts")  # noqa: TRY004
    texts = tuple(_text(one) for one in cast("list[object]", value))
    for text in texts:
        socket_path(text)
    return texts


def socket_path(address: str) -> str:
    """Where the API is to listen, of `unix:/PATH`. Raises ValueError."""
    path = address.removeprefix("unix:")
    if path in (address, "/") or not path.startswith("/"):
        raise ValueError(
            f"cannot listen on {address}: only unix:PATH with an absolute path for now"
        )
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ValueError(f"{path}: longer than the {SOCKET_PATH_BYTES} bytes of a socket's path")
    return path


def endpoint(text: str) -> Endpoint:
    """`unix:/PATH`, `127.0.0.1:PORT` or `[::1]:PORT`. Raises ValueError.

    Metrics are for whoever asks, so nobody from elsewhere may: a proxy that knows people does that.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or len(os.fsencode(path)) > SOCKET_PATH_BYTES:
            raise ValueError(
                f"{quoted(text)}: the path of a socket begins with a slash and has at most"
                f" {SOCKET_PATH_BYTES} bytes"
            )
        return Endpoint(path=path)
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})", text, re.ASCII)
    if not found or int(found[3]) > _LARGEST_PORT:
        raise ValueError(f"{quoted(text)} is neither unix:/PATH nor 127.0.0.1:PORT nor [::1]:PORT")
    address = ipaddress.ip_address(found[1] or found[2])
    if not address.is_loopback:
        raise ValueError(
            f"{quoted(text)} is not of the loopback, and metrics are told to whoever asks:"
            f" let a proxy that knows whom it lets in stand before 127.0.0.1:{found[3]}"
        )
    return Endpoint(host=str(address), port=int(found[3]))


def _endpoint(value: object) -> str:
    text = _text(value)
    if text:
        endpoint(text)
    return text


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("must be a number of seconds")  # noqa: TRY004
    if not 0 <= value <= _LONGEST_SECONDS:
        raise ValueError(f"must be between 0 and {_LONGEST_SECONDS} seconds")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004
    why = forbidden(value)
    if why:
        raise ValueError(f"the text holds {why}")
    return value


def _who(value: object) -> str:
    if value not in ("own", "service"):
        raise ValueError("must be own or service")
    return _text(value)


_PARSERS: dict[str, Callable[[object], object]] = {
    "lxcpath": _absolute,
    "runtime_dir": _absolute,
    "state_dir": _absolute,
    "default_config": _absolute,
    "lxc_net": _absolute,
    "listen": _addresses,
    "shutdown_timeout_seconds": _seconds,
    "prepared_max": _count,
    "keeper": _who,
    "metrics_listen": _endpoint,
}


def _toml(data: bytes, origin: str) -> tuple[dict[str, object], list[Problem]]:
    if len(data) > _MAXIMUM_BYTES:
        return {}, [Problem("error", printable(origin), "", f"larger than {_MAXIMUM_BYTES} bytes")]
    try:
        return tomllib.loads(data.decode()), []
    except UnicodeDecodeError:
        text = "not UTF-8"
    except RecursionError:
        text = "too deep"
    except ValueError as error:  # TOMLDecodeError; a number of 5000 digits
        text = str(error)
    return {}, [Problem("error", printable(origin), "", text)]


def _problem(severity: str, data: bytes, origin: str, key: str, message: str) -> Problem:
    where = printable(origin)
    # tomllib does not say where a key stood; its name at the beginning of a line nearly always
    # does.
    found = re.search(rb"(?m)^[ \t]*[\"'\[]*" + re.escape(key.encode()) + rb"\b", data)
    if found:
        where += f":{data.count(bytes([10]), 0, found.start()) + 1}"
    return Problem("error" if severity == "error" else "warning", where, printable(key), message)


def _not_absolute(line: RawLine) -> Problem:
    return Problem("error", line.origin, line.key, f"{quoted(line.value)} must begin with a slash")
