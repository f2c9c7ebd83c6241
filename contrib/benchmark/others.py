"""Other programs that run a command in a container: crun, runc, systemd-nspawn.

They are given the same root file system and namespaces, as far as they can be told to. Without them
the benchmark goes on.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from contrib.benchmark import trees
from contrib.benchmark.containers import TRUE

if TYPE_CHECKING:
    from pathlib import Path

    from contrib.benchmark.commands import Commands
    from contrib.benchmark.containers import Kind

_NOSUID = ["nosuid", "noexec", "nodev"]


class Oci:
    """`crun run` or `runc run` of a bundle."""

    def __init__(
        self, commands: Commands, program: str, directory: Path, token: str, kind: Kind
    ) -> None:
        self.what = f"{program} run"
        self._commands = commands
        self._program = program
        self._bundle = directory / f"bundle-{program}"
        self._token = token
        self._bundle.mkdir()
        oci = _oci(kind.rootfs, f"/{token}-{program}")
        (self._bundle / "config.json").write_text(json.dumps(oci))

    def run(self, number: int) -> int:
        """Nanoseconds of the whole command."""
        argv = ("run", "--bundle", str(self._bundle), f"{self._token}-{self._program}{number}")
        return self._commands.run(self._commands.find(self._program), *argv).nanoseconds


class Nspawn:
    """`systemd-nspawn`, without a systemd on the host that would make a cgroup for it.

    So it makes two in the cgroup that it finds itself in, by names that are always the same, and
    leaves them. It is put into one of our own first, which is not timed.
    """

    what = "systemd-nspawn"

    def __init__(self, commands: Commands, token: str, kind: Kind) -> None:
        self._commands = commands
        self._token = token
        self._rootfs = str(kind.rootfs)
        self._cgroups = [
            # Where systemd keeps processes.
            os.path.join(tree.mountpoint, f"{token}-nspawn")
            for tree in trees.find()
            if tree.version == 2 or "name=systemd" in tree.options  # noqa: PLR2004
        ]
        for cgroup in self._cgroups:
            os.mkdir(cgroup)

    def run(self, number: int) -> int:
        """Nanoseconds from its exec to its end."""
        argv = (
            *("--quiet", "--register=no", "--keep-unit", "--private-network", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off", "--console=pipe"),
            *(f"--machine={self._token}-nspawn{number}", f"--directory={self._rootfs}", TRUE),
        )
        join = "; ".join(f"echo $$ >{cgroup}/cgroup.procs" for cgroup in self._cgroups)
        script = f'{join}; echo ready; read go || :; exec "$@" </dev/null'
        program = self._commands.find("systemd-nspawn")
        talk = self._commands.converse("/bin/sh", "-ec", script, "sh", program, *argv)
        talk.read(1)
        begin = time.perf_counter_ns()
        talk.end()
        return time.perf_counter_ns() - begin

    def remove(self) -> None:
        """Remove its cgroups."""
        trees.remove(set(self._cgroups))


def _oci(rootfs: Path, cgroup: str) -> dict[str, Any]:
    """A config.json: OCI runtime specification 1.0."""
    return {
        "ociVersion": "1.0.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": [TRUE], "cwd": "/", "env": ["PATH=/bin"]},
        "root": {"path": str(rootfs)},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": _NOSUID},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": [
                    "nosuid",
                    "noexec",
                    "newinstance",
                    "ptmxmode=0666",
                    "mode=0620",
                    "gid=5",
                ],
            },
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": [*_NOSUID, "ro"],
            },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [
                {"type": t} for t in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ],
        },
    }
