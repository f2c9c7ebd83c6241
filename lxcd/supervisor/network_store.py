"""What of managed networks is on disk: definitions and reservations, which stay; records of what is
up and connected, for the next lxcd; files that dnsmasq reads. No decisions.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import shutil
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lxcd import errors
from lxcd.network import bridge, definition, dnsmasq, lxcnet, port, reservations
from lxcd.supervisor.records import DAMAGED, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lxcd.network.definition import ManagedNetwork
    from lxcd.network.port import Port
    from lxcd.paths import Paths

_log = logging.getLogger(__name__)
_SUFFIX = ".toml"
_PORT = ".port"
_UP = ".up"


@dataclass(frozen=True, slots=True)
class UpRecord:
    """A network that is up, or was about to be; `going`: that is to be removed."""

    text: str  # its definition, as it is in force
    child: str = ""  # the keeper's id of its dnsmasq
    pid: int = 0
    start_time_ticks: int = 0
    going: bool = False


class Store:
    """The directories. Its calls are short; those that are not say that they block."""

    def __init__(self, paths: Paths, lxc_net: str) -> None:
        self._paths = paths
        self._lxc_net = lxc_net
        self.seed = _seed()
        # The last reading of it, and of what.
        self._default: tuple[tuple[int, int, int], lxcnet.LxcNet] | None = None

    # ---- definitions

    def names(self) -> list[str]:
        """Networks that have a file."""
        return sorted(
            name.removesuffix(_SUFFIX)
            for name in _listed(self._paths.networks)
            if name.endswith(_SUFFIX) and not definition.device_problem(name.removesuffix(_SUFFIX))
        )

    def read(self, name: str) -> ManagedNetwork | None:
        """The network of a file. Raises InvalidArgument if it says what cannot be."""
        if definition.device_problem(name):
            return None
        try:
            with open(self._path(name), "rb") as file:
                found = definition.from_toml(name, file.read(1 << 17))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise errors.from_oserror(error, f"reading network {name}") from None
        if not found.hwaddr:
            found = replace(found, hwaddr=definition.stable_hwaddr(self.seed, name))
        return found

    def default(self) -> lxcnet.LxcNet:
        """The network that need not be defined, as /etc/default/lxc-net has it."""
        text, stamp = "", (0, 0, 0)
        with contextlib.suppress(OSError), open(self._lxc_net, "rb") as file:
            found = os.fstat(file.fileno())
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            if self._default is not None and self._default[0] == stamp:
                return self._default[1]
            text = file.read(1 << 17).decode(errors="replace")
        if self._default is None or self._default[0] != stamp:
            self._default = (stamp, lxcnet.read(text, self.seed, has_ipv6=bridge.has_ipv6()))
            for problem in self._default[1].problems:
                _log.warning("%s: %s", self._lxc_net, problem)
        return self._default[1]

    def write(self, network: ManagedNetwork) -> None:
        """Define it. Raises an LxcdError."""
        try:
            write_whole(self._path(network.name), definition.to_toml(network).encode())
        except OSError as error:
            raise errors.from_oserror(error, f"writing network {network.name}") from None

    def delete(self, name: str) -> None:
        """Forget it, its leases and its reservations."""
        for path in (self._path(name), self.leases_path(name), self._reserved_path(name)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def defined(self, name: str) -> bool:
        """It has a file."""
        return os.path.exists(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self._paths.networks, name + _SUFFIX)

    # ---- addresses

    def leases_path(self, name: str) -> str:
        """Where dnsmasq writes down its leases."""
        return os.path.join(self._paths.networks, f"{name}.leases")

    def leases(self, name: str) -> list[dnsmasq.Lease]:
        """Of a network; none if nothing was ever leased."""
        try:
            with open(self.leases_path(name), "rb") as file:
                return dnsmasq.read_leases(file.read().decode(errors="replace"))
        except OSError:
            return []

    def _reserved_path(self, name: str) -> str:
        return os.path.join(self._paths.networks, f"{name}.reserved")

    def reserved(self, name: str) -> dict[str, str]:
        """Addresses that are kept, by `reservations.key`."""
        try:
            with open(self._reserved_path(name), "rb") as file:
                return reservations.decode(file.read())
        except OSError:
            return {}

    def write_reserved(self, name: str, reserved: dict[str, str]) -> None:
        """Keep them. Raises an LxcdError."""
        self._put(self._reserved_path(name), reservations.encode(reserved))

    # ---- records

    def up(self) -> dict[str, UpRecord]:
        """Networks that are up, or were about to be."""
        found: dict[str, UpRecord] = {}
        for name in _listed(self._paths.network_records):
            if name.endswith(_UP):
                with contextlib.suppress(*DAMAGED, OSError):
                    table: dict[str, Any] = json.loads(_read(self._record(name)))
                    found[name.removesuffix(_UP)] = UpRecord(**table)
        return found

    def write_up(self, name: str, record: UpRecord) -> None:
        """Replace it. Raises an LxcdError."""
        self._put(self._record(name + _UP), json.dumps(asdict(record)).encode())

    def delete_up(self, name: str) -> None:
        """It is not up, and nothing of it is left."""
        shutil.rmtree(self._files_of(name), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._record(name + _UP))

    def ports(self) -> list[Port]:
        """All that are connected."""
        found: list[Port] = []
        for name in _listed(self._paths.network_records):
            if name.endswith(_PORT):
                with contextlib.suppress(*DAMAGED, OSError):
                    found.append(port.decode(_read(self._record(name))))
        return found

    def write_port(self, one: Port) -> None:
        """Replace it. Raises an LxcdError."""
        self._put(self._record(one.host_name + _PORT), port.encode(one))

    def delete_port(self, one: Port) -> None:
        """It is connected no longer."""
        for path in (
            os.path.join(self.files(one.network).reservations, one.host_name),
            os.path.join(self.files(one.network).hosts, one.host_name),
            self._record(one.host_name + _PORT),
        ):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _record(self, name: str) -> str:
        return os.path.join(self._paths.network_records, name)

    # ---- what dnsmasq reads

    def _files_of(self, name: str) -> str:
        return os.path.join(self._paths.network_files, name)

    def files(self, name: str) -> dnsmasq.Files:
        """Where that is."""
        above = self._files_of(name)
        return dnsmasq.Files(
            reservations=os.path.join(above, "reservations"),
            hosts=os.path.join(above, "hosts"),
            leases=self.leases_path(name),
            user=_user(),
        )

    def make_files(self, network: ManagedNetwork, ports: Iterable[Port]) -> None:
        """All of a network's, anew. Raises an LxcdError."""
        shutil.rmtree(self._files_of(network.name), ignore_errors=True)
        files = self.files(network.name)
        try:
            for path in (files.reservations, files.hosts):
                # Whoever it runs as: nothing in them is secret.
                os.makedirs(path, 0o755)
        except OSError as error:
            raise errors.from_oserror(error, f"files of network {network.name}") from None
        for one in ports:
            self.write_files(network, one)

    def write_files(self, network: ManagedNetwork, one: Port) -> None:
        """What is said of one port. Raises an LxcdError."""
        files = self.files(network.name)
        former = [
            lease.hwaddr
            for lease in self.leases(network.name)
            if one.ipv4 and lease.address == one.ipv4 and lease.hwaddr not in ("", one.hwaddr)
        ]
        for directory, text in (
            (files.reservations, dnsmasq.reservation(one, former)),
            (files.hosts, dnsmasq.hosts(one, network)),
        ):
            # A name that begins with a dot it does not read.
            new = os.path.join(directory, f".{one.host_name}.new")
            self._put(os.path.join(directory, one.host_name), text.encode(), new, 0o644)

    def sweep(self, up: Iterable[str], ports: Iterable[Port]) -> None:
        """Remove what belongs to none of these: an earlier lxcd was killed while it wrote."""
        for name in _listed(self._paths.network_records):
            if name.endswith(".new"):
                with contextlib.suppress(OSError):
                    os.unlink(self._record(name))
        known = {(one.network, one.host_name) for one in ports}
        for network in _listed(self._paths.network_files):
            if network not in up:
                shutil.rmtree(self._files_of(network), ignore_errors=True)
                continue
            files = self.files(network)
            for directory in (files.reservations, files.hosts):
                for name in _listed(directory):
                    if (network, name) not in known:
                        with contextlib.suppress(OSError):
                            os.unlink(os.path.join(directory, name))

    def _put(self, path: str, data: bytes, new: str = "", mode: int = 0o600) -> None:
        """Replace a file. It need not survive the host: only lxcd."""
        new = new or f"{path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(new, flags, mode)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            os.rename(new, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise errors.from_oserror(error, f"writing {path}") from None


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _seed() -> str:
    """What made-up addresses come from: this host's own number (machine-id(5))."""
    with contextlib.suppress(OSError):
        text = _read("/etc/machine-id").decode(errors="replace").strip()
        if text:
            return text
    return os.uname().nodename


def _user() -> str:
    """A user who can do nothing else, where there is one."""
    with contextlib.suppress(KeyError):
        pwd.getpwnam("dnsmasq")
        return "dnsmasq"
    return ""
