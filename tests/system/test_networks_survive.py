"""Managed networks from one lxcd, keeper or dnsmasq to the next."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.system.connected import Box, call, network, start, tables
from tests.system.host import Host
from tests.system.machine import until


@pytest.mark.parametrize("killed", ["lxcd", "dnsmasq"])
def test_the_next_lxcd_takes_networks_up(wired: Host, killed: str) -> None:
    web, db = Box(wired, "web", number=1), Box(wired, "db", number=2)
    web.dhcp()
    before = network(wired)
    wired.kill_daemon()
    if killed == "dnsmasq":
        wired.machine.run("kill", "-9", str(before["dnsmasq_pid"]))
    # One ends while nobody looks.
    wired.machine.run("ip", "link", "delete", db.end)
    start(wired)
    after = network(wired)
    assert (after["dnsmasq_pid"] == before["dnsmasq_pid"]) is (killed == "lxcd")
    assert after["dnsmasq_pid"]
    assert [port["container"] for port in after["ports"]] == ["web"]
    chains = wired.machine.run("nft", "list", "chains", "bridge").stdout
    assert f"port.{web.end}" in chains
    assert f"port.{db.end}" not in chains
    assert web.ask("web") == [web.port["ipv4"]]
    web.disconnect()
    assert "port." not in wired.machine.run("nft", "list", "chains", "bridge").stdout


def test_networks_stay_when_lxcd_leaves_and_go_when_it_is_shut_down(wired: Host) -> None:
    web = Box(wired, "web")
    wired.stop_daemon()
    assert web.dhcp().startswith(f"bound {web.port['ipv4']} ")
    wired.shutdown()
    assert tables(wired) == []
    assert wired.machine.run("ip", "link", "show", "lxcbr0", check=False).returncode != 0


@pytest.mark.parametrize("lost", ["keeper", "both"])
def test_a_keeper_that_is_lost_loses_no_network(wired: Host, lost: str) -> None:
    web = Box(wired, "web")
    before, keeper = network(wired)["dnsmasq_pid"], wired.keeper_pid
    if lost == "both":
        wired.kill_daemon()
    wired.machine.run("kill", "-9", str(keeper))
    if lost == "both":
        start(wired)
    until(lambda: wired.keeper_pid not in (0, keeper), "there is another keeper")
    until(lambda: network(wired)["dnsmasq_pid"] != 0, "somebody answers")
    assert web.dhcp().startswith(f"bound {web.port['ipv4']} ")
    found = wired.machine.run("pgrep", "-f", f"interface=lxcbr0 .*{wired.run_dir}").stdout.split()
    assert found == [str(network(wired)["dnsmasq_pid"])]
    assert before
    web.disconnect()
    wired.ctl("network", "create", "lxcbr0")
    wired.ctl("network", "delete", "lxcbr0")
    assert (
        wired.machine.run("pgrep", "-f", f"interface=lxcbr0 .*{wired.run_dir}", check=False).stdout
        == ""
    )


def test_an_lxcd_killed_anywhere_leaves_nothing(wired: Host) -> None:
    """SIGKILL while networks go up and down, a little later each time."""
    for step in range(12):

        def change() -> None:
            for verb in ("create", "delete"):
                wired.ctl("network", verb, "lan0", check=False)

        thread = threading.Thread(target=change)
        thread.start()
        time.sleep(0.1 + 0.06 * step)  # where it hits is for chance to say
        wired.kill_daemon()
        thread.join()
        wired.start_daemon()
        done = wired.ctl("network", "delete", "lan0", check=False)
        assert done.returncode in (0, 3), done.stderr
        assert tables(wired) == []
        assert wired.machine.run("ip", "link", "show", "lan0", check=False).returncode != 0
        assert (
            wired.machine.run("pgrep", "-P", str(wired.keeper_pid), "dnsmasq", check=False).stdout
            == ""
        )


def test_connections_under_fire_leave_nothing(wired: Host) -> None:
    """SIGKILL to lxcd or dnsmasq while devices come and go, a little later each time."""
    for step in range(10):
        failures: list[BaseException] = []

        def connect(number: int) -> None:
            for _ in range(3):
                name = f"c{number}"
                what = {
                    "device_number": 0,
                    "host_name": f"veth-{name}",
                    "hwaddr": f"02:00:00:00:01:{number:02x}",
                }
                try:
                    call(wired.run_dir, "connect", "/lxc", name, link="lxcbr0", **what)
                    call(wired.run_dir, "disconnect", f"veth-{name}")
                except (OSError, ValueError):
                    return  # it was lxcd that was hit
                except BaseException as error:  # noqa: BLE001
                    failures.append(error)  # noqa: B023

        threads = [threading.Thread(target=connect, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.03 * step)  # where it hits is for chance to say
        killed = 0
        if step % 2:
            killed = network(wired)["dnsmasq_pid"]
            if killed:
                wired.machine.run("kill", "-9", str(killed), check=False)
        else:
            wired.kill_daemon()
        for thread in threads:
            thread.join()
        if not step % 2:
            start(wired)
        assert failures == []
        assert call(wired.run_dir, "ensure", "lxcbr0")
        # That it is no more may not be known yet.
        gone = (0, killed)
        until(lambda: network(wired)["dnsmasq_pid"] not in gone, "somebody answers")  # noqa: B023
        assert network(wired)["ports"] == []
        assert "port." not in wired.machine.run("nft", "list", "chains", "bridge").stdout
        files = [name for _, _, names in os.walk(wired.run_dir / "networks") for name in names]
        assert files == []
        assert os.listdir(wired.run_dir / "private/networks") == ["lxcbr0.up"]
        # One dnsmasq, and no other.
        found = wired.machine.run(
            "pgrep", "-f", f"interface=lxcbr0 .*{wired.run_dir}"
        ).stdout.split()
        assert found == [str(network(wired)["dnsmasq_pid"])]
