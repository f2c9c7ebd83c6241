"""Managed networks where something is in their way: each other, the host's own, what the host has not got."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.system.connected import call
from tests.system.host import Host
from tests.system.machine import until
from tests.system.wires import script


@contextmanager
def slow_nft(host: Host) -> Iterator[None]:
    """Each nft(8) takes a while."""
    real = shutil.copy("/usr/sbin/nft", Path(host.root) / "nft")
    slow = script(host, "slow-nft", f'sleep 0.5\nexec {real} "$@"')
    host.machine.run("mount", "--bind", str(slow), "/usr/sbin/nft")
    try:
        yield
    finally:
        host.machine.run("umount", "/usr/sbin/nft")


def bridge_is_there(host: Host, name: str = "lxcbr0") -> bool:
    return host.machine.run("ip", "link", "show", name, check=False).returncode == 0


def test_two_containers_begin_a_network(wired: Host) -> None:
    def connect(number: int) -> str:
        device = {
            "device_number": 0,
            "host_name": f"veth{number}",
            "hwaddr": f"02:00:00:00:00:0{number}",
        }
        port = call(wired.run_dir, "connect", "/lxc", f"c{number}", link="lxcbr0", **device)
        return str(port["ipv4"])

    with slow_nft(wired), ThreadPoolExecutor() as threads:
        first = threads.submit(connect, 1)
        until(lambda: bridge_is_there(wired), "it is on its way")
        second = threads.submit(connect, 2)
        assert first.result() != second.result()
    for number in (1, 2):
        call(wired.run_dir, "disconnect", f"veth{number}")
