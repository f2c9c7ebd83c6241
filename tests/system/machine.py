"""A machine to run lxcd on: network and mounts of its own, and an init which knows everything that was started there.

It shares kernel, processes, cgroups and files with the machine that the tests run on. Its network namespace starts with
`lo` alone, its mount namespace as a private copy with a /sys that belongs to that network.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.patience import PATIENCE
from tests.system import ledger

# How long anything may take before a test gives up. Only a hang reaches it: no test measures time with it.
DEADLINE = 60.0 * PATIENCE

_QUIET = 40  # looks in a row

_INIT = Path(__file__).with_name("init.py")

Seen = TypeVar("Seen")

# sysfs shows the network devices of the namespace it was mounted in, hence a new one. What is mounted below the old one
# goes along: cgroups, and what lxcd reads of LSMs and bpf.
_SETUP = """\
set -e
cd /
ip link set lo up
for name in fs/cgroup kernel/security fs/bpf; do
  mountpoint -q "/sys/$name" || continue
  mkdir -p "$1/$name"
  kept="$kept $name"
  if [ "$name" != fs/cgroup ] || [ -z "$2" ]; then
    mount --rbind "/sys/$name" "$1/$name"
    continue
  fi
  mount -t tmpfs -o mode=755 cgroup "$1/$name"
  for tree in $2; do
    mkdir "$1/$name/$tree"
    mount --bind "/sys/$name/$tree" "$1/$name/$tree"
  done
  # Of this namespace alone: those below a new /sys would still be in its list of mounts.
  umount --recursive --lazy "/sys/$name"
done
mount -t sysfs sysfs /sys
for name in $kept; do
  mount --move "$1/$name" "/sys/$name"
done
shift 2
exec "$@"
"""


def until(condition: Callable[[], bool], what: str, deadline: float | None = None) -> None:
    """Wait for something that the kernel or another process does in its own time; AssertionError if it never comes."""
    deadline = DEADLINE if deadline is None else deadline * PATIENCE
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"after {deadline:.0f} s still not so: {what}"
        time.sleep(0.005)


def unchanging(look: Callable[[], Seen], what: str) -> Seen:
    """What is seen once it is the same for a while: so many looks in a row."""
    seen: list[Seen] = []

    def quiet() -> bool:
        now = look()
        if seen and seen[-1] != now:
            seen.clear()
        seen.append(now)
        return len(seen) > _QUIET

    until(quiet, what)
    return seen[-1]


class Machine:
    """Boot it, `spawn` on it, `halt` it. Not for more than one thread."""

    def __init__(self, root: Path, trees: Sequence[str] = ()) -> None:
        """Of the host's cgroup trees it has `trees`, as `unified`, or all."""
        scratch = root / "sys"
        scratch.mkdir()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._exited: dict[int, int] = {}
        self._started: list[int] = []
        with theirs:
            self._init = subprocess.Popen(
                [
                    *("unshare", "--net", "--mount", "--propagation", "private", "--"),
                    *("sh", "-c", _SETUP, "sh", str(scratch), " ".join(trees)),
                    *(sys.executable, "-I", "-S", str(_INIT), str(theirs.fileno())),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for pytest, which then ends this in order
            )
        self.pid = self._answer()
        self._mounts = ledger.mounts(self.pid)

    def spawn(self, argv: list[str], environment: dict[str, str], log: Path) -> int:
        """Start a program with no terminal, its output appended to `log`; its pid."""
        self._control.send(
            json.dumps({"spawn": argv, "env": environment, "log": str(log)}).encode()
        )
        pid = self._answer()
        self._exited.pop(pid, None)  # of one that had this number before
        return pid

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Signal a child of init: what was spawned, or an orphan. One that has ended already stays as it is."""
        self._control.send(json.dumps({"kill": pid, "signal": number}).encode())

    def poll(self, pid: int) -> int | None:
        """How something spawned ended (exit code, or minus the signal); None while it runs."""
        while self._received():
            pass
        return self._exited.get(pid)

    def wait(self, pid: int) -> int:
        """Wait for the end of something spawned; how it ended, as `poll`."""
        until(lambda: self.poll(pid) is not None, f"process {pid} has ended")
        return self._exited[pid]

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine's network and mounts, as `ip -j link`; its output."""
        return subprocess.run(
            # With the root directory: joining a mount namespace leaves a chroot that pytest may run in.
            ["nsenter", f"--target={self.pid}", "--net", "--mount", "--root", "--wd", "--", *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=DEADLINE,
        )

    def processes(self) -> list[str]:
        """What runs on the machine, init aside: one line each."""
        return [str(process) for process in ledger.descendants(self.pid)]

    def traces(self) -> list[str]:
        """What is on the machine that was not there when it came up, processes aside: mounts, network devices, tables."""
        new = [f"mount on the machine: {mount}" for mount in ledger.mounts(self.pid) - self._mounts]
        links = json.loads(self.run("ip", "-j", "link").stdout)
        new += [
            f"network device on the machine: {link['ifname']}"
            for link in links
            if link["ifname"] != "lo"
        ]
        tables = self.run("nft", "list", "tables", check=False).stdout.splitlines()
        return new + [f"nftables on the machine: {table}" for table in tables]

    def halt(self) -> None:
        """Kill whatever runs on the machine, and let its namespaces go."""
        self._control.close()
        self._init.wait(DEADLINE)

    def _answer(self) -> int:
        until(lambda: self._received() and bool(self._started), "the machine's init answers")
        return self._started.pop()

    def _received(self) -> bool:
        """Take one message, if one is there."""
        if not select.select([self._control], [], [], 0)[0]:
            return False
        message = self._control.recv(1 << 16)
        assert message, "the machine's init has gone"
        event: dict[str, Any] = json.loads(message)
        if "started" in event:
            self._started.append(event["started"])
        else:
            self._exited[event["exited"]] = event["status"]
        return True
