"""Another machine than the test host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.host import Host
from tests.system.machine import until
from tests.system.wires import ip, links, settled


class Elsewhere:
    """Another machine, as far as its network goes: a network namespace with one device, `wire0`, whose other end is a
    device of the test host.
    """

    def __init__(self, host: Host, end: str) -> None:
        self._host = host
        self.end = end
        log = host.root / "elsewhere.log"
        argv = ["/usr/bin/unshare", "--net", "/bin/sleep", "1000000"]
        self.pid = host.machine.spawn(argv, host.environment, log)
        own = Path("/proc/self/ns/net").readlink()
        here = Path(f"/proc/{host.machine.pid}/ns/net").readlink()
        until(
            lambda: Path(f"/proc/{self.pid}/ns/net").readlink() not in (own, here),
            "there is another network",
        )
        ip(
            host,
            "link",
            "add",
            end,
            "type",
            "veth",
            "peer",
            "name",
            "wire0",
            "netns",
            str(self.pid),
        )
        ip(host, "link", "set", end, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", "wire0", "up")

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        network = f"--net=/proc/{self.pid}/ns/net"
        return self._host.machine.run("nsenter", network, "--", *argv, check=check)

    def close(self) -> None:
        """Switch it off."""
        self._host.machine.kill(self.pid)
        self._host.machine.wait(self.pid)
        settled(self._host, set(links(self._host)) - {self.end})


@contextmanager
def elsewhere(host: Host, end: str) -> Iterator[Elsewhere]:
    """One, for the time of a test."""
    other = Elsewhere(host, end)
    try:
        yield other
    finally:
        other.close()
