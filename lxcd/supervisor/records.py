"""What must survive lxcd: one small file for each container that was started since the host came
up.

Written before anything is made that would outlive a crash, replaced whole (write, fsync, rename),
and read once, when lxcd comes back. The runtime directory is the place: after a reboot of the host
there is nothing to remember.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import json
import os
from dataclasses import dataclass, field, fields, is_dataclass, replace
from hashlib import blake2b
from typing import Any

from lxcd import errors
from lxcd.cgroup.devices import Node
from lxcd.network.wiring import Wired
from lxcd.supervisor.state import Cause, Exit

STARTING = "starting"
RUNNING = "running"
STOPPED = "stopped"
# What comes of reading JSON that a crash, a full disk or somebody else has damaged.
DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of a start, so that a reboot from inside can do it again."""

    command: tuple[str, ...] = ()
    application: bool = False
    pipes: bool = False
    stdin: bool = False
    ephemeral: bool = False
    defines: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Texts:
    """What a container that is defined runs with: its files may say something else by now."""

    config: str
    settings: str  # of the `lxcd.toml` beside it
    defines: tuple[tuple[str, str], ...] = ()


class Deed(enum.Enum):
    """What is done to a container that is more than one system call."""

    CREATE = "create"
    DELETE = "delete"
    RENAME = "rename"
    VANISH = "vanish"  # it goes with its end, as it was asked to
    RESTART = "restart"  # after reboot(2) from inside


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be done. On disk before it is begun, gone once it is done and told: an lxcd
    that finds one finishes it or undoes it, and tells what came of it (`recovery.py`).
    """

    deed: Deed
    after: int  # the last event before it; those that tell of it come later
    new_name: str = ""
    kept: tuple[str, ...] = ()  # paths that a delete leaves alone


@dataclass(frozen=True, slots=True)
class Record:
    """All that lxcd knows of a container that is not in its configuration."""

    lxcpath: str
    name: str
    phase: str
    generation: int = 0
    child: str = ""  # the keeper's id of its init
    pid: int = 0
    start_time_ticks: int = 0  # of that pid: field 22 of /proc/PID/stat
    started_ns: int = 0  # CLOCK_REALTIME
    request: Request = field(default_factory=Request)
    namespaces: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()  # namespaces that are not its own, and not the host's
    capabilities: tuple[int, ...] | None = None
    no_new_privs: bool = False
    command: tuple[str, ...] = ()
    cgroups: dict[str, str] = field(default_factory=dict[str, str])
    cgroups_made: tuple[str, ...] = ()
    cgroups_mark: str = ""
    running: Texts | None = None
    nics: tuple[Wired, ...] = ()
    # Rules about devices that it was started with, as `cgroup.devices` writes them (None: those
    # that are the default), and nodes that it was given since.
    device_rules: tuple[str, ...] | None = None
    device_nodes: tuple[Node, ...] = ()
    stop_requested: bool = False
    oom_kills: int = 0  # that were told
    oom_sequence: int = (
        0  # in the kernel's log: what is up to here was told, or is not of this life
    )
    # Of a container that is not defined: its whole configuration, and the directory that goes with
    # it.
    config_text: str | None = None
    config_origin: str = ""
    transient_dir: str = ""
    exit: Exit | None = None
    intent: Intent | None = None

    def but(self, **changes: object) -> Record:
        """The same with changes."""
        return replace(self, **changes)  # type: ignore[arg-type]


class Records:
    """The directory of records."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def write(self, record: Record) -> None:
        """Replace a container's record. Raises OSError; the old one is whole then."""
        self.write_text(record, text_of(record))

    def write_text(self, record: Record, text: bytes) -> None:
        """The same with its `text_of`, which takes longer than to write it."""
        write_whole(self._path(record.lxcpath, record.name), text)

    def delete(self, lxcpath: str, name: str) -> None:
        """Forget a container."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(lxcpath, name))

    def read_all(self) -> list[Record]:
        """Every record that is whole; one that is not is passed over. For when lxcd starts."""
        found: list[Record] = []
        for name in sorted(os.listdir(self._directory)):
            if name.endswith(".new"):
                # A write that a crash has cut short.
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self._directory, name))
                continue
            with contextlib.suppress(*DAMAGED, OSError):
                with open(os.path.join(self._directory, name), "rb") as file:
                    found.append(_record(json.loads(file.read())))
        return found

    def _path(self, lxcpath: str, name: str) -> str:
        # Two lxcpaths may hold the same name, and a name may be as long as a file's name may be.
        digest = blake2b(f"{lxcpath}\0{name}".encode(errors="surrogateescape"), digest_size=16)
        return os.path.join(self._directory, digest.hexdigest())


def text_of(record: Record) -> bytes:
    """What stands in its file."""
    return json.dumps(record, default=plain).encode()


def write(records: Records, record: Record, text: bytes | None = None) -> None:
    """Have a record on disk before what it tells of is done; `text` is its `text_of`, if there is
    that already. Raises an LxcdError.
    """
    try:
        records.write_text(record, text_of(record) if text is None else text)
    except OSError as error:
        raise errors.from_oserror(error, "writing the container's record") from None


def write_whole(path: str, text: bytes) -> None:
    """Replace a file, or make it. Raises OSError; the old one is whole then, and nothing is left
    beside it.
    """
    new = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(new, flags, 0o600)
    try:
        try:
            view = memoryview(text)
            while view:
                # A full disk gives a short write first, and the error with the next.
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def plain(value: object) -> object:
    """What json.dumps asks for what it does not know: enumerations, dataclasses with slots.

    `dataclasses.asdict` copies all that is below, which took most of a millisecond of each start.
    """
    if isinstance(value, enum.Enum):
        return value.value
    kind: Any = type(value)
    return {name: getattr(value, name) for name in _names(kind)}


@functools.cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    """Of a dataclass's fields. Raises TypeError if it is none."""
    if not is_dataclass(kind):
        raise TypeError(kind.__name__)
    return tuple(field.name for field in fields(kind))


def _record(data: dict[str, Any]) -> Record:
    request: dict[str, Any] = data.pop("request")
    request["command"] = tuple(request["command"])
    request["defines"] = tuple((str(key), str(value)) for key, value in request["defines"])
    ended: dict[str, Any] | None = data.pop("exit")
    data.setdefault("shared", ())
    for key in ("namespaces", "command", "cgroups_made", "shared"):
        data[key] = tuple(data[key])
    data["nics"] = tuple(_wired(one) for one in data.pop("nics", ()))
    data["device_nodes"] = tuple(Node(**one) for one in data.pop("device_nodes", ()))
    if data.get("device_rules") is not None:
        data["device_rules"] = tuple(data["device_rules"])
    if data["capabilities"] is not None:
        data["capabilities"] = tuple(data["capabilities"])
    texts: dict[str, Any] | None = data.pop("running", None)  # an older lxcd kept none
    if texts is not None:
        texts["defines"] = tuple((str(key), str(value)) for key, value in texts["defines"])
        data["running"] = Texts(**texts)
    how = None
    if ended is not None:
        ended["cause"] = Cause(ended["cause"])
        how = Exit(**ended)
    begun: dict[str, Any] | None = data.pop("intent", None)  # an older lxcd knew none
    intent = None
    if begun is not None:
        begun["deed"] = Deed(begun["deed"])
        begun["kept"] = tuple(begun["kept"])
        intent = Intent(**begun)
    return Record(request=Request(**request), exit=how, intent=intent, **data)


def _wired(data: dict[str, Any]) -> Wired:
    data["proxied"] = tuple(data["proxied"])
    return Wired(**data)
