"""Managed networks where something is in their way: each other, the host's own, what the host has not got."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.connected import Box, RefusedError, call, inside, network, start, tables
from tests.system.host import Host
from tests.system.machine import DEADLINE, until
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


@pytest.fixture
def four_only(unwired: Host) -> Iterator[Host]:
    """A machine whose kernel was told ipv6.disable=1, as far as one can see."""
    unwired.machine.run("mount", "-t", "tmpfs", "none", "/proc/sys/net/ipv6")
    start(unwired)
    yield unwired
    unwired.machine.run("umount", "/proc/sys/net/ipv6")


def test_without_ipv6_the_network_has_none(four_only: Host) -> None:
    web = Box(four_only, "web")
    assert web.dhcp() == f"bound {web.port['ipv4']} router 10.0.3.1 dns 10.0.3.1 domain lxc"
    assert network(four_only)["ipv6"] == ""
    four_only.ctl("network", "create", "lan0")
    assert network(four_only, "lan0")["ipv6"] == ""
    # Who wants it is told.
    for words in (["set", "lan0"], ["create", "lan1"]):
        refused = four_only.ctl("network", *words, "ipv6=fd00:5::1/64", check=False)
        assert (refused.returncode, "this host has no IPv6" in refused.stderr) == (4, True)
    assert network(four_only, "lan0")["ipv6"] == ""
    assert four_only.ctl("network", "show", "lan1", check=False).returncode == 3


def replaced(host: Host, name: str) -> str:
    """Somebody removes a bridge, and makes one of their own by that name; what it is like."""
    run = host.machine.run
    run("ip", "link", "delete", name)
    run("ip", "link", "add", name, "address", "02:00:00:00:99:99", "type", "bridge")
    return run("ip", "addr", "show", name).stdout


def test_a_bridge_that_is_somebody_elses_by_now_is_left_alone(wired: Host) -> None:
    call(wired.run_dir, "ensure", "lxcbr0")
    wired.ctl("network", "create", "lan0", "ipv4=192.0.2.1/25")
    as_made = {name: replaced(wired, name) for name in ("lxcbr0", "lan0")}
    assert call(wired.run_dir, "ensure", "lxcbr0") is None
    wired.ctl("network", "set", "lan0", "domain=else")
    with pytest.raises(RefusedError) as refused:
        call(wired.run_dir, "ensure", "lan0")
    assert refused.value.reason == "DEVICE_EXISTS"
    assert not network(wired)["up"]
    assert not network(wired, "lan0")["up"]
    assert tables(wired) == []
    # As soon as it is gone there is ours again.
    wired.machine.run("ip", "link", "delete", "lan0")
    assert call(wired.run_dir, "ensure", "lan0")["domain"] == "else"
    assert "192.0.2.1/25" in wired.machine.run("ip", "addr", "show", "lan0").stdout
    as_made["lan0"] = replaced(wired, "lan0")
    wired.ctl("network", "delete", "lan0")
    wired.shutdown()
    for name, text in as_made.items():
        assert wired.machine.run("ip", "addr", "show", name).stdout == text
        wired.machine.run("ip", "link", "delete", name)


def test_a_bridge_that_is_gone_is_made_again(wired: Host) -> None:
    web = Box(wired, "web")
    wired.machine.run("ip", "link", "delete", "lxcbr0")
    assert call(wired.run_dir, "ensure", "lxcbr0")
    assert [port["container"] for port in network(wired)["ports"]] == ["web"]
    wired.machine.run("ip", "link", "set", web.end, "master", "lxcbr0")
    assert web.dhcp().startswith(f"bound {web.port['ipv4']} ")


def test_a_port_of_the_host_is_not_that_of_its_own_ipv6(wired: Host) -> None:
    wired.ctl("create", "web")
    web = Box(wired, "web")
    web.dhcp()
    wired.ctl("network", "forward", "web", "tcp", "8080:80")
    refused = wired.ctl("network", "forward", "web", "tcp", "[::1]:8081:80", check=False)
    assert (refused.returncode, "::1" in refused.stderr) == (2, True)
    # Whoever tries all that `localhost` is comes to the next at once.
    for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")):
        with inside(wired.machine.pid, lambda: socket.socket(family, socket.SOCK_STREAM)) as asking:  # noqa: B023
            asking.settimeout(DEADLINE)
            with web.serve(80):
                code = asking.connect_ex((address, 8080))
        assert code == (errno.ECONNREFUSED if family == socket.AF_INET6 else 0), address
