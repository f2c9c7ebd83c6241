"""Every path of the daemon, as a function of three roots, so that tests and a second daemon move
the roots.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

LXCPATH = "/var/lib/lxc"
RUNTIME_DIR = "/run/lxcd"
STATE_DIR = "/var/lib/lxcd"
SETTINGS = "/etc/lxcd/lxcd.toml"
SYSTEM_CONFIG = "/etc/lxc/lxc.conf"
DEFAULT_CONFIG = "/etc/lxc/default.conf"


@dataclass(frozen=True, slots=True)
class Paths:
    """The three roots and what hangs off them."""

    lxcpath: str = LXCPATH
    runtime_dir: str = RUNTIME_DIR
    state_dir: str = STATE_DIR

    @property
    def socket(self) -> str:
        """The local API."""
        return os.path.join(self.runtime_dir, "lxcd.sock")

    @property
    def private(self) -> str:
        """What nobody but root may look into: keeper socket, journals, records."""
        return os.path.join(self.runtime_dir, "private")

    @property
    def keeper_socket(self) -> str:
        """The keeper's."""
        return os.path.join(self.private, "keeper.sock")

    @property
    def keeper_log(self) -> str:
        """What it, and whoever starts it, complains of."""
        return os.path.join(self.private, "keeper.log")

    @property
    def lock(self) -> str:
        """Held by the one lxcd of this runtime directory."""
        return os.path.join(self.private, "lock")

    @property
    def records(self) -> str:
        """One file for each container that was ever started since the host came up."""
        return os.path.join(self.private, "containers")

    @property
    def execs(self) -> str:
        """One file for each exec that can be asked about."""
        return os.path.join(self.private, "execs")

    @property
    def logs(self) -> str:
        """How far the log files of consoles are: one file for each."""
        return os.path.join(self.private, "logs")

    @property
    def namespaces(self) -> str:
        """Network namespaces that are kept until devices of the host have come home from them."""
        return os.path.join(self.private, "namespaces")

    @property
    def side_socket(self) -> str:
        """Where callers prove who they are, and hand over descriptors."""
        return os.path.join(self.runtime_dir, "side.sock")

    @property
    def slots(self) -> str:
        """The cgroups of prepared children."""
        return os.path.join(self.private, "slots")

    @property
    def events(self) -> str:
        """The numbered events."""
        return os.path.join(self.private, "events")

    @property
    def networks(self) -> str:
        """Definitions of managed networks, their leases and reservations."""
        return os.path.join(self.state_dir, "networks")

    @property
    def network_records(self) -> str:
        """One file for each managed network that is up, and for each port of one."""
        return os.path.join(self.private, "networks")

    @property
    def network_files(self) -> str:
        """What dnsmasq reads, as a user who is nobody."""
        return os.path.join(self.runtime_dir, "networks")

    @property
    def transient(self) -> str:
        """Root file systems of containers that are not defined; each goes with its container."""
        return os.path.join(self.state_dir, "transient")
