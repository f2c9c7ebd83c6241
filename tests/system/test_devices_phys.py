"""Devices of the host's that move into a container, and come home from it whatever happens."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.boxes import IDMAP, Box, Refused, defined
from tests.system.host import Host
from tests.system.losing import kill_both, next_keeper
from tests.system.machine import until
from tests.system.wires import (
    addresses_inside,
    config,
    device,
    inside,
    ip,
    kept,
    link_inside,
    links,
    nic,
    pair,
    refused,
    start,
)

_HWADDR = "00:16:3e:00:00:77"
_MOVED = nic(
    *("link = card0", "flags = up", "name = lan", "mtu = 1400", "hwaddr = 00:16:3e:00:00:88"),
    "ipv4.address = 10.9.0.2/24",
    kind="phys",
)


@contextmanager
def _card(host: Host, name: str = "card0") -> Iterator[str]:
    """A card as an administrator has set it up."""
    with pair(host, name):
        ip(host, "link", "set", name, "address", _HWADDR)
        ip(host, "link", "set", name, "mtu", "1450")
        yield name


def _is_home(host: Host, name: str = "card0") -> None:
    """As it was before."""
    until(lambda: name in links(host), f"{name} is home")
    found = links(host)[name]
    assert (found["mtu"], found["address"]) == (1450, _HWADDR)
    until(lambda: "UP" in links(host)[name]["flags"], f"{name} is up again")
    until(lambda: not kept(host), "no namespace is kept")


def test_it_comes_home_as_it_was(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with _card(host), defined(host, config(host, busybox_root, _MOVED)) as made:
        for _ in range(2):
            pid = start(made)
            assert "card0" not in links(host)
            found = link_inside(host, pid, "lan")
            assert (found["mtu"], found["address"]) == (1400, "00:16:3e:00:00:88")
            assert "UP" in found["flags"]
            assert addresses_inside(host, pid, "lan") == {"10.9.0.2/24"}
            assert len(kept(host)) == 1
            made.stop(kill=True)
            _is_home(host)


def test_it_keeps_what_is_not_given(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic("link = card0", kind="phys")
    with _card(host), defined(host, config(host, busybox_root, text)) as made:
        ip(host, "link", "set", "card0", "down")
        found = link_inside(host, start(made), "card0")
        assert (found["mtu"], found["address"]) == (1450, _HWADDR)
        assert "UP" not in found["flags"]
        made.stop(kill=True)
        # It was down, and is.
        home = links(host)["card0"]
        assert "UP" not in home["flags"]
        assert (home["mtu"], home["address"]) == (1450, _HWADDR)


def test_it_comes_home_whatever_was_done_to_it(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = IDMAP + "lxc.rootfs.options = idmap=container\n" + _MOVED
    lines = config(host, busybox_root, text).partition("\n")[2]
    with _card(host), defined(host, f"lxc.rootfs.path = {busybox_root}\n{lines}") as made:
        start(made)
        made.sh(
            "ip link set lan down && ip link set lan name mine && ip link set mine mtu 900 &&"
            " ip link set mine address 00:16:3e:00:00:99 && ip link set mine up"
        )
        made.stop(kill=True)
        _is_home(host)


def test_one_that_its_container_destroys(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with _card(host), defined(host, config(host, busybox_root, _MOVED)) as made:
        pid = start(made)
        # It is a veth really: whoever has it can.
        host.machine.run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "link", "del", "lan")
        assert not {"card0", "card0.cable"} & set(links(host))
        made.stop(kill=True)
        assert made.info().pid == 0
        assert not kept(host)
        refused(made, "link = card0", "the host has no device card0")
    assert "card0 stays" not in host.log_text()


def test_its_name_may_be_taken_meanwhile(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with _card(host), defined(host, config(host, busybox_root, _MOVED)) as made:
        start(made)
        with device(host, "card0", "type", "bridge"):
            made.stop(kill=True)
            assert not kept(host)
            # It is not lost: that is what counts.
            (name,) = (n for n, one in links(host).items() if one["address"] == _HWADDR)
            assert name != "card0"
            assert f"it is called {name}" in host.log_text()
            ip(host, "link", "del", name)


def test_a_prefix_takes_the_first_that_fits(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = (
        nic("link = card+", "flags = up", kind="phys")
        + nic("link = card+", "name = second", kind="phys", number=1)
        + nic("link = card0", kind="phys", number=2)
    )
    with (
        pair(host, "card0", "cable0"),
        pair(host, "card1", "cable1"),
        pair(host, "card2", "cable2"),
        defined(host, config(host, busybox_root, text)) as made,
    ):
        before = set(links(host))
        pid = start(made)
        # What is asked for by its name is not anybody's.
        found = {link["ifname"] for link in inside(host, pid, "link")}
        assert found == {"lo", "card1", "second", "card0"}
        assert {name for name in links(host) if name.startswith("card")} == set()
        made.stop(kill=True)
        assert set(links(host)) == before
        ip(host, "link", "del", "card2")
        refused(made, "link = card+", "no device of the host is called card…")


def test_two_of_a_prefix_keep_their_names(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = nic("link = card+", kind="phys") + nic("link = card+", kind="phys", number=1)
    with (
        pair(host, "card0", "cable0"),
        pair(host, "card1", "cable1"),
        defined(host, config(host, busybox_root, text)) as made,
    ):
        found = {link["ifname"] for link in inside(host, start(made), "link")}
        assert found == {"lo", "card0", "card1"}


def test_a_failed_start_gives_it_back(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    text = _MOVED + nic("ipv4.address = 10.9.0.3/24", "script.up = false", number=1)
    with _card(host), defined(host, config(host, busybox_root, text)) as made:
        refused(made, "script.up", "false: exit status 1")
        _is_home(host)


def test_one_is_not_for_two(shared_host: Host, busybox_root: Path) -> None:
    host = shared_host
    with (
        _card(host),
        defined(host, config(host, busybox_root, _MOVED, "one"), "one") as one,
        defined(host, config(host, busybox_root, _MOVED, "two"), "two") as two,
    ):
        pid = start(one)
        with pytest.raises(Refused, match="the host has no device card0"):
            two.start()
        assert link_inside(host, pid, "lan")
        one.stop(kill=True)
        start(two)
        two.stop(kill=True)
        _is_home(host)


# Whoever dies


def _kill(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def _stop(host: Host, made: Box, pid: int) -> None:
    """lxcd is killed, comes back, and is asked to stop it."""
    host.kill_daemon()
    host.start_daemon()
    assert "card0" not in links(host)
    assert made.info().pid == pid
    made.stop(kill=True)


def _ends_unseen(host: Host, made: Box, pid: int) -> None:
    """It ends while there is no lxcd."""
    host.kill_daemon()
    _kill(pid)
    host.start_daemon()


def _both(host: Host, made: Box, pid: int) -> None:
    """lxcd and its keeper are killed; the container goes on, and is stopped."""
    keeper = host.keeper_pid
    kill_both(host, keeper)
    host.start_daemon()
    next_keeper(host, keeper)
    if made.info().pid:
        assert made.info().pid == pid
        made.stop(kill=True)


def _both_and_it_ends(host: Host, made: Box, pid: int) -> None:
    """The same, and it ends in between."""
    keeper = host.keeper_pid
    kill_both(host, keeper)
    _kill(pid)
    host.start_daemon()
    next_keeper(host, keeper)


def _keeper(host: Host, made: Box, pid: int) -> None:
    """The keeper alone, and then the container."""
    keeper = host.keeper_pid
    os.kill(keeper, signal.SIGKILL)
    next_keeper(host, keeper)
    _kill(pid)


def _itself(host: Host, made: Box, pid: int) -> None:
    """The container alone."""
    _kill(pid)


WAYS: dict[str, Callable[[Host, Box, int], Any]] = {
    "lxcd": _stop,
    "unseen": _ends_unseen,
    "both": _both,
    "both and it": _both_and_it_ends,
    "keeper": _keeper,
    "itself": _itself,
}


@pytest.mark.parametrize("way", WAYS)
def test_it_comes_home_whoever_dies(shared_host: Host, busybox_root: Path, way: str) -> None:
    host = shared_host
    text = _MOVED + nic("veth.pair = web0", number=1)
    with _card(host), defined(host, config(host, busybox_root, text)) as made:
        pid = start(made)
        generation = made.info().generation
        assert "web0" in links(host)
        WAYS[way](host, made, pid)
        made.wait(generation=generation)
        _is_home(host)
        until(lambda: "web0" not in links(host), "the pair is gone")
        # And it can have it again.
        start(made)
        made.stop(kill=True)
        _is_home(host)
